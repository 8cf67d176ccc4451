// Every op of the CUDA backend at the shapes of Llama-3-8B: microseconds, bytes and FLOPs with their rates, and the
// share of a ceiling measured in the same run.
//
//   bench_cuda_ops [--quick] [--only TEXT] [--json FILE]
//
// The table of rows is entries(). --only keeps the rows that have TEXT in "op detail tokens N segment N adapters".
//
// A time is the median of groups of launches between two events. A group is a CUDA graph, so that what the host needs
// for a launch does not count, and goes round buffer sets of at least three times the L2 together. Inputs are normal
// random numbers. Ops that work in place get fresh inputs before every group.
//
// Bytes: every input read once, every output written once; of a strip, inputs count the columns of the row's own
// adapter and outputs all of them. FLOPs: the useful ones (attention: pairs under the causal mask, backward as five
// products; adapters by rank). Ceilings: a large copy, read + write, and a large GEMM, each the best of a measurement
// before all rows and one after. A row's bound is the ceiling that costs it more, and its share is that cost over its
// time.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda/batch_tables.h"
#include "cuda/check.h"
#include "cuda/cublaslt.h"
#include "cuda/device_memory.h"
#include "cuda/kernels.h"
#include "cuda/working_copies.h"

namespace {

using namespace tlora;
using bench::Event;
using bench::Memory;
using bench::milliseconds;
using cuda::bf16;
using cuda::check;
using cuda::Gemm;
using cuda::LoraGroup;
using cuda::Tables;

constexpr int64_t kHidden = 4096, kFfn = 14336, kVocab = 128256, kHeads = 32, kKvHeads = 8, kHeadDim = 128;
constexpr int64_t kQ = kHeads * kHeadDim, kKv = kKvHeads * kHeadDim, kQkv = kQ + 2 * kKv;
constexpr int64_t kHeadRows = 2048;
constexpr int32_t kLayers = 32;
constexpr uint32_t kAllModules = 0x7f;
constexpr float kEps = 1e-5f;

const cuda::ModuleSizes kSizes = {{kHidden, kHidden, kHidden, kHidden, kHidden, kHidden, kFfn},
                                  {kQ, kKv, kKv, kHidden, kFfn, kFfn, kHidden}};

// Linears that share an input.
struct Group {
  const char* name;
  std::vector<int> modules;
  bool residual;  // forward adds the residual stream
  int64_t parts() const { return static_cast<int64_t>(modules.size()); }
  int64_t in() const { return kSizes.in[modules[0]]; }
  int64_t out() const {
    int64_t sum = 0;
    for (const int m : modules) sum += kSizes.out[m];
    return sum;
  }
};
const std::vector<Group> kGroups = {{"qkv", {TL_Q_PROJ, TL_K_PROJ, TL_V_PROJ}, false},
                                    {"o", {TL_O_PROJ}, true},
                                    {"gate_up", {TL_GATE_PROJ, TL_UP_PROJ}, false},
                                    {"down", {TL_DOWN_PROJ}, true}};

struct Adapters {
  std::string name;
  std::vector<int> ranks;
};
const std::vector<Adapters> kAdapters = {{"none", {}},
                                         {"1 x r16", {16}},
                                         {"4 x r16", std::vector<int>(4, 16)},
                                         {"8 mixed", {2, 4, 8, 16, 2, 4, 8, 16}},
                                         {"16 x r16", std::vector<int>(16, 16)}};

int64_t padded(int64_t rows) { return (rows + cuda::kRowPad - 1) / cuda::kRowPad * cuda::kRowPad; }
double real(int64_t x) { return static_cast<double>(x); }

// One block of device memory that each row takes its buffers from anew.
class Arena {
 public:
  explicit Arena(int64_t bytes) : memory_(bytes), bytes_(bytes) {}
  void clear() { used_ = 0; }
  template <class T>
  T* take(int64_t count) {
    T* at = reinterpret_cast<T*>(memory_.data() + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 1023) / 1024 * 1024;
    if (used_ > bytes_) throw Error(TL_OUT_OF_MEMORY, "the row needs more than the bench's block of memory");
    return at;
  }
  bf16* matrix(int64_t rows, int64_t columns) { return take<bf16>(padded(rows) * columns); }
  char* data() const { return memory_.data(); }
  int64_t bytes() const { return bytes_; }

 private:
  Memory<char> memory_;
  int64_t bytes_, used_ = 0;
};

// A batch: sequences of one length, spread over adapters that target every linear, with as many layers of working
// copies and gradients as there are buffer sets.
struct Lab {
  Lab(cudaStream_t stream, int64_t tokens, int64_t segment, const std::vector<int>& ranks, int32_t layers)
      : layers(layers), strip_rows(padded(tokens)) {
    working.set_modules(layers, kSizes);
    int64_t per_rank = 0, total_rank = 0;
    for (int m = 0; m < cuda::kModuleCount; ++m) per_rank += layers * (kSizes.in[m] + kSizes.out[m]);
    for (const int rank : ranks) {
      auto a = std::make_unique<Adapter>();
      a->rank = a->config.rank = rank;
      a->config.target_modules = kAllModules;
      a->scale = 2;
      a->strip_columns = (rank + 15) / 16 * 16;
      a->elements = per_rank * rank;
      columns += a->strip_columns;
      total_rank += rank;
      list.push_back(std::move(a));
    }
    std::vector<cuda::Placement> placements;
    if (!ranks.empty()) {
      working.grow(static_cast<int32_t>(columns), stream);
      const int64_t most = per_rank * *std::max_element(ranks.begin(), ranks.end());
      weights = Memory<float>(most);
      bench::fill(stream, weights.data(), most, {0, 0.02f}, 3);
      gradients = Memory<float>(per_rank * total_rank);
      check(cudaMemsetAsync(gradients.data(), 0, static_cast<size_t>(per_rank * total_rank) * 4, stream), "memset");
      float* gradient = gradients.data();
      for (const auto& a : list) {
        a->state[TL_STATE_GRADIENT] = gradient;
        gradient += a->elements;
        placements.push_back({working.take(static_cast<int32_t>(a->strip_columns))});
        cuda::adapter_refresh(stream, weights.data(), a->rank, placements.back().home_column, kAllModules, kSizes,
                              layers, working.device_homes());
      }
    }
    const int64_t count = (tokens + segment - 1) / segment, adapters = static_cast<int64_t>(list.size());
    batch.tokens = tokens;
    for (const auto& a : list) batch.adapters.push_back({a.get(), {}});
    for (int64_t i = 0; i < count; ++i) {
      Segment s;
      s.start = i * segment;
      s.length = std::min(segment, tokens - s.start);
      if (adapters > 0) {
        auto& owner = batch.adapters[static_cast<size_t>(i * adapters / count)];
        s.adapter = owner.first;
        owner.second.push_back(static_cast<int32_t>(i));
        row_ranks += s.length * s.adapter->rank;
        row_columns += s.length * s.adapter->strip_columns;
      }
      pairs += s.length * (s.length + 1) / 2;
      batch.segments.push_back(s);
    }
    rank = total_rank;
    const cuda::BatchTables built(batch, placements);
    image = bench::upload(built.image());
    tables = built.at(image.data());
  }

  int32_t layers;
  int64_t strip_rows, columns = 0, rank = 0;
  int64_t row_ranks = 0, row_columns = 0;  // summed over the tokens
  int64_t pairs = 0;                       // of query and key, causal
  std::vector<std::unique_ptr<Adapter>> list;
  cuda::WorkingCopies working;
  Memory<float> weights, gradients;
  Memory<char> image;
  Batch batch;
  Tables tables;
};

struct Work {
  int sets = 1;
  double bytes = 0, flops = 0;
  std::function<void(int set)> run;
  std::function<void()> reset;  // before every group: gives all sets their inputs again
  bool recorded = true;         // as a graph
  std::vector<std::shared_ptr<void>> kept;
};

struct Entry {
  std::string op, detail;
  int64_t tokens = 0, segment = 0;  // 0: has none
  std::string adapters;
  std::function<Work()> build;

  std::string text() const {
    std::string s = op;
    if (!detail.empty()) s += " " + detail;
    if (tokens) s += " tokens " + std::to_string(tokens);
    if (segment) s += " segment " + std::to_string(segment);
    return adapters.empty() ? s : s + " " + adapters;
  }
};

struct Time {
  double us = 0, least = 0, most = 0;
};

struct Row {
  const Entry* entry;
  Time time;
  double bytes, flops;
  std::string error;
};

struct Options {
  bool quick = false;
  const char* only = nullptr;
  const char* json = nullptr;
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), random_(int64_t{4} << 30), scratch_(int64_t{12} << 30) {
    check(cudaGetDeviceProperties(&device_, 0), "cudaGetDeviceProperties");
    sm90_ = device_.major == 9 && device_.minor == 0;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    bench::fill(stream_, reinterpret_cast<bf16*>(random_.data()), random_.bytes() / 2, {}, 1);
    check(cudaMemsetAsync(scratch_.data(), 0, static_cast<size_t>(scratch_.bytes()), stream_), "cudaMemsetAsync");
    if (!library_.load(reason_)) std::printf("no cuBLASLt: %s\n", reason_.c_str());
  }
  ~Bench() {
    cudaDeviceSynchronize();
    cudaStreamDestroy(stream_);
  }

  int run() {
    std::vector<Entry> table = entries();
    if (options_.only != nullptr)
      table.erase(std::remove_if(table.begin(), table.end(),
                                 [&](const Entry& e) { return e.text().find(options_.only) == std::string::npos; }),
                  table.end());
    ceilings();
    std::vector<Row> rows;
    bool alive = true;
    for (size_t i = 0; i < table.size() && alive; ++i) {
      Row row{&table[i], {}, 0, 0, {}};
      try {
        const Work work = prepare(table[i].build);
        row.bytes = work.bytes;
        row.flops = work.flops;
        row.time = measure(work, options_.quick ? 5 : 15);
      } catch (const std::exception& error) {
        row.error = error.what();
        alive = cudaDeviceSynchronize() == cudaSuccess;
      }
      rows.push_back(row);
    }
    if (alive) ceilings();
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.entry->op < b.entry->op; });
    print(rows);
    if (options_.json != nullptr) write(rows);
    const bool all = std::all_of(rows.begin(), rows.end(), [](const Row& r) { return r.error.empty(); });
    return alive && all ? 0 : 1;
  }

 private:
  // ---- times --------------------------------------------------------------------------------------------------------

  Work prepare(const std::function<Work()>& build) {
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    random_.clear();
    scratch_.clear();
    return build();
  }

  void pass(const Work& work, int calls) {
    for (int c = 0; c < calls; ++c) work.run(c % work.sets);
  }

  cudaGraphExec_t record(const Work& work, int calls) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    try {
      pass(work, calls);
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    cudaGraphExec_t recorded = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&recorded, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    return recorded;
  }

  Time measure(const Work& work, int groups) {
    Event begin, end;
    if (work.reset) work.reset();
    pass(work, work.sets);  // loads the code
    check(cudaStreamSynchronize(stream_), "the op");
    if (work.reset) work.reset();
    begin.record(stream_);
    pass(work, work.sets);
    end.record(stream_);
    const double round_us = std::max(1.0, 1000 * milliseconds(begin, end));

    // Long enough for the events' own microseconds not to count.
    const double wanted_us = options_.quick ? 500 : 2000;
    const double most_rounds = 1000.0 / work.sets + 1;
    const int rounds = work.reset ? 1 : static_cast<int>(std::clamp(std::ceil(wanted_us / round_us), 1.0, most_rounds));
    const int calls = rounds * work.sets;
    struct Graph {
      ~Graph() {
        if (recorded != nullptr) cudaGraphExecDestroy(recorded);
      }
      cudaGraphExec_t recorded = nullptr;
    } graph;
    if (work.recorded) graph.recorded = record(work, calls);
    const auto group = [&] {
      if (graph.recorded != nullptr) check(cudaGraphLaunch(graph.recorded, stream_), "cudaGraphLaunch");
      else pass(work, calls);
    };

    std::vector<double> us;
    for (int i = -2; i < groups; ++i) {
      // Something for the device to do until the host has launched the group.
      if (work.reset) work.reset();
      else if (round_us / work.sets > 500) work.run(work.sets - 1);
      else group();
      begin.record(stream_);
      group();
      end.record(stream_);
      const double ms = milliseconds(begin, end);
      if (i >= 0) us.push_back(1000 * ms / calls);
    }
    check(cudaStreamSynchronize(stream_), "the op");
    std::sort(us.begin(), us.end());
    return {us[us.size() / 2], us.front(), us.back()};
  }

  // So many sets that by the time one comes again nothing of it is in the L2.
  int sets_for(double bytes) const {
    return static_cast<int>(std::clamp(std::ceil(3.0 * device_.l2CacheSize / bytes), 2.0, 48.0));
  }

  void ceilings() {
    const int groups = options_.quick ? 5 : 11;
    const Time copy = measure(prepare([&] {
                                Work w;
                                w.recorded = false;
                                const int64_t bytes = int64_t{2} << 30;
                                w.bytes = 2 * real(bytes);
                                w.run = [this, bytes](int) {
                                  check(cudaMemcpyAsync(scratch_.data(), random_.data(), static_cast<size_t>(bytes),
                                                        cudaMemcpyDeviceToDevice, stream_),
                                        "copy");
                                };
                                return w;
                              }),
                              groups);
    copy_rate_ = std::max(copy_rate_, real(int64_t{4} << 30) / (copy.us * 1e-6));

    const int64_t m = 8192, n = 2 * kFfn, k = kHidden;
    const auto product = [&](bool vendor) {
      return measure(prepare([&, vendor] {
                       Work w;
                       w.recorded = false;
                       w.sets = 2;
                       std::vector<Gemm> gemms;
                       for (int s = 0; s < w.sets; ++s) {
                         gemms.push_back(plain(m, n, k, true));
                         gemms.back().a = random_.matrix(m, k);
                         gemms.back().b = random_.matrix(n, k);
                         gemms.back().out = scratch_.matrix(m, n);
                       }
                       w.run = [this, gemms, vendor](int s) {
                         const Gemm& g = gemms[static_cast<size_t>(s)];
                         if (!vendor) return gemm(g);
                         library_.gemm(stream_, true, g.m, g.n, g.k, g.a, g.lda, g.b, g.ldb, g.out, g.ldc, false);
                       };
                       return w;
                     }),
                     groups);
    };
    if (library_.loaded()) {
      try {
        matrix_rate(product(true), m, n, k, "cuBLASLt " + std::to_string(library_.version()));
        return;
      } catch (const std::exception& error) {
        std::printf("cuBLASLt: %s\n", error.what());
      }
    }
    matrix_rate(product(false), m, n, k, sm90_ ? "gemm_sm90" : "gemm_generic");
  }

  void matrix_rate(const Time& time, int64_t m, int64_t n, int64_t k, const std::string& name) {
    matrix_rate_ = std::max(matrix_rate_, 2 * real(m) * real(n) * real(k) / (time.us * 1e-6));
    matrix_name_ = name;
  }

  // ---- ops ----------------------------------------------------------------------------------------------------------

  const std::shared_ptr<Lab>& lab(int64_t tokens, int64_t segment, const Adapters& adapters) {
    const std::string key = std::to_string(tokens) + "," + std::to_string(segment) + "," + adapters.name;
    if (key != lab_key_) {
      lab_.reset();
      lab_key_.clear();
      const int32_t layers = adapters.ranks.empty() ? 1 : sets_for(real(tokens * kHidden * 2));
      lab_ = std::make_shared<Lab>(stream_, tokens, segment, adapters.ranks, layers);
      lab_key_ = key;
    }
    return lab_;
  }

  float* floats(int64_t count, const bench::Distribution& distribution, uint32_t seed) {
    float* at = scratch_.take<float>(count);
    bench::fill(stream_, at, count, distribution, seed);
    return at;
  }

  void copy(void* to, const void* from, int64_t bytes) const {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_), "reset");
  }

  void gemm(const Gemm& g) const {
    if (sm90_) cuda::gemm_sm90(stream_, g);
    else cuda::gemm_generic(stream_, g);
  }

  static Gemm plain(int64_t m, int64_t n, int64_t k, bool k_major) {
    Gemm g;
    g.m = m;
    g.n = n;
    g.k = k;
    g.lda = k;
    g.b_is_k_major = k_major;
    g.ldb = k_major ? k : n;
    g.part_n[0] = n;
    g.ldc = n;
    g.padded_rows = padded(m);
    return g;
  }

  Work embed(int64_t n) {
    Work w;
    w.bytes = real(n * (4 * kHidden + 4));
    w.sets = sets_for(w.bytes);
    const bf16* table = random_.take<bf16>(kVocab * kHidden);
    std::mt19937 random(5);
    std::vector<int32_t> ids(static_cast<size_t>(w.sets * n));
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
    const auto tokens = std::make_shared<Memory<int32_t>>(bench::upload(ids));
    bf16* x = scratch_.take<bf16>(w.sets * n * kHidden);
    w.run = [=, this_ = this](int s) {
      cuda::embed(this_->stream_, table, kHidden, tokens->data() + s * n, n, kHidden, x + s * n * kHidden, kHidden);
    };
    return w;
  }

  Work rmsnorm(int64_t n, bool backward) {
    Work w;
    const int64_t matrix = n * kHidden;
    w.bytes = real((backward ? 4 : 2) * matrix * 2 + kHidden * 4 + n * 4);
    w.sets = sets_for(w.bytes);
    const bf16 *x = random_.take<bf16>(w.sets * matrix), *dy = nullptr, *residual = nullptr;
    if (backward) {
      dy = random_.take<bf16>(w.sets * matrix);
      residual = random_.take<bf16>(w.sets * matrix);
    }
    bf16* y = scratch_.take<bf16>(w.sets * matrix);
    const float* weight = floats(kHidden, {1, 0.2f}, 7);
    float* rstd = floats(w.sets * n, {1, 0.02f}, 8);
    w.run = [=, this_ = this](int s) {
      const int64_t at = s * matrix;
      if (backward)
        cuda::rmsnorm_backward(this_->stream_, dy + at, kHidden, x + at, kHidden, weight, rstd + s * n, nullptr, n,
                               kHidden, residual + at, kHidden, y + at, kHidden);
      else
        cuda::rmsnorm_forward(this_->stream_, x + at, kHidden, weight, kEps, nullptr, n, kHidden, y + at, kHidden,
                              rstd + s * n);
    };
    return w;
  }

  Work swiglu_forward(int64_t n) {
    Work w;
    w.bytes = real(n * kFfn * 3 * 2);
    w.sets = sets_for(w.bytes);
    const bf16* gate_up = random_.take<bf16>(w.sets * n * 2 * kFfn);
    bf16* act = scratch_.take<bf16>(w.sets * n * kFfn);
    w.run = [=, this_ = this](int s) {
      cuda::swiglu_forward(this_->stream_, gate_up + s * n * 2 * kFfn, 2 * kFfn, n, kFfn, act + s * n * kFfn, kFfn);
    };
    return w;
  }

  // with_act: act takes the place of dact, as in a step.
  Work swiglu_backward(int64_t n, bool with_act) {
    Work w;
    w.bytes = real(n * kFfn * (with_act ? 6 : 5) * 2);
    w.sets = sets_for(w.bytes);
    const int64_t wide = w.sets * n * 2 * kFfn, narrow = w.sets * n * kFfn;
    const bf16 *gate_up_source = random_.take<bf16>(wide), *dact_source = random_.take<bf16>(narrow);
    bf16 *gate_up = scratch_.take<bf16>(wide), *dact = scratch_.take<bf16>(narrow);
    w.reset = [=, this_ = this] {
      this_->copy(gate_up, gate_up_source, wide * 2);
      this_->copy(dact, dact_source, narrow * 2);
    };
    w.run = [=, this_ = this](int s) {
      bf16* d = dact + s * n * kFfn;
      cuda::swiglu_backward(this_->stream_, gate_up + s * n * 2 * kFfn, 2 * kFfn, d, kFfn, n, kFfn,
                            with_act ? d : nullptr, kFfn);
    };
    return w;
  }

  // Without norms. The angles stay as long as the work does.
  cuda::RopeArguments rope_arguments(Work& w, const Lab& lab, int64_t dim) {
    std::vector<float> cosine, sine;
    for (int64_t t = 0; t < lab.batch.segments[0].length; ++t)  // all are as long
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle = real(t) * std::pow(500000.0, -2.0 * real(i) / real(dim));
        cosine.push_back(static_cast<float>(std::cos(angle)));
        sine.push_back(static_cast<float>(std::sin(angle)));
      }
    const auto c = std::make_shared<Memory<float>>(bench::upload(cosine));
    const auto s = std::make_shared<Memory<float>>(bench::upload(sine));
    w.kept.insert(w.kept.end(), {c, s});
    cuda::RopeArguments rope;
    rope.heads = kHeads;
    rope.kv_heads = kKvHeads;
    rope.head_dim = static_cast<int32_t>(dim);
    rope.eps = kEps;
    rope.cosine = c->data();
    rope.sine = s->data();
    return rope;
  }

  Work rope(const std::shared_ptr<Lab>& lab, bool backward, bool norms) {
    Work w;
    const int64_t n = lab->batch.tokens, rotated = kQ + kKv;
    w.bytes = real(n * rotated * 2 * (backward && norms ? 3 : 2) + lab->batch.segments[0].length * kHeadDim * 4);
    w.sets = sets_for(w.bytes);
    cuda::RopeArguments rope = rope_arguments(w, *lab, kHeadDim);
    if (norms) {
      rope.q_norm = floats(kHeadDim, {1, 0.2f}, 9);
      rope.k_norm = floats(kHeadDim, {1, 0.2f}, 10);
    }
    const int64_t matrix = padded(n) * kQkv;
    const bf16* qkv = random_.take<bf16>(w.sets * matrix);
    bf16 *q = nullptr, *k = nullptr, *dqkv = nullptr;
    if (backward) {
      const bf16* source = random_.take<bf16>(w.sets * matrix);
      dqkv = scratch_.take<bf16>(w.sets * matrix);
      w.reset = [=, this_ = this, sets = w.sets] { this_->copy(dqkv, source, sets * matrix * 2); };
    } else {
      q = scratch_.take<bf16>(w.sets * padded(n) * kQ);
      k = scratch_.take<bf16>(w.sets * padded(n) * kKv);
    }
    w.run = [=, this_ = this](int set) {
      if (backward)
        cuda::rope_backward(this_->stream_, lab->tables, rope, qkv + set * matrix, kQkv, dqkv + set * matrix, kQkv);
      else
        cuda::rope_forward(this_->stream_, lab->tables, rope, qkv + set * matrix, kQkv, q + set * padded(n) * kQ, kQ,
                           k + set * padded(n) * kKv, kKv);
    };
    return w;
  }

  // rotated: as rotated_attention_backward.
  Work attention(const std::shared_ptr<Lab>& lab, int64_t dim, bool backward, bool rotated = false) {
    Work w;
    const int64_t n = lab->batch.tokens, rows = padded(n), q_columns = kHeads * dim, k_columns = kKvHeads * dim;
    w.flops = (backward ? 10.0 : 4.0) * real(lab->pairs) * real(q_columns);
    // q, k, v, out and dout, dq, dk, dv; lse.
    w.bytes = real(n * (2 * q_columns + 2 * k_columns) * 2 * (backward ? 2 : 1) + n * kHeads * 4);
    w.sets = sets_for(w.bytes);
    std::vector<cuda::AttentionArguments> list;
    for (int s = 0; s < w.sets; ++s) {
      cuda::AttentionArguments a;
      a.heads = kHeads;
      a.kv_heads = kKvHeads;
      a.head_dim = static_cast<int32_t>(dim);
      a.q = random_.take<bf16>(rows * q_columns);
      a.k = random_.take<bf16>(rows * k_columns);
      a.ld_q = q_columns;
      a.ld_k = k_columns;
      a.ld_v = a.ld_dqkv = q_columns + 2 * k_columns;
      a.v = random_.take<bf16>(rows * a.ld_v) + q_columns + k_columns;
      a.ld_out = a.ld_dout = q_columns;
      a.out = scratch_.take<bf16>(rows * q_columns);
      a.lse = scratch_.take<float>(rows * kHeads);
      a.padded_rows = rows;
      a.rows = static_cast<int32_t>(rows);
      if (backward) {
        a.dout = random_.take<bf16>(rows * q_columns);
        a.dq = scratch_.take<bf16>(rows * a.ld_dqkv);
        a.dk = a.dq + q_columns;
        a.dv = a.dk + k_columns;
        a.delta = scratch_.take<float>(kHeads * rows);
      }
      list.push_back(a);
    }
    const bool fast = sm90_ && cuda::attention_sm90_supports(list[0]);
    const auto forward = [=, this_ = this](const cuda::AttentionArguments& a) {
      if (fast) cuda::attention_forward_sm90(this_->stream_, lab->tables, a);
      else cuda::attention_forward(this_->stream_, lab->tables, a);
    };
    if (backward)
      for (const auto& a : list) forward(a);
    cuda::RopeArguments rope;
    if (rotated) {
      rope = rope_arguments(w, *lab, dim);
      for (auto& a : list) a.cosine = rope.cosine, a.sine = rope.sine;
    }
    w.run = [=, this_ = this](int s) {
      const cuda::AttentionArguments& a = list[static_cast<size_t>(s)];
      if (!backward) return forward(a);
      if (fast) return cuda::attention_backward_sm90(this_->stream_, lab->tables, a);
      cuda::attention_backward(this_->stream_, lab->tables, a);
      if (rotated) cuda::rope_backward(this_->stream_, lab->tables, rope, a.dq, a.ld_dqkv, a.dq, a.ld_dqkv);
    };
    return w;
  }

  // ---- linears with LoRA --------------------------------------------------------------------------------------------

  enum class Side { forward, backward, gradients };

  double home_bytes(const Lab& lab, const Group& group, bool a, int64_t element) const {
    return real(lab.rank * (a ? group.parts() * group.in() : group.out()) * element);
  }
  double strip_bytes(const Lab& lab, const Group& group) const {
    return real(group.parts() * lab.batch.tokens * lab.columns * 2);
  }

  // The strips of one set.
  LoraGroup lora(const Lab& lab, const Group& group, int set, const bf16* x, const bf16* dy) {
    LoraGroup l;
    l.parts = static_cast<int>(group.parts());
    l.ld_strip = lab.columns;
    l.layer = set;
    bf16* strip = scratch_.take<bf16>(group.parts() * lab.strip_rows * lab.columns);
    bf16* strip_grad = scratch_.take<bf16>(group.parts() * lab.strip_rows * lab.columns);
    int64_t column = 0;
    for (int p = 0; p < l.parts; ++p) {
      cuda::LoraPart& part = l.part[p];
      part.module = group.modules[static_cast<size_t>(p)];
      part.in = kSizes.in[part.module];
      part.out = kSizes.out[part.module];
      part.home = lab.working.home(set, part.module);
      part.x = x;
      part.ld_x = group.in();
      part.dy = dy == nullptr ? nullptr : dy + column;
      part.ld_dy = group.out();
      part.strip = strip + p * lab.strip_rows * lab.columns;
      part.strip_grad = strip_grad + p * lab.strip_rows * lab.columns;
      column += part.out;
    }
    return l;
  }

  // sides: of gradients.
  Work lora_op(const std::shared_ptr<Lab>& lab, const Group& group, Side side, cuda::Sides sides = {}) {
    Work w;
    const int64_t n = lab->batch.tokens;
    const double x_bytes = real(n * group.in() * 2), dy_bytes = real(n * group.out() * 2);
    const double a_flops = 2 * real(lab->row_ranks * group.parts() * group.in());
    const double b_flops = 2 * real(lab->row_ranks * group.out());
    if (side == Side::forward) {
      w.bytes = x_bytes + home_bytes(*lab, group, true, 2) + strip_bytes(*lab, group);
      w.flops = a_flops;
    } else if (side == Side::backward) {
      w.bytes = dy_bytes + home_bytes(*lab, group, false, 2) + strip_bytes(*lab, group);
      w.flops = b_flops;
    } else {  // S and dS of the row's own adapter; gradients are read and written
      const double strips = real(group.parts() * lab->row_columns * 2);
      if (sides.a) w.bytes += x_bytes + strips + home_bytes(*lab, group, true, 8);
      if (sides.b) w.bytes += dy_bytes + strips + home_bytes(*lab, group, false, 8);
      w.flops = (sides.a ? a_flops : 0) + (sides.b ? b_flops : 0);
    }
    w.sets = std::min(sets_for(w.bytes), static_cast<int>(lab->layers));
    std::vector<LoraGroup> list;
    for (int s = 0; s < w.sets; ++s) {
      const bf16* x = side == Side::backward ? nullptr : random_.matrix(n, group.in());
      const bf16* dy = side == Side::forward ? nullptr : random_.matrix(n, group.out());
      list.push_back(lora(*lab, group, s, x, dy));
      if (side == Side::gradients) {
        cuda::lora_down_forward(stream_, lab->tables, list.back());
        cuda::lora_down_backward(stream_, lab->tables, list.back());
      }
    }
    w.run = [=, this_ = this](int s) {
      const LoraGroup& l = list[static_cast<size_t>(s)];
      if (side == Side::forward) cuda::lora_down_forward(this_->stream_, lab->tables, l);
      else if (side == Side::backward) cuda::lora_down_backward(this_->stream_, lab->tables, l);
      else cuda::lora_gradients(this_->stream_, lab->tables, l, kSizes, sides, sides);
    };
    return w;
  }

  // From dact, gate and up to dgate, dup, dA of down and dB of gate and up: gated_backward, or the three ops that it stands for,
  // which move act twice and dgate and dup once more.
  Work gated_backward(const std::shared_ptr<Lab>& lab, bool apart) {
    Work w;
    const int64_t n = lab->batch.tokens;
    w.bytes = real(n * kFfn * (apart ? 9 : 5) * 2) + 3 * real(lab->row_columns * 2 + lab->rank * kFfn * 8);
    w.flops = 3 * 2 * real(lab->row_ranks * kFfn);
    w.sets = std::min(sets_for(w.bytes), static_cast<int>(lab->layers));
    const int64_t wide = padded(n) * 2 * kFfn, narrow = padded(n) * kFfn;
    const bf16 *gate_up_source = random_.take<bf16>(w.sets * wide), *dact_source = random_.take<bf16>(w.sets * narrow);
    bf16 *gate_up = scratch_.take<bf16>(w.sets * wide), *dact = scratch_.take<bf16>(w.sets * narrow);
    const Group &inputs = kGroups[2], &output = kGroups[3];
    std::vector<LoraGroup> mlp, down;
    for (int s = 0; s < w.sets; ++s) {
      mlp.push_back(lora(*lab, inputs, s, random_.matrix(n, kHidden), gate_up_source + s * wide));
      down.push_back(lora(*lab, output, s, dact_source + s * narrow, random_.matrix(n, kHidden)));
      cuda::lora_down_forward(stream_, lab->tables, mlp.back());
      cuda::lora_down_backward(stream_, lab->tables, down.back());
      for (int p = 0; p < 2; ++p) mlp.back().part[p].dy = gate_up + s * wide + p * kFfn;
      down.back().part[0].x = dact + s * narrow;
    }
    w.reset = [=, this_ = this, sets = w.sets] {
      this_->copy(gate_up, gate_up_source, sets * wide * 2);
      this_->copy(dact, dact_source, sets * narrow * 2);
    };
    w.run = [=, this_ = this](int s) {
      const LoraGroup &of_inputs = mlp[static_cast<size_t>(s)], &of_down = down[static_cast<size_t>(s)];
      if (apart) {
        bf16* const d = dact + s * narrow;
        cuda::swiglu_backward(this_->stream_, gate_up + s * wide, 2 * kFfn, d, kFfn, n, kFfn, d, kFfn);
        cuda::lora_gradients(this_->stream_, lab->tables, of_down, kSizes, {true, false}, {true, false});
        cuda::lora_gradients(this_->stream_, lab->tables, of_inputs, kSizes, {false, true}, {false, true});
        return;
      }
      cuda::GatedBackward g;
      g.gate_up = gate_up + s * wide;
      g.ld_gate_up = 2 * kFfn;
      g.dact = dact + s * narrow;
      g.ld_dact = kFfn;
      g.width = kFfn;
      g.strip_gate = of_inputs.part[0].strip;
      g.strip_up = of_inputs.part[1].strip;
      g.strip_grad_down = of_down.part[0].strip_grad;
      g.ld_strip = of_inputs.ld_strip;
      g.layer = s;
      cuda::gated_backward(this_->stream_, lab->tables, g, kSizes);
    };
    return w;
  }

  // As Backend::linear_forward and linear_backward: the strips, then the product with them. gated: as gated_forward; rotated:
  // as rotated_forward.
  Work linear(const std::shared_ptr<Lab>& lab, const Group& group, bool backward, bool gated = false, bool rotated = false) {
    Work w;
    const int64_t n = lab->batch.tokens, in = group.in(), out = group.out();
    const bool residual = group.residual && !backward;
    w.bytes = real(n * (in + out) * 2 + in * out * 2 + (residual ? n * out * 2 : 0)) +
              home_bytes(*lab, group, true, 2) + home_bytes(*lab, group, false, 2) + strip_bytes(*lab, group);
    w.flops = 2 * real(n) * real(in) * real(out) + 2 * real(lab->row_ranks * (group.parts() * in + out));
    w.sets = sets_for(w.bytes);
    if (gated) w.bytes += real(n * kFfn * 2);
    if (lab->columns) w.sets = std::min(w.sets, static_cast<int>(lab->layers));
    const cuda::RopeArguments rope = rotated ? rope_arguments(w, *lab, kHeadDim) : cuda::RopeArguments{};
    struct Set {
      LoraGroup lora;
      Gemm gemm;
    };
    std::vector<Set> list;
    for (int s = 0; s < w.sets; ++s) {
      const bf16* input = random_.matrix(n, backward ? out : in);
      Set set;
      Gemm& g = set.gemm = backward ? plain(n, in, out, false) : plain(n, out, in, true);
      g.a = input;
      g.b = random_.take<bf16>(in * out);
      g.out = scratch_.matrix(n, g.n);
      g.parts = static_cast<int>(group.parts());
      for (int p = 0; p < g.parts; ++p) {
        g.part_n[p] = kSizes.out[group.modules[static_cast<size_t>(p)]];
        g.part_bit[p] = 1u << group.modules[static_cast<size_t>(p)];
      }
      if (residual) {
        g.residual = random_.matrix(n, out);
        g.ld_residual = out;
      }
      if (gated) {
        g.act = scratch_.matrix(n, kFfn);
        g.ld_act = kFfn;
      }
      if (rotated) g.rotation = {lab->tables.position, rope.cosine, rope.sine, kHeadDim, kQ + kKv};
      if (lab->columns) {
        set.lora = lora(*lab, group, s, backward ? nullptr : input, backward ? input : nullptr);
        const cuda::Home& home = set.lora.part[0].home;
        g.strip = backward ? set.lora.part[0].strip_grad : set.lora.part[0].strip;
        g.ld_strip = lab->columns;
        g.strip_rows = lab->strip_rows;
        g.home = backward ? home.a : home.b;
        g.ld_home = backward ? home.lda : home.ldb;
        g.capacity = lab->working.capacity();
        g.chunks = lab->tables.strip_chunks;
        g.chunk_first = backward ? lab->tables.backward_chunk_first : lab->tables.chunk_first;
      }
      list.push_back(set);
    }
    w.run = [=, this_ = this](int s) {
      const Set& set = list[static_cast<size_t>(s)];
      if (lab->columns) {
        if (backward) cuda::lora_down_backward(this_->stream_, lab->tables, set.lora);
        else cuda::lora_down_forward(this_->stream_, lab->tables, set.lora);
      }
      if (rotated) {
        this_->gemm(set.gemm);
        if (this_->sm90_ && cuda::gemm_sm90_rotates(set.gemm)) return;
        bf16* q = static_cast<bf16*>(set.gemm.out);
        return cuda::rope_forward(this_->stream_, lab->tables, rope, q, kQkv, q, kQkv, q + kQ, kQkv);
      }
      if (!gated || (this_->sm90_ && cuda::gemm_sm90_gives_act(set.gemm))) return this_->gemm(set.gemm);
      Gemm g = set.gemm;
      g.act = nullptr;
      this_->gemm(g);
      cuda::swiglu_forward(this_->stream_, static_cast<bf16*>(g.out), g.ldc, n, kFfn, set.gemm.act, kFfn);
    };
    return w;
  }

  // ---- head ---------------------------------------------------------------------------------------------------------

  Work head_logits() {
    Work w;
    w.flops = 2 * real(kHeadRows) * real(kHidden) * real(kVocab);
    w.bytes = real(kHeadRows * kHidden * 2 + kVocab * kHidden * 2 + kHeadRows * kVocab * 4);
    w.sets = 2;
    const bf16* weight = random_.take<bf16>(kVocab * kHidden);
    std::vector<Gemm> list;
    for (int s = 0; s < w.sets; ++s) {
      list.push_back(plain(kHeadRows, kVocab, kHidden, true));
      list.back().a = random_.matrix(kHeadRows, kHidden);
      list.back().b = weight;
      list.back().out = scratch_.take<float>(kHeadRows * kVocab);
      list.back().out_fp32 = true;
    }
    w.run = [=, this_ = this](int s) { this_->gemm(list[static_cast<size_t>(s)]); };
    return w;
  }

  struct Loss {
    float *logits, *source;  // source: what logits are before
    int32_t* targets;
    float* scale;
    double* loss;
    uint8_t* correct;
  };
  Loss loss() {
    Loss l;
    l.source = floats(kHeadRows * kVocab, {0, 3}, 21);
    l.logits = scratch_.take<float>(kHeadRows * kVocab);
    std::mt19937 random(6);
    std::vector<int32_t> targets(static_cast<size_t>(kHeadRows));
    for (int32_t& t : targets) t = static_cast<int32_t>(random() % kVocab);
    l.targets = scratch_.take<int32_t>(kHeadRows);
    check(cudaMemcpyAsync(l.targets, targets.data(), targets.size() * 4, cudaMemcpyHostToDevice, stream_), "targets");
    l.scale = floats(kHeadRows, {1.0f / kHeadRows, 0}, 22);
    l.loss = scratch_.take<double>(kHeadRows);
    l.correct = scratch_.take<uint8_t>(kHeadRows);
    return l;
  }

  Work cross_entropy(bool train, bool sm90) {
    Work w;
    w.bytes = real(kHeadRows * (kVocab * (train ? 6 : 4) + 4 + 8 + 1 + (train ? 4 : 0)));
    const Loss l = loss();
    w.reset = [=, this_ = this] { this_->copy(l.logits, l.source, kHeadRows * kVocab * 4); };
    w.run = [=, this_ = this](int) {
      (sm90 ? cuda::cross_entropy_sm90 : cuda::cross_entropy)(this_->stream_, l.logits, kVocab, kHeadRows, kVocab, l.targets,
                                                              train ? l.scale : nullptr, l.loss, l.correct);
    };
    return w;
  }

  Work head_backward() {
    Work w;
    w.flops = 2 * real(kHeadRows) * real(kHidden) * real(kVocab);
    w.bytes = real(kHeadRows * kVocab * 2 + kVocab * kHidden * 2 + kHeadRows * kHidden * 2);
    const Loss l = loss();
    copy(l.logits, l.source, kHeadRows * kVocab * 4);
    cuda::cross_entropy(stream_, l.logits, kVocab, kHeadRows, kVocab, l.targets, l.scale, l.loss, l.correct);
    Gemm g = plain(kHeadRows, kHidden, kVocab, false);
    g.a = reinterpret_cast<const bf16*>(l.logits);
    g.lda = 2 * kVocab;
    g.b = random_.take<bf16>(kVocab * kHidden);
    g.out = scratch_.matrix(kHeadRows, kHidden);
    w.run = [=, this_ = this](int) { this_->gemm(g); };
    return w;
  }

  // ---- optimizer ----------------------------------------------------------------------------------------------------

  static int64_t adapter_elements(int32_t rank) {
    int64_t per_rank = 0;
    for (int m = 0; m < cuda::kModuleCount; ++m) per_rank += kLayers * (kSizes.in[m] + kSizes.out[m]);
    return per_rank * rank;
  }

  std::shared_ptr<cuda::WorkingCopies> working_copies(int32_t adapters) {
    auto working = std::make_shared<cuda::WorkingCopies>();
    working->set_modules(kLayers, kSizes);
    working->grow(16 * adapters, stream_);
    return working;
  }

  Work adamw(int32_t adapters) {
    Work w;
    const int64_t elements = adapter_elements(16);
    // Weight, moments and gradient read and written (the gradient as zero), and the working copies.
    w.bytes = real(adapters) * real(elements) * (4 * 4 * 2 + 2);
    const auto working = working_copies(adapters);
    std::vector<cuda::AdamwSlot> slots;
    for (int32_t i = 0; i < adapters; ++i) {
      const uint32_t seed = 100 + 4 * static_cast<uint32_t>(i);
      cuda::AdamwSlot s;
      s.weight = floats(elements, {0, 0.02f}, seed);
      s.moment1 = floats(elements, {0, 1e-3f}, seed + 1);
      s.moment2 = floats(elements, {0, 1e-6f, true}, seed + 2);
      s.gradient = scratch_.take<float>(elements);
      s.elements = elements;
      s.rank = 16;
      s.home_column = working->take(16);
      s.targets = kAllModules;
      s.step = 10;
      s.learning_rate = 1e-4f;
      s.beta1 = 0.9f;
      s.beta2 = 0.999f;
      s.epsilon = 1e-8f;
      s.weight_decay = 0.01f;
      s.max_grad_norm = 1;
      slots.push_back(s);
    }
    const float* gradient = floats(elements, {0, 1e-3f}, 99);
    void* memory = scratch_.take<char>(cuda::adamw_scratch_bytes(adapters * elements, adapters));
    auto* results = scratch_.take<cuda::AdamwResult>(adapters);
    const auto on_device = std::make_shared<Memory<cuda::AdamwSlot>>(bench::upload(slots));
    w.reset = [=, this_ = this] {
      for (const cuda::AdamwSlot& s : slots) this_->copy(s.gradient, gradient, elements * 4);
    };
    w.run = [=, this_ = this](int) {
      cuda::adamw(this_->stream_, on_device->data(), slots.data(), adapters, kSizes, kLayers, working->device_homes(),
                  memory, results);
    };
    return w;
  }

  Work adapter_init() {
    Work w;
    const int64_t elements = adapter_elements(16);
    w.bytes = real(elements * 4);
    w.sets = 2;
    float* weight = scratch_.take<float>(w.sets * elements);
    w.run = [=, this_ = this](int s) {
      cuda::adapter_init(this_->stream_, weight + s * elements, 42, 16, kAllModules, kSizes, kLayers);
    };
    return w;
  }

  Work adapter_refresh() {
    Work w;
    const int64_t elements = adapter_elements(16);
    w.bytes = real(elements * 6);
    w.sets = 2;
    const float* weight = floats(w.sets * elements, {0, 0.02f}, 31);
    const auto working = working_copies(w.sets);
    std::vector<int32_t> columns;
    for (int s = 0; s < w.sets; ++s) columns.push_back(working->take(16));
    w.run = [=, this_ = this](int s) {
      cuda::adapter_refresh(this_->stream_, weight + s * elements, 16, columns[static_cast<size_t>(s)], kAllModules,
                            kSizes, kLayers, working->device_homes());
    };
    return w;
  }

  // ---- the table ----------------------------------------------------------------------------------------------------

  std::vector<Entry> entries() {
    std::vector<Entry> table;
    const auto add = [&](const char* op, const std::string& detail, int64_t tokens, int64_t segment,
                         const std::string& adapters, std::function<Work()> build) {
      table.push_back({op, detail, tokens, segment, adapters, std::move(build)});
    };
    const Adapters& none = kAdapters[0];
    std::vector<int64_t> sizes = {8192};
    if (!options_.quick) sizes = {512, 8192, 15360};
    for (const int64_t n : sizes) {
      add("embed", "", n, 0, "", [=] { return embed(n); });
      for (const bool backward : {false, true})
        add(backward ? "rmsnorm_backward" : "rmsnorm_forward", "", n, 0, "", [=] { return rmsnorm(n, backward); });
      add("swiglu_forward", "", n, 0, "", [=] { return swiglu_forward(n); });
      for (const bool act : {false, true})
        add("swiglu_backward", act ? "with act" : "", n, 0, "", [=] { return swiglu_backward(n, act); });
      for (const bool norms : {false, true})
        for (const bool backward : {false, true})
          add(backward ? "rope_backward" : "rope_forward", norms ? "with norms" : "", n, 512, "",
              [=] { return rope(lab(n, 512, none), backward, norms); });
      for (const int64_t segment : {512, 2048, 8192}) {
        if (segment > n) continue;
        for (const int64_t dim : {128, 64})
          for (const bool backward : {false, true})
            add(backward ? "attention_backward" : "attention_forward", "d" + std::to_string(dim), n, segment, "",
                [=] { return attention(lab(n, segment, none), dim, backward); });
        for (const int64_t dim : {128, 64})
          add("attention_backward", "d" + std::to_string(dim) + " rotated", n, segment, "",
              [=] { return attention(lab(n, segment, none), dim, true, true); });
      }
      for (const Adapters& adapters : kAdapters) {
        std::set<int64_t> seen;
        for (const int64_t longest : {512, 2048}) {
          // Every adapter has a sequence.
          const int64_t sharers = std::max<int64_t>(1, static_cast<int64_t>(adapters.ranks.size()));
          const int64_t segment = std::min(longest, n / sharers);
          if (!seen.insert(segment).second) continue;
          const bool gradients_only = options_.quick && seen.size() > 1;
          for (const Group& group : kGroups) {
            const auto here = [=, &adapters] { return lab(n, segment, adapters); };
            if (!adapters.ranks.empty()) {
              add("lora_gradients", group.name, n, segment, adapters.name,
                  [=] { return lora_op(here(), group, Side::gradients); });
              if (group.modules[0] == TL_DOWN_PROJ) {
                for (const bool apart : {false, true})
                  add("gated_backward", apart ? "apart" : "", n, segment, adapters.name,
                      [=] { return gated_backward(here(), apart); });
                for (const bool a : {false, true})
                  add("lora_gradients", a ? "down A" : "down B", n, segment, adapters.name,
                      [=] { return lora_op(here(), group, Side::gradients, {a, !a}); });
              }
              if (gradients_only) continue;
              add("lora_down_forward", group.name, n, segment, adapters.name,
                  [=] { return lora_op(here(), group, Side::forward); });
              add("lora_down_backward", group.name, n, segment, adapters.name,
                  [=] { return lora_op(here(), group, Side::backward); });
            } else if (seen.size() > 1) {
              continue;  // without adapters a product knows no sequences
            }
            for (const bool backward : {false, true})
              add(backward ? "linear_backward" : "linear_forward", group.name, n, segment, adapters.name,
                  [=] { return linear(here(), group, backward); });
            if (group.modules[0] == TL_GATE_PROJ)
              add("gated_forward", group.name, n, segment, adapters.name, [=] { return linear(here(), group, false, true); });
            if (group.modules[0] == TL_Q_PROJ)
              add("rotated_forward", group.name, n, segment, adapters.name,
                  [=] { return linear(here(), group, false, false, true); });
          }
        }
      }
    }
    add("head_logits", "", kHeadRows, 0, "", [=] { return head_logits(); });
    // The backend's own choice, then the kernel of any architecture.
    const bool sm90 = sm90_ && cuda::cross_entropy_sm90_supports(kVocab);
    for (const bool train : {true, false})
      add("cross_entropy", train ? "train" : "evaluate", kHeadRows, 0, "", [=] { return cross_entropy(train, sm90); });
    if (sm90) {
      add("cross_entropy any", "train", kHeadRows, 0, "", [=] { return cross_entropy(true, false); });
      add("cross_entropy any", "evaluate", kHeadRows, 0, "", [=] { return cross_entropy(false, false); });
    }
    add("head_backward", "", kHeadRows, 0, "", [=] { return head_backward(); });
    for (const int32_t count : {1, 8, 16})
      add("adamw", "", 0, 0, std::to_string(count) + " x r16", [=] { return adamw(count); });
    add("adapter_init", "", 0, 0, "1 x r16", [=] { return adapter_init(); });
    add("adapter_refresh", "", 0, 0, "1 x r16", [=] { return adapter_refresh(); });
    return table;
  }

  // ---- results ------------------------------------------------------------------------------------------------------

  bool matrix_bound(const Row& r) const { return r.flops / matrix_rate_ > r.bytes / copy_rate_; }
  double percent(const Row& r) const {
    return 100 * std::max(r.flops / matrix_rate_, r.bytes / copy_rate_) / (r.time.us * 1e-6);
  }

  void print(const std::vector<Row>& rows) const {
    std::printf("%s, %d SMs, L2 %d MiB; ceilings: copy %.0f GB/s, GEMM %.1f TFLOP/s (%s)\n", device_.name,
                device_.multiProcessorCount, device_.l2CacheSize >> 20, copy_rate_ * 1e-9, matrix_rate_ * 1e-12,
                matrix_name_.c_str());
    std::printf("%-18s %-10s %6s %7s %-8s | %9s | %8s %7s | %8s %7s | %-6s %5s\n", "op", "", "tokens", "segment",
                "adapters", "us", "MB", "GB/s", "GFLOP", "TFLOP/s", "bound", "%");
    const auto number = [](int64_t x) { return x ? std::to_string(x) : std::string(); };
    for (const Row& r : rows) {
      const Entry& e = *r.entry;
      std::printf("%-18s %-10s %6s %7s %-8s | ", e.op.c_str(), e.detail.c_str(), number(e.tokens).c_str(),
                  number(e.segment).c_str(), e.adapters.c_str());
      if (!r.error.empty()) {
        std::printf("%s\n", r.error.c_str());
        continue;
      }
      std::printf("%9.1f | %8.1f %7.0f | ", r.time.us, r.bytes * 1e-6, r.bytes / (r.time.us * 1e3));
      if (r.flops > 0) std::printf("%8.1f %7.1f", r.flops * 1e-9, r.flops / (r.time.us * 1e6));
      else std::printf("%8s %7s", "", "");
      std::printf(" | %-6s %5.1f\n", matrix_bound(r) ? "matrix" : "memory", percent(r));
    }
  }

  void write(const std::vector<Row>& rows) const {
    std::FILE* file = std::fopen(options_.json, "w");
    if (file == nullptr) throw Error(TL_INTERNAL, std::string("cannot write ") + options_.json);
    std::fprintf(file,
                 "{\"device\": \"%s\", \"quick\": %s, \"ceilings\": {\"copy_gbps\": %.1f, \"matrix_tflops\": %.2f, "
                 "\"matrix\": \"%s\"}, \"rows\": [",
                 device_.name, options_.quick ? "true" : "false", copy_rate_ * 1e-9, matrix_rate_ * 1e-12,
                 matrix_name_.c_str());
    const char* separator = "\n";
    for (const Row& r : rows) {
      const Entry& e = *r.entry;
      std::fprintf(file,
                   "%s{\"op\": \"%s\", \"detail\": \"%s\", \"tokens\": %lld, \"segment\": %lld, \"adapters\": \"%s\"",
                   separator, e.op.c_str(), e.detail.c_str(), static_cast<long long>(e.tokens),
                   static_cast<long long>(e.segment), e.adapters.c_str());
      separator = ",\n";
      if (!r.error.empty()) {
        std::string error;
        for (const char c : r.error) error += c == '"' || c == '\\' || static_cast<unsigned char>(c) < 32 ? ' ' : c;
        std::fprintf(file, ", \"error\": \"%s\"}", error.c_str());
        continue;
      }
      std::fprintf(file,
                   ", \"us\": %.3f, \"us_min\": %.3f, \"us_max\": %.3f, \"bytes\": %.0f, \"flops\": %.0f, "
                   "\"gbps\": %.2f, \"tflops\": %.3f, \"bound\": \"%s\", \"percent\": %.2f}",
                   r.time.us, r.time.least, r.time.most, r.bytes, r.flops, r.bytes / (r.time.us * 1e3),
                   r.flops / (r.time.us * 1e6), matrix_bound(r) ? "matrix" : "memory", percent(r));
    }
    std::fprintf(file, "\n]}\n");
    std::fclose(file);
  }

  Options options_;
  cudaDeviceProp device_{};
  bool sm90_ = false;
  cudaStream_t stream_ = nullptr;
  Arena random_, scratch_;  // random_ is only read
  cuda::CublasLt library_;
  std::string reason_;
  std::string lab_key_;
  std::shared_ptr<Lab> lab_;
  double copy_rate_ = 0, matrix_rate_ = 0;  // bytes and FLOPs a second
  std::string matrix_name_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      options.quick = true;
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      options.only = argv[++i];
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      options.json = argv[++i];
    } else {
      std::fprintf(stderr, "usage: bench_cuda_ops [--quick] [--only TEXT] [--json FILE]\n");
      return 2;
    }
  }
  try {
    Bench bench(options);
    return bench.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_cuda_ops: %s\n", error.what());
    return 1;
  }
}
