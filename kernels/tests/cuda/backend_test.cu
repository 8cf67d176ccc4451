// Every op of the table on CudaBackend against the CPU backend in TL_COMPUTE_BF16, with both families of kernels (wgmma
// and mma.sync); the adapters' life; and the promise of isolation, through the Backend interface.
//
// Both backends round at the same points, so outputs that round once differ only where two orders of the same fp32 sum
// fall on the two sides of a rounding boundary: by one unit in the last place, at most 2^-7 of the largest value
// (kOnce), and seldom, which the root mean square knows (kOnceRms: a missing or an additional rounding of every element
// is 1.6e-3 or more).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <tuple>

#include "cuda/bench_of_backends.h"
#include "cuda/cuda_backend.h"

using namespace backends;

namespace {

constexpr double kOnce = 8e-3, kOnceRms = 1e-3;
// dX with dropout: the base, then every part's product is added and rounds: a flip of an earlier one can meet another.
constexpr double kAdded = 1.6e-2, kAddedRms = 2e-3;
// P rounds relative to the row's maximum on the CPU and to a running one on CUDA: two independent roundings, and D =
// sum(dO * O) is of the rounded out. The CPU in TL_COMPUTE_FP32 is up to 3e-3 in the mean from TL_COMPUTE_BF16; two
// roundings are sqrt(2) of that.
constexpr double kAttention = 1.5e-2, kAttentionRms = 5e-3;
constexpr double kTurned = 2e-2, kTurnedRms = 6e-3;  // dq and dk round once more behind that
constexpr double kSums = 2e-5;     // fp32 sums of a few hundred products: 10 times what two orders differ by
constexpr double kScalars = 1e-5;  // rstd, losses and fp32 exponentials
constexpr double kBitsOnly = -1;

std::unique_ptr<Backend> make_cpu() { return make_cpu_backend({0, 0, TL_COMPUTE_BF16}); }

std::unique_ptr<Backend> make_cuda(bool generic) {
  const char* before = std::getenv("TLORA_CUDA_GENERIC");
  const std::string kept = before ? before : "";
  setenv("TLORA_CUDA_GENERIC", generic ? "1" : "0", 1);
  auto made = std::make_unique<cuda::CudaBackend>(BackendOptions{0, 0, TL_COMPUTE_BF16});
  if (before) setenv("TLORA_CUDA_GENERIC", kept.c_str(), 1);
  else unsetenv("TLORA_CUDA_GENERIC");
  return made;
}

// Whether to use the kernels of any architecture: other devices than Hopper have no others.
std::vector<bool> families() { return device::is_sm90() ? std::vector<bool>{false, true} : std::vector<bool>{true}; }

std::string family_name(bool generic) { return generic ? " (mma.sync)" : " (wgmma)"; }

using Op = std::function<Outputs(Stage&)>;

struct Case {
  std::string name;
  ModuleSizes sizes;
  std::vector<Job> jobs;  // job 0 is the one whose bits are compared
  std::vector<SequenceSpec> sequences;
  Op op;
  bool train = true;
};

const std::vector<Job> kOneJob = {{0, 16, kAll, 0}};
const std::vector<Job> kTwoJobs = {{0, 16, kAll, 0}, {1, 3, 1u << TL_Q_PROJ | 1u << TL_UP_PROJ, 0}};
// Odd lengths, a tile's border crossed inside a sequence, base-only rows in the middle.
const std::vector<SequenceSpec> kMixed = {{1, 37, 11}, {0, 129, 1}, {-1, 9, 12}, {1, 64, 13}, {0, 1, 2}, {0, 70, 3}};

void compare_case(const Case& c) {
  Stage cpu(make_cpu(), c.sizes, c.jobs, c.sequences, c.train);
  const Outputs want = c.op(cpu);
  for (const bool generic : families()) {
    const std::string name = c.name + family_name(generic);
    Stage gpu(make_cuda(generic), c.sizes, c.jobs, c.sequences, c.train);
    gpu.label = name + ", ";
    compare(name, want, c.op(gpu));
    gpu.check_guards(name);
  }
}

// Job 0's sequences as given, at once again, from the start again, alone, and between others that hold numbers or none,
// at other places of the batch, among the strips and among the working copies.
void bits_case(const Case& c) {
  std::vector<SequenceSpec> alone;
  for (const SequenceSpec& s : c.sequences)
    if (s.adapter == 0) alone.push_back(s);
  const std::vector<Job> company = {{50, 20, kAll, 0}, c.jobs[0], {51, 200, kAll, 0.2f}};
  auto moved = [&](uint64_t content) {
    std::vector<SequenceSpec> sequences = {{2, 37, content}, {-1, 3, content + 1}};
    for (size_t i = 0; i < alone.size(); ++i) {
      sequences.push_back({1, alone[i].length, alone[i].content});
      sequences.push_back({i % 2 ? 0 : 2, static_cast<int64_t>(90 - 11 * i), content + 2 + i});
      if (i == 1) sequences.push_back({-1, 140, content + 20});
    }
    return sequences;
  };
  for (const bool generic : families()) {
    const std::string name = c.name + family_name(generic);
    auto bits = [&](const std::vector<Job>& jobs, const std::vector<SequenceSpec>& sequences, int job, int spacer) {
      Stage stage(make_cuda(generic), c.sizes, jobs, sequences, c.train, spacer);
      stage.label = name + ", ";
      return stage.bits_of(c.op(stage), job);
    };
    Stage given(make_cuda(generic), c.sizes, c.jobs, c.sequences, c.train);
    const Outputs first = c.op(given), second = c.op(given);
    const std::string want = given.bits_of(first, 0);
    REQUIRE_MSG(!want.empty(), "%s: job 0 has nothing", name.c_str());
    for (size_t i = 0; i < first.size(); ++i)  // gradients grow
      if (!first[i].rows.empty())
        CHECK_MSG(given.bits_of({first[i]}, 0) == given.bits_of({second[i]}, 0), "%s: %s at once again", name.c_str(),
                  first[i].name.c_str());
    CHECK_MSG(bits(c.jobs, c.sequences, 0, 0) == want, "%s: from the start again", name.c_str());
    CHECK_MSG(bits({c.jobs[0]}, alone, 0, 0) == want, "%s: alone", name.c_str());
    CHECK_MSG(bits({c.jobs[0]}, alone, 0, 40) == want, "%s: alone, at other columns of the working copies",
              name.c_str());
    CHECK_MSG(bits(company, moved(900), 1, 0) == want, "%s: in other company", name.c_str());
    CHECK_MSG(bits(company, moved(kBroken), 1, 112) == want, "%s: between infinities and NaN", name.c_str());
  }
}

void compare_all(const std::vector<Case>& cases) {
  for (const Case& c : cases) compare_case(c);
}
void bits_all(const std::vector<Case>& cases) {
  for (const Case& c : cases)
    if (std::any_of(c.sequences.begin(), c.sequences.end(), [](const SequenceSpec& s) { return s.adapter == 0; }))
      bits_case(c);
}

// ---- linears with LoRA ----------------------------------------------------------------------------------------------

struct Linears {
  int first = TL_Q_PROJ;  // module
  int64_t in = 0;
  std::vector<int64_t> outs;
  bool bias = false;
  enum { kNone, kBeside, kInPlace } residual = kNone;
};

struct Strips {
  std::vector<LinearPart> parts;
  int64_t total = 0;  // columns of y
};

Strips make_parts(Stage& s, const Linears& l, const std::vector<const FrozenLinear*>& weights) {
  Strips made;
  const int64_t count = static_cast<int64_t>(l.outs.size());
  const int64_t bytes = s.backend.strip_bytes(s.tokens(), s.batch.strip_elements, s.batch.strip_columns);
  char* const strips = static_cast<char*>(s.memory(count * bytes));
  char* const grads = static_cast<char*>(s.memory(count * bytes));
  for (int64_t i = 0; i < count; ++i) {
    LinearPart part;
    part.module = l.first + static_cast<int>(i);
    part.weight = weights[static_cast<size_t>(i)];
    part.strip = strips + i * bytes;
    part.strip_grad = grads + i * bytes;
    if (s.any_dropout()) part.dropped = s.poisoned(s.tokens(), l.in).m;
    made.parts.push_back(part);
    made.total += l.outs[static_cast<size_t>(i)];
  }
  return made;
}

void set_y(Stage& s, const Linears& l, Strips& strips, const Matrix& y) {
  int64_t first = 0;
  for (size_t i = 0; i < l.outs.size(); ++i) {
    strips.parts[i].y = columns(y, first, s.backend.activation_bytes());
    first += l.outs[i];
  }
}

// Each module's dA and dB, and the rest of the gradient, which must be as it was.
void add_gradients(Stage& s, const Linears& l, Outputs& outputs) {
  for (const int job : s.jobs_of_batch()) {
    const std::vector<float> gradient = s.get(job, TL_STATE_GRADIENT);
    const Adapter& a = s.adapter(job);
    std::vector<bool> seen(gradient.size());
    auto add = [&](const std::string& name, int64_t first, int64_t rows, int64_t width, double tolerance, double rms) {
      Output o;
      o.name = name + " of job " + std::to_string(job);
      o.values = Dense(rows, width);
      o.tolerance = tolerance;
      o.rms = rms;
      o.owner = job;
      for (int64_t i = 0; i < rows * width; ++i) {
        o.values.values[static_cast<size_t>(i)] = gradient[static_cast<size_t>(first + i)];
        seen[static_cast<size_t>(first + i)] = true;
      }
      outputs.push_back(std::move(o));
    };
    for (size_t i = 0; i < l.outs.size(); ++i) {
      const int module = l.first + static_cast<int>(i);
      const LoraMatrices& m = a.at(kLayer, module);
      if (m.in == 0) continue;
      add("dA " + std::to_string(module), m.a, a.rank, m.in, kOnce, kOnceRms);
      add("dB " + std::to_string(module), m.b, m.out, a.rank, kOnce, kOnceRms);
    }
    Output rest;
    rest.name = "gradient of other modules, job " + std::to_string(job);
    rest.owner = job;
    for (size_t i = 0; i < gradient.size(); ++i)
      if (!seen[i]) rest.values.values.push_back(gradient[i]);
    rest.values.rows = static_cast<int64_t>(rest.values.values.size());
    rest.values.columns = 1;
    outputs.push_back(std::move(rest));
  }
}

// Forward, backward and gradients of a group, as the graph calls them.
Outputs run_linears(Stage& s, const Linears& l) {
  const auto weights = s.pack(40, l.in, l.outs, l.bias, 0.2);
  const Held x = s.input(1, l.in);
  Strips strips = make_parts(s, l, weights);
  const Held beside = l.residual == Linears::kNone ? Held() : s.input(2, strips.total);
  const Held y = l.residual == Linears::kInPlace ? beside : s.poisoned(s.tokens(), strips.total);
  set_y(s, l, strips, y.m);
  s.backend.linear_forward(s.batch, kLayer, x.m, strips.parts, l.residual == Linears::kNone ? nullptr : &beside.m);
  Outputs outputs = {s.by_row("Y", s.read(y), kOnce, kOnceRms)};
  s.check_kept("Y", y, 0, strips.total);
  s.check_kept("X after forward", x, 0, 0);

  const Held dy = s.input(3, strips.total), dx = s.poisoned(s.tokens(), l.in);
  set_y(s, l, strips, dy.m);
  if (s.batch.train) {
    s.backend.linear_backward(s.batch, kLayer, strips.parts, dx.m);
    s.backend.adapter_gradients(s.batch, kLayer, x.m, strips.parts);
    outputs.push_back(
        s.by_row("dX", s.read(dx), s.any_dropout() ? kAdded : kOnce, s.any_dropout() ? kAddedRms : kOnceRms));
    s.check_kept("dX", dx, 0, l.in);
    s.check_kept("dY", dy, 0, 0);
    s.check_kept("X after backward", x, 0, 0);
    add_gradients(s, l, outputs);
  }
  return outputs;
}

// Rows of sequences that hold numbers, bit for bit.
void check_same_rows(const Stage& s, const char* name, const Dense& one, const Dense& other) {
  for (int64_t r = 0; r < one.rows; ++r) {
    if (s.content(r) >= kBroken) continue;
    CHECK_MSG(std::memcmp(&one.values[static_cast<size_t>(r * one.columns)], &other.values[static_cast<size_t>(r * one.columns)],
                          static_cast<size_t>(one.columns) * 4) == 0,
              "%srow %lld of %s", s.label.c_str(), static_cast<long long>(r), name);
  }
}

// Gate and up with act in one op: the bits of the two ops one after the other.
Outputs run_gated(Stage& s, const Linears& l) {
  const int64_t n = s.tokens(), width = l.outs[0];
  const auto weights = s.pack(40, l.in, l.outs, l.bias, 0.2);
  const Held x = s.input(1, l.in);
  Strips strips = make_parts(s, l, weights);
  const Held y = s.poisoned(n, 2 * width), act = s.poisoned(n, width);
  set_y(s, l, strips, y.m);
  s.backend.gated_forward(s.batch, kLayer, x.m, strips.parts, act.m);
  const Outputs outputs = {s.by_row("gate and up", s.read(y), kOnce, kOnceRms),
                           s.by_row("act", s.read(act), kAdded, kAddedRms)};
  s.check_kept("gate and up", y, 0, 2 * width);
  s.check_kept("act", act, 0, width);
  s.check_kept("X", x, 0, 0);

  const Held apart = s.poisoned(n, 2 * width), act_apart = s.poisoned(n, width);
  set_y(s, l, strips, apart.m);
  s.backend.linear_forward(s.batch, kLayer, x.m, strips.parts, nullptr);
  s.backend.swiglu_forward(apart.m, n, width, act_apart.m);
  check_same_rows(s, "gate and up", outputs[0].values, s.read(apart));
  check_same_rows(s, "act", outputs[1].values, s.read(act_apart));
  return outputs;
}

// From dact and the forward's gate and up to all gradients of the MLP's three linears, as the graph calls the ops. Strips
// come from inputs of their own, so that gate, up and dact are the same numbers on every backend.
Outputs run_mlp_backward(Stage& s, int64_t hidden, int64_t width) {
  const Linears inputs = {TL_GATE_PROJ, hidden, {width, width}}, output = {TL_DOWN_PROJ, width, {hidden}};
  const int64_t n = s.tokens();
  Strips mlp = make_parts(s, inputs, s.pack(40, hidden, inputs.outs, false, 0.2));
  Strips down = make_parts(s, output, s.pack(45, width, output.outs, false, 0.2));
  const Held x = s.input(1, hidden), act = s.input(2, width), dh = s.input(3, hidden);
  const Held forward = s.poisoned(n, 2 * width), h = s.poisoned(n, hidden), spare = s.poisoned(n, width);
  set_y(s, inputs, mlp, forward.m);
  s.backend.linear_forward(s.batch, kLayer, x.m, mlp.parts, nullptr);
  set_y(s, output, down, h.m);
  s.backend.linear_forward(s.batch, kLayer, act.m, down.parts, nullptr);
  set_y(s, output, down, dh.m);
  s.backend.linear_backward(s.batch, kLayer, down.parts, spare.m);

  const Held gate_up = s.input(4, 2 * width, 6.0), dact = s.input(5, width), dx = s.poisoned(n, hidden);
  set_y(s, inputs, mlp, gate_up.m);
  const GradientSides left = s.backend.gated_backward(s.batch, kLayer, dact.m, down.parts[0], mlp.parts);
  s.backend.linear_backward(s.batch, kLayer, mlp.parts, dx.m);
  s.backend.adapter_gradients(s.batch, kLayer, x.m, mlp.parts, left);
  Outputs outputs = {s.by_row("dgate and dup", s.read(gate_up), kOnce, kOnceRms),
                     s.by_row("dX", s.read(dx), kAdded, kAddedRms)};
  s.check_kept("dgate and dup", gate_up, 0, 2 * width);
  s.check_kept("dact", dact, 0, width);
  s.check_kept("dX", dx, 0, hidden);
  s.check_kept("dY of down", dh, 0, 0);
  s.check_kept("X", x, 0, 0);
  add_gradients(s, {TL_GATE_PROJ, 0, {width, width, hidden}}, outputs);
  return outputs;
}

Case linear_case(const std::string& name, const Linears& l, std::vector<Job> jobs, std::vector<SequenceSpec> sequences,
                 bool train = true) {
  return {"linears, " + name,   sizes_with(l.first, l.in, l.outs),           std::move(jobs),
          std::move(sequences), [l](Stage& s) { return run_linears(s, l); }, train};
}

const uint32_t kQv = 1u << TL_Q_PROJ | 1u << TL_V_PROJ;

const Linears kQkv64 = {TL_Q_PROJ, 256, {256, 64, 64}};
const Linears kQkv128 = {TL_Q_PROJ, 320, {512, 128, 128}, true};
const Linears kO = {TL_O_PROJ, 192, {256}, false, Linears::kBeside};
const Linears kGateUp = {TL_GATE_PROJ, 256, {704, 704}};
const Linears kDown = {TL_DOWN_PROJ, 1100, {136}, false, Linears::kInPlace};

// Parts before a group's last are multiples of 8 wide: the kernels ask for 16-byte rows (kernels.h).
std::vector<Case> plain_linears() {
  return {
      linear_case("1 token", kQkv64, {{0, 1, kAll, 0}}, {{0, 1, 1}}),
      linear_case("127 tokens", kQkv64, kOneJob, {{0, 127, 1}}),
      linear_case("129 tokens", kGateUp, kOneJob, {{0, 129, 1}}),
      linear_case("base only", kQkv128, kOneJob, {{-1, 70, 1}, {-1, 64, 2}}, false),
      linear_case("q, k, v with bias, ranks 16 and 3 and the base", kQkv128, kTwoJobs, kMixed),
      linear_case("gate and up, ranks 64 and 128, subsets", kGateUp,
                  {{0, 64, kAll, 0},
                   {1, 128, 1u << TL_UP_PROJ, 0},
                   {2, 16, 1u << TL_GATE_PROJ, 0},
                   {3, 16, 1u << TL_DOWN_PROJ, 0}},
                  {{1, 37, 11}, {0, 129, 1}, {-1, 9, 12}, {3, 64, 13}, {2, 30, 14}, {0, 1, 2}, {1, 70, 15}}),
      linear_case("o with residual, rank 200 beside 1", kO, {{0, 200, kAll, 0}, {1, 1, kAll, 0}}, kMixed),
      linear_case("down with residual in place, rank 128", kDown, {{0, 128, kAll, 0}, {1, 3, 1u << TL_DOWN_PROJ, 0}},
                  kMixed),
  };
}
std::vector<Case> odd_linears() {
  return {
      linear_case("in 33, out 45", {TL_O_PROJ, 33, {45}}, kTwoJobs, kMixed),
      linear_case("in 70, out 40, 24, 33 with bias", {TL_Q_PROJ, 70, {40, 24, 33}, true},
                  {{0, 3, kAll, 0}, {1, 20, kQv, 0}}, kMixed),
      linear_case("in 5, out 3 with residual", {TL_DOWN_PROJ, 5, {3}, false, Linears::kBeside}, {{0, 200, kAll, 0}},
                  {{0, 3, 1}, {-1, 2, 2}, {0, 70, 3}}),
      linear_case("in 1029, out 331 in place", {TL_DOWN_PROJ, 1029, {331}, false, Linears::kInPlace}, kOneJob,
                  {{0, 127, 1}, {0, 1, 2}}),
      linear_case("in 100, out 72, 45 with dropout", {TL_GATE_PROJ, 100, {72, 45}},
                  {{0, 16, kAll, 0.3f}, {1, 3, kAll, 0}}, kMixed),
  };
}
Case gated(const std::string& name, const Linears& l, std::vector<Job> jobs, std::vector<SequenceSpec> sequences) {
  return {"gate and up with act, " + name, sizes_with(l.first, l.in, l.outs), std::move(jobs), std::move(sequences),
          [l](Stage& s) { return run_gated(s, l); }};
}
// Wide enough, with so many rows, that the widest tiles are chosen.
std::vector<Case> wide_gated_linears() {
  return {gated("wide", {TL_GATE_PROJ, 200, {2808, 2808}},
                {{0, 16, kAll, 0}, {1, 3, 1u << TL_UP_PROJ, 0}, {2, 64, 1u << TL_GATE_PROJ, 0}},
                {{0, 129, 1}, {1, 150, 11}, {-1, 70, 12}, {2, 200, 13}, {0, 33, 2}})};
}
std::vector<Case> gated_linears() {
  return {
      gated("1 token", kGateUp, kOneJob, {{0, 1, 1}}),
      gated("129 tokens", kGateUp, kOneJob, {{0, 129, 1}}),
      gated("ranks 64 and 128, subsets", kGateUp,
            {{0, 64, kAll, 0}, {1, 128, 1u << TL_UP_PROJ, 0}, {2, 16, 1u << TL_GATE_PROJ, 0}, {3, 16, 1u << TL_DOWN_PROJ, 0}},
            {{1, 37, 11}, {0, 129, 1}, {-1, 9, 12}, {3, 64, 13}, {2, 30, 14}, {0, 1, 2}, {1, 70, 15}}),
      gated("in 70, out 40", {TL_GATE_PROJ, 70, {40, 40}}, {{0, 200, kAll, 0}, {1, 3, kAll, 0}}, kMixed),
      gated("in 33, out 48", {TL_GATE_PROJ, 33, {48, 48}}, kTwoJobs, kMixed),
      gated("in 72, out 24 with bias", {TL_GATE_PROJ, 72, {24, 24}, true}, kTwoJobs, kMixed),
      gated("dropout", kGateUp, {{0, 16, kAll, 0}, {1, 200, kAll, 0.25f}}, kMixed),
  };
}
std::vector<Case> dropout_linears() {
  return {
      linear_case("dropout, 1 token", kQkv64, {{0, 16, kAll, 0.5f}}, {{0, 1, 1}}),
      linear_case("dropout in all", kQkv128, {{0, 64, kAll, 0.1f}, {1, 3, kQv, 0.6f}}, kMixed),
      linear_case("dropout beside none", kGateUp, {{0, 16, kAll, 0}, {1, 200, kAll, 0.25f}}, kMixed),
      linear_case("dropout, residual", kO, {{0, 128, kAll, 0.05f}, {1, 16, kAll, 0}}, kMixed),
      linear_case("dropout is off in evaluation", kGateUp, {{0, 16, kAll, 0.5f}, {1, 64, kAll, 0}}, kMixed, false),
  };
}

}  // namespace

TEST(backend_linears) {
  REQUIRE_GPU();
  compare_all(plain_linears());
}
TEST(backend_linears_odd) {
  REQUIRE_GPU();
  compare_all(odd_linears());
}
TEST(backend_linears_dropout) {
  REQUIRE_GPU();
  compare_all(dropout_linears());
}
TEST(backend_gated_small) {
  REQUIRE_GPU();
  compare_all(gated_linears());
}
TEST(backend_gated_wide) {
  REQUIRE_GPU();
  compare_all(wide_gated_linears());
}
TEST(backend_gated_isolation) {
  REQUIRE_GPU();
  bits_all(gated_linears());
  bits_all(wide_gated_linears());
}
TEST(backend_linears_isolation) {
  REQUIRE_GPU();
  bits_all(plain_linears());
}
TEST(backend_linears_odd_isolation) {
  REQUIRE_GPU();
  bits_all(odd_linears());
}
TEST(backend_linears_dropout_isolation) {
  REQUIRE_GPU();
  bits_all(dropout_linears());
}

namespace {

ModuleSizes mlp_sizes(int64_t hidden, int64_t width) {
  ModuleSizes sizes = sizes_with(TL_GATE_PROJ, hidden, {width, width});
  sizes.in[TL_DOWN_PROJ] = width;
  sizes.out[TL_DOWN_PROJ] = hidden;
  return sizes;
}
Case mlp_case(const std::string& name, int64_t hidden, int64_t width, std::vector<Job> jobs,
              std::vector<SequenceSpec> sequences) {
  return {"backward of the MLP, " + name, mlp_sizes(hidden, width), std::move(jobs), std::move(sequences),
          [=](Stage& s) { return run_mlp_backward(s, hidden, width); }};
}
std::vector<Case> mlp_cases() {
  const uint32_t gate = 1u << TL_GATE_PROJ, up = 1u << TL_UP_PROJ, down = 1u << TL_DOWN_PROJ;
  return {
      mlp_case("ranks 16 and 3", 256, 704, kTwoJobs, kMixed),
      mlp_case("129 tokens", 72, 200, {{0, 32, kAll, 0}}, {{0, 129, 1}}),
      mlp_case("subsets beside a wide one", 136, 328,
               {{0, 20, gate | down, 0},
                {1, 64, kAll, 0},
                {2, 16, gate, 0},
                {3, 16, down, 0},
                {4, 8, 1u << TL_Q_PROJ, 0},
                {5, 16, up, 0}},
               {{1, 37, 11}, {0, 129, 1}, {-1, 9, 12}, {3, 64, 13}, {2, 30, 14}, {0, 1, 2}, {1, 70, 15}, {4, 40, 16},
                {5, 3, 17}}),
      mlp_case("dropout beside none", 72, 264, {{0, 16, kAll, 0}, {1, 3, kAll, 0.25f}}, kMixed),
      mlp_case("dropout", 72, 264, {{0, 16, kAll, 0.3f}, {1, 3, kAll, 0}}, kMixed),
      mlp_case("rank 200", 72, 136, {{0, 200, kAll, 0}, {1, 3, kAll, 0}}, kMixed),
  };
}

}  // namespace

TEST(backend_mlp_backward) {
  REQUIRE_GPU();
  compare_all(mlp_cases());
}
TEST(backend_mlp_backward_isolation) {
  REQUIRE_GPU();
  bits_all(mlp_cases());
}
// The kernels of any architecture are those of the ops apart.
TEST(backend_mlp_backward_in_one_pass_or_apart) {
  REQUIRE_GPU();
  if (families().size() < 2) SKIP("there is one family of kernels");
  for (const Case& c : mlp_cases()) {
    Stage one(make_cuda(false), c.sizes, c.jobs, c.sequences), apart(make_cuda(true), c.sizes, c.jobs, c.sequences);
    Outputs got = c.op(one), want = c.op(apart);
    for (Outputs* outputs : {&got, &want}) outputs->erase(outputs->begin() + 1);  // dX: their GEMMs are not the same
    for (size_t job = 0; job < c.jobs.size(); ++job)
      CHECK_MSG(one.bits_of(got, static_cast<int>(job)) == apart.bits_of(want, static_cast<int>(job)), "%s, job %zu",
                c.name.c_str(), job);
  }
}

// A job's gradient of one call against that of two, cut between two of its sequences; and layer 0's, which wants no dX.
TEST(backend_gradients_of_two_calls) {
  REQUIRE_GPU();
  for (const bool generic : families())
    for (const float dropout : {0.0f, 0.3f})
      for (const Linears& l : {kQkv128, kDown}) {
        const std::vector<Job> jobs = {{0, 64, kAll, dropout}, {1, 16, kAll, 0}};
        const std::vector<SequenceSpec> first = {{1, 37, 11}, {0, 129, 1}},
                                        second = {{0, 1, 2}, {1, 64, 13}, {0, 70, 3}, {0, 64, 4}};
        std::vector<SequenceSpec> all = first;
        all.insert(all.end(), second.begin(), second.end());
        const ModuleSizes sizes = sizes_with(l.first, l.in, l.outs);
        Stage one(make_cuda(generic), sizes, jobs, all), two(make_cuda(generic), sizes, jobs, first),
            bare(make_cuda(generic), sizes, jobs, all);
        run_linears(one, l);
        run_linears(two, l);
        two.begin(second);
        run_linears(two, l);
        const auto weights = bare.pack(40, l.in, l.outs, l.bias, 0.2);
        const Held x = bare.input(1, l.in),
                   dy = bare.input(3, std::accumulate(l.outs.begin(), l.outs.end(), int64_t{0}));
        Strips strips = make_parts(bare, l, weights);
        const Held y = bare.poisoned(bare.tokens(), strips.total);
        set_y(bare, l, strips, y.m);
        bare.backend.linear_forward(bare.batch, kLayer, x.m, strips.parts, nullptr);
        set_y(bare, l, strips, dy.m);
        bare.backend.linear_backward(bare.batch, kLayer, strips.parts, Matrix{});
        bare.backend.adapter_gradients(bare.batch, kLayer, x.m, strips.parts);
        for (const int job : {0, 1}) {
          const std::string want = one.bits(job, TL_STATE_GRADIENT);
          CHECK_MSG(two.bits(job, TL_STATE_GRADIENT) == want, "job %d, dropout %g%s: two calls", job, dropout,
                    family_name(generic).c_str());
          CHECK_MSG(bare.bits(job, TL_STATE_GRADIENT) == want, "job %d, dropout %g%s: without dX", job, dropout,
                    family_name(generic).c_str());
        }
      }
}

// ---- norms, positions, elementwise ----------------------------------------------------------------------------------

namespace {

constexpr float kEps = 1e-5f;

Output vector_output(Stage& s, const std::string& name, const float* p, int64_t count, double tolerance,
                     const std::vector<int64_t>& rows) {
  Output o;
  o.name = name;
  o.values = Dense(count, 1);
  o.values.values = s.host(p, count);
  o.tolerance = tolerance;
  o.rows = rows;
  return o;
}

// All rows with the residual in place and beside, then the rows of some positions without one.
Outputs run_rmsnorm(Stage& s, int64_t width) {
  const int64_t n = s.tokens();
  const float* weight = s.pack_vector(random_weights(50, width, 0.3, 1.0));
  const Held x = s.input(1, width), dy = s.input(2, width), carry = s.input(3, width);
  const Held y = s.poisoned(n, width), in_place = s.input(3, width), dx = s.poisoned(n, width);
  float* const rstd = s.array<float>(n);
  s.backend.rmsnorm_forward(x.m, weight, kEps, nullptr, n, width, y.m, rstd);
  s.backend.rmsnorm_backward(dy.m, x.m, weight, rstd, nullptr, n, width, &in_place.m, in_place.m);
  s.backend.rmsnorm_backward(dy.m, x.m, weight, rstd, nullptr, n, width, &carry.m, dx.m);
  Outputs outputs = {s.by_row("y", s.read(y), kOnce, kOnceRms),
                     s.by_row("dx in place", s.read(in_place), kOnce, kOnceRms),
                     s.by_row("dx", s.read(dx), kOnce, kOnceRms)};
  outputs.push_back(vector_output(s, "rstd", rstd, n, kScalars, outputs[0].rows));
  s.check_kept("y", y, 0, width);
  s.check_kept("dx in place", in_place, 0, width);
  s.check_kept("dx", dx, 0, width);
  s.check_kept("residual", carry, 0, 0);

  std::vector<int64_t> rows;
  for (int64_t r = 0; r < n; ++r)
    if (s.position(r) % 3 != 1) rows.push_back(r);
  const int64_t count = static_cast<int64_t>(rows.size());
  const int64_t* device_rows = s.array(rows);
  Dense picked_dy(count, width);
  const Dense all_dy = s.values(2, width);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c) picked_dy.at(i, c) = all_dy.at(rows[static_cast<size_t>(i)], c);
  const Held dy_picked = s.matrix(picked_dy), y_picked = s.poisoned(count, width), dx_picked = s.poisoned(n, width);
  float* const rstd_picked = s.array<float>(count);
  s.backend.rmsnorm_forward(x.m, weight, kEps, device_rows, count, width, y_picked.m, rstd_picked);
  s.backend.rmsnorm_backward(dy_picked.m, x.m, weight, rstd_picked, device_rows, count, width, nullptr, dx_picked.m);
  s.check_kept("y of rows", y_picked, 0, width);
  s.check_kept("dx of rows", dx_picked, 0, width, &rows);
  const Dense scattered = s.read(dx_picked);
  Output y_rows{"y of rows", s.read(y_picked), kOnce, kOnceRms, rows};
  Output dx_rows{"dx of rows", Dense(count, width), kOnce, kOnceRms, rows};
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c) dx_rows.values.at(i, c) = scattered.at(rows[static_cast<size_t>(i)], c);
  outputs.push_back(std::move(y_rows));
  outputs.push_back(std::move(dx_rows));
  outputs.push_back(vector_output(s, "rstd of rows", rstd_picked, count, kScalars, rows));
  // Without rstd.
  const Held again = s.poisoned(n, width);
  s.backend.rmsnorm_forward(x.m, weight, kEps, nullptr, n, width, again.m, nullptr);
  outputs.push_back(s.by_row("y without rstd", s.read(again), kOnce, kOnceRms));
  return outputs;
}

RopeTable rope_table(Stage& s, int64_t d) {
  std::vector<float> cosine, sine;
  for (int64_t p = 0; p < s.batch.longest; ++p)
    for (int64_t i = 0; i < d / 2; ++i) {
      const double angle =
          static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d));
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
  RopeTable table;
  table.cosine = s.array(cosine);
  table.sine = s.array(sine);
  table.positions = s.batch.longest;
  return table;
}

Outputs run_rope(Stage& s, AttentionShape shape, bool norm) {
  const int64_t n = s.tokens(), d = shape.head_dim, q_columns = shape.heads * d, k_columns = shape.kv_heads * d;
  const Held qkv = s.input(1, q_columns + 2 * k_columns), dqkv = s.input(2, q_columns + 2 * k_columns);
  const Held q = s.poisoned(n, q_columns), k = s.poisoned(n, k_columns);
  const float* q_norm = norm ? s.pack_vector(random_weights(51, d, 0.3, 1.0)) : nullptr;
  const float* k_norm = norm ? s.pack_vector(random_weights(52, d, 0.3, 1.0)) : nullptr;
  const RopeTable table = rope_table(s, d);
  s.backend.rope_forward(s.batch, shape, qkv.m, q_norm, k_norm, kEps, table, q.m, k.m);
  s.backend.rope_backward(s.batch, shape, qkv.m, q_norm, k_norm, kEps, table, dqkv.m);
  s.check_kept("q", q, 0, q_columns);
  s.check_kept("k", k, 0, k_columns);
  s.check_kept("qkv", qkv, 0, 0);
  s.check_kept("dqkv", dqkv, 0, q_columns + k_columns);
  return {s.by_row("q", s.read(q), kOnce, kOnceRms), s.by_row("k", s.read(k), kOnce, kOnceRms),
          s.by_row("dqkv", s.read(dqkv), kOnce, kOnceRms)};
}

// act beside dact, in dact, and none.
Outputs run_swiglu(Stage& s, int64_t width) {
  const int64_t n = s.tokens();
  const Held gate_up = s.input(1, 2 * width, 6.0), act = s.poisoned(n, width);
  s.backend.swiglu_forward(gate_up.m, n, width, act.m);
  Outputs outputs = {s.by_row("act", s.read(act), kOnce, kOnceRms)};
  s.check_kept("act", act, 0, width);
  s.check_kept("gate and up", gate_up, 0, 0);
  for (const char* where : {"beside", "in dact", "none"}) {
    const std::string name = where;
    const Held grads = s.input(1, 2 * width, 6.0), dact = s.input(2, width), beside = s.poisoned(n, width);
    s.backend.swiglu_backward(grads.m, dact.m, n, width,
                              name == "beside" ? beside.m
                              : name == "none" ? Matrix{}
                                               : dact.m);
    outputs.push_back(s.by_row("dgate and dup, act " + name, s.read(grads), kOnce, kOnceRms));
    s.check_kept("dgate and dup", grads, 0, 2 * width);
    s.check_kept("dact, act " + name, dact, 0, name == "in dact" ? width : 0);
    s.check_kept("act " + name, beside, 0, name == "beside" ? width : 0);
    if (name == "none") continue;
    const Dense made = s.read(name == "beside" ? beside : dact);
    CHECK_MSG(std::memcmp(made.values.data(), outputs[0].values.values.data(), made.values.size() * 4) == 0 ||
                  s.content(0) >= kBroken,
              "%sact of swiglu_backward, %s, is not swiglu_forward's", s.label.c_str(), where);
    outputs.push_back(s.by_row("act " + name, made, kOnce, kOnceRms));
  }
  return outputs;
}

std::vector<Case> row_cases() {
  std::vector<Case> cases;
  const std::vector<std::vector<SequenceSpec>> batches = {
      kMixed, {{0, 1, 1}}, {{0, 127, 1}}, {{0, 129, 1}, {-1, 5, 7}}};
  auto batch = [&] { return batches[cases.size() % batches.size()]; };
  for (const int64_t width : {256, 3, 1029, 64, 17, 4096})
    cases.push_back({"rmsnorm of " + std::to_string(width), small_sizes(), kTwoJobs, batch(),
                     [width](Stage& s) { return run_rmsnorm(s, width); }});
  for (const AttentionShape shape : {AttentionShape{4, 4, 64}, {4, 2, 128}, {8, 2, 32}, {8, 1, 8}, {3, 1, 6}})
    for (const bool norm : {false, true})
      cases.push_back({"rope of " + std::to_string(shape.heads) + ":" + std::to_string(shape.kv_heads) + " heads of " +
                           std::to_string(shape.head_dim) + (norm ? " with norms" : ""),
                       small_sizes(), kTwoJobs, batch(), [shape, norm](Stage& s) { return run_rope(s, shape, norm); }});
  for (const int64_t width : {1, 45, 64, 704, 1029})
    cases.push_back({"swiglu of " + std::to_string(width), small_sizes(), kTwoJobs, batch(),
                     [width](Stage& s) { return run_swiglu(s, width); }});
  for (Case& c : cases)  // one job is enough where the batch names one
    if (c.sequences.size() != kMixed.size()) c.jobs = kOneJob;
  return cases;
}

}  // namespace

TEST(backend_norms_rope_swiglu) {
  REQUIRE_GPU();
  compare_all(row_cases());
}
TEST(backend_norms_rope_swiglu_isolation) {
  REQUIRE_GPU();
  bits_all(row_cases());
}

TEST(backend_embed) {
  REQUIRE_GPU();
  for (const auto& [vocab, hidden] : {std::pair<int64_t, int64_t>{331, 256}, {37, 3}, {1100, 1029}}) {
    auto op = [vocab = vocab, hidden = hidden](Stage& s) -> Outputs {
      const auto table = s.pack(60, hidden, {vocab}, false, 1.0);
      std::vector<int32_t> tokens;
      for (int64_t r = 0; r < s.tokens(); ++r)
        tokens.push_back(
            static_cast<int32_t>((static_cast<int64_t>(s.content(r)) * 131 + s.position(r) * 7 + vocab - 1) % vocab));
      const Held x = s.poisoned(s.tokens(), hidden);
      s.backend.embed(*table[0], s.array(tokens), s.tokens(), x.m);
      s.check_kept("x", x, 0, hidden);
      return {s.by_row("x", s.read(x), 0, 0)};
    };
    compare_case(
        {"embed " + std::to_string(vocab) + " x " + std::to_string(hidden), small_sizes(), kTwoJobs, kMixed, op});
  }
}

// ---- attention ------------------------------------------------------------------------------------------------------

namespace {

Outputs run_attention(Stage& s, AttentionShape shape) {
  const int64_t n = s.tokens(), d = shape.head_dim, q_columns = shape.heads * d, k_columns = shape.kv_heads * d;
  const int64_t total = q_columns + 2 * k_columns;
  // Queries four times as large: the scaled scores then have a deviation of about 1.3 whatever d is.
  const Held q = s.input(1, q_columns, 4.0), k = s.input(2, k_columns), dout = s.input(4, q_columns);
  Dense raw(n, total);  // only v is read
  const Dense v_values = s.values(3, k_columns);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < k_columns; ++c) raw.at(r, q_columns + k_columns + c) = v_values.at(r, c);
  const Held qkv = s.matrix(raw), out = s.poisoned(n, q_columns), dqkv = s.poisoned(n, total);
  const Matrix v = columns(qkv.m, q_columns + k_columns, s.backend.activation_bytes());
  float* const lse = s.array<float>(n * shape.heads);
  void* const scratch = s.memory(s.backend.attention_scratch_bytes(
      shape, n, static_cast<int64_t>(s.batch.segments.size()), s.batch.longest, true));
  s.backend.attention_forward(s.batch, shape, q.m, k.m, v, out.m, lse, scratch);
  s.backend.attention_backward(s.batch, shape, q.m, k.m, v, out.m, lse, dout.m, dqkv.m, scratch);
  s.check_kept("out", out, 0, q_columns);
  s.check_kept("dqkv", dqkv, 0, total);
  for (const Held* input : {&q, &k, &qkv, &dout}) s.check_kept("an input of attention", *input, 0, 0);

  const Dense grads = s.read(dqkv);
  auto part = [&](const char* name, int64_t first, int64_t count) {
    Dense d(n, count);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < count; ++c) d.at(r, c) = grads.at(r, first + c);
    // The first rows' dS is a difference of equals: of single tokens nothing but rounding errors is left.
    return s.by_row(name, d, kAttention, kAttentionRms, 1e-2);
  };
  Dense lse_values(n, shape.heads);
  lse_values.values = s.host(lse, n * shape.heads);
  return {s.by_row("out", s.read(out), kAttention, kAttentionRms), s.by_row("lse", lse_values, 1e-4, 0),
          part("dq", 0, q_columns), part("dk", q_columns, k_columns), part("dv", q_columns + k_columns, k_columns)};
}

Case attention_case(AttentionShape shape, std::vector<SequenceSpec> sequences) {
  return {"attention of " + std::to_string(shape.heads) + ":" + std::to_string(shape.kv_heads) + " heads of " +
              std::to_string(shape.head_dim),
          small_sizes(), sequences.size() == kMixed.size() ? kTwoJobs : kOneJob, sequences,
          [shape](Stage& s) { return run_attention(s, shape); }};
}

std::vector<Case> attention_cases() {
  return {attention_case({4, 2, 128}, kMixed),
          attention_case({4, 4, 64}, kMixed),
          attention_case({8, 1, 64}, {{0, 127, 1}}),
          attention_case({8, 2, 128}, {{0, 129, 1}, {-1, 30, 2}, {0, 300, 3}}),
          attention_case({4, 1, 128}, {{0, 1, 1}}),
          attention_case({8, 1, 32}, kMixed),
          attention_case({4, 2, 8}, kMixed),
          attention_case({2, 2, 8}, {{0, 129, 1}}),
          attention_case({2, 1, 64}, {{0, 1, 1}, {0, 1, 2}, {-1, 1, 3}})};
}

}  // namespace

namespace {

// q, k, v with their rotary positions in one op, and attention's gradients of before the rotation in one op: the bits of the
// two ops one after the other. Attention reads q and k as columns of qkv.
Outputs run_rotated(Stage& s, AttentionShape shape, const Linears& l) {
  const int64_t n = s.tokens(), d = shape.head_dim, q_columns = shape.heads * d, k_columns = shape.kv_heads * d;
  const int64_t total = q_columns + 2 * k_columns, element = s.backend.activation_bytes();
  const RopeTable table = rope_table(s, d);
  const auto weights = s.pack(40, l.in, l.outs, l.bias, 0.2);
  const Held x = s.input(1, l.in);
  Strips strips = make_parts(s, l, weights);
  const Held made = s.poisoned(n, total);
  set_y(s, l, strips, made.m);
  s.backend.rotated_forward(s.batch, kLayer, x.m, strips.parts, shape, table);
  s.check_kept("rotated q, k and v", made, 0, total);
  s.check_kept("X", x, 0, 0);
  const Dense rotated = s.read(made);

  const Held raw = s.poisoned(n, total), q_apart = s.poisoned(n, q_columns), k_apart = s.poisoned(n, k_columns);
  set_y(s, l, strips, raw.m);
  s.backend.linear_forward(s.batch, kLayer, x.m, strips.parts, nullptr);
  s.backend.rope_forward(s.batch, shape, raw.m, nullptr, nullptr, kEps, table, q_apart.m, k_apart.m);
  Dense apart = s.read(raw);
  const Dense q_values = s.read(q_apart), k_values = s.read(k_apart);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < q_columns; ++c) apart.at(r, c) = q_values.at(r, c);
    for (int64_t c = 0; c < k_columns; ++c) apart.at(r, q_columns + c) = k_values.at(r, c);
  }
  check_same_rows(s, "rotated q, k and v", rotated, apart);
  Outputs outputs = {s.by_row("rotated q, k and v", rotated, kAdded, kAddedRms)};

  // Inputs that are the same on both backends.
  const Dense q_scaled = s.values(5, q_columns, 4.0), rest = s.values(6, 2 * k_columns);
  Dense all(n, total);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < total; ++c) all.at(r, c) = c < q_columns ? q_scaled.at(r, c) : rest.at(r, c - q_columns);
  const Held qkv = s.matrix(all), dout = s.input(7, q_columns), out = s.poisoned(n, q_columns);
  const Held grads = s.poisoned(n, total), grads_apart = s.poisoned(n, total);
  const Matrix k = columns(qkv.m, q_columns, element), v = columns(qkv.m, q_columns + k_columns, element);
  float* const lse = s.array<float>(n * shape.heads);
  void* const scratch = s.memory(s.backend.attention_scratch_bytes(
      shape, n, static_cast<int64_t>(s.batch.segments.size()), s.batch.longest, true));
  s.backend.attention_forward(s.batch, shape, qkv.m, k, v, out.m, lse, scratch);
  s.backend.rotated_attention_backward(s.batch, shape, qkv.m, k, v, out.m, lse, dout.m, table, grads.m, scratch);
  s.backend.attention_backward(s.batch, shape, qkv.m, k, v, out.m, lse, dout.m, grads_apart.m, scratch);
  s.backend.rope_backward(s.batch, shape, grads_apart.m, nullptr, nullptr, kEps, table, grads_apart.m);
  s.check_kept("dqkv", grads, 0, total);
  for (const Held* input : {&qkv, &dout}) s.check_kept("an input of attention", *input, 0, 0);
  const Dense turned = s.read(grads);
  check_same_rows(s, "dqkv", turned, s.read(grads_apart));
  outputs.push_back(s.by_row("out", s.read(out), kAttention, kAttentionRms));
  for (const auto& [name, first, count] : {std::tuple<const char*, int64_t, int64_t>{"dq", 0, q_columns},
                                           {"dk", q_columns, k_columns},
                                           {"dv", q_columns + k_columns, k_columns}}) {
    Dense part(n, count);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < count; ++c) part.at(r, c) = turned.at(r, first + c);
    outputs.push_back(s.by_row(name, part, kTurned, kTurnedRms, 1e-2));
  }
  return outputs;
}

Case rotated_case(AttentionShape shape, int64_t in, bool bias, std::vector<Job> jobs, std::vector<SequenceSpec> sequences) {
  const int64_t k_columns = shape.kv_heads * shape.head_dim;
  const Linears l = {TL_Q_PROJ, in, {shape.heads * shape.head_dim, k_columns, k_columns}, bias};
  return {"rotated " + std::to_string(shape.heads) + ":" + std::to_string(shape.kv_heads) + " heads of " +
              std::to_string(shape.head_dim),
          sizes_with(l.first, l.in, l.outs), std::move(jobs), std::move(sequences),
          [shape, l](Stage& s) { return run_rotated(s, shape, l); }};
}

// Of the last three, no family of kernels does both at once.
std::vector<Case> rotated_cases() {
  return {rotated_case({4, 2, 128}, 320, true, kTwoJobs, kMixed),
          rotated_case({8, 1, 128}, 1100, false, {{0, 64, kAll, 0}, {1, 200, kQv, 0}}, kMixed),
          rotated_case({4, 4, 64}, 256, false, {{0, 16, kAll, 0.2f}, {1, 3, kAll, 0}}, kMixed),
          rotated_case({9, 3, 64}, 200, true, kTwoJobs, {{0, 129, 1}, {-1, 30, 12}, {1, 300, 13}, {0, 1, 2}}),
          rotated_case({14, 2, 64}, 1100, true, kOneJob, {{0, 1, 1}}),
          rotated_case({8, 2, 32}, 96, false, kTwoJobs, kMixed),
          rotated_case({4, 2, 20}, 100, true, kTwoJobs, kMixed),
          rotated_case({8, 1, 8}, 33, false, kOneJob, {{0, 127, 1}})};
}

}  // namespace

TEST(backend_rotated) {
  REQUIRE_GPU();
  compare_all(rotated_cases());
}
TEST(backend_rotated_isolation) {
  REQUIRE_GPU();
  bits_all(rotated_cases());
}

TEST(backend_attention) {
  REQUIRE_GPU();
  compare_all(attention_cases());
}
TEST(backend_attention_isolation) {
  REQUIRE_GPU();
  bits_all(attention_cases());
}

// ---- head -----------------------------------------------------------------------------------------------------------

namespace {

// As the graph does: logits, loss and dlogits over them, dX; the loss alone before that.
Outputs run_head(Stage& s, int64_t hidden, int64_t vocab) {
  const int64_t n = s.tokens(), ld = s.backend.leading_dimension(vocab), rows = padded_rows(s.backend, n);
  constexpr double kScale = 0.3;
  const FrozenLinear& head = *s.pack(70, hidden, {vocab}, false, kScale)[0];
  const Dense x_values = s.values(1, hidden);
  const Held x = s.matrix(x_values);

  std::vector<int32_t> targets;
  std::vector<float> scale;
  const std::vector<float> w = random_weights(70, vocab * hidden, kScale);
  for (int64_t r = 0; r < n; ++r) {
    int64_t target = (static_cast<int64_t>(s.content(r)) * 7919 + s.position(r) * 104729) % vocab;
    if (s.position(r) % 16 == 0) {  // a right answer
      float best = -INFINITY;
      for (int64_t v = 0; v < vocab; ++v) {
        float logit = 0;
        for (int64_t c = 0; c < hidden; ++c) logit += x_values.at(r, c) * w[static_cast<size_t>(v * hidden + c)];
        if (logit > best) best = logit, target = v;
      }
    }
    targets.push_back(static_cast<int32_t>(target));
    scale.push_back(0.01f * static_cast<float>(s.content(r) % 7 + 1));
  }
  const int32_t* device_targets = s.array(targets);
  const float* device_scale = s.array(scale);
  float* const logits = s.array<float>(rows * ld);
  double* const loss = s.array<double>(n);
  uint8_t* const correct = s.array<uint8_t>(n);
  const Held dx = s.poisoned(n, hidden);
  const std::vector<char> poison(static_cast<size_t>(n * ld * 4), static_cast<char>(0xff));

  s.backend.head_logits(x.m, n, head, logits, ld);
  const std::vector<char> made = s.host(reinterpret_cast<const char*>(logits), n * ld * 4);
  s.backend.cross_entropy(logits, ld, n, vocab, device_targets, nullptr, loss, correct);
  const std::vector<double> loss_alone = s.host(loss, n);
  const std::vector<uint8_t> correct_alone = s.host(correct, n);
  CHECK_MSG(s.host(reinterpret_cast<const char*>(logits), n * ld * 4) == made,
            "%scross_entropy without scale wrote logits", s.label.c_str());
  s.fill(loss, n * 8);
  s.fill(correct, n);
  s.backend.cross_entropy(logits, ld, n, vocab, device_targets, device_scale, loss, correct);
  const std::vector<double> losses = s.host(loss, n);
  const std::vector<uint8_t> corrects = s.host(correct, n);
  CHECK_MSG(std::memcmp(losses.data(), loss_alone.data(), losses.size() * 8) == 0 && corrects == correct_alone,
            "%scross_entropy with and without scale", s.label.c_str());
  const std::vector<char> grads = s.host(reinterpret_cast<const char*>(logits), n * ld * 4);
  s.backend.head_backward(logits, ld, n, head, dx.m);
  s.check_kept("dX of the head", dx, 0, hidden);
  s.check_kept("X of the head", x, 0, 0);

  Dense logit_values(n, vocab), loss_values(n, 1), loss_bits(n, 2), correct_values(n, 1);
  int64_t changed = 0;
  const int64_t kept_from = s.backend.activation_bytes() * vocab;  // of a row of dlogits, in bytes
  for (int64_t r = 0; r < n; ++r) {
    const size_t row = static_cast<size_t>(r * ld * 4);
    std::memcpy(&logit_values.at(r, 0), &made[row], static_cast<size_t>(vocab) * 4);
    loss_values.at(r, 0) = static_cast<float>(losses[static_cast<size_t>(r)]);
    std::memcpy(&loss_bits.at(r, 0), &losses[static_cast<size_t>(r)], 8);
    correct_values.at(r, 0) = corrects[static_cast<size_t>(r)];
    if (s.backend.activation_bytes() != 2) continue;
    for (int64_t i = vocab * 4; i < ld * 4; ++i) changed += made[row + static_cast<size_t>(i)] != poison[0];
    for (int64_t i = vocab * 4; i < ld * 4; ++i) changed += grads[row + static_cast<size_t>(i)] != poison[0];
    for (int64_t i = kept_from; i < vocab * 4; ++i)
      changed += grads[row + static_cast<size_t>(i)] != made[row + static_cast<size_t>(i)];
  }
  CHECK_MSG(changed == 0, "%s%lld bytes beside logits and dlogits were written", s.label.c_str(),
            static_cast<long long>(changed));
  return {s.by_row("logits", logit_values, kSums, 0),
          s.by_row("loss", loss_values, kScalars, 0),
          s.by_row("loss's bits", loss_bits, kBitsOnly, 0),
          s.by_row("correct", correct_values, 0, 0),
          s.by_row("dlogits", s.decode(grads.data(), ld * 4, n, vocab), kOnce, kOnceRms),
          s.by_row("dX", s.read(dx), kOnce, kOnceRms)};
}

Case head_case(int64_t hidden, int64_t vocab, std::vector<SequenceSpec> sequences) {
  return {"head of " + std::to_string(vocab) + " x " + std::to_string(hidden), small_sizes(),
          sequences.size() == kMixed.size() ? kTwoJobs : kOneJob, sequences,
          [=](Stage& s) { return run_head(s, hidden, vocab); }};
}

}  // namespace

TEST(backend_head) {
  REQUIRE_GPU();
  compare_all({head_case(64, 331, kMixed), head_case(33, 1100, {{0, 127, 1}}), head_case(256, 1100, kMixed),
               head_case(256, 331, {{0, 1, 1}}), head_case(128, 1024, {{0, 129, 1}})});
}
TEST(backend_head_of_32000) {
  REQUIRE_GPU();
  compare_all({head_case(64, 32000, {{0, 33, 1}})});
}
TEST(backend_head_of_65601) {
  REQUIRE_GPU();
  compare_all({head_case(64, 65601, {{0, 33, 1}})});
}
TEST(backend_head_isolation) {
  REQUIRE_GPU();
  bits_all({head_case(64, 331, kMixed), head_case(256, 1104, kMixed)});
}

// ---- adapters -------------------------------------------------------------------------------------------------------

TEST(backend_adapter_init) {
  REQUIRE_GPU();
  const Linears l = {TL_Q_PROJ, 70, {40, 24, 33}};
  const std::vector<Job> jobs = {
      {0, 16, kAll, 0}, {1, 3, kQv | 1u << TL_DOWN_PROJ, 0}, {2, 200, kAll, 0}, {3, 1, 1u << TL_O_PROJ, 0}};
  const std::vector<SequenceSpec> sequences = {{0, 20, 1}, {1, 33, 2}, {2, 65, 3}, {3, 4, 4}};
  Stage cpu(make_cpu(), sizes_with(l.first, l.in, l.outs), jobs, sequences);
  Stage gpu(make_cuda(false), sizes_with(l.first, l.in, l.outs), jobs, sequences);
  for (int job = 0; job < 4; ++job) {
    for (Stage* s : {&cpu, &gpu}) s->backend.adapter_init(s->adapter(job));
    CHECK_MSG(gpu.bits(job, TL_STATE_WEIGHTS) == cpu.bits(job, TL_STATE_WEIGHTS), "initial weights of job %d", job);
    for (const int state : {TL_STATE_MOMENT1, TL_STATE_MOMENT2, TL_STATE_GRADIENT}) {
      const std::string zeros(static_cast<size_t>(gpu.adapter(job).elements) * 4, '\0');
      CHECK_MSG(gpu.bits(job, state) == zeros, "state %d of job %d is not zero", state, job);
    }
  }
  compare("linears after adapter_init", run_linears(cpu, l), run_linears(gpu, l));
}

// Others come and go, the working copies grow, the adapter itself leaves and comes back elsewhere: none of its bits move.
TEST(backend_adapters_come_and_go) {
  REQUIRE_GPU();
  const Linears l = kQkv64;
  const std::vector<SequenceSpec> own = {{0, 129, 1}, {0, 40, 2}};
  Stage s(make_cuda(false), sizes_with(l.first, l.in, l.outs), {{0, 16, kAll, 0}}, own);
  auto bits = [&](int job, std::vector<SequenceSpec> sequences) {
    s.begin(sequences);
    s.reset(job, TL_STATE_GRADIENT);
    const Outputs outputs = run_linears(s, l);
    return s.bits_of(outputs, job);
  };
  const std::string want = bits(0, own);
  const int second = s.add({1, 200, kAll, 0});  // grows
  CHECK_MSG(bits(0, own) == want, "after another adapter");
  const int third = s.add({2, 64, kQv, 0.5f});
  const std::vector<SequenceSpec> mixed = {{second, 33, 7}, own[0], {third, 70, 8}, own[1], {second, 5, 9}};
  CHECK_MSG(bits(0, mixed) == want, "among two others");
  s.remove(second);
  const int fourth = s.add({3, 128, kAll, 0});  // into the gap
  CHECK_MSG(bits(0, {{fourth, 64, 10}, own[0], own[1]}) == want, "beside one in the gap of another");
  s.remove(0);
  s.add({4, 16, kAll, 0});  // takes its columns
  s.add({5, 256, kAll, 0});
  const int again = s.add({0, 16, kAll, 0});
  CHECK_MSG(bits(again, {{again, own[0].length, own[0].content}, {again, own[1].length, own[1].content}}) == want,
            "at other columns");
  CHECK_MSG(bits(again, {{fourth, 64, 10},
                         {again, own[0].length, own[0].content},
                         {third, 3, 8},
                         {again, own[1].length, own[1].content}}) == want,
            "at other columns, among others");
  s.check_guards("adapters come and go");
}

namespace {

tl_optimizer_item item(int64_t step, float learning_rate, float weight_decay, float max_grad_norm) {
  tl_optimizer_item i{};
  i.step = step;
  i.learning_rate = learning_rate;
  i.beta1 = 0.9f;
  i.beta2 = 0.999f;
  i.epsilon = 1e-8f;
  i.weight_decay = weight_decay;
  i.max_grad_norm = max_grad_norm;
  return i;
}

std::vector<OptimizerTask> update(Stage& s, const std::vector<std::pair<int, tl_optimizer_item>>& items) {
  std::vector<OptimizerTask> tasks;
  for (const auto& [job, i] : items) tasks.push_back({&s.adapter(job), i, {}});
  s.backend.adamw(tasks);
  return tasks;
}

Outputs states(Stage& s, const std::vector<int>& jobs) {
  Outputs outputs;
  for (const int job : jobs)
    for (int state = TL_STATE_WEIGHTS; state <= TL_STATE_GRADIENT; ++state) {
      Output o;
      o.name = "state " + std::to_string(state) + " of job " + std::to_string(job);
      o.values = Dense(s.adapter(job).elements, 1);
      o.values.values = s.get(job, state);
      o.tolerance = 1e-6;  // fp32 throughout: a few units in the last place
      o.owner = job;
      outputs.push_back(std::move(o));
    }
  return outputs;
}

}  // namespace

TEST(backend_adamw) {
  REQUIRE_GPU();
  const Linears l = kQkv64;
  const ModuleSizes sizes = sizes_with(l.first, l.in, l.outs);
  // 0 plain, 1 clipped, 2 with decay and clipping that does nothing, 3 and 4 with a gradient that is not finite, 5 with
  // a step that is not.
  const std::vector<Job> jobs = {{0, 16, kAll, 0}, {1, 3, kQv, 0},  {2, 200, kAll, 0},
                                 {3, 64, kAll, 0}, {4, 1, kAll, 0}, {5, 16, kQv, 0}};
  const std::vector<std::pair<int, tl_optimizer_item>> items = {
      {0, item(1, 1e-3f, 0, 0)}, {1, item(7, 3e-3f, 0, 0.05f)}, {2, item(100, 1e-3f, 0.1f, 1e6f)},
      {3, item(1, 1e-3f, 0, 1)}, {4, item(2, 1e-3f, 0, 0)},     {5, item(1, 3e38f, 0, 0)}};
  const std::vector<SequenceSpec> sequences = {{0, 20, 1}, {1, 33, 2}, {2, 65, 3}, {3, 14, 4}, {4, 1, 5}, {5, 40, 6}};
  Stage cpu(make_cpu(), sizes, jobs, sequences), gpu(make_cuda(false), sizes, jobs, sequences);
  Stage alone(make_cuda(false), sizes, {jobs[2]}, {}, true, 48);
  for (const int state : {TL_STATE_MOMENT1, TL_STATE_MOMENT2}) {
    for (int job = 0; job < 6; ++job)
      for (Stage* s : {&cpu, &gpu}) s->reset(job, state);
    alone.reset(0, state);
  }
  for (int job = 0; job < 6; ++job)  // the CPU knows the moments' bounds from here
    for (Stage* s : {&cpu, &gpu}) s->backend.adapter_refresh(s->adapter(job));
  for (Stage* s : {&cpu, &gpu})
    for (const auto& [job, value, at] : {std::tuple<int, float, size_t>{3, NAN, 5000}, {4, -INFINITY, 17}}) {
      std::vector<float> gradient = s->get(job, TL_STATE_GRADIENT);
      gradient[at] = value;
      s->set(job, TL_STATE_GRADIENT, gradient);
    }
  std::vector<std::string> before;
  for (int job = 0; job < 6; ++job)
    before.push_back(gpu.bits(job, TL_STATE_WEIGHTS) + gpu.bits(job, TL_STATE_MOMENT1) +
                     gpu.bits(job, TL_STATE_MOMENT2));

  const auto want = update(cpu, items), got = update(gpu, items);
  for (size_t i = 0; i < items.size(); ++i) {
    CHECK_MSG(want[i].result.finite == (i < 3) && got[i].result.finite == (i < 3),
              "job %zu: finite is %d, and %d on CUDA", i, want[i].result.finite, got[i].result.finite);
    // fp64 sums of fp32 squares in two orders.
    if (i != 3 && i != 4)
      CHECK_MSG(std::fabs(got[i].result.grad_norm - want[i].result.grad_norm) <= 1e-12 * want[i].result.grad_norm &&
                    want[i].result.grad_norm > 0,
                "job %zu: norm %.17g instead of %.17g", i, got[i].result.grad_norm, want[i].result.grad_norm);
    else CHECK_MSG(!std::isfinite(got[i].result.grad_norm), "job %zu: norm %g", i, got[i].result.grad_norm);
    const int job = static_cast<int>(i);
    const std::string zeros(static_cast<size_t>(gpu.adapter(job).elements) * 4, '\0');
    CHECK_MSG(gpu.bits(job, TL_STATE_GRADIENT) == zeros, "job %zu: the gradient is not cleared", i);
    const bool same =
        gpu.bits(job, TL_STATE_WEIGHTS) + gpu.bits(job, TL_STATE_MOMENT1) + gpu.bits(job, TL_STATE_MOMENT2) ==
        before[i];
    CHECK_MSG(same == (i >= 3), "job %zu: weights and moments are %s", i, same ? "as they were" : "changed");
  }
  compare("adamw", states(cpu, {0, 1, 2, 3, 4, 5}), states(gpu, {0, 1, 2, 3, 4, 5}));
  update(alone, {{0, items[2].second}});
  for (int state = TL_STATE_WEIGHTS; state <= TL_STATE_MOMENT2; ++state)
    CHECK_MSG(alone.bits(0, state) == gpu.bits(2, state), "state %d of a job alone and in a call with others", state);

  // The working copies are the new weights', or still the old; then another update from the gradients of these ops.
  compare("linears after adamw", run_linears(cpu, l), run_linears(gpu, l));
  for (int job = 0; job < 6; ++job) gpu.set(job, TL_STATE_GRADIENT, cpu.get(job, TL_STATE_GRADIENT));
  std::vector<std::pair<int, tl_optimizer_item>> next = {
      {2, items[2].second}, {5, item(1, 1e-3f, 0.01f, 1)}, {0, items[0].second}};
  for (auto& entry : next) ++entry.second.step;
  update(cpu, next);
  update(gpu, next);
  compare("second adamw", states(cpu, {0, 2, 5}), states(gpu, {0, 2, 5}));
  gpu.check_guards("adamw");
}

// A job that was away for a while is, to the bit, one that never was.
TEST(backend_offload_and_restore) {
  REQUIRE_GPU();
  const Linears l = kQkv64;
  const std::vector<Job> jobs = {{0, 64, kAll, 0}, {1, 16, kAll, 0}};
  const std::vector<SequenceSpec> both = {{1, 33, 5}, {0, 70, 1}}, other = {{1, 130, 6}};
  std::string bits[2];
  for (const bool away : {false, true}) {
    Stage s(make_cuda(false), sizes_with(l.first, l.in, l.outs), jobs, both);
    run_linears(s, l);
    update(s, {{0, item(1, 1e-3f, 0.01f, 1)}, {1, item(1, 1e-3f, 0, 0)}});  // the gradients are zero behind it
    const std::string moments = s.bits(0, TL_STATE_MOMENT1) + s.bits(0, TL_STATE_MOMENT2),
                      weights = s.bits(0, TL_STATE_WEIGHTS);
    if (away) {
      s.backend.adapter_offload(s.adapter(0));
      CHECK(s.adapter(0).offloaded && !s.adapter(0).state[TL_STATE_MOMENT1] && !s.adapter(0).state[TL_STATE_MOMENT2] &&
            !s.adapter(0).state[TL_STATE_GRADIENT]);
      CHECK(s.bits(0, TL_STATE_WEIGHTS) == weights);
    }
    // Others go on, and take memory that was its.
    const int third = s.add({2, 64, kAll, 0});
    s.begin(other);
    run_linears(s, l);
    update(s, {{1, item(2, 1e-3f, 0, 0)}});
    s.remove(third);
    if (away) {
      s.backend.adapter_restore(s.adapter(0));
      CHECK(!s.adapter(0).offloaded);
      CHECK_MSG(s.bits(0, TL_STATE_MOMENT1) + s.bits(0, TL_STATE_MOMENT2) == moments,
                "moments after the way to the host and back");
      CHECK_MSG(s.bits(0, TL_STATE_GRADIENT) == std::string(static_cast<size_t>(s.adapter(0).elements) * 4, '\0'),
                "gradient after restore");
      CHECK(s.bits(0, TL_STATE_WEIGHTS) == weights);
    }
    s.begin(both);
    const Outputs outputs = run_linears(s, l);
    bits[away] = s.bits_of(outputs, 0) + s.bits_of(outputs, 1);
    update(s, {{0, item(2, 1e-3f, 0.01f, 1)}});
    for (int state = TL_STATE_WEIGHTS; state <= TL_STATE_MOMENT2; ++state) bits[away] += s.bits(0, state);
    // Away again, at once back, and away when it is detached: nothing may be left behind the copies.
    if (away) {
      const std::string after = s.bits(0, TL_STATE_MOMENT1) + s.bits(0, TL_STATE_MOMENT2);
      s.backend.adapter_offload(s.adapter(0));
      s.backend.adapter_restore(s.adapter(0));
      CHECK(s.bits(0, TL_STATE_MOMENT1) + s.bits(0, TL_STATE_MOMENT2) == after);
      s.backend.zero(s.adapter(1).state[TL_STATE_GRADIENT], s.adapter(1).elements * 4);
      s.backend.adapter_offload(s.adapter(0));
    }
  }
  CHECK_MSG(bits[0] == bits[1], "a job that was offloaded in between");
}
