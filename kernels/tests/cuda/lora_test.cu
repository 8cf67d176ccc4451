// S, dS, adapter gradients and dropout of LoRA inputs against loops in fp64; bits against company, place and split.
#include <functional>
#include <map>

#include "cpu/philox.h"
#include "device.h"

using namespace device;

namespace {

constexpr int kLayer = 1, kLayers = 2;
constexpr uint64_t kBroken = 1000;  // sequences with this content or more are NaN and infinities
constexpr uint32_t kAll = 0x7f;

struct Shape {
  std::vector<int> modules;
  int64_t in;
  std::vector<int64_t> out;
};
// Everything the LoRA kernels of one group read and write, outputs poisoned.
class Lab {
 public:
  Lab(const Shape& shape_, const std::vector<Job>& jobs_, const std::vector<SequenceSpec>& sequences,
      const std::vector<int32_t>& homes = {})
      : shape(shape_), jobs(jobs_), batch(specs_of(jobs_), sequences, true, homes) {
    for (int m = 0; m < cuda::kModuleCount; ++m) {
      sizes.in[m] = 16;
      sizes.out[m] = 24;
    }
    int64_t per_rank = 0;
    for (size_t p = 0; p < shape.modules.size(); ++p) {
      sizes.in[shape.modules[p]] = shape.in;
      sizes.out[shape.modules[p]] = shape.out[p];
    }
    for (int m = 0; m < cuda::kModuleCount; ++m) per_rank += kLayers * (sizes.in[m] + sizes.out[m]);
    for (size_t j = 0; j < jobs.size(); ++j) {
      Adapter& a = batch.adapter(static_cast<int>(j));
      a.config.seed = 0x123456789abcdefu * static_cast<uint64_t>(jobs[j].identity + 1);
      a.scale = 0.5f + 0.3f * static_cast<float>(jobs[j].identity);
    }
    batch.set_gradients(per_rank);
    for (size_t j = 0; j < jobs.size(); ++j) {
      first_gradient.emplace_back(static_cast<size_t>(per_rank * jobs[j].rank));
      for (size_t i = 0; i < first_gradient[j].size(); ++i)
        first_gradient[j][i] = static_cast<float>(noise(7, static_cast<uint64_t>(jobs[j].identity), i, 0));
      batch.gradients[j].set(first_gradient[j]);
    }

    bool dropout = false;
    int32_t capacity = 16;
    for (size_t j = 0; j < jobs.size(); ++j) {
      dropout |= jobs[j].dropout > 0;
      capacity = std::max(capacity, batch.homes[j] + (jobs[j].rank + 15) / 16 * 16);
    }
    group.parts = static_cast<int>(shape.modules.size());
    group.layer = kLayer;
    x = activations(1, shape.in);
    dx = activations(2, shape.in);
    dx_before = dx.memory.get();
    for (int p = 0; p < group.parts; ++p) {
      const int module = shape.modules[static_cast<size_t>(p)];
      const int64_t out = shape.out[static_cast<size_t>(p)];
      home_a.emplace_back(capacity, shape.in);
      home_b.emplace_back(out, capacity);
      home_a.back().fill([&](int64_t row, int64_t c) { return home_value(module, row, 1, c); });
      home_b.back().fill([&](int64_t o, int64_t column) { return home_value(module, column, 2, o); });
      dy.push_back(activations(10 + static_cast<uint64_t>(module), out));
      strip.emplace_back(batch.tokens(), batch.tables.strip_columns);
      strip_grad.emplace_back(batch.tokens(), batch.tables.strip_columns);
      if (dropout) dropped.emplace_back(batch.tokens(), shape.in);
      cuda::LoraPart& part = group.part[p];
      part.module = module;
      part.in = shape.in;
      part.out = out;
      part.home = {home_a.back().data(), home_a.back().ld, home_b.back().data(), home_b.back().ld};
      part.x = x.data();
      part.ld_x = x.ld;
      if (dropout) {
        part.dropped = dropped.back().data();
        part.ld_dropped = dropped.back().ld;
      }
      part.dy = dy.back().data();
      part.ld_dy = dy.back().ld;
      part.strip = strip.back().data();
      part.strip_grad = strip_grad.back().data();
      group.ld_strip = strip.back().ld;
    }
  }

  void run() {
    cuda::drop_inputs(nullptr, batch.tables, group);
    cuda::lora_down_forward(nullptr, batch.tables, group);
    cuda::lora_down_backward(nullptr, batch.tables, group);
    cuda::lora_gradients(nullptr, batch.tables, group, sizes);
    cuda::lora_masked_expand(nullptr, batch.tables, group, dx.data(), dx.ld);
    synchronize();
  }

  // A[r, c] (matrix 1) or B[c, r] (matrix 2) of a job.
  double weight(size_t job, int module, int r, int matrix, int64_t c) const {
    const double value = 0.2 * noise(static_cast<uint64_t>(100 + jobs[job].identity * 16 + module),
                                     static_cast<uint64_t>(matrix), static_cast<uint64_t>(r), static_cast<uint64_t>(c));
    return to_float(to_bf16(static_cast<float>(value)));
  }
  bool targets(int job, int part) const {
    return job >= 0 && (jobs[static_cast<size_t>(job)].targets >> shape.modules[static_cast<size_t>(part)] & 1);
  }
  int64_t strip_column(int job) const {
    int64_t column = 0;
    for (const auto& entry : batch.batch.adapters) {
      if (entry.first == &const_cast<TestBatch&>(batch).adapter(job)) return column;
      column += entry.first->strip_columns;
    }
    return -1;
  }
  int64_t start(size_t sequence) const { return batch.batch.segments[sequence].start; }
  cpu::DropoutMask mask(size_t sequence, int part) const {
    const Adapter& a = *batch.batch.segments[sequence].adapter;
    return cpu::DropoutMask(a.config.seed, batch.batch.segments[sequence].dropout_key, kLayer,
                            shape.modules[static_cast<size_t>(part)], a.config.dropout);
  }
  // [length, in]: keep or 0, by the CPU's mask.
  std::vector<float> factors(size_t sequence, int part) const {
    const int64_t length = batch.sequences[sequence].length, stride = (shape.in + 63) / 64 * 64;
    const float keep = 1.0f / (1.0f - jobs[static_cast<size_t>(batch.sequences[sequence].adapter)].dropout);
    const cpu::DropoutMask m = mask(sequence, part);
    std::vector<float> f(static_cast<size_t>(length * stride));
    for (int64_t t = 0; t < length; ++t)
      for (int64_t c = 0; c < shape.in; c += 64) m.factors(t, c, keep, &f[static_cast<size_t>(t * stride + c)]);
    return f;
  }

  // All bits that belong to a job: strips, gradient, dropped inputs, dx.
  std::string bits_of(int job) const {
    std::string bits;
    const int64_t column = strip_column(job), columns = (jobs[static_cast<size_t>(job)].rank + 15) / 16 * 16;
    auto rows = [&](const BfMatrix& m, int64_t first, int64_t count) {
      const std::vector<bf16> host = m.memory.get();
      for (size_t s = 0; s < batch.sequences.size(); ++s)
        if (batch.sequences[s].adapter == job)
          for (int64_t t = 0; t < batch.sequences[s].length; ++t)
            bits.append(reinterpret_cast<const char*>(&host[static_cast<size_t>((start(s) + t) * m.ld + first)]),
                        static_cast<size_t>(count) * 2);
    };
    for (int p = 0; p < group.parts; ++p) {
      rows(strip[static_cast<size_t>(p)], column, columns);
      rows(strip_grad[static_cast<size_t>(p)], column, columns);
      if (jobs[static_cast<size_t>(job)].dropout > 0 && targets(job, p))
        rows(dropped[static_cast<size_t>(p)], 0, shape.in);
    }
    rows(dx, 0, shape.in);
    const std::vector<float> gradient = batch.gradients[static_cast<size_t>(job)].get();
    bits.append(reinterpret_cast<const char*>(gradient.data()), gradient.size() * 4);
    return bits;
  }

  Shape shape;
  std::vector<Job> jobs;
  TestBatch batch;
  cuda::ModuleSizes sizes;
  cuda::LoraGroup group;
  BfMatrix x, dx;
  std::vector<bf16> dx_before;
  std::vector<BfMatrix> home_a, home_b, dy, strip, strip_grad, dropped;
  std::vector<std::vector<float>> first_gradient;

 private:
  BfMatrix activations(uint64_t seed, int64_t columns) const {
    return batch.matrix(columns, [&](uint64_t content, int64_t t, int64_t c) -> double {
      if (content >= kBroken) return (t + c) % 3 ? NAN : INFINITY;
      return noise(seed, content, static_cast<uint64_t>(t), static_cast<uint64_t>(c));
    });
  }
  // NaN where no adapter lives.
  double home_value(int module, int64_t home, int matrix, int64_t c) const {
    for (size_t j = 0; j < jobs.size(); ++j) {
      const int64_t r = home - batch.homes[j];
      if (r < 0 || r >= (jobs[j].rank + 15) / 16 * 16) continue;
      return r < jobs[j].rank ? weight(j, module, static_cast<int>(r), matrix, c) : 0.0;
    }
    return NAN;
  }
};

bool is_poison(bf16 x) {
  uint16_t bits;
  std::memcpy(&bits, &x, 2);
  return bits == 0xffff;
}

void check_dropped(const Lab& lab) {
  for (size_t p = 0; p < lab.dropped.size(); ++p) {
    const BfMatrix& m = lab.dropped[p];
    const std::vector<bf16> got = m.memory.get(), x = lab.x.memory.get();
    std::vector<char> written(got.size(), 0);
    int64_t wrong = 0, stray = 0;
    for (size_t s = 0; s < lab.batch.sequences.size(); ++s) {
      const SequenceSpec& sequence = lab.batch.sequences[s];
      if (!lab.targets(sequence.adapter, static_cast<int>(p))) continue;
      if (!(lab.jobs[static_cast<size_t>(sequence.adapter)].dropout > 0)) continue;
      const std::vector<float> factor = lab.factors(s, static_cast<int>(p));
      const int64_t stride = (lab.shape.in + 63) / 64 * 64;
      for (int64_t t = 0; t < sequence.length; ++t)
        for (int64_t c = 0; c < lab.shape.in; ++c) {
          const size_t at = static_cast<size_t>((lab.start(s) + t) * m.ld + c);
          const float f = factor[static_cast<size_t>(t * stride + c)];
          const float before = to_float(x[static_cast<size_t>((lab.start(s) + t) * lab.x.ld + c)]);
          const float want = f == 0 ? 0.0f : round_bf16(before * f);
          const float have = to_float(got[at]);
          written[at] = 1;
          wrong += std::isnan(want) ? !std::isnan(have) : std::memcmp(&want, &have, 4) != 0;
        }
    }
    for (size_t i = 0; i < got.size(); ++i) stray += !written[i] && !is_poison(got[i]);
    CHECK_MSG(wrong == 0, "part %zu: %lld dropped inputs differ from the CPU's mask", p, static_cast<long long>(wrong));
    CHECK_MSG(stray == 0, "part %zu: %lld elements written that were not promised", p, static_cast<long long>(stray));
  }
}

void check_strips(const Lab& lab, bool backward) {
  const int64_t strip_columns = lab.batch.tables.strip_columns;
  for (int p = 0; p < lab.group.parts; ++p) {
    const size_t part = static_cast<size_t>(p);
    const int module = lab.shape.modules[part];
    const int64_t width = backward ? lab.shape.out[part] : lab.shape.in;
    const BfMatrix& m = backward ? lab.strip_grad[part] : lab.strip[part];
    const std::vector<bf16> raw = m.memory.get();
    const std::vector<float> shared_input = (backward ? lab.dy[part] : lab.x).get();
    std::vector<float> own_input;
    if (!backward && !lab.dropped.empty()) own_input = lab.dropped[part].get();
    const int64_t ld = backward ? lab.dy[part].ld : lab.x.ld;
    std::vector<char> written(raw.size(), 0);
    Comparison comparison;
    int64_t not_zero = 0, stray = 0;
    bool any = false;
    std::map<int, std::vector<float>> weights;  // of a job: [rank, width]
    for (size_t s = 0; s < lab.batch.sequences.size(); ++s) {
      const SequenceSpec& sequence = lab.batch.sequences[s];
      const bool own = lab.targets(sequence.adapter, p);
      const size_t job = static_cast<size_t>(std::max(sequence.adapter, 0));
      const int64_t column = own ? lab.strip_column(sequence.adapter) : 0, rank = own ? lab.jobs[job].rank : 0;
      std::vector<float>& w = weights[sequence.adapter];
      if (own && w.empty())
        for (int64_t r = 0; r < rank; ++r)
          for (int64_t c = 0; c < width; ++c)
            w.push_back(static_cast<float>(lab.weight(job, module, static_cast<int>(r), backward ? 2 : 1, c)));
      const double scale = own ? lab.batch.batch.segments[s].adapter->scale : 0;
      const std::vector<float>& input = own && !backward && lab.jobs[job].dropout > 0 ? own_input : shared_input;
      for (int64_t t = 0; t < sequence.length; ++t) {
        const int64_t row = lab.start(s) + t;
        for (int64_t c = 0; c < strip_columns; ++c) {
          const size_t at = static_cast<size_t>(row * m.ld + c);
          written[at] = 1;
          if (c < column || c >= column + rank) {
            // Padding columns of a broken row are NaN times 0.
            const bool padding = own && c >= column && c < column + (rank + 15) / 16 * 16;
            not_zero += !(padding && sequence.content >= kBroken) && to_float(raw[at]) != 0.0f;
            continue;
          }
          if (sequence.content >= kBroken) continue;
          double sum = 0;
          for (int64_t k = 0; k < width; ++k)
            sum += static_cast<double>(input[static_cast<size_t>(row * ld + k)]) *
                   w[static_cast<size_t>((c - column) * width + k)];
          comparison.add(to_float(raw[at]), scale * sum);
          any = true;
        }
      }
    }
    for (size_t i = 0; i < raw.size(); ++i) stray += !written[i] && !is_poison(raw[i]);
    const char* name = backward ? "dS" : "S";
    CHECK_MSG(not_zero == 0, "%s of part %d: %lld elements outside the row's own adapter are not zero", name, p,
              static_cast<long long>(not_zero));
    CHECK_MSG(stray == 0, "%s of part %d: %lld elements written that were not promised", name, p,
              static_cast<long long>(stray));
    if (any) comparison.check(std::string(name) + " of part " + std::to_string(p), 4e-3);
  }
}

void check_gradients(const Lab& lab) {
  for (size_t j = 0; j < lab.jobs.size(); ++j) {
    bool broken = false, present = false;
    for (const SequenceSpec& s : lab.batch.sequences)
      if (s.adapter == static_cast<int>(j)) {
        broken |= s.content >= kBroken;
        present = true;
      }
    const std::vector<float> got = lab.batch.gradients[j].get();
    std::vector<double> want(lab.first_gradient[j].begin(), lab.first_gradient[j].end());
    std::vector<char> touched(got.size(), 0);
    for (int p = 0; p < lab.group.parts && present; ++p) {
      if (!lab.targets(static_cast<int>(j), p)) continue;
      const size_t part = static_cast<size_t>(p);
      const int64_t rank = lab.jobs[j].rank, in = lab.shape.in, out = lab.shape.out[part];
      const int64_t a = cuda::flat_offset(lab.sizes, lab.jobs[j].targets, static_cast<int>(rank), kLayer,
                                          lab.shape.modules[part]);
      const int64_t b = a + rank * in, column = lab.strip_column(static_cast<int>(j));
      const std::vector<float> x = (lab.jobs[j].dropout > 0 ? lab.dropped[part] : lab.x).get(), dy = lab.dy[part].get();
      const std::vector<float> strip = lab.strip[part].get(), strip_grad = lab.strip_grad[part].get();
      std::fill(touched.begin() + a, touched.begin() + b + rank * out, 1);
      if (broken) continue;
      for (size_t s = 0; s < lab.batch.sequences.size(); ++s) {
        if (lab.batch.sequences[s].adapter != static_cast<int>(j)) continue;
        for (int64_t row = lab.start(s); row < lab.start(s) + lab.batch.sequences[s].length; ++row) {
          const float* s_row = &strip[static_cast<size_t>(row * lab.group.ld_strip + column)];
          const float* ds_row = &strip_grad[static_cast<size_t>(row * lab.group.ld_strip + column)];
          const float* x_row = &x[static_cast<size_t>(row * lab.x.ld)];
          const float* dy_row = &dy[static_cast<size_t>(row * lab.dy[part].ld)];
          for (int64_t r = 0; r < rank; ++r)
            for (int64_t c = 0; c < in; ++c)
              want[static_cast<size_t>(a + r * in + c)] += static_cast<double>(ds_row[r]) * x_row[c];
          for (int64_t o = 0; o < out; ++o)
            for (int64_t r = 0; r < rank; ++r)
              want[static_cast<size_t>(b + o * rank + r)] += static_cast<double>(dy_row[o]) * s_row[r];
        }
      }
    }
    Comparison comparison;
    int64_t stray = 0, compared = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      if (!touched[i]) {
        stray += std::memcmp(&got[i], &lab.first_gradient[j][i], 4) != 0;
      } else if (!broken) {
        comparison.add(got[i], want[i]);
        ++compared;
      }
    }
    CHECK_MSG(stray == 0, "adapter %zu: %lld gradient elements of other tensors changed", j,
              static_cast<long long>(stray));
    if (compared > 0) comparison.check("gradient of adapter " + std::to_string(j), 2e-5);
  }
}

void check_expand(const Lab& lab) {
  const std::vector<bf16> got = lab.dx.memory.get();
  std::vector<char> changed(got.size(), 0);
  Comparison comparison;
  bool any = false;
  for (size_t s = 0; s < lab.batch.sequences.size(); ++s) {
    const SequenceSpec& sequence = lab.batch.sequences[s];
    if (sequence.adapter < 0 || sequence.content >= kBroken) continue;
    const size_t job = static_cast<size_t>(sequence.adapter);
    if (!(lab.jobs[job].dropout > 0)) continue;
    const int64_t in = lab.shape.in, stride = (in + 63) / 64 * 64, column = lab.strip_column(sequence.adapter);
    std::vector<float> value(static_cast<size_t>(sequence.length * in));
    for (int64_t t = 0; t < sequence.length; ++t)
      for (int64_t c = 0; c < in; ++c)
        value[static_cast<size_t>(t * in + c)] =
            to_float(lab.dx_before[static_cast<size_t>((lab.start(s) + t) * lab.dx.ld + c)]);
    for (int p = 0; p < lab.group.parts; ++p) {
      if (!lab.targets(sequence.adapter, p)) continue;
      const std::vector<float> factor = lab.factors(s, p), strip_grad = lab.strip_grad[static_cast<size_t>(p)].get();
      const std::vector<float> a = lab.home_a[static_cast<size_t>(p)].get();
      const int64_t lda = lab.home_a[static_cast<size_t>(p)].ld;
      std::vector<double> sum(static_cast<size_t>(in));
      for (int64_t t = 0; t < sequence.length; ++t) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t r = 0; r < lab.jobs[job].rank; ++r) {
          const double d = strip_grad[static_cast<size_t>((lab.start(s) + t) * lab.group.ld_strip + column + r)];
          const float* a_row = &a[static_cast<size_t>((lab.batch.homes[job] + r) * lda)];
          for (int64_t c = 0; c < in; ++c) sum[static_cast<size_t>(c)] += d * a_row[c];
        }
        for (int64_t c = 0; c < in; ++c) {
          const float f = factor[static_cast<size_t>(t * stride + c)];
          if (f == 0) continue;
          float& x = value[static_cast<size_t>(t * in + c)];
          x = round_bf16(static_cast<float>(x + static_cast<double>(f) * sum[static_cast<size_t>(c)]));
          changed[static_cast<size_t>((lab.start(s) + t) * lab.dx.ld + c)] = 1;
        }
      }
    }
    for (int64_t t = 0; t < sequence.length; ++t)
      for (int64_t c = 0; c < in; ++c) {
        const size_t at = static_cast<size_t>((lab.start(s) + t) * lab.dx.ld + c);
        if (!changed[at]) continue;
        comparison.add(to_float(got[at]), value[static_cast<size_t>(t * in + c)]);
        any = true;
      }
  }
  int64_t stray = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const float before = to_float(lab.dx_before[i]);
    stray += !changed[i] && before == before && std::memcmp(&got[i], &lab.dx_before[i], 2) != 0;
  }
  CHECK_MSG(stray == 0, "%lld elements of dx changed that nothing was to be added to", static_cast<long long>(stray));
  if (any) comparison.check("dx", 8e-3);
}

void check_all(Lab& lab) {
  lab.run();
  check_dropped(lab);
  check_strips(lab, false);
  check_strips(lab, true);
  check_gradients(lab);
  check_expand(lab);
}

const Shape kQkv{{TL_Q_PROJ, TL_K_PROJ, TL_V_PROJ}, 200, {200, 33, 70}};
constexpr uint32_t kQv = 1u << TL_Q_PROJ | 1u << TL_V_PROJ;

}  // namespace

TEST(lora_qkv_plain) {
  REQUIRE_GPU();
  Lab lab(kQkv, {{0, 16, kAll, 0}, {1, 3, kQv, 0}, {2, 20, kAll, 0}, {3, 1, 1u << TL_K_PROJ, 0}},
          {{0, 65, 1}, {-1, 30, 2}, {1, 127, 3}, {0, 1, 4}, {2, 129, 5}, {3, 64, 6}, {2, 7, 7}, {-1, 1, 8}});
  check_all(lab);
}

TEST(lora_qkv_dropout_and_none_mixed) {
  REQUIRE_GPU();
  Lab lab(kQkv, {{0, 16, kAll, 0.3f}, {1, 3, kQv, 0}, {2, 20, kQv, 0.5f}, {3, 64, kAll, 0.05f}},
          {{0, 65, 1}, {-1, 30, 2}, {1, 127, 3}, {0, 1, 4}, {2, 129, 5}, {3, 64, 6}, {2, 7, 7}});
  check_all(lab);
}

TEST(lora_big_ranks) {
  REQUIRE_GPU();
  Lab lab({{TL_Q_PROJ, TL_K_PROJ, TL_V_PROJ}, 136, {72, 40, 40}},
          {{0, 256, kAll, 0}, {1, 128, kAll, 0.2f}, {2, 200, kQv, 0.4f}, {3, 64, kAll, 0}},
          {{0, 70, 1}, {1, 50, 2}, {2, 66, 3}, {3, 100, 4}, {0, 3, 5}});
  check_all(lab);
}

TEST(lora_odd_widths) {
  REQUIRE_GPU();
  const int64_t widths[][2] = {{5, 5}, {33, 70}, {70, 1100}, {1100, 33}};
  for (const auto& w : widths) {
    Lab lab({{TL_O_PROJ}, w[0], {w[1]}}, {{0, 16, kAll, 0}, {1, 20, kAll, 0.25f}, {2, 16, 1u << TL_Q_PROJ, 0}},
            {{1, 66, 1}, {0, 129, 2}, {2, 20, 3}, {0, 1, 4}});
    check_all(lab);
  }
}

TEST(lora_two_parts_wide_out) {
  REQUIRE_GPU();
  Lab lab({{TL_GATE_PROJ, TL_UP_PROJ}, 264, {1100, 1100}},
          {{0, 16, kAll, 0}, {1, 48, kAll, 0}, {2, 8, 1u << TL_UP_PROJ, 0}},
          {{0, 130, 1}, {1, 63, 2}, {2, 64, 3}});
  check_all(lab);
}

TEST(lora_wide_contraction) {
  REQUIRE_GPU();
  // Above 8,192 columns a tile is shared by more CTAs.
  Lab lab({{TL_DOWN_PROJ}, 9000, {136}}, {{0, 16, kAll, 0}, {1, 4, kAll, 0.1f}}, {{0, 66, 1}, {1, 40, 2}});
  check_all(lab);
  Lab back({{TL_GATE_PROJ, TL_UP_PROJ}, 136, {9000, 100}}, {{0, 16, kAll, 0}}, {{0, 66, 1}});
  check_all(back);
}

// So many tiles that a CTA takes two or four shares of the contraction, of ranks within and beyond what it then does at once.
TEST(lora_many_tiles) {
  REQUIRE_GPU();
  const Shape shape{{TL_O_PROJ}, 520, {328}};
  for (const std::vector<int>& ranks : {std::vector<int>{16}, std::vector<int>{40}, std::vector<int>{16, 16, 16, 64}}) {
    std::vector<Job> jobs;
    for (size_t j = 0; j < ranks.size(); ++j) jobs.push_back({static_cast<int>(j), ranks[j], kAll, 0});
    std::vector<SequenceSpec> all, own;
    for (int i = 0; i < 150; ++i) {
      all.push_back({i % static_cast<int>(jobs.size()), 1 + i % 5, static_cast<uint64_t>(i)});
      if (all.back().adapter == 0) own.push_back(all.back());
    }
    Lab many(shape, jobs, all);
    check_all(many);
    if (jobs.size() == 1) continue;
    Lab alone(shape, {jobs[0]}, own);
    alone.run();
    CHECK_MSG(alone.bits_of(0) == many.bits_of(0), "the bits of few tiles differ from those of many");
  }
}

TEST(lora_parts_of_one_matrix) {
  REQUIRE_GPU();
  // dY of all parts side by side in one matrix: what lies right of a part is another part's.
  Lab lab({{TL_Q_PROJ, TL_K_PROJ, TL_V_PROJ}, 72, {40, 24, 24}}, {{0, 16, kAll, 0}}, {{0, 100, 1}});
  const BfMatrix joint = lab.batch.matrix(88, [&](uint64_t content, int64_t t, int64_t c) {
    const uint64_t module = c < 40 ? TL_Q_PROJ : c < 64 ? TL_K_PROJ : TL_V_PROJ;
    const int64_t own = c < 40 ? c : c < 64 ? c - 40 : c - 64;
    return noise(10 + module, content, static_cast<uint64_t>(t), static_cast<uint64_t>(own));
  });
  const int64_t first[] = {0, 40, 64};
  for (int p = 0; p < 3; ++p) {
    lab.group.part[p].dy = joint.data() + first[p];
    lab.group.part[p].ld_dy = joint.ld;
  }
  check_all(lab);
}

TEST(lora_company_and_place_change_no_bit) {
  REQUIRE_GPU();
  for (const float dropout : {0.0f, 0.3f})
    for (const int rank : {16, 72}) {
      const Job job{5, rank, kQv, dropout};
      Lab alone(kQkv, {job}, {{0, 130, 1}, {0, 1, 2}, {0, 64, 3}});
      alone.run();
      const std::string want = alone.bits_of(0);
      // Neighbours of NaN and infinities between, before and behind, other strip and home columns.
      Lab among(kQkv, {{1, 20, kAll, 0.2f}, job, {2, 200, kAll, 0}},
                {{0, 37, kBroken}, {1, 130, 1}, {-1, 3, kBroken + 1}, {2, 90, kBroken + 2}, {1, 1, 2}, {1, 64, 3},
                 {0, 5, kBroken + 3}},
                {32, 320, 80});
      among.run();
      CHECK_MSG(among.bits_of(1) == want, "rank %d, dropout %g: bits changed among broken neighbours", rank, dropout);
      check_strips(among, false);
      check_strips(among, true);
      check_dropped(among);
      check_gradients(among);
      Lab behind(kQkv, {{1, 20, kAll, 0}, job}, {{0, 300, 9}, {1, 130, 1}, {1, 1, 2}, {0, 64, 10}, {1, 64, 3}});
      behind.run();
      CHECK_MSG(behind.bits_of(1) == want, "rank %d, dropout %g: bits changed at another place", rank, dropout);
    }
}

TEST(lora_gradient_split_changes_no_bit) {
  REQUIRE_GPU();
  const Job job{5, 20, kAll, 0};
  const std::vector<SequenceSpec> all{{0, 65, 1}, {0, 127, 2}, {0, 1, 3}, {0, 64, 4}, {0, 200, 5}};
  Lab whole(kQkv, {job}, all);
  whole.run();
  const std::vector<float> want = whole.batch.gradients[0].get();
  std::vector<float> carried = whole.first_gradient[0];
  for (const auto& range : {std::make_pair(0, 2), std::make_pair(2, 3), std::make_pair(3, 5)}) {
    Lab piece(kQkv, {job}, {all.begin() + range.first, all.begin() + range.second});
    piece.batch.gradients[0].set(carried);
    piece.run();
    carried = piece.batch.gradients[0].get();
  }
  CHECK_MSG(std::memcmp(want.data(), carried.data(), want.size() * 4) == 0,
            "the gradient of three calls differs from one call's");
}

TEST(lora_repeats) {
  REQUIRE_GPU();
  std::string first;
  for (int i = 0; i < 3; ++i) {
    Lab lab({{TL_Q_PROJ, TL_K_PROJ, TL_V_PROJ}, 1024, {1024, 256, 256}}, {{0, 16, kAll, 0.1f}, {1, 64, kAll, 0}},
            {{0, 200, 1}, {1, 300, 2}, {0, 130, 3}});
    lab.run();
    const std::string bits = lab.bits_of(0) + lab.bits_of(1);
    if (i == 0) first = bits;
    CHECK_MSG(bits == first, "run %d differs from the first", i);
  }
}
