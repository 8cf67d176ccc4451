// Device memory and batches for tests of single CUDA kernels: content depends on each sequence only, so that the same sequence
// can be put in other company; every buffer starts as NaN.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda/batch_tables.h"
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "graph/step.h"
#include "harness.h"

namespace device {

using namespace tlora;
using cuda::bf16;

#define REQUIRE_GPU()                                                                            \
  do {                                                                                           \
    int count = 0;                                                                               \
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) SKIP("there is no CUDA device"); \
  } while (0)

inline bool is_sm90() {
  int major = 0, minor = 0;
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
  return major == 9 && minor == 0;
}

inline void synchronize() { cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

// Owned device memory of `count` elements, all bytes 0xff (NaN in every float type) until written.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : count_(count) {
    cuda::check(cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T)), "cudaMalloc");
    poison();
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(static_cast<int64_t>(values.size())) { set(values); }
  ~Buffer() { cudaFree(data_); }
  Buffer(Buffer&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }

  T* data() const { return data_; }
  int64_t count() const { return count_; }
  void poison() { cuda::check(cudaMemset(data_, 0xff, static_cast<size_t>(count_) * sizeof(T)), "cudaMemset"); }
  void zero() { cuda::check(cudaMemset(data_, 0, static_cast<size_t>(count_) * sizeof(T)), "cudaMemset"); }
  void set(const std::vector<T>& values) {
    cuda::check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  std::vector<T> get() const {
    std::vector<T> values(static_cast<size_t>(count_));
    cuda::check(cudaMemcpy(values.data(), data_, values.size() * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

inline float to_float(bf16 x) {
  uint16_t bits;
  std::memcpy(&bits, &x, 2);
  const uint32_t wide = uint32_t{bits} << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}
inline float round_bf16(float x) {
  if (x != x) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline bf16 to_bf16(float x) {
  const float r = round_bf16(x);
  uint32_t bits;
  std::memcpy(&bits, &r, 4);
  const uint16_t half = static_cast<uint16_t>(bits >> 16);
  bf16 out;
  std::memcpy(&out, &half, 2);
  return out;
}

// A hash as a random number in (-1, 1): an element's value follows from its coordinates alone.
inline double noise(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  uint64_t h = a * 0x9E3779B97F4A7C15u ^ (b + 0x7F4A7C15u) * 0xBF58476D1CE4E5B9u ^ (c + 1) * 0x94D049BB133111EBu ^ (d + 1) * 0xD6E8FEB86659FD93u;
  for (int i = 0; i < 3; ++i) {
    h ^= h >> 29;
    h *= 0xBF58476D1CE4E5B9u;
    h ^= h >> 32;
  }
  return static_cast<double>(h >> 11) * 0x1p-52 - 1.0 + 0x1p-54;
}

inline int64_t padded(int64_t rows) { return (rows + cuda::kRowPad - 1) / cuda::kRowPad * cuda::kRowPad; }
inline int64_t leading(int64_t columns) { return (columns + 63) / 64 * 64; }

// A bf16 matrix [rows padded to 128, columns padded to 64], all NaN where nothing was written.
struct BfMatrix {
  BfMatrix() = default;
  BfMatrix(int64_t rows_, int64_t columns_)
      : rows(rows_), columns(columns_), ld(leading(columns_)), memory(padded(rows_) * leading(columns_)) {}
  bf16* data() const { return memory.data(); }
  int64_t rows = 0, columns = 0, ld = 0;
  Buffer<bf16> memory;

  // value(row, column), rounded, to the real elements; the rest stays NaN.
  template <class Value>
  void fill(const Value& value) {
    std::vector<bf16> host(static_cast<size_t>(memory.count()), to_bf16(NAN));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) host[static_cast<size_t>(r * ld + c)] = to_bf16(static_cast<float>(value(r, c)));
    memory.set(host);
  }
  // All of it as floats, padding included: element (r, c) at r * ld + c.
  std::vector<float> get() const {
    const std::vector<bf16> host = memory.get();
    std::vector<float> out(host.size());
    for (size_t i = 0; i < host.size(); ++i) out[i] = to_float(host[i]);
    return out;
  }
};

struct AdapterSpec {
  int rank;
  uint32_t targets;
  float dropout;
};
// An adapter in tests of LoRA kernels: what else it has (weights, seed, scale, first gradient) follows from the identity,
// wherever it is in the batch.
struct Job {
  int identity;
  int rank;
  uint32_t targets;
  float dropout;
};
inline std::vector<AdapterSpec> specs_of(const std::vector<Job>& jobs) {
  std::vector<AdapterSpec> specs;
  for (const Job& j : jobs) specs.push_back({j.rank, j.targets, j.dropout});
  return specs;
}
struct SequenceSpec {
  int adapter;       // index, or -1 for the frozen base
  int64_t length;
  uint64_t content;  // equal content and length: equal inputs
};

// A batch with its tables on the device. Adapters get gradient buffers of `elements` floats when set_elements is called.
class TestBatch {
 public:
  // home_columns: where each adapter's working copies lie (default: side by side from 0).
  TestBatch(const std::vector<AdapterSpec>& adapters, const std::vector<SequenceSpec>& sequences, bool train = true,
            std::vector<int32_t> home_columns = {})
      : sequences(sequences) {
    int32_t home = 0;
    for (size_t i = 0; i < adapters.size(); ++i) {
      auto a = std::make_unique<Adapter>();
      a->rank = a->config.rank = adapters[i].rank;
      a->config.target_modules = adapters[i].targets;
      a->config.dropout = adapters[i].dropout;
      a->config.seed = 1000u + i;
      a->strip_columns = (adapters[i].rank + 15) / 16 * 16;
      a->scale = 0.5f + 0.25f * static_cast<float>(i);
      homes.push_back(home_columns.empty() ? home : home_columns[i]);
      home += static_cast<int32_t>(a->strip_columns);
      own_.push_back(std::move(a));
    }
    std::vector<Segment> segments;
    int64_t start = 0;
    for (const SequenceSpec& s : sequences) {
      Segment segment;
      segment.adapter = s.adapter < 0 ? nullptr : own_[static_cast<size_t>(s.adapter)].get();
      segment.start = start;
      segment.length = s.length;
      segment.loss_scale = 0.5f;
      segment.dropout_key = s.content * 77 + 5;
      segments.push_back(segment);
      start += s.length;
    }
    batch = make_batch(segments, start, train);
    upload();
  }
  // Gives every adapter a zeroed flat gradient of its own size (per_rank elements per rank) and uploads the tables again.
  void set_gradients(int64_t per_rank) {
    for (auto& a : own_) {
      gradients.emplace_back(per_rank * a->rank);
      gradients.back().zero();
      a->state[TL_STATE_GRADIENT] = gradients.back().data();
      a->elements = per_rank * a->rank;
    }
    upload();
  }
  Adapter& adapter(int i) { return *own_[static_cast<size_t>(i)]; }
  int64_t tokens() const { return batch.tokens; }
  // Index of adapter i in tables.adapters (batch.adapters are in order of first appearance), or -1.
  int table_index(int i) const {
    for (size_t j = 0; j < batch.adapters.size(); ++j)
      if (batch.adapters[j].first == own_[static_cast<size_t>(i)].get()) return static_cast<int>(j);
    return -1;
  }

  // value(content, position, column) for every row of the sequences.
  template <class Value>
  BfMatrix matrix(int64_t columns, const Value& value) const {
    BfMatrix m(tokens(), columns);
    std::vector<std::pair<uint64_t, int64_t>> rows;
    for (const SequenceSpec& s : sequences)
      for (int64_t t = 0; t < s.length; ++t) rows.push_back({s.content, t});
    m.fill([&](int64_t r, int64_t c) { return value(rows[static_cast<size_t>(r)].first, rows[static_cast<size_t>(r)].second, c); });
    return m;
  }
  BfMatrix random(uint64_t seed, int64_t columns, double scale = 1.0) const {
    return matrix(columns, [&](uint64_t content, int64_t t, int64_t c) {
      return scale * noise(seed, content, static_cast<uint64_t>(t), static_cast<uint64_t>(c));
    });
  }
  // The bits of `columns` columns of all rows of adapter `owner`'s sequences.
  std::string rows_of(int owner, const BfMatrix& m, int64_t columns) const {
    const std::vector<bf16> host = m.memory.get();
    std::string bits;
    for (size_t s = 0; s < sequences.size(); ++s)
      if (sequences[s].adapter == owner)
        for (int64_t t = 0; t < sequences[s].length; ++t)
          bits.append(reinterpret_cast<const char*>(&host[static_cast<size_t>((batch.segments[s].start + t) * m.ld)]), static_cast<size_t>(columns) * 2);
    return bits;
  }

  Batch batch;
  std::vector<SequenceSpec> sequences;
  std::vector<int32_t> homes;
  std::deque<Buffer<float>> gradients;
  cuda::Tables tables;

 private:
  void upload() {
    std::vector<cuda::Placement> placements;
    for (const auto& entry : batch.adapters)
      for (size_t i = 0; i < own_.size(); ++i)
        if (own_[i].get() == entry.first) placements.push_back({homes[i]});
    const cuda::BatchTables built(batch, placements);
    image_ = Buffer<char>(built.image());
    tables = built.at(image_.data());
  }
  std::vector<std::unique_ptr<Adapter>> own_;
  Buffer<char> image_;
};

// max |got - want| <= tolerance * max |want|, and every element is a number.
class Comparison {
 public:
  void add(double got, double want) {
    ++count_;
    if (!std::isfinite(got)) ++bad_;
    error_ = std::max(error_, std::fabs(got - want));
    largest_ = std::max(largest_, std::fabs(want));
  }
  void check(const std::string& name, double tolerance) const {
    CHECK_MSG(count_ > 0, "%s: nothing was compared", name.c_str());
    CHECK_MSG(bad_ == 0, "%s: %lld of %lld elements are not finite", name.c_str(), static_cast<long long>(bad_), static_cast<long long>(count_));
    CHECK_MSG(error_ <= tolerance * largest_, "%s: error %.3g of largest value %.3g, tolerance %.1g", name.c_str(), error_, largest_, tolerance);
  }

 private:
  int64_t count_ = 0, bad_ = 0;
  double error_ = 0, largest_ = 0;
};

}  // namespace device
