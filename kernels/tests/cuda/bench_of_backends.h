// One Backend with a batch on it, for tests that run the same ops on the CPU and on CUDA through the op table alone.
// Inputs are bf16 values that follow from each sequence's content (so the same sequence can be put in other company);
// they go up in the backend's own type and layout, everything else is NaN; results come down as fp32 with every bit of
// a bf16 kept.
#pragma once

#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda/device.h"

namespace backends {

using namespace tlora;
using cuda::ModuleSizes;
using device::noise;
using device::round_bf16;
using device::SequenceSpec;

constexpr int kLayers = 2,
              kLayer = 1;           // ops run in the second, so that an adapter's offsets are not those of the first
constexpr uint64_t kBroken = 1000;  // sequences of at least this content hold only infinities and NaN
constexpr uint32_t kAll = 127;

// Equal ids: equal weights, seed and scale, wherever the adapter is in the batch and among the working copies.
struct Job {
  int id;
  int rank;
  uint32_t targets;
  float dropout;
};

// Rows of fp32, dense.
struct Dense {
  Dense() = default;
  Dense(int64_t rows_, int64_t columns_)
      : rows(rows_), columns(columns_), values(static_cast<size_t>(rows_ * columns_), NAN) {}
  float& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * columns + c)]; }
  float at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * columns + c)]; }
  int64_t rows = 0, columns = 0;
  std::vector<float> values;
};

inline std::vector<float> random_weights(uint64_t seed, int64_t count, double scale, double mean = 0) {
  std::vector<float> w(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    w[static_cast<size_t>(i)] =
        round_bf16(static_cast<float>(mean + scale * noise(seed, 5, static_cast<uint64_t>(i), 0)));
  return w;
}

// Sizes of a model in which the group that begins with `first` is the one of a test; the others are small.
inline ModuleSizes sizes_with(int first, int64_t in, const std::vector<int64_t>& outs) {
  ModuleSizes s;
  const int64_t small_in[] = {24, 24, 24, 40, 24, 24, 16}, small_out[] = {40, 8, 8, 24, 16, 16, 24};
  std::copy_n(small_in, kModules, s.in);
  std::copy_n(small_out, kModules, s.out);
  for (size_t i = 0; i < outs.size(); ++i) {
    s.in[first + static_cast<int>(i)] = in;
    s.out[first + static_cast<int>(i)] = outs[i];
  }
  return s;
}
inline ModuleSizes small_sizes() { return sizes_with(TL_Q_PROJ, 24, {}); }

// A matrix on the backend and the bytes it had before the op.
struct Held {
  Matrix m;
  int64_t rows = 0, columns = 0;
  std::string before;
};

// What an op gave, with what it may differ by from another backend.
struct Output {
  std::string name;
  Dense values;
  double tolerance = 0;       // of the largest value; negative: only bits of one backend are comparable
  double rms = 0;             // of the root mean square, where there are enough elements for one; 0: not looked at
  std::vector<int64_t> rows;  // each one's row in the batch; empty: all of it belongs to job `owner`
  int owner = -1;
  double floor = 0;  // the largest value counts as at least this
};
using Outputs = std::vector<Output>;

class Stage {
 public:
  // spacer: rank of an unused adapter that takes the first working columns, or 0.
  Stage(std::unique_ptr<Backend> made, const ModuleSizes& sizes, const std::vector<Job>& jobs,
        const std::vector<SequenceSpec>& sequences, bool train = true, int spacer = 0)
      : backend(*made), owned_backend_(std::move(made)), sizes_(sizes), train_(train) {
    backend.set_modules(kLayers, sizes_.in, sizes_.out);
    if (spacer) add({77, spacer, kAll, 0});
    first_job_ = static_cast<int>(adapters_.size());
    for (const Job& job : jobs) add(job);
    if (!sequences.empty()) begin(sequences);
  }
  ~Stage() {
    for (auto& a : adapters_)
      if (a) backend.adapter_detach(*a);
    for (const Memory& m : owned_) backend.release(m.data, m.bytes);
  }
  Stage(const Stage&) = delete;

  // ---- adapters and batches
  Adapter& adapter(int job) { return *adapters_[static_cast<size_t>(first_job_ + job)]; }
  const Job& job(int i) const { return jobs_[static_cast<size_t>(first_job_ + i)]; }
  int add(const Job& job) {
    auto a = std::make_unique<Adapter>();
    a->rank = a->config.rank = job.rank;
    a->config.target_modules = job.targets;
    a->config.dropout = job.dropout;
    a->config.seed = 1000u + static_cast<uint64_t>(job.id);
    a->strip_columns = backend.strip_columns(job.rank);
    a->scale = 0.5f + 0.25f * static_cast<float>(job.id % 4);
    a->matrices.resize(static_cast<size_t>(kLayers) * kModules);
    for (int layer = 0; layer < kLayers; ++layer)
      for (int m = 0; m < kModules; ++m) {
        if (!(job.targets >> m & 1u)) continue;
        LoraMatrices& l = a->matrices[static_cast<size_t>(layer * kModules + m)];
        l.in = sizes_.in[m];
        l.out = sizes_.out[m];
        l.a = a->elements;
        l.b = l.a + l.in * job.rank;
        a->elements = l.b + l.out * job.rank;
      }
    backend.adapter_attach(*a);
    jobs_.push_back(job);
    adapters_.push_back(std::move(a));
    const int index = static_cast<int>(adapters_.size()) - 1 - first_job_;
    for (const int state : {TL_STATE_WEIGHTS, TL_STATE_GRADIENT}) reset(index, state);
    for (const int state : {TL_STATE_MOMENT1, TL_STATE_MOMENT2})
      backend.zero(adapter(index).state[state], adapter(index).elements * 4);
    backend.adapter_refresh(adapter(index));
    return index;
  }
  void remove(int job) {
    backend.adapter_detach(adapter(job));
    adapters_[static_cast<size_t>(first_job_ + job)].reset();
  }
  // Random values that follow from the job's id; no refresh. add() does it to the weights and the gradient, which does
  // not begin at zero because ops add to it; the moments are zero.
  void reset(int job, int state) {
    Adapter& a = adapter(job);
    const uint64_t id = static_cast<uint64_t>(this->job(job).id);
    std::vector<float> values(static_cast<size_t>(a.elements));
    for (size_t i = 0; i < values.size(); ++i) {
      const double x = noise(99 + static_cast<uint64_t>(state), id, i, 0);
      values[i] = static_cast<float>(state == TL_STATE_WEIGHTS   ? 0.3 * x
                                     : state == TL_STATE_MOMENT2 ? 1e-4 * x * x
                                                                 : 0.01 * x);
    }
    set(job, state, values);
  }
  void set(int job, int state, const std::vector<float>& values) {
    backend.upload(adapter(job).state[state], values.data(), static_cast<int64_t>(values.size()) * 4);
  }
  std::vector<float> get(int job, int state) {
    std::vector<float> values(static_cast<size_t>(adapter(job).elements));
    backend.download(values.data(), adapter(job).state[state], static_cast<int64_t>(values.size()) * 4);
    return values;
  }
  std::string bits(int job, int state) {
    const std::vector<float> values = get(job, state);
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  }

  void begin(const std::vector<SequenceSpec>& sequences) {
    sequences_ = sequences;
    rows_.clear();
    std::vector<Segment> segments;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const SequenceSpec& s = sequences[i];
      Segment segment;
      segment.adapter = s.adapter < 0 ? nullptr : &adapter(s.adapter);
      segment.start = static_cast<int64_t>(rows_.size());
      segment.length = s.length;
      segment.loss_scale = 0.5f;
      segment.dropout_key = s.content * 77 + 5;
      segments.push_back(segment);
      for (int64_t t = 0; t < s.length; ++t) rows_.push_back({s.content, t, s.adapter});
    }
    batch = make_batch(segments, static_cast<int64_t>(rows_.size()), train_);
    backend.begin_step(batch);
  }
  int64_t tokens() const { return batch.tokens; }
  // Of a row of the batch.
  uint64_t content(int64_t row) const { return rows_[static_cast<size_t>(row)].content; }
  int64_t position(int64_t row) const { return rows_[static_cast<size_t>(row)].position; }
  int owner(int64_t row) const { return rows_[static_cast<size_t>(row)].job; }
  bool any_dropout() const {
    for (const auto& entry : batch.adapters)
      if (batch.dropout(entry.first) > 0) return true;
    return false;
  }
  std::vector<int> jobs_of_batch() const {
    std::set<int> found;
    for (const SequenceSpec& s : sequences_)
      if (s.adapter >= 0) found.insert(s.adapter);
    return {found.begin(), found.end()};
  }

  // ---- memory: every block is NaN at first, with NaN behind its end that must stay
  void* memory(int64_t bytes) {
    void* p = backend.allocate(bytes + kGuard);
    owned_.push_back({p, bytes, true});
    fill(p, bytes + kGuard);
    return p;
  }
  template <class T>
  T* array(int64_t count) {
    return static_cast<T*>(memory(count * static_cast<int64_t>(sizeof(T))));
  }
  template <class T>
  T* array(const std::vector<T>& values) {
    T* p = array<T>(static_cast<int64_t>(values.size()));
    backend.upload(p, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return p;
  }
  template <class T>
  std::vector<T> host(const T* p, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    backend.download(values.data(), p, count * static_cast<int64_t>(sizeof(T)));
    return values;
  }
  void fill(void* p, int64_t bytes) {
    const std::string ones(static_cast<size_t>(bytes), static_cast<char>(0xff));
    backend.upload(p, ones.data(), bytes);
  }
  void check_guards(const std::string& name) const {
    int64_t changed = 0;
    for (const Memory& m : owned_) {
      if (!m.guarded) continue;
      const std::vector<char> guard = host(static_cast<const char*>(m.data) + m.bytes, kGuard);
      for (const char c : guard) changed += c != static_cast<char>(0xff);
    }
    CHECK_MSG(changed == 0, "%s: %lld bytes behind the end of a buffer were written", name.c_str(),
              static_cast<long long>(changed));
  }

  Held poisoned(int64_t rows, int64_t columns) { return upload(Dense(rows, columns)); }
  Held matrix(const Dense& values) { return upload(values); }
  // Random values of the batch's rows.
  Dense values(uint64_t seed, int64_t columns, double scale = 1.0) const {
    Dense d(tokens(), columns);
    for (int64_t r = 0; r < d.rows; ++r)
      for (int64_t c = 0; c < columns; ++c) d.at(r, c) = value(seed, r, c, scale);
    return d;
  }
  Held input(uint64_t seed, int64_t columns, double scale = 1.0) { return matrix(values(seed, columns, scale)); }
  Dense read(const Held& h) const {
    const std::vector<char> raw =
        host(static_cast<const char*>(h.m.data), h.rows * h.m.ld * backend.activation_bytes());
    return decode(raw.data(), h.m.ld * backend.activation_bytes(), h.rows, h.columns);
  }
  // Activations whose rows lie `stride` bytes apart.
  Dense decode(const char* raw, int64_t stride, int64_t rows, int64_t columns) const {
    Dense d(rows, columns);
    for (int64_t r = 0; r < rows; ++r) {
      const char* row = raw + r * stride;
      if (backend.activation_bytes() == 4) {
        std::memcpy(&d.at(r, 0), row, static_cast<size_t>(columns) * 4);
        continue;
      }
      for (int64_t c = 0; c < columns; ++c) {
        uint16_t half;
        std::memcpy(&half, row + 2 * c, 2);
        const uint32_t bits = uint32_t{half} << 16;
        std::memcpy(&d.at(r, c), &bits, 4);
      }
    }
    return d;
  }
  // On CUDA: of the real rows, only columns [first, first + columns) of the rows that `written` names (null: all) have
  // changed.
  void check_kept(const std::string& name, const Held& h, int64_t first, int64_t columns,
                  const std::vector<int64_t>* written = nullptr) const {
    const int64_t element = backend.activation_bytes(), stride = h.m.ld * element;
    if (element != 2) return;
    const std::set<int64_t> named(written ? written->begin() : std::vector<int64_t>::const_iterator(),
                                  written ? written->end() : std::vector<int64_t>::const_iterator());
    const std::vector<char> after = host(static_cast<const char*>(h.m.data), h.rows * stride);
    int64_t changed = 0;
    for (int64_t r = 0; r < h.rows; ++r)
      for (int64_t i = 0; i < stride; ++i) {
        const bool own = (!written || named.count(r)) && i >= first * element && i < (first + columns) * element;
        const size_t at = static_cast<size_t>(r * stride + i);
        changed += !own && after[at] != h.before[at];
      }
    CHECK_MSG(changed == 0, "%s%s: %lld bytes beside the promised elements were written", label.c_str(), name.c_str(),
              static_cast<long long>(changed));
  }

  // ---- frozen weights
  static constexpr double kBiasScale = 0.5;
  std::vector<const FrozenLinear*> pack(uint64_t seed, int64_t in, const std::vector<int64_t>& outs, bool bias,
                                        double scale) {
    std::vector<std::vector<float>> numbers;
    std::vector<TensorView> views;
    numbers.reserve(outs.size() * 2);  // the views point into them
    views.reserve(outs.size() * 2);
    std::vector<WeightSource> sources;
    for (size_t i = 0; i < outs.size(); ++i) {
      numbers.push_back(random_weights(seed + i, outs[i] * in, scale));
      views.push_back(
          {DType::F32, {outs[i], in}, reinterpret_cast<const uint8_t*>(numbers.back().data()), outs[i] * in});
      sources.push_back({&views.back(), nullptr});
      if (!bias) continue;
      numbers.push_back(random_weights(seed + 100 + i, outs[i], kBiasScale));
      views.push_back({DType::F32, {outs[i]}, reinterpret_cast<const uint8_t*>(numbers.back().data()), outs[i]});
      sources.back().bias = &views.back();
    }
    std::vector<const FrozenLinear*> packed;
    for (auto& linear : backend.pack_group(sources)) {
      packed.push_back(linear.get());
      linears_.push_back(std::move(linear));
    }
    return packed;
  }
  float* pack_vector(const std::vector<float>& values) {
    const int64_t count = static_cast<int64_t>(values.size());
    float* p = backend.pack_vector({DType::F32, {count}, reinterpret_cast<const uint8_t*>(values.data()), count});
    owned_.push_back({p, count * 4, false});
    return p;
  }

  // ---- results
  Output by_row(const std::string& name, const Dense& values, double tolerance, double rms, double floor = 0) const {
    std::vector<int64_t> all(static_cast<size_t>(tokens()));
    std::iota(all.begin(), all.end(), 0);
    return {name, values, tolerance, rms, all, -1, floor};
  }
  // The bits of all that is job `job`'s: its rows, and what belongs to it as a whole.
  std::string bits_of(const Outputs& outputs, int job) const {
    std::string bits;
    for (const Output& o : outputs) {
      const Dense& d = o.values;
      if (o.rows.empty() && o.owner == job)
        bits.append(reinterpret_cast<const char*>(d.values.data()), d.values.size() * 4);
      for (size_t i = 0; i < o.rows.size(); ++i)
        if (owner(o.rows[i]) == job)
          bits.append(reinterpret_cast<const char*>(&d.values[i * static_cast<size_t>(d.columns)]),
                      static_cast<size_t>(d.columns) * 4);
    }
    return bits;
  }

  Backend& backend;
  Batch batch;
  std::string label;  // before the names of what is checked

 private:
  static constexpr int64_t kGuard = 256;
  struct Memory {
    void* data;
    int64_t bytes;
    bool guarded;
  };
  struct Row {
    uint64_t content;
    int64_t position;
    int job;
  };
  float value(uint64_t seed, int64_t r, int64_t c, double scale) const {
    const Row& row = rows_[static_cast<size_t>(r)];
    if (row.content >= kBroken) return c % 3 == 0 ? INFINITY : c % 3 == 1 ? -INFINITY : NAN;
    return round_bf16(static_cast<float>(
        scale * noise(seed, row.content, static_cast<uint64_t>(row.position), static_cast<uint64_t>(c))));
  }
  Held upload(const Dense& d) {
    const int64_t element = backend.activation_bytes();
    Held h;
    h.rows = d.rows;
    h.columns = d.columns;
    h.m.ld = backend.leading_dimension(d.columns);
    const int64_t bytes = padded_rows(backend, d.rows) * h.m.ld * element;
    h.m.data = memory(bytes);
    h.before.assign(static_cast<size_t>(bytes), static_cast<char>(0xff));
    for (int64_t r = 0; r < d.rows; ++r)
      for (int64_t c = 0; c < d.columns; ++c) {
        const float x = d.at(r, c);
        uint32_t word;
        std::memcpy(&word, &x, 4);
        const uint16_t half = x == x ? static_cast<uint16_t>(word >> 16) : uint16_t{0xffff};  // x is a bf16 value
        if (element == 4 && x != x) continue;
        std::memcpy(&h.before[static_cast<size_t>((r * h.m.ld + c) * element)],
                    element == 2 ? static_cast<const void*>(&half) : &x, static_cast<size_t>(element));
      }
    backend.upload(h.m.data, h.before.data(), bytes);
    return h;
  }

  std::unique_ptr<Backend> owned_backend_;
  ModuleSizes sizes_;
  bool train_;
  int first_job_ = 0;
  std::vector<Job> jobs_;  // spacer included, like adapters_
  std::vector<std::unique_ptr<Adapter>> adapters_;
  std::vector<SequenceSpec> sequences_;
  std::vector<Row> rows_;
  std::vector<Memory> owned_;
  std::vector<std::unique_ptr<FrozenLinear>> linears_;
};

// Every element a number, the largest difference and the root mean square of all within the output's own tolerances.
inline void compare(const std::string& name, const Outputs& want, const Outputs& got) {
  REQUIRE_MSG(want.size() == got.size(), "%s: %zu outputs against %zu", name.c_str(), want.size(), got.size());
  constexpr size_t kEnough = 4096;  // elements: a single flipped rounding among fewer would show in the mean
  for (size_t i = 0; i < want.size(); ++i) {
    const Output& w = want[i];
    const std::string what = name + ", " + w.name;
    if (w.tolerance < 0) continue;
    const std::vector<float>&x = w.values.values, &y = got[i].values.values;
    REQUIRE_MSG(x.size() == y.size() && !x.empty(), "%s: %zu elements against %zu", what.c_str(), x.size(), y.size());
    double error = 0, largest = w.floor, error_squares = 0, squares = 0;
    int64_t bad_cpu = 0, bad_cuda = 0;
    size_t worst = 0;
    for (size_t j = 0; j < x.size(); ++j) {
      bad_cpu += !std::isfinite(x[j]);
      bad_cuda += !std::isfinite(y[j]);
      const double d = std::fabs(static_cast<double>(x[j]) - y[j]);
      if (d > error) error = d, worst = j;
      largest = std::max(largest, std::fabs(static_cast<double>(x[j])));
      error_squares += d * d;
      squares += static_cast<double>(x[j]) * x[j];
    }
    CHECK_MSG(bad_cpu == 0 && bad_cuda == 0, "%s: not finite: %lld on the CPU, %lld on CUDA, of %zu", what.c_str(),
              static_cast<long long>(bad_cpu), static_cast<long long>(bad_cuda), x.size());
    CHECK_MSG(error <= w.tolerance * largest,
              "%s: differs by %.3g at [%lld, %lld] (%.9g against %.9g), largest value %.3g, tolerance %.1g",
              what.c_str(), error, static_cast<long long>(static_cast<int64_t>(worst) / w.values.columns),
              static_cast<long long>(static_cast<int64_t>(worst) % w.values.columns), static_cast<double>(x[worst]),
              static_cast<double>(y[worst]), largest, w.tolerance);
    if (w.rms > 0 && x.size() >= kEnough)
      CHECK_MSG(error_squares <= w.rms * w.rms * squares,
                "%s: root mean square of the difference is %.3g of the values', tolerance %.1g", what.c_str(),
                std::sqrt(error_squares / squares), w.rms);
  }
}

}  // namespace backends
