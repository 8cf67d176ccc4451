// gated_backward against the kernels it stands for, swiglu_backward and lora_gradients, bit by bit: what it writes and what it
// must leave; company, place and split.
#include <algorithm>

#include "device.h"

using namespace device;

namespace {

constexpr int kLayer = 1, kLayers = 2;
constexpr uint64_t kBroken = 1000;  // sequences with this content or more are NaN and infinities
constexpr uint32_t kAll = 0x7f, kQuery = 1u << TL_Q_PROJ;
constexpr uint32_t kGate = 1u << TL_GATE_PROJ, kUp = 1u << TL_UP_PROJ, kDown = 1u << TL_DOWN_PROJ;
constexpr int64_t kHidden = 40;

double value(uint64_t seed, uint64_t content, int64_t t, int64_t c) {
  if (content >= kBroken) return (t + c) % 3 ? NAN : INFINITY;
  return noise(seed, content, static_cast<uint64_t>(t), static_cast<uint64_t>(c));
}

// Everything between the dX of down and that of gate and up. Strips are NaN outside the row's own adapter.
class Lab {
 public:
  Lab(int64_t width_, const std::vector<Job>& jobs_, const std::vector<SequenceSpec>& sequences)
      : width(width_), jobs(jobs_), batch(specs_of(jobs_), sequences) {
    int64_t per_rank = 0;
    for (int m = 0; m < cuda::kModuleCount; ++m) {
      const bool wide_out = m == TL_GATE_PROJ || m == TL_UP_PROJ;
      sizes.in[m] = m == TL_DOWN_PROJ ? width : wide_out ? kHidden : 16;
      sizes.out[m] = wide_out ? width : m == TL_DOWN_PROJ ? kHidden : 24;
      per_rank += kLayers * (sizes.in[m] + sizes.out[m]);
    }
    for (size_t j = 0; j < jobs.size(); ++j)
      batch.adapter(static_cast<int>(j)).config.seed = 77u + static_cast<uint64_t>(jobs[j].identity);
    batch.set_gradients(per_rank);
    bool dropout = false;
    for (size_t j = 0; j < jobs.size(); ++j) {
      dropout |= jobs[j].dropout > 0;
      first_gradient.emplace_back(static_cast<size_t>(per_rank * jobs[j].rank));
      for (size_t i = 0; i < first_gradient[j].size(); ++i)
        first_gradient[j][i] = static_cast<float>(noise(7, static_cast<uint64_t>(jobs[j].identity), i, 0));
      batch.gradients[j].set(first_gradient[j]);
    }
    gate_up = batch.matrix(2 * width, [](uint64_t content, int64_t t, int64_t c) { return 6.0 * value(1, content, t, c); });
    dact = batch.matrix(width, [](uint64_t content, int64_t t, int64_t c) { return value(2, content, t, c); });
    dact_before = dact.memory.get();
    act = BfMatrix(batch.tokens(), width);
    if (dropout) dropped = BfMatrix(batch.tokens(), width);
    for (uint64_t p = 0; p < 3; ++p) {
      strip.emplace_back(batch.tokens(), batch.tables.strip_columns);
      strip.back().fill([&](int64_t row, int64_t column) {
        const auto& [sequence, t] = place(row);
        const SequenceSpec& s = batch.sequences[sequence];
        const int64_t own = s.adapter < 0 ? -1 : column - strip_column(s.adapter);
        const int64_t rank = s.adapter < 0 ? 0 : jobs[static_cast<size_t>(s.adapter)].rank;
        if (own < 0 || own >= (rank + 15) / 16 * 16) return static_cast<double>(NAN);
        return own < rank ? value(10 + p, s.content, t, own) : 0.0;
      });
    }
  }

  bool others() const { return batch.tables.gated_adapters < batch.tables.adapter_count; }

  // The kernel, and lora_gradients for the adapters that it leaves.
  void run() {
    cuda::GatedBackward g;
    g.gate_up = gate_up.data();
    g.ld_gate_up = gate_up.ld;
    g.dact = dact.data();
    g.ld_dact = dact.ld;
    g.width = width;
    g.strip_gate = strip[0].data();
    g.strip_up = strip[1].data();
    g.strip_grad_down = strip[2].data();
    g.ld_strip = strip[0].ld;
    g.layer = kLayer;
    cuda::gated_backward(nullptr, batch.tables, g, sizes);
    if (others()) apart(dact, {false, false}, {true, true});
    synchronize();
  }
  // What it stands for.
  void run_apart() {
    cuda::swiglu_backward(nullptr, gate_up.data(), gate_up.ld, dact.data(), dact.ld, batch.tokens(), width, act.data(),
                          act.ld);
    apart(act, {true, true}, {true, true});
    synchronize();
  }

  bool fits(int job) const {
    const Job& j = jobs[static_cast<size_t>(job)];
    return j.rank <= cuda::kGatedColumns && !(j.dropout > 0);
  }
  // A job's dgate, dup and gradient.
  std::string bits_of(int job) const {
    std::string bits = batch.rows_of(job, gate_up, 2 * width);
    const std::vector<float> gradient = batch.gradients[static_cast<size_t>(job)].get();
    bits.append(reinterpret_cast<const char*>(gradient.data()), gradient.size() * 4);
    return bits;
  }
  std::pair<size_t, int64_t> place(int64_t row) const {
    size_t s = 0;
    while (s + 1 < batch.sequences.size() && batch.batch.segments[s + 1].start <= row) ++s;
    return {s, row - batch.batch.segments[s].start};
  }

  int64_t width;
  std::vector<Job> jobs;
  TestBatch batch;
  cuda::ModuleSizes sizes;
  BfMatrix gate_up, dact, act, dropped;
  std::vector<bf16> dact_before;
  std::vector<BfMatrix> strip;  // S of gate, S of up, dS of down
  std::vector<std::vector<float>> first_gradient;

 private:
  int64_t strip_column(int job) const {
    int64_t column = 0;
    const int index = batch.table_index(job);
    for (int i = 0; i < index; ++i) column += batch.batch.adapters[static_cast<size_t>(i)].first->strip_columns;
    return column;
  }
  // dA of down and dB of gate and up, whichever of the two sides is asked for.
  void apart(const BfMatrix& input, cuda::Sides gated, cuda::Sides rest) {
    cuda::LoraGroup down, inputs;
    down.layer = inputs.layer = kLayer;
    down.ld_strip = inputs.ld_strip = strip[0].ld;
    cuda::LoraPart& d = down.part[0];
    d.module = TL_DOWN_PROJ;
    d.in = width;
    d.out = kHidden;
    d.x = input.data();
    d.ld_x = input.ld;
    if (dropped.rows) d.dropped = dropped.data();
    d.ld_dropped = dropped.ld;
    d.strip_grad = strip[2].data();
    if (dropped.rows) cuda::drop_inputs(nullptr, batch.tables, down);
    cuda::lora_gradients(nullptr, batch.tables, down, sizes, {gated.a, false}, {rest.a, false});
    inputs.parts = 2;
    for (int p = 0; p < 2; ++p) {
      cuda::LoraPart& part = inputs.part[p];
      part.module = p ? TL_UP_PROJ : TL_GATE_PROJ;
      part.in = kHidden;
      part.out = width;
      part.dy = gate_up.data() + p * width;
      part.ld_dy = gate_up.ld;
      part.strip = strip[static_cast<size_t>(p)].data();
    }
    cuda::lora_gradients(nullptr, batch.tables, inputs, sizes, {false, gated.b}, {false, rest.b});
  }
};

bool same(const void* a, const void* b, size_t bytes) { return std::memcmp(a, b, bytes) == 0; }

void compare(const std::string& name, Lab& fused, Lab& apart) {
  fused.run();
  apart.run_apart();
  const std::vector<bf16> got = fused.gate_up.memory.get(), want = apart.gate_up.memory.get();
  int64_t wrong = 0, missing = 0;
  for (int64_t r = 0; r < padded(fused.batch.tokens()); ++r) {
    const size_t at = static_cast<size_t>(r * fused.gate_up.ld);
    wrong += !same(&got[at], &want[at], static_cast<size_t>(fused.gate_up.ld) * 2);
    for (int64_t c = 0; r < fused.batch.tokens() && c < 2 * fused.width; ++c)
      missing += !std::isfinite(to_float(got[at + static_cast<size_t>(c)]));
  }
  CHECK_MSG(wrong == 0, "%s: %lld rows of dgate and dup differ", name.c_str(), static_cast<long long>(wrong));
  CHECK_MSG(missing == 0, "%s: %lld elements of dgate and dup are no numbers", name.c_str(), static_cast<long long>(missing));

  // dact: act where lora_gradients wants it, else untouched.
  const std::vector<bf16> left = fused.dact.memory.get(), act = apart.act.memory.get();
  wrong = 0;
  for (int64_t r = 0; r < padded(fused.batch.tokens()); ++r) {
    const int job = r < fused.batch.tokens() ? fused.batch.sequences[fused.place(r).first].adapter : -1;
    const bool becomes_act = job >= 0 && !fused.fits(job) && (fused.jobs[static_cast<size_t>(job)].targets & kDown);
    for (int64_t c = 0; c < fused.dact.ld; ++c) {
      const size_t at = static_cast<size_t>(r * fused.dact.ld + c);
      wrong += !same(&left[at], becomes_act && c < fused.width ? &act[at] : &fused.dact_before[at], 2);
    }
  }
  CHECK_MSG(wrong == 0, "%s: %lld elements of dact are not as promised", name.c_str(), static_cast<long long>(wrong));

  for (size_t j = 0; j < fused.jobs.size(); ++j) {
    const bool present = fused.batch.table_index(static_cast<int>(j)) >= 0;
    const std::vector<float> mine = fused.batch.gradients[j].get(), other = apart.batch.gradients[j].get();
    int64_t differ = 0, grown = 0;
    for (size_t i = 0; i < mine.size(); ++i) {
      differ += !same(&mine[i], &other[i], 4);
      grown += !same(&mine[i], &fused.first_gradient[j][i], 4);
    }
    const Job& job = fused.jobs[j];
    int64_t targeted = 0;
    for (const uint32_t module : {kGate, kUp, kDown}) targeted += job.targets & module ? job.rank * fused.width : 0;
    CHECK_MSG(differ == 0, "%s: %lld gradient elements of adapter %zu differ", name.c_str(),
              static_cast<long long>(differ), j);
    // Almost every element: a sum can be too small to change one.
    CHECK_MSG(grown <= targeted && (!present || grown >= targeted * 9 / 10),
              "%s: %lld of %lld gradient elements of adapter %zu changed", name.c_str(), static_cast<long long>(grown),
              static_cast<long long>(targeted), j);
  }
}

void compare(const std::string& name, int64_t width, const std::vector<Job>& jobs, const std::vector<SequenceSpec>& sequences) {
  Lab fused(width, jobs, sequences), apart(width, jobs, sequences);
  compare(name + ", width " + std::to_string(width), fused, apart);
}

// Lengths around a chunk's, base-only rows between and at the end.
const std::vector<SequenceSpec> kMixed = {{0, 65, 1}, {-1, 30, 2}, {1, 127, 3}, {0, 1, 4},  {2, 129, 5}, {3, 64, 6},
                                          {2, 7, 7},  {-1, 1, 8},  {0, 63, 9},  {1, 33, 10}, {-1, 200, 11}};

}  // namespace

TEST(gated_backward_widths) {
  REQUIRE_GPU();
  for (const int64_t width : {8, 56, 64, 72, 200, 1096})
    compare("four jobs", width, {{0, 16, kAll, 0}, {1, 3, kAll, 0}, {2, 32, kAll, 0}, {3, 17, kAll, 0}}, kMixed);
}

TEST(gated_backward_targets) {
  REQUIRE_GPU();
  for (const int rank : {1, 16, 20, 32})
    compare("rank " + std::to_string(rank), 136,
            {{0, rank, kGate, 0}, {1, rank, kUp | kQuery, 0}, {2, rank, kDown, 0}, {3, rank, kQuery, 0}}, kMixed);
  compare("pairs", 136,
          {{0, 16, kGate | kDown, 0}, {1, 16, kUp | kDown, 0}, {2, 32, kGate | kUp, 0}, {3, 32, kAll & ~kUp, 0}}, kMixed);
}

TEST(gated_backward_beside_wide_and_dropped) {
  REQUIRE_GPU();
  compare("wide", 200, {{0, 16, kAll, 0}, {1, 33, kAll, 0}, {2, 200, kAll & ~kDown, 0}, {3, 64, kDown, 0}}, kMixed);
  compare("dropout", 200, {{0, 16, kAll, 0.3f}, {1, 3, kAll, 0}, {2, 64, kAll, 0.5f}, {3, 20, kGate | kUp, 0.1f}},
          kMixed);
  compare("none fits", 72, {{0, 64, kAll, 0}, {1, 48, kAll, 0}, {2, 16, kAll, 0.2f}, {3, 40, kUp, 0}}, kMixed);
}

TEST(gated_backward_few_rows) {
  REQUIRE_GPU();
  for (const int64_t length : {1, 16, 63, 64, 65, 128, 129, 193})
    compare("one sequence of " + std::to_string(length), 72, {{0, 16, kAll, 0}}, {{0, length, 1}});
  compare("base only", 72, {{0, 16, kAll, 0}}, {{-1, 70, 1}, {-1, 1, 2}});
}

// The ring goes round many times, inside a sequence and over short ones.
TEST(gated_backward_many_chunks) {
  REQUIRE_GPU();
  compare("long", 72, {{0, 16, kAll, 0}, {1, 32, kAll, 0}}, {{0, 64 * 41 + 7, 1}, {1, 300, 2}, {0, 64 * 3, 3}});
  std::vector<SequenceSpec> sequences;
  for (int i = 0; i < 180; ++i) sequences.push_back({i % 3 - 1, 1 + i % 70, static_cast<uint64_t>(i)});
  compare("short", 72, {{0, 32, kAll, 0}, {1, 8, kAll, 0}}, sequences);
}

TEST(gated_backward_whole_device) {
  REQUIRE_GPU();
  const std::vector<Job> jobs = {{0, 16, kAll, 0}, {1, 32, kAll, 0}, {2, 4, kAll, 0}, {3, 64, kAll, 0}};
  const std::vector<SequenceSpec> sequences = {{0, 200, 1}, {1, 300, 2}, {-1, 70, 3},
                                               {2, 130, 4}, {3, 90, 5},  {0, 257, 6}};
  std::string first;
  for (int i = 0; i < 3; ++i) {
    Lab lab(8264, jobs, sequences);
    if (i == 0) {
      Lab apart(8264, jobs, sequences);
      compare("whole device", lab, apart);
    } else {
      lab.run();
    }
    const std::string bits = lab.bits_of(0) + lab.bits_of(1) + lab.bits_of(2) + lab.bits_of(3);
    if (i == 0) first = bits;
    CHECK_MSG(bits == first, "run %d differs from the first", i);
  }
}

TEST(gated_backward_company_and_place_change_no_bit) {
  REQUIRE_GPU();
  for (const int rank : {16, 32, 72})
    for (const uint32_t targets : {kAll, kGate | kDown}) {
      const Job job{5, rank, targets, 0};
      Lab alone(200, {job}, {{0, 130, 1}, {0, 1, 2}, {0, 64, 3}});
      alone.run();
      const std::string want = alone.bits_of(0);
      const std::vector<Job> company = {{1, 20, kAll, 0}, job, {2, 200, kAll, 0.2f}};
      Lab among(200, company,
                {{0, 37, kBroken}, {1, 130, 1}, {-1, 3, kBroken + 1}, {2, 90, kBroken + 2}, {1, 1, 2}, {1, 64, 3},
                 {0, 5, kBroken + 3}});
      among.run();
      CHECK_MSG(among.bits_of(1) == want, "rank %d: bits changed among broken neighbours", rank);
      Lab behind(200, company, {{0, 300, 9}, {1, 130, 1}, {1, 1, 2}, {-1, 400, 11}, {0, 64, 10}, {1, 64, 3}});
      behind.run();
      CHECK_MSG(behind.bits_of(1) == want, "rank %d: bits changed at another place", rank);
    }
}

TEST(gated_backward_split_changes_no_bit) {
  REQUIRE_GPU();
  for (const int rank : {16, 20}) {
    const Job job{5, rank, kAll, 0};
    const std::vector<SequenceSpec> all{{0, 65, 1}, {0, 127, 2}, {0, 1, 3}, {0, 64, 4}, {0, 200, 5}};
    Lab whole(136, {job}, all);
    whole.run();
    const std::vector<float> want = whole.batch.gradients[0].get();
    std::vector<float> carried = whole.first_gradient[0];
    for (const auto& range : {std::make_pair(0, 2), std::make_pair(2, 3), std::make_pair(3, 5)}) {
      Lab piece(136, {job}, {all.begin() + range.first, all.begin() + range.second});
      piece.batch.gradients[0].set(carried);
      piece.run();
      carried = piece.batch.gradients[0].get();
    }
    CHECK_MSG(same(want.data(), carried.data(), want.size() * 4),
              "rank %d: the gradient of three calls differs from one call's", rank);
  }
}
