// Every op of the CPU backend. One table: each op runs on each of its shapes, is compared with a double-precision reference
// (backward ops with central differences of one), and then runs again with other thread counts, without its neighbours and at
// another place in the batch: the rows and the gradient of adapter 0 must keep every bit.
#include <algorithm>

#include "cpu/philox.h"
#include "op_cases.h"

using namespace lab;
using namespace op_cases;

namespace {

// What adapter 0 got, as bytes.
using Bits = std::string;

struct Op {
  const char* name;
  std::function<Bits(const Shape&, const Setting&)> run;
  std::vector<Shape> shapes;
};

void run(const Op& op) {
  for (const Shape& shape : op.shapes) {
    Bits expected;
    for (const auto& [name, setting] : settings(shape)) {
      const int failures = harness::state().failures;
      const Bits bits = op.run(shape, setting);
      if (expected.empty()) expected = bits;
      CHECK_MSG(!bits.empty() && bits == expected, "%s, %s: bits differ from the first run", shape.name, name.c_str());
      if (harness::state().failures > failures) std::printf("  … in %s, %s, %s\n", op.name, shape.name, name.c_str());
    }
  }
}

double round_like(const Shape& shape, double x) {
  return shape.compute == TL_COMPUTE_BF16 ? cpu::round_bf16(static_cast<float>(x)) : x;
}
// fp32 sums differ from double ones by rounding; in bf16 mode one output rounding is up to 2^-9, and S rounds before.
double tolerance(const Shape& shape, double fp32) { return shape.compute == TL_COMPUTE_BF16 ? 6e-3 : fp32; }

// ---- linears -----------------------------------------------------------------------------------------------------------

// Modules 0, 1, 2 share an input of width a; outputs b, c, d (0: no such module).
struct LinearSetup {
  LinearSetup(const Shape& shape, const Setting& setting, bool with_bias)
      : outs{shape.b, shape.c, shape.d},
        lab(setting.threads, shape.compute, shape.adapters, setting.sequences,
            {{shape.a, shape.b}, {shape.a, shape.c}, {shape.a, shape.d}}) {
    lab.bf16 = shape.compute == TL_COMPUTE_BF16;
    count = shape.d ? 3 : shape.c ? 2 : 1;
    bool dropout = false;
    for (const AdapterSpec& a : shape.adapters) dropout |= a.dropout > 0;
    x = lab.input("x", shape.a);
    std::vector<LinearSpec> specs;
    for (int m = 0; m < count; ++m) {
      specs.push_back({"w" + std::to_string(m), outs[m], with_bias});
      total += outs[m];
    }
    const auto weights = lab.group(specs, shape.a, 0.2);
    y = lab.poisoned(lab.tokens(), total);
    const int64_t strip_bytes = lab.backend.strip_bytes(lab.tokens(), lab.batch.strip_elements, lab.batch.strip_columns);
    char* strips = static_cast<char*>(lab.memory(count * strip_bytes));
    char* strip_grads = static_cast<char*>(lab.memory(count * strip_bytes));
    int64_t first = 0;
    for (int m = 0; m < count; ++m) {
      LinearPart part;
      part.module = m;
      part.weight = weights[static_cast<size_t>(m)];
      part.y = columns(y, first, lab.backend.activation_bytes());
      first += outs[m];
      part.strip = strips + m * strip_bytes;
      part.strip_grad = strip_grads + m * strip_bytes;
      if (dropout) part.dropped = lab.poisoned(lab.tokens(), shape.a);
      parts.push_back(part);
    }
  }
  int64_t outs[3];
  int count;
  int64_t total = 0;  // columns of y
  Lab lab;
  Matrix x, y;        // y: of all parts
  std::vector<LinearPart> parts;
};

// drop(x) of a segment's row in double, and the mask's factors.
Doubles drop_factors(const LinearSetup& s, const Segment& segment, int module, int64_t t, int64_t width) {
  Doubles f(static_cast<size_t>(width), 1.0);
  const float p = segment.adapter->config.dropout;
  if (!(p > 0)) return f;
  const cpu::DropoutMask mask(segment.adapter->config.seed, segment.dropout_key, 0, module, p);
  (void)s;
  for (int64_t c = 0; c < width; c += cpu::DropoutMask::kChunk) {
    float factor[cpu::DropoutMask::kChunk];
    mask.factors(t, c, 1.0f / (1.0f - p), factor);
    for (int64_t i = 0; i < std::min<int64_t>(cpu::DropoutMask::kChunk, width - c); ++i) f[static_cast<size_t>(c + i)] = factor[i];
  }
  return f;
}

double weight_at(const Shape& shape, const Adapter& a, int64_t i) { return round_like(shape, a.state[TL_STATE_WEIGHTS][i]); }

Bits run_linear_forward(const Shape& shape, const Setting& setting) {
  LinearSetup s(shape, setting, true);
  const Matrix residual = s.lab.input("residual", shape.b);
  s.lab.backend.linear_forward(s.lab.batch, 0, s.x, s.parts, s.count == 1 ? &residual : nullptr);
  Bits bits;
  for (int m = 0; m < s.count; ++m) bits += s.lab.rows_of(0, s.parts[static_cast<size_t>(m)].y, s.outs[m]);
  if (!setting.check) return bits;
  for (int m = 0; m < s.count; ++m) {
    Comparison comparison;
    const std::string name = "w" + std::to_string(m);
    for (const Segment& segment : s.lab.batch.segments)
      for (int64_t t = 0; t < segment.length; ++t) {
        const int64_t row = segment.start + t;
        Doubles strip;
        const LoraMatrices* l = segment.adapter ? &segment.adapter->at(0, m) : nullptr;
        if (l && l->in) {
          const Doubles f = drop_factors(s, segment, m, t, shape.a);
          for (int r = 0; r < segment.adapter->rank; ++r) {
            double sum = 0;
            for (int64_t c = 0; c < shape.a; ++c)
              sum += round_like(shape, Lab::at(s.x, row, c) * f[static_cast<size_t>(c)]) * weight_at(shape, *segment.adapter, l->a + r * shape.a + c);
            strip.push_back(round_like(shape, sum * segment.adapter->scale));
          }
        }
        for (int64_t o = 0; o < s.outs[m]; ++o) {
          double y = s.lab.weight(name + ".bias")[static_cast<size_t>(o)] + (s.count == 1 ? Lab::at(residual, row, o) : 0.0f);
          for (int64_t c = 0; c < shape.a; ++c) y += double{Lab::at(s.x, row, c)} * s.lab.weight(name)[static_cast<size_t>(o * shape.a + c)];
          for (size_t r = 0; r < strip.size(); ++r)
            y += strip[r] * weight_at(shape, *segment.adapter, l->b + o * segment.adapter->rank + static_cast<int64_t>(r));
          comparison.add(Lab::at(s.parts[static_cast<size_t>(m)].y, row, o), y);
        }
        // The padding is nobody's.
        for (int64_t o = s.total; o < s.y.ld; ++o) CHECK(std::isnan(Lab::at(s.y, row, o)));
      }
    comparison.check(name + " Y", tolerance(shape, 3e-6));
  }
  return bits;
}

// Analytic in double: the sums are the contract. Central differences of the whole are in gradient_test.cpp.
Bits run_linear_backward(const Shape& shape, const Setting& setting) {
  LinearSetup s(shape, setting, false);
  Lab& lab = s.lab;
  lab.backend.linear_forward(lab.batch, 0, s.x, s.parts, nullptr);  // for S
  lab.poison(s.y.data, padded_rows(lab.backend, lab.tokens()) * s.y.ld * lab.backend.activation_bytes());
  for (int m = 0; m < s.count; ++m) lab.fill(s.parts[static_cast<size_t>(m)].y, "dy" + std::to_string(m), s.outs[m]);
  const Matrix dx = lab.poisoned(lab.tokens(), shape.a);
  lab.backend.linear_backward(lab.batch, 0, s.parts, dx);
  if (setting.threads == 1) {  // one side at a time: the same bits
    lab.backend.adapter_gradients(lab.batch, 0, s.x, s.parts, {false, true});
    lab.backend.adapter_gradients(lab.batch, 0, s.x, s.parts, {true, false});
  } else {
    lab.backend.adapter_gradients(lab.batch, 0, s.x, s.parts);
  }
  const Bits bits = lab.rows_of(0, dx, shape.a) + lab.gradient_of(0);
  if (!setting.check) return bits;

  Comparison input;
  std::map<Adapter*, Doubles> gradients;
  for (const auto& owner : lab.batch.adapters) gradients[owner.first].resize(static_cast<size_t>(owner.first->elements));
  for (const Segment& segment : lab.batch.segments)
    for (int64_t t = 0; t < segment.length; ++t) {
      const int64_t row = segment.start + t;
      Doubles want(static_cast<size_t>(shape.a));
      for (int m = 0; m < s.count; ++m) {
        const Matrix dy = s.parts[static_cast<size_t>(m)].y;
        const std::vector<float>& w = lab.weight("w" + std::to_string(m));
        for (int64_t c = 0; c < shape.a; ++c)
          for (int64_t o = 0; o < s.outs[m]; ++o) want[static_cast<size_t>(c)] += double{Lab::at(dy, row, o)} * w[static_cast<size_t>(o * shape.a + c)];
        if (!segment.adapter || segment.adapter->at(0, m).in == 0) continue;
        const Adapter& a = *segment.adapter;
        const LoraMatrices& l = a.at(0, m);
        const Doubles f = drop_factors(s, segment, m, t, shape.a);
        for (int r = 0; r < a.rank; ++r) {
          double strip = 0, dstrip = 0;
          for (int64_t c = 0; c < shape.a; ++c)
            strip += round_like(shape, Lab::at(s.x, row, c) * f[static_cast<size_t>(c)]) * weight_at(shape, a, l.a + r * shape.a + c);
          for (int64_t o = 0; o < s.outs[m]; ++o) dstrip += Lab::at(dy, row, o) * weight_at(shape, a, l.b + o * a.rank + r);
          strip = round_like(shape, strip * a.scale);
          dstrip = round_like(shape, dstrip * a.scale);
          Doubles& g = gradients[segment.adapter];
          for (int64_t o = 0; o < s.outs[m]; ++o) g[static_cast<size_t>(l.b + o * a.rank + r)] += strip * Lab::at(dy, row, o);
          for (int64_t c = 0; c < shape.a; ++c) {
            g[static_cast<size_t>(l.a + r * shape.a + c)] += dstrip * round_like(shape, Lab::at(s.x, row, c) * f[static_cast<size_t>(c)]);
            want[static_cast<size_t>(c)] += f[static_cast<size_t>(c)] * dstrip * weight_at(shape, a, l.a + r * shape.a + c);
          }
        }
      }
      for (int64_t c = 0; c < shape.a; ++c) input.add(Lab::at(dx, row, c), want[static_cast<size_t>(c)]);
      for (int64_t c = shape.a; c < dx.ld; ++c) CHECK(std::isnan(Lab::at(dx, row, c)));
    }
  input.check("dX", shape.compute == TL_COMPUTE_BF16 ? 1e-2 : 3e-6);  // dropout adds part by part: up to four roundings
  for (const auto& [adapter, want] : gradients) {
    Comparison gradient;
    for (size_t i = 0; i < want.size(); ++i) gradient.add(adapter->state[TL_STATE_GRADIENT][i], want[i]);
    gradient.check("dA and dB of rank " + std::to_string(adapter->rank), tolerance(shape, 3e-6));
  }
  return bits;
}

TEST(op_linear_forward) { run({"linear_forward", run_linear_forward, linear_shapes()}); }
TEST(op_linear_backward) { run({"linear_backward", run_linear_backward, linear_shapes()}); }

// ---- norms -------------------------------------------------------------------------------------------------------------

double rms(const double* x, int64_t n, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
}

constexpr float kEps = 1e-5f;

Bits run_rmsnorm(const Shape& shape, const Setting& setting) {
  Lab lab(setting.threads, shape.compute, shape.adapters, setting.sequences);
  const int64_t n = lab.tokens(), width = shape.a;
  const Matrix x = lab.input("x", width), dy = lab.input("dy", width), y = lab.poisoned(n, width), dx = lab.input("residual", width);
  const Doubles residual = doubles(dx, n, width);
  const std::vector<float> w = lab.vector("norm", width);
  float* rstd = lab.floats(n);
  lab.backend.rmsnorm_forward(x, w.data(), kEps, nullptr, n, width, y, rstd);
  lab.backend.rmsnorm_backward(dy, x, w.data(), rstd, nullptr, n, width, &dx, dx);
  const Bits bits = lab.rows_of(0, y, width) + lab.rows_of(0, dx, width);
  if (!setting.check) return bits;

  Doubles input = doubles(x, n, width);
  const Doubles weights = doubles(dy, n, width);
  Comparison forward;
  for (int64_t r = 0; r < n; ++r) {
    const double inverse = rms(&input[static_cast<size_t>(r * width)], width, kEps);
    for (int64_t c = 0; c < width; ++c) forward.add(Lab::at(y, r, c), input[static_cast<size_t>(r * width + c)] * inverse * w[static_cast<size_t>(c)]);
  }
  forward.check("rmsnorm", 2e-6);
  check_gradient(
      "rmsnorm dx", input,
      [&](size_t i) { return Lab::at(dx, static_cast<int64_t>(i) / width, static_cast<int64_t>(i) % width) - residual[i]; },
      [&] {
        double loss = 0;
        for (int64_t r = 0; r < n; ++r) {
          const double* row = &input[static_cast<size_t>(r * width)];
          const double inverse = rms(row, width, kEps);
          for (int64_t c = 0; c < width; ++c) loss += weights[static_cast<size_t>(r * width + c)] * row[c] * inverse * w[static_cast<size_t>(c)];
        }
        return loss;
      },
      300, 5e-6);

  // By row index: only the named rows are read and written.
  const std::vector<int64_t> rows = {0, n - 1};
  const Matrix picked = lab.poisoned(2, width), scattered = lab.poisoned(n, width);
  lab.backend.rmsnorm_forward(x, w.data(), kEps, rows.data(), n > 1 ? 2 : 1, width, picked, rstd);
  lab.backend.rmsnorm_backward(picked, x, w.data(), rstd, rows.data(), n > 1 ? 2 : 1, width, nullptr, scattered);
  for (int64_t r = 0; r < n; ++r) CHECK(std::isfinite(Lab::at(scattered, r, 0)) == (r == 0 || r == n - 1));
  for (int64_t c = 0; c < width; ++c) CHECK(Lab::at(picked, n > 1 ? 1 : 0, c) == Lab::at(y, n - 1, c));
  return bits;
}

TEST(op_rmsnorm) {
  run({"rmsnorm", run_rmsnorm, norm_shapes()});
}

// ---- rope --------------------------------------------------------------------------------------------------------------

RopeTable rope_table(Lab& lab, int64_t positions, int64_t d) {
  RopeTable table{lab.floats(positions * d / 2), lab.floats(positions * d / 2), positions};
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < d / 2; ++i) {
      const float angle = static_cast<float>(p) * static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d)));
      table.cosine[p * d / 2 + i] = std::cos(angle);
      table.sine[p * d / 2 + i] = std::sin(angle);
    }
  return table;
}

// a heads, b kv heads, c head_dim, d = 1: with q and k norms.
Bits run_rope(const Shape& shape, const Setting& setting) {
  Lab lab(setting.threads, shape.compute, shape.adapters, setting.sequences);
  const int64_t n = lab.tokens(), d = shape.c, heads = shape.a, kv = shape.b, total = (heads + 2 * kv) * d;
  const AttentionShape attention{heads, kv, d};
  const Matrix qkv = lab.input("qkv", total), dqkv = lab.input("dqkv", total), q = lab.poisoned(n, heads * d), k = lab.poisoned(n, kv * d);
  const Doubles upstream = doubles(dqkv, n, total);
  const std::vector<float> q_norm = lab.vector("q_norm", d), k_norm = lab.vector("k_norm", d);
  const float* qw = shape.d ? q_norm.data() : nullptr;
  const float* kw = shape.d ? k_norm.data() : nullptr;
  const RopeTable table = rope_table(lab, lab.batch.longest, d);
  lab.backend.rope_forward(lab.batch, attention, qkv, qw, kw, kEps, table, q, k);
  lab.backend.rope_backward(lab.batch, attention, qkv, qw, kw, kEps, table, dqkv);
  const Matrix in_place = lab.input("qkv", total), k_in_place = columns(in_place, heads * d, lab.backend.activation_bytes());
  lab.backend.rope_forward(lab.batch, attention, in_place, qw, kw, kEps, table, in_place, k_in_place);
  CHECK(lab.rows_of(0, in_place, heads * d) == lab.rows_of(0, q, heads * d));
  CHECK(lab.rows_of(0, k_in_place, kv * d) == lab.rows_of(0, k, kv * d));
  CHECK(lab.rows_of(0, columns(in_place, (heads + kv) * d, lab.backend.activation_bytes()), kv * d) ==
        lab.rows_of(0, columns(qkv, (heads + kv) * d, lab.backend.activation_bytes()), kv * d));
  const Bits bits = lab.rows_of(0, q, heads * d) + lab.rows_of(0, k, kv * d) + lab.rows_of(0, dqkv, total);
  if (!setting.check) return bits;

  Doubles input = doubles(qkv, n, total);
  std::vector<int64_t> position;
  for (const Segment& s : lab.batch.segments)
    for (int64_t t = 0; t < s.length; ++t) position.push_back(t);
  // HF: x * cos + rotate_half(x) * sin, after the norm.
  auto rotated = [&](int64_t r, int64_t h, Doubles& out) {
    const double* x = &input[static_cast<size_t>(r * total + h * d)];
    const float* w = h < heads ? qw : kw;
    const double inverse = w ? rms(x, d, kEps) : 1.0;
    out.resize(static_cast<size_t>(d));
    for (int64_t i = 0; i < d; ++i) {
      const int64_t pair = i < d / 2 ? i + d / 2 : i - d / 2, angle = position[static_cast<size_t>(r)] * (d / 2) + i % (d / 2);
      const double self = x[i] * inverse * (w ? w[i] : 1.0f), other = x[pair] * inverse * (w ? w[pair] : 1.0f);
      out[static_cast<size_t>(i)] = self * table.cosine[angle] + (i < d / 2 ? -other : other) * table.sine[angle];
    }
  };
  Comparison forward, untouched;
  Doubles row;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t h = 0; h < heads + kv; ++h) {
      rotated(r, h, row);
      for (int64_t i = 0; i < d; ++i) forward.add(h < heads ? Lab::at(q, r, h * d + i) : Lab::at(k, r, (h - heads) * d + i), row[static_cast<size_t>(i)]);
    }
    for (int64_t c = (heads + kv) * d; c < total; ++c) untouched.add(Lab::at(dqkv, r, c), upstream[static_cast<size_t>(r * total + c)]);
  }
  forward.check("rope", 3e-6);
  untouched.check("v columns of dqkv", 0);
  // v columns are not an input of rope: differentiate the q and k columns only.
  Doubles upstream_qk = upstream;
  check_gradient(
      "rope dq, dk", input,
      [&](size_t i) { return static_cast<int64_t>(i) % total < (heads + kv) * d ? Lab::at(dqkv, static_cast<int64_t>(i) / total, static_cast<int64_t>(i) % total) : 0.0f; },
      [&] {
        double loss = 0;
        Doubles out;
        for (int64_t r = 0; r < n; ++r)
          for (int64_t h = 0; h < heads + kv; ++h) {
            rotated(r, h, out);
            for (int64_t i = 0; i < d; ++i) loss += out[static_cast<size_t>(i)] * upstream_qk[static_cast<size_t>(r * total + h * d + i)];
          }
        return loss;
      },
      60, 5e-6);
  return bits;
}

TEST(op_rope) {
  run({"rope", run_rope, rope_shapes()});
}

// ---- attention ---------------------------------------------------------------------------------------------------------

// a heads, b kv heads, c head_dim.
Bits run_attention(const Shape& shape, const Setting& setting) {
  Lab lab(setting.threads, shape.compute, shape.adapters, setting.sequences);
  lab.bf16 = shape.compute == TL_COMPUTE_BF16;
  const int64_t n = lab.tokens(), heads = shape.a, kv = shape.b, d = shape.c, total = (heads + 2 * kv) * d;
  const AttentionShape attention{heads, kv, d};
  const Matrix q = lab.input("q", heads * d, 2.0), k = lab.input("k", kv * d, 2.0), v = lab.input("v", kv * d), dout = lab.input("dout", heads * d);
  const Matrix out = lab.poisoned(n, heads * d), dqkv = lab.poisoned(n, total);
  float* lse = lab.floats(n * heads);
  const int64_t scratch_bytes = lab.backend.attention_scratch_bytes(attention, n, static_cast<int64_t>(lab.batch.segments.size()), lab.batch.longest, true);
  char* scratch = static_cast<char*>(lab.memory(scratch_bytes + 256));
  lab.backend.attention_forward(lab.batch, attention, q, k, v, out, lse, scratch);
  std::memset(scratch, 0xff, static_cast<size_t>(scratch_bytes));
  lab.backend.attention_backward(lab.batch, attention, q, k, v, out, lse, dout, dqkv, scratch);
  for (int i = 0; i < 256; ++i) CHECK(scratch[scratch_bytes + i] == static_cast<char>(0xff));
  // With the rotation undone: the two ops one after the other.
  const RopeTable table = rope_table(lab, lab.batch.longest, d);
  const Matrix fused = lab.poisoned(n, total), apart = lab.poisoned(n, total);
  lab.backend.rotated_attention_backward(lab.batch, attention, q, k, v, out, lse, dout, table, fused, scratch);
  lab.backend.attention_backward(lab.batch, attention, q, k, v, out, lse, dout, apart, scratch);
  lab.backend.rope_backward(lab.batch, attention, apart, nullptr, nullptr, kEps, table, apart);
  CHECK(lab.rows_of(0, fused, total) == lab.rows_of(0, apart, total));
  const Bits bits = lab.rows_of(0, out, heads * d) + lab.rows_of(0, dqkv, total);
  if (!setting.check) return bits;

  Doubles dq = doubles(q, n, heads * d), dk = doubles(k, n, kv * d), dv = doubles(v, n, kv * d);
  const Doubles upstream = doubles(dout, n, heads * d);
  // One query head over one segment: out rows, and the loss it adds.
  auto head = [&](const Segment& s, int64_t h, Doubles* result, Doubles* log_sums) {
    const int64_t g = h / (heads / kv);
    double loss = 0;
    for (int64_t i = 0; i < s.length; ++i) {
      Doubles p(static_cast<size_t>(i + 1));
      double top = -1e300, sum = 0;
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (int64_t c = 0; c < d; ++c) dot += dq[static_cast<size_t>((s.start + i) * heads * d + h * d + c)] * dk[static_cast<size_t>((s.start + j) * kv * d + g * d + c)];
        p[static_cast<size_t>(j)] = dot / std::sqrt(static_cast<double>(d));
        top = std::max(top, p[static_cast<size_t>(j)]);
      }
      for (double& e : p) sum += e = std::exp(e - top);
      if (log_sums) log_sums->push_back(top + std::log(sum));
      for (int64_t c = 0; c < d; ++c) {
        double o = 0;
        for (int64_t j = 0; j <= i; ++j) o += p[static_cast<size_t>(j)] / sum * dv[static_cast<size_t>((s.start + j) * kv * d + g * d + c)];
        if (result) result->push_back(o);
        loss += o * upstream[static_cast<size_t>((s.start + i) * heads * d + h * d + c)];
      }
    }
    return loss;
  };
  Comparison forward, sums;
  for (const Segment& s : lab.batch.segments)
    for (int64_t h = 0; h < heads; ++h) {
      Doubles result, log_sums;
      head(s, h, &result, &log_sums);
      for (int64_t i = 0; i < s.length; ++i) {
        sums.add(lse[(s.start + i) * heads + h], log_sums[static_cast<size_t>(i)]);
        for (int64_t c = 0; c < d; ++c) forward.add(Lab::at(out, s.start + i, h * d + c), result[static_cast<size_t>(i * d + c)]);
      }
    }
  forward.check("attention out", tolerance(shape, 3e-6));
  sums.check("lse", tolerance(shape, 2e-6));
  // An element reaches the loss of its own segment and group only.
  auto differentiate = [&](const char* name, Doubles& input, int64_t columns, int64_t first_column, size_t samples) {
    double largest = 0, error = 0;  // of all of dqkv: with one token dq and dk are zero
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < total; ++c) {
        CHECK(std::isfinite(Lab::at(dqkv, r, c)));
        largest = std::max<double>(largest, std::fabs(Lab::at(dqkv, r, c)));
      }
    const size_t stride = std::max<size_t>(1, input.size() / samples);
    for (size_t e = 0; e < input.size(); e += stride) {
      const int64_t r = static_cast<int64_t>(e) / columns, c = static_cast<int64_t>(e) % columns;
      const Segment* s = lab.batch.segments.data();
      while (r >= s->start + s->length) ++s;
      auto loss = [&] {
        double sum = 0;
        const int64_t h = c / d;
        if (&input == &dq) return head(*s, h, nullptr, nullptr);
        for (int64_t i = h * (heads / kv); i < (h + 1) * (heads / kv); ++i) sum += head(*s, i, nullptr, nullptr);
        return sum;
      };
      const double x = input[e], eps = 1e-4;
      input[e] = x + eps;
      const double up = loss();
      input[e] = x - eps;
      const double down = loss();
      input[e] = x;
      error = std::max(error, std::fabs((up - down) / (2 * eps) - Lab::at(dqkv, r, first_column + c)));
    }
    CHECK_MSG(error <= tolerance(shape, 1e-5) * largest && largest > 0, "%s: error %.3g of largest %.3g", name, error, largest);
  };
  const size_t samples = lab.batch.longest * d * heads > 20000 ? 9 : 150;
  differentiate("dq", dq, heads * d, 0, samples);
  differentiate("dk", dk, kv * d, heads * d, samples);
  differentiate("dv", dv, kv * d, (heads + kv) * d, samples);
  return bits;
}

TEST(op_attention) {
  run({"attention", run_attention, attention_shapes()});
}

// ---- swiglu ------------------------------------------------------------------------------------------------------------

Bits run_swiglu(const Shape& shape, const Setting& setting) {
  Lab lab(setting.threads, shape.compute, shape.adapters, setting.sequences);
  const int64_t n = lab.tokens(), width = shape.a;
  const Matrix gate_up = lab.input("gate_up", 2 * width, 9.0), dact = lab.input("dact", width), act = lab.poisoned(n, width);
  Doubles input = doubles(gate_up, n, 2 * width);
  lab.backend.swiglu_forward(gate_up, n, width, act);
  // The second output, beside dact or in its place, is what forward gave.
  const Matrix again = lab.poisoned(n, width), plain = lab.input("gate_up", 2 * width, 9.0), separate = lab.input("gate_up", 2 * width, 9.0);
  const Matrix in_place = lab.input("dact", width);
  lab.backend.swiglu_backward(gate_up, dact, n, width, {});
  lab.backend.swiglu_backward(separate, dact, n, width, again);
  lab.backend.swiglu_backward(plain, in_place, n, width, in_place);
  for (int i = -1; i < static_cast<int>(shape.adapters.size()); ++i) {
    CHECK(lab.rows_of(i, again, width) == lab.rows_of(i, act, width) && lab.rows_of(i, in_place, width) == lab.rows_of(i, act, width));
    CHECK(lab.rows_of(i, separate, 2 * width) == lab.rows_of(i, gate_up, 2 * width) && lab.rows_of(i, plain, 2 * width) == lab.rows_of(i, gate_up, 2 * width));
  }
  const Bits bits = lab.rows_of(0, act, width) + lab.rows_of(0, gate_up, 2 * width);
  if (!setting.check) return bits;
  auto value = [&](int64_t r, int64_t c) {
    const double g = input[static_cast<size_t>(r * 2 * width + c)], u = input[static_cast<size_t>(r * 2 * width + width + c)];
    return g / (1.0 + std::exp(-g)) * u;
  };
  Comparison forward;
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < width; ++c) forward.add(Lab::at(act, r, c), value(r, c));
  forward.check("swiglu", 1e-6);
  check_gradient(
      "dgate, dup", input, [&](size_t i) { return Lab::at(gate_up, static_cast<int64_t>(i) / (2 * width), static_cast<int64_t>(i) % (2 * width)); },
      [&] {
        double loss = 0;
        for (int64_t r = 0; r < n; ++r)
          for (int64_t c = 0; c < width; ++c) loss += value(r, c) * Lab::at(dact, r, c);
        return loss;
      },
      400, 2e-6);
  return bits;
}

TEST(op_swiglu) {
  run({"swiglu", run_swiglu, swiglu_shapes()});
}

// Gate, up and down (modules 0, 1, 2) of width a on a hidden size b: gated_backward and what it leaves against the ops apart.
Bits run_gated_backward(const Shape& shape, const Setting& setting) {
  const int64_t width = shape.a, hidden = shape.b;
  Bits bits[2];
  for (const bool apart : {false, true}) {
    Lab lab(setting.threads, shape.compute, shape.adapters, setting.sequences, {{hidden, width}, {hidden, width}, {width, hidden}});
    lab.bf16 = shape.compute == TL_COMPUTE_BF16;
    const int64_t n = lab.tokens(), strip_bytes = lab.backend.strip_bytes(n, lab.batch.strip_elements, lab.batch.strip_columns);
    bool dropout = false;
    for (const AdapterSpec& a : shape.adapters) dropout |= a.dropout > 0;
    const auto inputs = lab.group({{"gate", width, false}, {"up", width, false}}, hidden, 0.2);
    const auto output = lab.group({{"down", hidden, false}}, width, 0.2);
    std::vector<LinearPart> mlp(2), down(1);
    for (LinearPart* part : {&mlp[0], &mlp[1], &down[0]}) {
      part->module = part == &down[0] ? 2 : static_cast<int>(part - &mlp[0]);
      part->weight = part == &down[0] ? output[0] : inputs[static_cast<size_t>(part->module)];
      part->strip = lab.memory(strip_bytes);
      part->strip_grad = lab.memory(strip_bytes);
      if (dropout) part->dropped = lab.poisoned(n, part->weight->in);
    }
    const Matrix x = lab.input("x", hidden), gate_up = lab.poisoned(n, 2 * width), act = lab.poisoned(n, width);
    const Matrix h = lab.poisoned(n, hidden), dh = lab.input("dh", hidden), dact = lab.poisoned(n, width), dx = lab.poisoned(n, hidden);
    mlp[0].y = gate_up;
    mlp[1].y = columns(gate_up, width, lab.backend.activation_bytes());
    lab.backend.gated_forward(lab.batch, 0, x, mlp, act);
    down[0].y = h;
    lab.backend.linear_forward(lab.batch, 0, act, down, nullptr);
    down[0].y = dh;
    lab.backend.linear_backward(lab.batch, 0, down, dact);
    GradientSides left;
    if (apart) {
      lab.backend.swiglu_backward(gate_up, dact, n, width, {});
      lab.backend.adapter_gradients(lab.batch, 0, act, down);
    } else {
      left = lab.backend.gated_backward(lab.batch, 0, dact, down[0], mlp);
    }
    lab.backend.linear_backward(lab.batch, 0, mlp, dx);
    lab.backend.adapter_gradients(lab.batch, 0, x, mlp, left);
    bits[apart] = lab.rows_of(0, gate_up, 2 * width) + lab.rows_of(0, dx, hidden) + lab.gradient_of(0);
  }
  CHECK_MSG(bits[0] == bits[1], "%s: bits differ from those of the ops apart", shape.name);
  return bits[0];
}

TEST(op_gated_backward) {
  run({"gated_backward", run_gated_backward,
       {{"width 5", kOneAdapter, {{0, 1, 1}}, 5, 3},
        {"width 45", kTwoAdapters, kMixed, 45, 24},
        {"subsets, dropout", {{8, 5, 0.25f}, {3, 2, 0}}, kMixed, 96, 32},
        {"bf16", {{16, 127, 0}, {3, 4, 0.5f}}, kMixed, 64, 48, 0, 0, TL_COMPUTE_BF16}}});
}

// ---- head --------------------------------------------------------------------------------------------------------------

// a hidden, b vocab.
Bits run_head(const Shape& shape, const Setting& setting) {
  Lab lab(setting.threads, shape.compute, shape.adapters, setting.sequences);
  const int64_t n = lab.tokens(), hidden = shape.a, vocab = shape.b, ld = lab.backend.leading_dimension(vocab);
  const Matrix x = lab.input("x", hidden), dx = lab.poisoned(n, hidden), embedded = lab.poisoned(n, hidden);
  const FrozenLinear& head = lab.linear("head", vocab, hidden, false, 1.0);
  float* logits = lab.floats(n * ld);
  std::vector<int32_t> targets(static_cast<size_t>(n));
  std::vector<float> scale(static_cast<size_t>(n));
  for (const Segment& s : lab.batch.segments)
    for (int64_t t = 0; t < s.length; ++t) {
      targets[static_cast<size_t>(s.start + t)] = static_cast<int32_t>((static_cast<int64_t>(s.dropout_key) + 7 * t) % vocab);
      scale[static_cast<size_t>(s.start + t)] = 0.01f * static_cast<float>(1 + s.dropout_key % 7);
    }
  std::vector<double> loss(static_cast<size_t>(n), -1), evaluated(loss);
  std::vector<uint8_t> correct(static_cast<size_t>(n), 9), correct2(correct);
  lab.backend.embed(head, targets.data(), n, embedded);
  lab.backend.head_logits(x, n, head, logits, ld);
  const Matrix logit_matrix{logits, ld};
  const Doubles plain = doubles(logit_matrix, n, vocab);
  lab.backend.cross_entropy(logits, ld, n, vocab, targets.data(), nullptr, evaluated.data(), correct2.data());
  CHECK(doubles(logit_matrix, n, vocab) == plain);  // evaluation leaves the logits alone
  lab.backend.cross_entropy(logits, ld, n, vocab, targets.data(), scale.data(), loss.data(), correct.data());
  CHECK(loss == evaluated && correct == correct2);
  lab.backend.head_backward(logits, ld, n, head, dx);
  Bits bits = lab.rows_of(0, dx, hidden) + lab.rows_of(0, logit_matrix, vocab) + lab.rows_of(0, embedded, hidden);
  for (size_t s = 0; s < lab.batch.segments.size(); ++s)
    if (setting.sequences[s].adapter == 0)
      bits.append(reinterpret_cast<const char*>(&loss[static_cast<size_t>(lab.batch.segments[s].start)]), static_cast<size_t>(lab.batch.segments[s].length) * 8);
  if (!setting.check) return bits;

  const std::vector<float>& w = lab.weight("head");
  Comparison logit, loss_comparison, lookup;
  Doubles input = doubles(x, n, hidden);
  auto row_loss = [&](int64_t r, bool compare) {
    double top = -1e300, sum = 0;
    Doubles l(static_cast<size_t>(vocab));
    for (int64_t o = 0; o < vocab; ++o) {
      for (int64_t c = 0; c < hidden; ++c) l[static_cast<size_t>(o)] += input[static_cast<size_t>(r * hidden + c)] * w[static_cast<size_t>(o * hidden + c)];
      top = std::max(top, l[static_cast<size_t>(o)]);
      if (compare) logit.add(plain[static_cast<size_t>(r * vocab + o)], l[static_cast<size_t>(o)]);
    }
    for (const double v : l) sum += std::exp(v - top);
    if (compare) CHECK(correct[static_cast<size_t>(r)] == (l[static_cast<size_t>(targets[static_cast<size_t>(r)])] == top));
    return top + std::log(sum) - l[static_cast<size_t>(targets[static_cast<size_t>(r)])];
  };
  for (int64_t r = 0; r < n; ++r) {
    loss_comparison.add(loss[static_cast<size_t>(r)], row_loss(r, true));
    for (int64_t c = 0; c < hidden; ++c) lookup.add(Lab::at(embedded, r, c), w[static_cast<size_t>(targets[static_cast<size_t>(r)] * hidden + c)]);
  }
  logit.check("logits", 3e-6);
  loss_comparison.check("loss", 2e-6);
  lookup.check("embed", 0);
  double largest = 0, error = 0;
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < hidden; ++c) largest = std::max<double>(largest, std::fabs(Lab::at(dx, r, c)));
  for (size_t e = 0; e < input.size(); e += std::max<size_t>(1, input.size() / 60)) {
    const int64_t r = static_cast<int64_t>(e) / hidden;
    const double v = input[e], eps = 1e-4;
    input[e] = v + eps;
    const double up = row_loss(r, false);
    input[e] = v - eps;
    const double down = row_loss(r, false);
    input[e] = v;
    error = std::max(error, std::fabs((up - down) / (2 * eps) * scale[static_cast<size_t>(r)] - Lab::at(dx, r, static_cast<int64_t>(e) % hidden)));
  }
  CHECK_MSG(error <= 1e-5 * largest && largest > 0, "head dX: error %.3g of largest %.3g", error, largest);
  return bits;
}

TEST(op_head_and_cross_entropy) {
  run({"head", run_head, head_shapes()});
}

TEST(cross_entropy_ties_and_extremes) {
  Lab lab(1, TL_COMPUTE_FP32, {}, {{-1, 4, 1}});
  const float inf = std::numeric_limits<float>::infinity();
  alignas(64) float logits[4 * 32] = {};
  logits[0 * 32 + 3] = logits[0 * 32 + 17] = 2.0f;  // a tie: id 3 wins
  logits[1 * 32 + 3] = logits[1 * 32 + 17] = 2.0f;
  for (int i = 0; i < 20; ++i) logits[2 * 32 + i] = i == 5 ? 1000.0f : -1000.0f;
  logits[3 * 32 + 1] = inf;
  const int32_t targets[4] = {3, 17, 6, 0};
  double loss[4];
  uint8_t correct[4];
  lab.backend.cross_entropy(logits, 32, 4, 20, targets, nullptr, loss, correct);
  CHECK(correct[0] == 1 && correct[1] == 0 && correct[2] == 0);
  CHECK_MSG(std::fabs(loss[2] - 2000.0) < 1e-3, "loss is %g", loss[2]);
  CHECK(!std::isfinite(loss[3]));
}

// ---- micro-kernel and vector functions ---------------------------------------------------------------------------------

TEST(tile_chain_is_one_chain) {
  // Every tile size, with strided A, cut into parts and resumed: the bits of a scalar fma chain.
  constexpr int64_t k = 37;
  std::vector<float> a(64 * k), b(cpu::kPanel * k);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(noise(1, i, 0, 0));
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(noise(2, i, 0, 0));
  for (int rows = 1; rows <= cpu::kMaxTileRows; ++rows)
    for (int vectors = 1; vectors <= 2; ++vectors)
      for (int transposed = 0; transposed < 2; ++transposed) {
        alignas(64) float whole[cpu::kMaxTileRows * cpu::kPanel], cut[cpu::kMaxTileRows * cpu::kPanel];
        std::fill(std::begin(whole), std::end(whole), std::nanf(""));
        std::fill(std::begin(cut), std::end(cut), std::nanf(""));
        const int64_t row = transposed ? 1 : k, column = transposed ? 64 : 1;
        const cpu::Part part{a.data(), row, column, b.data(), cpu::kPanel, k};
        cpu::tile_chain(rows, vectors, &part, 1, false, whole);
        const cpu::Part first{a.data(), row, column, b.data(), cpu::kPanel, 5};
        const cpu::Part rest[2] = {{a.data() + 5 * column, row, column, b.data() + 5 * cpu::kPanel, cpu::kPanel, 1},
                                   {a.data() + 6 * column, row, column, b.data() + 6 * cpu::kPanel, cpu::kPanel, k - 6}};
        cpu::tile_chain(rows, vectors, &first, 1, false, cut);
        cpu::tile_chain(rows, vectors, rest, 2, true, cut);
        for (int m = 0; m < rows; ++m)
          for (int c = 0; c < cpu::kPanel; ++c) {
            const float got = whole[m * cpu::kPanel + c];
            if (c >= vectors * cpu::kLanes) {
              CHECK(std::isnan(got));
              continue;
            }
            double want = 0;
            for (int64_t i = 0; i < k; ++i) want += double{a[static_cast<size_t>(m * row + i * column)]} * b[static_cast<size_t>(i * cpu::kPanel + c)];
            CHECK(std::memcmp(&got, &cut[m * cpu::kPanel + c], 4) == 0);
            CHECK(std::fabs(got - want) < 1e-5);
#ifdef __FMA__
            float chain = 0;
            for (int64_t i = 0; i < k; ++i) chain = std::fma(a[static_cast<size_t>(m * row + i * column)], b[static_cast<size_t>(i * cpu::kPanel + c)], chain);
            CHECK(got == chain);
#endif
          }
      }
}

TEST(exponential_accuracy) {
  double worst = 0;
  for (float x = -86.0f; x < 88.7f; x += 0.00137f) {
    const double want = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(cpu::exponential(cpu::broadcast(x))[0] - want) / want);
  }
  CHECK_MSG(worst < 1.5e-7, "largest relative error %.3g", worst);
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(cpu::exponential(cpu::broadcast(-inf))[0] == 0.0f && cpu::exponential(cpu::broadcast(-200.0f))[0] == 0.0f);
  CHECK(cpu::exponential(cpu::broadcast(inf))[0] == inf && cpu::exponential(cpu::broadcast(89.0f))[0] == inf);
  CHECK(std::isnan(cpu::exponential(cpu::broadcast(std::nanf("")))[0]) && cpu::exponential(cpu::Vec{})[0] == 1.0f);
}

TEST(bf16_rounding) {
  // Against the definition: the nearer of the two neighbours, ties to even.
  for (uint64_t i = 0; i < 20000; ++i) {
    uint32_t bits = static_cast<uint32_t>(i * 2654435761u);
    if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // a tie
    float x;
    std::memcpy(&x, &bits, 4);
    if (!std::isfinite(x)) continue;
    const uint32_t low = bits & 0xffff0000u, high = low + 0x10000u;
    const uint32_t rest = bits & 0xffffu;
    const uint32_t want = rest < 0x8000u ? low : rest > 0x8000u ? high : (low >> 16 & 1u) ? high : low;
    float expected;
    std::memcpy(&expected, &want, 4);
    const float scalar = cpu::round_bf16(x), vector = cpu::round_bf16(cpu::broadcast(x))[0];
    CHECK(std::memcmp(&scalar, &expected, 4) == 0 && std::memcmp(&vector, &expected, 4) == 0);
  }
  CHECK(std::isnan(cpu::round_bf16(std::nanf(""))) && std::isnan(cpu::round_bf16(cpu::broadcast(std::nanf("1")))[0]));
}

TEST(philox_known_answers) {
  // The vectors of Random123's kat_vectors for philox4x32-10.
  struct Answer {
    uint32_t counter[4], key[2], words[4];
  };
  const Answer answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (const Answer& a : answers) {
    uint32_t words[4], many[64];
    cpu::philox<1>(a.key[0], a.key[1], a.counter[0], a.counter[1], a.counter[2], a.counter[3], words);
    cpu::philox<16>(a.key[0], a.key[1], a.counter[0] - 3, a.counter[1], a.counter[2], a.counter[3], many);
    for (int i = 0; i < 4; ++i) CHECK(words[i] == a.words[i] && many[12 + i] == a.words[i]);
  }
}

TEST(dropout_mask_statistics) {
  const cpu::DropoutMask mask(7, 8, 1, 2, 0.3f), other_module(7, 8, 1, 3, 0.3f), other_key(7, 9, 1, 2, 0.3f);
  int64_t dropped = 0, equal_module = 0, equal_key = 0, total = 0;
  for (int64_t t = 0; t < 400; ++t)
    for (int64_t c = 0; c < 512; c += cpu::DropoutMask::kChunk) {
      float a[cpu::DropoutMask::kChunk], b[cpu::DropoutMask::kChunk], d[cpu::DropoutMask::kChunk];
      mask.factors(t, c, 1, a);
      other_module.factors(t, c, 1, b);
      other_key.factors(t, c, 1, d);
      for (int i = 0; i < cpu::DropoutMask::kChunk; ++i) {
        dropped += a[i] == 0;
        equal_module += a[i] == b[i];
        equal_key += a[i] == d[i];
        ++total;
      }
    }
  const double share = static_cast<double>(dropped) / static_cast<double>(total), independent = 0.7 * 0.7 + 0.3 * 0.3;
  CHECK_MSG(std::fabs(share - 0.3) < 0.005, "dropped %g", share);
  CHECK(std::fabs(static_cast<double>(equal_module) / static_cast<double>(total) - independent) < 0.01);
  CHECK(std::fabs(static_cast<double>(equal_key) / static_cast<double>(total) - independent) < 0.01);
}

// ---- adapter state -----------------------------------------------------------------------------------------------------

const std::vector<std::pair<int64_t, int64_t>> kModules2 = {{50, 33}, {20, 64}};

TEST(op_adapter_init) {
  Lab lab(2, TL_COMPUTE_FP32, {{5, 3, 0}, {5, 3, 0}}, {}, kModules2);
  for (int i = 0; i < 2; ++i) lab.backend.adapter_init(lab.adapter(i));
  const Adapter& a = lab.adapter(0);
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (int m = 0; m < 2; ++m) {
    const LoraMatrices& l = a.at(0, m);
    const double bound = 1.0 / std::sqrt(static_cast<double>(l.in));
    for (int64_t i = 0; i < l.in * 5; ++i, ++count) {
      const double u = a.state[TL_STATE_WEIGHTS][l.a + i] / bound;
      CHECK(u >= -1 && u < 1);
      sum += u;
      squares += u * u;
    }
    for (int64_t i = 0; i < l.out * 5; ++i) CHECK(a.state[TL_STATE_WEIGHTS][l.b + i] == 0.0f);
  }
  CHECK(std::fabs(sum / static_cast<double>(count)) < 0.12 && std::fabs(squares / static_cast<double>(count) - 1.0 / 3) < 0.06);
  CHECK(std::memcmp(a.state[TL_STATE_WEIGHTS], lab.adapter(1).state[TL_STATE_WEIGHTS], static_cast<size_t>(a.elements) * 4) != 0);
  CHECK(std::memcmp(a.state[TL_STATE_WEIGHTS], a.state[TL_STATE_WEIGHTS] + a.at(0, 1).a, 80) != 0);  // tensors differ
}

void fill_state(Adapter& a, uint64_t seed) {
  for (int64_t i = 0; i < a.elements; ++i) {
    a.state[TL_STATE_WEIGHTS][i] = static_cast<float>(noise(seed, 1, static_cast<uint64_t>(i), 0));
    a.state[TL_STATE_MOMENT1][i] = static_cast<float>(0.1 * noise(seed, 2, static_cast<uint64_t>(i), 0));
    a.state[TL_STATE_MOMENT2][i] = static_cast<float>(0.01 * std::fabs(noise(seed, 3, static_cast<uint64_t>(i), 0)));
    a.state[TL_STATE_GRADIENT][i] = static_cast<float>(noise(seed, 4, static_cast<uint64_t>(i), 0));
  }
}

TEST(op_adamw) {
  for (const int threads : {1, 3}) {
    Lab lab(threads, TL_COMPUTE_FP32, {{7, 3, 0}, {200, 1, 0}, {16, 2, 0}}, {}, kModules2);
    std::vector<OptimizerTask> tasks;
    std::vector<Doubles> before[4];
    for (int i = 0; i < 3; ++i) {
      Adapter& a = lab.adapter(i);
      fill_state(a, static_cast<uint64_t>(i));
      lab.backend.adapter_refresh(a);
      for (int s = 0; s < 4; ++s) before[s].push_back(Doubles(a.state[s], a.state[s] + a.elements));
      tasks.push_back({&a, {1, 3 + i, 1e-2f, 0.9f, 0.95f, 1e-6f, i == 1 ? 0.0f : 0.1f, i == 0 ? 0.0f : 0.5f * static_cast<float>(i)}, {}});
    }
    lab.backend.adamw(tasks);
    for (size_t i = 0; i < 3; ++i) {
      const tl_optimizer_item& item = tasks[i].item;
      const Adapter& a = *tasks[i].adapter;
      double squares = 0;
      for (const double g : before[3][i]) squares += g * g;
      const double norm = std::sqrt(squares), clip = item.max_grad_norm > 0 ? std::min(1.0, item.max_grad_norm / (norm + 1e-6)) : 1.0;
      CHECK_MSG(std::fabs(tasks[i].result.grad_norm - norm) < 1e-12 * norm, "norm %.17g, expected %.17g", tasks[i].result.grad_norm, norm);
      CHECK(tasks[i].result.finite == 1);
      Comparison weights, moment1, moment2;
      const double b1 = item.beta1, b2 = item.beta2;
      for (size_t e = 0; e < before[0][i].size(); ++e) {
        const double g = before[3][i][e] * clip, m = b1 * before[1][i][e] + (1 - b1) * g, v = b2 * before[2][i][e] + (1 - b2) * g * g;
        const double step = static_cast<double>(item.step);
        const double denominator = std::sqrt(v / (1 - std::pow(b2, step))) + item.epsilon;
        weights.add(a.state[0][e], before[0][i][e] * (1 - double{item.learning_rate} * item.weight_decay) - item.learning_rate * (m / (1 - std::pow(b1, step))) / denominator);
        moment1.add(a.state[1][e], m);
        moment2.add(a.state[2][e], v);
        CHECK(a.state[3][e] == 0.0f);
      }
      weights.check("weights", 3e-7);
      moment1.check("moment 1", 3e-7);
      moment2.check("moment 2", 3e-7);
      // The working copies are those of a fresh refresh, and the bounds are true.
      const std::string working(static_cast<const char*>(a.working), static_cast<size_t>(a.working_bytes));
      const float bounds[3] = {a.weight_bound, a.moment1_bound, a.moment2_bound};
      lab.backend.adapter_refresh(lab.adapter(static_cast<int>(i)));
      CHECK(std::memcmp(working.data(), a.working, working.size()) == 0);
      CHECK(bounds[0] == a.weight_bound && bounds[1] == a.moment1_bound && bounds[2] == a.moment2_bound);
    }
  }
}

TEST(op_adamw_bits_do_not_depend_on_company) {
  std::string expected;
  for (const int threads : {1, 2, 3})
    for (const int first : {0, 1}) {
      Lab lab(threads, TL_COMPUTE_FP32, {{33, 3, 0}, {200, 1, 0}}, {}, kModules2);
      fill_state(lab.adapter(0), 5);
      fill_state(lab.adapter(1), 6);
      std::vector<OptimizerTask> tasks;
      for (int i = first; i >= 0; --i) tasks.push_back({&lab.adapter(i), {1, 4, 1e-2f, 0.9f, 0.999f, 1e-8f, 0.01f, 0.7f}, {}});
      lab.backend.adamw(tasks);
      std::string bits(reinterpret_cast<const char*>(&tasks.back().result.grad_norm), 8);
      for (int s = 0; s < 3; ++s) bits.append(reinterpret_cast<const char*>(lab.adapter(0).state[s]), static_cast<size_t>(lab.adapter(0).elements) * 4);
      if (expected.empty()) expected = bits;
      CHECK(bits == expected);
    }
}

TEST(op_adamw_refuses_what_is_not_finite) {
  const float inf = std::numeric_limits<float>::infinity();
  struct Poison {
    const char* name;
    float gradient, learning_rate, epsilon, weight_decay;
  };
  for (const Poison& poison : {Poison{"NaN gradient", std::nanf(""), 1e-2f, 1e-8f, 0}, Poison{"infinite gradient", inf, 1e-2f, 1e-8f, 0},
                               Poison{"moment 2 overflows", 1e30f, 1e-2f, 1e-8f, 0}, Poison{"weight overflows", 1, 3e38f, 1e-8f, 0},
                               Poison{"decay overflows", 1, 1e30f, 1e-8f, 1e30f}, Poison{"0 / 0", 0, 1e-2f, 0, 0}}) {
    Lab lab(2, TL_COMPUTE_FP32, {{7, 3, 0}, {7, 3, 0}}, {}, kModules2);
    fill_state(lab.adapter(0), 1);
    fill_state(lab.adapter(1), 2);
    Adapter& bad = lab.adapter(0);
    const size_t e = 123;
    bad.state[TL_STATE_GRADIENT][e] = poison.gradient;
    if (poison.gradient == 0) bad.state[TL_STATE_MOMENT1][e] = bad.state[TL_STATE_MOMENT2][e] = 0;
    lab.backend.adapter_refresh(bad);
    lab.backend.adapter_refresh(lab.adapter(1));
    std::string before;
    for (int s = 0; s < 3; ++s) before.append(reinterpret_cast<const char*>(bad.state[s]), static_cast<size_t>(bad.elements) * 4);
    const std::string working(static_cast<const char*>(bad.working), static_cast<size_t>(bad.working_bytes));
    std::vector<OptimizerTask> tasks = {{&bad, {1, 1, poison.learning_rate, 0.9f, 0.999f, poison.epsilon, poison.weight_decay, 0}, {}},
                                        {&lab.adapter(1), {2, 1, 1e-2f, 0.9f, 0.999f, 1e-8f, 0, 0}, {}}};
    lab.backend.adamw(tasks);
    std::string after;
    for (int s = 0; s < 3; ++s) after.append(reinterpret_cast<const char*>(bad.state[s]), static_cast<size_t>(bad.elements) * 4);
    CHECK_MSG(tasks[0].result.finite == 0, "%s was not noticed", poison.name);
    CHECK_MSG(after == before && std::memcmp(working.data(), bad.working, working.size()) == 0, "%s changed the slot", poison.name);
    for (int64_t i = 0; i < bad.elements; ++i) CHECK(bad.state[TL_STATE_GRADIENT][i] == 0.0f);
    CHECK_MSG(tasks[1].result.finite == 1, "%s reached the neighbour", poison.name);
  }
}

}  // namespace
