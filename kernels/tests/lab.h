// A bench for single ops: builds batches whose content depends on each sequence only (so that the same sequence can be put in
// other company), poisons every output, and compares with double-precision references. Inputs go up and results come down
// through the backend, as fp32 on the host whatever the backend's activation type; only `at` is for the CPU alone.
#pragma once

#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend.h"
#include "cpu/cpu_backend.h"
#include "graph/step.h"
#include "graph/workspace.h"
#include "harness.h"

namespace lab {

using namespace tlora;
using Doubles = std::vector<double>;

// A hash as a random number in (-1, 1), so that an element's value follows from its coordinates alone.
inline double noise(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  uint64_t h = a * 0x9E3779B97F4A7C15u ^ (b + 0x7F4A7C15u) * 0xBF58476D1CE4E5B9u ^ (c + 1) * 0x94D049BB133111EBu ^ (d + 1) * 0xD6E8FEB86659FD93u;
  for (int i = 0; i < 3; ++i) {
    h ^= h >> 29;
    h *= 0xBF58476D1CE4E5B9u;
    h ^= h >> 32;
  }
  return static_cast<double>(h >> 11) * 0x1p-52 - 1.0 + 0x1p-54;
}

inline uint64_t name_seed(const std::string& name) {
  uint64_t h = 1469598103934665603u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return h;
}

struct AdapterSpec {
  int rank;
  uint32_t targets;
  float dropout;
};

struct SequenceSpec {
  int adapter;       // index, or -1 for the frozen base
  int64_t length;
  uint64_t content;  // equal content and length: equal inputs
};

struct LinearSpec {
  std::string name;
  int64_t out;
  bool bias;
};

using Factory = std::function<std::unique_ptr<Backend>(const BackendOptions&)>;

class Lab {
 public:
  // in, out: of the seven modules, one layer.
  Lab(int threads, int compute, const std::vector<AdapterSpec>& adapters, const std::vector<SequenceSpec>& sequences,
      const std::vector<std::pair<int64_t, int64_t>>& modules = {}, bool train = true, const Factory& make = make_cpu_backend)
      : owned_backend_(make({0, threads, compute})), backend(*owned_backend_), sequences_(sequences) {
    int64_t in[kModules] = {}, out[kModules] = {};
    for (size_t m = 0; m < modules.size(); ++m) std::tie(in[m], out[m]) = modules[m];
    backend.set_modules(1, in, out);
    for (size_t i = 0; i < adapters.size(); ++i) add_adapter(static_cast<int>(i), adapters[i], modules);
    std::vector<Segment> segments;
    int64_t start = 0;
    for (const SequenceSpec& s : sequences) {
      segments.push_back({s.adapter < 0 ? nullptr : adapters_[static_cast<size_t>(s.adapter)].get(), start, s.length, 0, 0.5f, s.content * 77 + 5});
      start += s.length;
    }
    batch = make_batch(segments, start, train);
    backend.begin_step(batch);
  }
  ~Lab() {
    for (const auto& a : adapters_) backend.adapter_detach(*a);
    for (const auto& [p, bytes] : owned_) backend.release(p, bytes);
  }
  Lab(const Lab&) = delete;

  int64_t tokens() const { return batch.tokens; }
  Adapter& adapter(int i) { return *adapters_[static_cast<size_t>(i)]; }

  void* memory(int64_t bytes) {
    void* p = backend.allocate(bytes);
    owned_.push_back({p, bytes});
    poison(p, bytes);
    return p;
  }
  void poison(void* p, int64_t bytes) {
    const std::string ones(static_cast<size_t>(bytes), static_cast<char>(0xff));  // all NaN
    backend.upload(p, ones.data(), bytes);
  }
  float* floats(int64_t count) { return static_cast<float*>(memory(count * 4)); }
  // Arrays that are no activations, to the device and back.
  template <class T>
  T* device(const std::vector<T>& values) {
    T* p = static_cast<T*>(memory(static_cast<int64_t>(values.size() * sizeof(T))));
    backend.upload(p, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return p;
  }
  template <class T>
  std::vector<T> host(const T* p, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    backend.download(values.data(), p, count * static_cast<int64_t>(sizeof(T)));
    return values;
  }

  // Rows of the sequences, by content; the padding columns stay poisoned.
  Matrix input(const std::string& name, int64_t columns, double scale = 1.0) {
    const Matrix m = poisoned(tokens(), columns);
    fill(m, name, columns, scale);
    return m;
  }
  void fill(const Matrix& m, const std::string& name, int64_t columns, double scale = 1.0) {
    const uint64_t seed = name_seed(name);
    std::vector<float> row(static_cast<size_t>(columns));
    for (size_t s = 0; s < sequences_.size(); ++s)
      for (int64_t t = 0; t < sequences_[s].length; ++t) {
        for (int64_t c = 0; c < columns; ++c)
          row[static_cast<size_t>(c)] =
              rounded(static_cast<float>(scale * noise(seed, sequences_[s].content, static_cast<uint64_t>(t), static_cast<uint64_t>(c))));
        write(m, batch.segments[s].start + t, row);
      }
  }
  Matrix poisoned(int64_t rows, int64_t columns) {
    const int64_t ld = backend.leading_dimension(columns);
    return {memory(padded_rows(backend, rows) * ld * backend.activation_bytes()), ld};
  }
  // The first values.size() elements of a row, in the backend's activation type.
  void write(const Matrix& m, int64_t r, const std::vector<float>& values) {
    const int64_t element = backend.activation_bytes(), count = static_cast<int64_t>(values.size());
    std::vector<uint16_t> halves;
    if (element == 2)
      for (const float v : values) {
        const float rounded = cpu::round_bf16(v);
        uint32_t bits;
        std::memcpy(&bits, &rounded, 4);
        halves.push_back(static_cast<uint16_t>(bits >> 16));
      }
    backend.upload(static_cast<char*>(m.data) + r * m.ld * element, element == 2 ? static_cast<const void*>(halves.data()) : values.data(),
                   count * element);
  }
  // Rows [0, rows) of the first columns, dense.
  std::vector<float> read(const Matrix& m, int64_t rows, int64_t columns) const {
    const std::string raw = bytes_of(m, 0, rows, columns);
    std::vector<float> values(static_cast<size_t>(rows * columns));
    if (backend.activation_bytes() == 4) std::memcpy(values.data(), raw.data(), raw.size());
    else
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t half;
        std::memcpy(&half, raw.data() + 2 * i, 2);
        const uint32_t bits = uint32_t{half} << 16;
        std::memcpy(&values[i], &bits, 4);
      }
    return values;
  }
  float rounded(float x) const { return bf16 ? cpu::round_bf16(x) : x; }
  static float& at(const Matrix& m, int64_t r, int64_t c) { return static_cast<float*>(m.data)[r * m.ld + c]; }

  // W [out, in], the same for every lab.
  const FrozenLinear& linear(const std::string& name, int64_t out, int64_t in, bool bias, double scale) {
    return *group({{name, out, bias}}, in, scale)[0];
  }
  // Linears that share their input, as one group.
  std::vector<const FrozenLinear*> group(const std::vector<LinearSpec>& specs, int64_t in, double scale) {
    std::deque<TensorView> views;
    std::vector<WeightSource> sources;
    for (const LinearSpec& spec : specs) {
      std::vector<float>& w = weights_[spec.name];
      for (int64_t i = 0; i < spec.out * in; ++i)
        w.push_back(rounded(static_cast<float>(scale * noise(name_seed(spec.name), 1, static_cast<uint64_t>(i), 0))));
      std::vector<float>& b = weights_[spec.name + ".bias"];
      for (int64_t i = 0; i < spec.out; ++i)
        b.push_back(spec.bias ? rounded(static_cast<float>(noise(name_seed(spec.name), 2, static_cast<uint64_t>(i), 0))) : 0.0f);
      views.push_back({DType::F32, {spec.out, in}, reinterpret_cast<const uint8_t*>(w.data()), spec.out * in});
      sources.push_back({&views.back(), nullptr});
      if (!spec.bias) continue;
      views.push_back({DType::F32, {spec.out}, reinterpret_cast<const uint8_t*>(b.data()), spec.out});
      sources.back().bias = &views.back();
    }
    std::vector<const FrozenLinear*> packed;
    for (auto& linear : backend.pack_group(sources)) {
      packed.push_back(linear.get());
      linears_.push_back(std::move(linear));
    }
    return packed;
  }
  const std::vector<float>& weight(const std::string& name) const { return weights_.at(name); }
  std::vector<float> vector(const std::string& name, int64_t n) {
    std::vector<float> v;
    for (int64_t i = 0; i < n; ++i)
      v.push_back(rounded(static_cast<float>(1.0 + 0.3 * noise(name_seed(name), 3, static_cast<uint64_t>(i), 0))));
    return v;
  }

  // The bits of `columns` columns of all rows of the sequences of adapter `owner`.
  std::string rows_of(int owner, const Matrix& m, int64_t columns) const {
    std::string bits;
    for (size_t s = 0; s < sequences_.size(); ++s)
      if (sequences_[s].adapter == owner)
        bits += bytes_of(m, batch.segments[s].start, sequences_[s].length, columns);
    return bits;
  }
  std::string gradient_of(int owner) const {
    const Adapter& a = *adapters_[static_cast<size_t>(owner)];
    std::string bits(static_cast<size_t>(a.elements) * 4, '\0');
    backend.download(bits.data(), a.state[TL_STATE_GRADIENT], a.elements * 4);
    return bits;
  }

 private:
  std::unique_ptr<Backend> owned_backend_;

 public:
  Backend& backend;
  Batch batch;
  bool bf16 = false;

 private:
  std::string bytes_of(const Matrix& m, int64_t first, int64_t rows, int64_t columns) const {
    const int64_t element = backend.activation_bytes();
    std::string bits(static_cast<size_t>(rows * columns * element), '\0');
    for (int64_t r = 0; r < rows; ++r)
      backend.download(bits.data() + r * columns * element, static_cast<const char*>(m.data) + (first + r) * m.ld * element, columns * element);
    return bits;
  }
  void add_adapter(int index, const AdapterSpec& spec, const std::vector<std::pair<int64_t, int64_t>>& modules) {
    auto a = std::make_unique<Adapter>();
    a->config.rank = a->rank = spec.rank;
    a->config.dropout = spec.dropout;
    a->config.target_modules = spec.targets;
    a->config.seed = 1000u + static_cast<uint64_t>(index);
    a->strip_columns = backend.strip_columns(spec.rank);
    a->scale = 0.5f + 0.25f * static_cast<float>(index);
    a->matrices.resize(kModules);
    for (size_t m = 0; m < modules.size(); ++m) {
      if (!(spec.targets >> m & 1u)) continue;
      LoraMatrices& l = a->matrices[m];
      l.in = modules[m].first;
      l.out = modules[m].second;
      l.a = a->elements;
      l.b = l.a + l.in * spec.rank;
      a->elements = l.b + l.out * spec.rank;
    }
    backend.adapter_attach(*a);
    std::vector<float> weights;
    for (int64_t i = 0; i < a->elements; ++i)
      weights.push_back(static_cast<float>(0.3 * noise(99, static_cast<uint64_t>(index), static_cast<uint64_t>(i), 0)));
    for (float* state : a->state) backend.zero(state, a->elements * 4);
    backend.upload(a->state[TL_STATE_WEIGHTS], weights.data(), a->elements * 4);
    backend.adapter_refresh(*a);
    adapters_.push_back(std::move(a));
  }

  std::vector<SequenceSpec> sequences_;
  std::vector<std::unique_ptr<Adapter>> adapters_;
  std::vector<std::unique_ptr<FrozenLinear>> linears_;
  std::map<std::string, std::vector<float>> weights_;
  std::deque<std::pair<void*, int64_t>> owned_;
};

// max |got - want| <= tolerance * max |want|, and every element is a number.
class Comparison {
 public:
  void add(double got, double want) {
    ++count_;
    if (!std::isfinite(got)) ++poisoned_;
    error_ = std::max(error_, std::fabs(got - want));
    largest_ = std::max(largest_, std::fabs(want));
  }
  void check(const std::string& name, double tolerance) const {
    CHECK_MSG(count_ > 0, "%s: nothing was compared", name.c_str());
    CHECK_MSG(poisoned_ == 0, "%s: %lld of %lld elements are not finite", name.c_str(), static_cast<long long>(poisoned_), static_cast<long long>(count_));
    CHECK_MSG(error_ <= tolerance * largest_, "%s: error %.3g of largest value %.3g, tolerance %.1g", name.c_str(), error_, largest_, tolerance);
  }

 private:
  int64_t count_ = 0, poisoned_ = 0;
  double error_ = 0, largest_ = 0;
};

// Compares a gradient with central differences of a double-precision function at up to `samples` elements.
inline void check_gradient(const std::string& name, Doubles& input, const std::function<double(size_t)>& got,
                           const std::function<double()>& loss, size_t samples, double tolerance) {
  Comparison comparison;
  double largest = 0;
  for (size_t i = 0; i < input.size(); ++i) largest = std::max(largest, std::fabs(got(i)));
  const size_t stride = std::max<size_t>(1, input.size() / samples);
  double error = 0;
  bool finite = true;
  for (size_t i = 0; i < input.size(); i += stride) {
    const double eps = 1e-4, x = input[i];
    input[i] = x + eps;
    const double up = loss();
    input[i] = x - eps;
    const double down = loss();
    input[i] = x;
    finite = finite && std::isfinite(got(i));
    error = std::max(error, std::fabs((up - down) / (2 * eps) - got(i)));
  }
  CHECK_MSG(finite, "%s: not finite", name.c_str());
  CHECK_MSG(error <= tolerance * largest && largest > 0, "%s: error %.3g of largest %.3g, tolerance %.1g", name.c_str(), error, largest, tolerance);
}

inline Doubles doubles(const Matrix& m, int64_t rows, int64_t columns) {
  Doubles d;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) d.push_back(Lab::at(m, r, c));
  return d;
}

}  // namespace lab
