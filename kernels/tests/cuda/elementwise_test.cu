// embed, rmsnorm, rope, swiglu against loops in double precision; what must not be written; rows in other company.
#include <algorithm>
#include <functional>

#include "cuda/device.h"

using namespace device;

namespace {

// bf16 results: half a unit in the last place of the element, plus what fp32 sums lose against the largest element.
class Elements {
 public:
  void add(double got, double want) {
    ++count_;
    const double error = std::fabs(got - want);
    if (!(error <= 0.0041 * std::fabs(want) + 5e-6)) {
      if (++bad_ == 1) got_ = got, want_ = want, at_ = count_ - 1;
    }
  }
  void check(const std::string& name) const {
    CHECK_MSG(count_ > 0 && bad_ == 0, "%s: %lld of %lld wrong, first %lld: %.9g instead of %.9g", name.c_str(),
              static_cast<long long>(bad_), static_cast<long long>(count_), static_cast<long long>(at_), got_, want_);
  }

 private:
  int64_t count_ = 0, bad_ = 0, at_ = 0;
  double got_ = 0, want_ = 0;
};

uint16_t bits_of(bf16 x) {
  uint16_t bits;
  std::memcpy(&bits, &x, 2);
  return bits;
}

// Elements outside rows `written` and columns [first, first + columns) kept their bits.
void check_kept(const std::string& name, const std::vector<bf16>& before, const BfMatrix& m,
                const std::function<bool(int64_t, int64_t)>& written) {
  const std::vector<bf16> after = m.memory.get();
  int64_t changed = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const int64_t r = static_cast<int64_t>(i) / m.ld, c = static_cast<int64_t>(i) % m.ld;
    if (!written(r, c) && bits_of(after[i]) != bits_of(before[i])) ++changed;
  }
  CHECK_MSG(changed == 0, "%s: wrote %lld elements it must not", name.c_str(), static_cast<long long>(changed));
}

bool same_row(const BfMatrix& a, int64_t row_a, const BfMatrix& b, int64_t row_b, int64_t columns) {
  const std::vector<bf16> x = a.memory.get(), y = b.memory.get();
  return std::memcmp(&x[static_cast<size_t>(row_a * a.ld)], &y[static_cast<size_t>(row_b * b.ld)],
                     static_cast<size_t>(columns) * 2) == 0;
}

double value(uint64_t seed, int64_t r, int64_t c) { return noise(seed, static_cast<uint64_t>(r), static_cast<uint64_t>(c), 3); }

BfMatrix random_matrix(uint64_t seed, int64_t rows, int64_t columns, double scale = 1.0) {
  BfMatrix m(rows, columns);
  m.fill([&](int64_t r, int64_t c) { return scale * value(seed, r, c); });
  return m;
}

std::vector<float> random_vector(uint64_t seed, int64_t count) {
  std::vector<float> v(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) v[static_cast<size_t>(i)] = round_bf16(static_cast<float>(1.0 + 0.5 * value(seed, 0, i)));
  return v;
}

std::string label(const char* op, int64_t a, int64_t b = 0) { return std::string(op) + " " + std::to_string(a) + " " + std::to_string(b); }

}  // namespace

TEST(cuda_embed) {
  REQUIRE_GPU();
  for (int64_t width : {3, 17, 1029, 4096, 5000}) {
    const int64_t vocab = 37, n = 130;
    const BfMatrix table = random_matrix(1, vocab, width);
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < n; ++t) tokens.push_back(static_cast<int32_t>((t * 7 + 36) % vocab));
    const Buffer<int32_t> ids(tokens);
    BfMatrix x(n, width);
    const std::vector<bf16> before = x.memory.get();
    cuda::embed(nullptr, table.data(), table.ld, ids.data(), n, width, x.data(), x.ld);
    synchronize();
    int64_t wrong = 0;
    for (int64_t t = 0; t < n; ++t) wrong += !same_row(x, t, table, tokens[static_cast<size_t>(t)], width);
    CHECK_MSG(wrong == 0, "width %lld: %lld rows are wrong", static_cast<long long>(width), static_cast<long long>(wrong));
    check_kept(label("embed", width), before, x, [&](int64_t r, int64_t c) { return r < n && c < width; });
  }
}

TEST(cuda_rmsnorm) {
  REQUIRE_GPU();
  const float eps = 1e-5f;
  for (int64_t width : {3, 17, 256, 1029, 4096, 5000, 9000, 16384})
    for (bool gathered : {false, true}) {
      const int64_t rows = 9, n = gathered ? 4 : rows;
      const std::vector<int64_t> index = gathered ? std::vector<int64_t>{7, 0, 8, 3} : std::vector<int64_t>{};
      const auto row = [&](int64_t i) { return gathered ? index[static_cast<size_t>(i)] : i; };
      const Buffer<int64_t> device_index(gathered ? index : std::vector<int64_t>{0});
      const int64_t* picks = gathered ? device_index.data() : nullptr;
      const BfMatrix x = random_matrix(11, rows, width), dy = random_matrix(12, n, width);
      const std::vector<float> weight = random_vector(13, width);
      const Buffer<float> w(weight);
      const std::vector<float> hx = x.get(), hdy = dy.get();
      BfMatrix y(n, width);
      Buffer<float> rstd(n + 1);
      std::vector<bf16> before = y.memory.get();
      cuda::rmsnorm_forward(nullptr, x.data(), x.ld, w.data(), eps, picks, n, width, y.data(), y.ld, rstd.data());
      synchronize();
      check_kept(label("rmsnorm_forward", width), before, y, [&](int64_t r, int64_t c) { return r < n && c < width; });
      const std::vector<float> hy = y.get(), hrstd = rstd.get();
      CHECK(std::isnan(hrstd[static_cast<size_t>(n)]));
      Elements forward, backward, bare;
      std::vector<double> inverse(static_cast<size_t>(n)), mean(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        double squares = 0, products = 0;
        for (int64_t c = 0; c < width; ++c) {
          const double v = hx[static_cast<size_t>(row(i) * x.ld + c)];
          squares += v * v;
          products += static_cast<double>(weight[static_cast<size_t>(c)]) * hdy[static_cast<size_t>(i * dy.ld + c)] * v;
        }
        inverse[static_cast<size_t>(i)] = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
        mean[static_cast<size_t>(i)] = products / static_cast<double>(width);
        CHECK_MSG(std::fabs(hrstd[static_cast<size_t>(i)] / inverse[static_cast<size_t>(i)] - 1) < 1e-6, "rstd, width %lld",
                  static_cast<long long>(width));
        for (int64_t c = 0; c < width; ++c)
          forward.add(hy[static_cast<size_t>(i * y.ld + c)],
                      weight[static_cast<size_t>(c)] * hx[static_cast<size_t>(row(i) * x.ld + c)] * inverse[static_cast<size_t>(i)]);
      }
      forward.check(label("rmsnorm_forward", width));

      // In place over the residual, then without one into poison.
      BfMatrix carry = random_matrix(14, rows, width), fresh(rows, width);
      const std::vector<float> hcarry = carry.get();
      const auto is_written = [&](int64_t r, int64_t c) {
        return c < width && r < rows && (!gathered || std::find(index.begin(), index.end(), r) != index.end());
      };
      before = carry.memory.get();
      cuda::rmsnorm_backward(nullptr, dy.data(), dy.ld, x.data(), x.ld, w.data(), rstd.data(), picks, n, width, carry.data(),
                             carry.ld, carry.data(), carry.ld);
      synchronize();
      check_kept(label("rmsnorm_backward", width), before, carry, is_written);
      before = fresh.memory.get();
      cuda::rmsnorm_backward(nullptr, dy.data(), dy.ld, x.data(), x.ld, w.data(), rstd.data(), picks, n, width, nullptr, 0,
                             fresh.data(), fresh.ld);
      synchronize();
      check_kept(label("rmsnorm_backward bare", width), before, fresh, is_written);
      const std::vector<float> hdx = carry.get(), hbare = fresh.get();
      for (int64_t i = 0; i < n; ++i)
        for (int64_t c = 0; c < width; ++c) {
          const size_t at = static_cast<size_t>(row(i) * x.ld + c);
          const double s = inverse[static_cast<size_t>(i)];
          const double d = s * (static_cast<double>(weight[static_cast<size_t>(c)]) * hdy[static_cast<size_t>(i * dy.ld + c)] -
                                hx[at] * s * s * mean[static_cast<size_t>(i)]);
          backward.add(hdx[at], hcarry[at] + d);
          bare.add(hbare[at], d);
        }
      backward.check(label("rmsnorm_backward", width));
      bare.check(label("rmsnorm_backward bare", width));
    }
}

TEST(cuda_rmsnorm_rows_do_not_meet) {
  REQUIRE_GPU();
  for (int64_t width : {17, 1029, 4096}) {
    const auto at = [&](int64_t r) { return [=](int64_t row, int64_t c) { return row == r ? value(5, 0, c) : NAN; }; };
    BfMatrix alone(1, width), crowd(7, width), y1(1, width), y7(7, width), dx1(1, width), dx7(7, width);
    alone.fill(at(0));
    crowd.fill(at(4));
    const Buffer<float> w(random_vector(6, width));
    Buffer<float> r1(1), r7(7);
    cuda::rmsnorm_forward(nullptr, alone.data(), alone.ld, w.data(), 1e-6f, nullptr, 1, width, y1.data(), y1.ld, r1.data());
    cuda::rmsnorm_forward(nullptr, crowd.data(), crowd.ld, w.data(), 1e-6f, nullptr, 7, width, y7.data(), y7.ld, r7.data());
    cuda::rmsnorm_backward(nullptr, y1.data(), y1.ld, alone.data(), alone.ld, w.data(), r1.data(), nullptr, 1, width, nullptr,
                           0, dx1.data(), dx1.ld);
    cuda::rmsnorm_backward(nullptr, y7.data(), y7.ld, crowd.data(), crowd.ld, w.data(), r7.data(), nullptr, 7, width, nullptr,
                           0, dx7.data(), dx7.ld);
    synchronize();
    CHECK_MSG(same_row(y1, 0, y7, 4, width) && same_row(dx1, 0, dx7, 4, width), "width %lld", static_cast<long long>(width));
    CHECK(std::isfinite(y1.get()[0]) && std::isfinite(dx1.get()[0]));
  }
}

namespace {

struct RopeCase {
  int heads, kv_heads, dim;
  bool norm;
};

struct RopeTables {
  explicit RopeTables(const RopeCase& c) : half(c.dim / 2), q(random_vector(21, c.dim)), k(random_vector(22, c.dim)) {
    for (int64_t p = 0; p < 200; ++p)
      for (int i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / half);
        cosine.push_back(static_cast<float>(std::cos(angle)));
        sine.push_back(static_cast<float>(std::sin(angle)));
      }
    device_cosine = Buffer<float>(cosine);
    device_sine = Buffer<float>(sine);
    device_q = Buffer<float>(q);
    device_k = Buffer<float>(k);
    arguments = {c.heads,     c.kv_heads, c.dim, c.norm ? device_q.data() : nullptr, c.norm ? device_k.data() : nullptr, 1e-6f,
                 device_cosine.data(), device_sine.data()};
  }
  int half;
  std::vector<float> q, k, cosine, sine;
  Buffer<float> device_cosine, device_sine, device_q, device_k;
  cuda::RopeArguments arguments;
};

const std::vector<RopeCase> kRopeCases = {{4, 2, 6, false},  {4, 2, 6, true},    {3, 1, 8, true},     {2, 2, 24, true},
                                          {5, 1, 16, true},  {5, 1, 32, true},   {3, 3, 48, true},    {9, 3, 64, false},
                                          {9, 3, 64, true},  {4, 2, 80, true},   {4, 2, 98, true},    {32, 8, 128, false},
                                          {32, 8, 128, true}, {71, 1, 128, true}, {140, 4, 128, true}};

}  // namespace

TEST(cuda_rope) {
  REQUIRE_GPU();
  for (const RopeCase& c : kRopeCases) {
    const RopeTables rope(c);
    const TestBatch batch({}, {{-1, 1, 1}, {-1, 130, 2}, {-1, 5, 3}});
    const int64_t n = batch.tokens(), d = c.dim, half = d / 2, total = c.heads + c.kv_heads, width = (total + c.kv_heads) * d;
    const std::string name = label("rope", d, total) + (c.norm ? " norm" : "");
    const BfMatrix qkv = batch.random(31, width);
    BfMatrix q(n, c.heads * d), k(n, c.kv_heads * d), dqkv = batch.random(32, width);
    const std::vector<bf16> q_before = q.memory.get(), k_before = k.memory.get(), d_before = dqkv.memory.get();
    const std::vector<float> in = qkv.get(), grad = dqkv.get();
    cuda::rope_forward(nullptr, batch.tables, rope.arguments, qkv.data(), qkv.ld, q.data(), q.ld, k.data(), k.ld);
    cuda::rope_backward(nullptr, batch.tables, rope.arguments, qkv.data(), qkv.ld, dqkv.data(), dqkv.ld);
    synchronize();
    check_kept(name + " q", q_before, q, [&](int64_t r, int64_t col) { return r < n && col < c.heads * d; });
    check_kept(name + " k", k_before, k, [&](int64_t r, int64_t col) { return r < n && col < c.kv_heads * d; });
    check_kept(name + " dqkv", d_before, dqkv, [&](int64_t r, int64_t col) { return r < n && col < total * d; });
    BfMatrix in_place = batch.random(31, width);
    const std::vector<bf16> raw = in_place.memory.get();
    bf16* const own = in_place.data();
    cuda::rope_forward(nullptr, batch.tables, rope.arguments, own, in_place.ld, own, in_place.ld, own + c.heads * d, in_place.ld);
    synchronize();
    check_kept(name + " in place", raw, in_place, [&](int64_t r, int64_t col) { return r < n && col < total * d; });
    const std::vector<float> rotated = in_place.get(), q_apart = q.get(), k_apart = k.get();
    int64_t differ = 0;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t col = 0; col < total * d; ++col)
        differ += rotated[static_cast<size_t>(r * in_place.ld + col)] !=
                  (col < c.heads * d ? q_apart[static_cast<size_t>(r * q.ld + col)]
                                     : k_apart[static_cast<size_t>(r * k.ld + col - c.heads * d)]);
    CHECK_MSG(differ == 0, "%s in place: %lld elements differ", name.c_str(), static_cast<long long>(differ));
    const std::vector<float> hq = q.get(), hk = k.get(), hd = dqkv.get();
    Elements forward, backward;
    for (const Segment& s : batch.batch.segments)
      for (int64_t p = 0; p < s.length; ++p)
        for (int64_t h = 0; h < total; ++h) {
          const int64_t t = s.start + p;
          const std::vector<float>& weight = h < c.heads ? rope.q : rope.k;
          const float* x = &in[static_cast<size_t>(t * qkv.ld + h * d)];
          const float* g = &grad[static_cast<size_t>(t * dqkv.ld + h * d)];
          const float* out = h < c.heads ? &hq[static_cast<size_t>(t * q.ld + h * d)]
                                         : &hk[static_cast<size_t>(t * k.ld + (h - c.heads) * d)];
          const float* got = &hd[static_cast<size_t>(t * dqkv.ld + h * d)];
          double squares = 0;
          for (int64_t i = 0; i < d; ++i) squares += static_cast<double>(x[i]) * x[i];
          const double inverse = c.norm ? 1.0 / std::sqrt(squares / static_cast<double>(d) + 1e-6) : 1.0;
          const auto w = [&](int64_t i) { return c.norm ? static_cast<double>(weight[static_cast<size_t>(i)]) : 1.0; };
          std::vector<double> r(static_cast<size_t>(d));
          for (int64_t i = 0; i < half; ++i) {
            const double co = rope.cosine[static_cast<size_t>(p * half + i)], si = rope.sine[static_cast<size_t>(p * half + i)];
            const double lo = w(i) * x[i] * inverse, hi = w(i + half) * x[i + half] * inverse;
            forward.add(out[i], lo * co - hi * si);
            forward.add(out[i + half], hi * co + lo * si);
            r[static_cast<size_t>(i)] = w(i) * (g[i] * co + g[i + half] * si);
            r[static_cast<size_t>(i + half)] = w(i + half) * (g[i + half] * co - g[i] * si);
          }
          double products = 0;
          for (int64_t i = 0; i < d; ++i) products += r[static_cast<size_t>(i)] * x[i];
          const double slope = c.norm ? inverse * inverse * products / static_cast<double>(d) : 0.0;
          for (int64_t i = 0; i < d; ++i) backward.add(got[i], inverse * (r[static_cast<size_t>(i)] - x[i] * slope));
        }
    forward.check(name + " forward");
    backward.check(name + " backward");
  }
}

TEST(cuda_rope_sequences_do_not_meet) {
  REQUIRE_GPU();
  for (const RopeCase& c : kRopeCases) {
    const RopeTables rope(c);
    const TestBatch alone({{16, 1, 0}}, {{0, 17, 9}});
    const TestBatch crowd({{16, 1, 0}}, {{-1, 3, 1}, {0, 17, 9}, {-1, 40, 2}});
    const int64_t d = c.dim, total = c.heads + c.kv_heads, width = (total + c.kv_heads) * d;
    std::string bits[2];
    int i = 0;
    for (const TestBatch* b : {&alone, &crowd}) {
      const auto inputs = [&](uint64_t seed) {
        return b->matrix(width, [&](uint64_t content, int64_t t, int64_t col) {
          return content == 9 ? noise(seed, content, static_cast<uint64_t>(t), static_cast<uint64_t>(col)) : INFINITY;
        });
      };
      const BfMatrix qkv = inputs(1);
      BfMatrix dqkv = inputs(2), q(b->tokens(), c.heads * d), k(b->tokens(), c.kv_heads * d);
      cuda::rope_forward(nullptr, b->tables, rope.arguments, qkv.data(), qkv.ld, q.data(), q.ld, k.data(), k.ld);
      cuda::rope_backward(nullptr, b->tables, rope.arguments, qkv.data(), qkv.ld, dqkv.data(), dqkv.ld);
      synchronize();
      bits[i++] = b->rows_of(0, q, c.heads * d) + b->rows_of(0, k, c.kv_heads * d) + b->rows_of(0, dqkv, width);
    }
    CHECK_MSG(bits[0] == bits[1], "heads of %d", c.dim);
  }
}

TEST(cuda_swiglu) {
  REQUIRE_GPU();
  for (int64_t width : {3, 17, 64, 1029, 2056, 14336}) {
    const int64_t n = 5;
    const auto inputs = [&] {
      BfMatrix m(n, 2 * width);
      m.fill([&](int64_t r, int64_t c) {
        // The first columns hold gates where silu saturates.
        const double extreme[] = {-100.0, 100.0, -20.0, 20.0, -88.0, 0.0, -3e38, 3e38};
        return r == 1 && c < 8 && c < width ? extreme[c] : 4.0 * value(41, r, c);
      });
      return m;
    };
    BfMatrix gate_up = inputs(), act(n, width), dact = random_matrix(42, n, width), emitted(n, width);
    const std::vector<bf16> before = act.memory.get(), gate_up_before = gate_up.memory.get();
    const std::vector<float> in = gate_up.get(), dy = dact.get();
    cuda::swiglu_forward(nullptr, gate_up.data(), gate_up.ld, n, width, act.data(), act.ld);
    synchronize();
    CHECK(gate_up.memory.get().size() == gate_up_before.size());
    check_kept(label("swiglu_forward", width), before, act, [&](int64_t r, int64_t c) { return r < n && c < width; });
    check_kept(label("swiglu_forward input", width), gate_up_before, gate_up, [](int64_t, int64_t) { return false; });
    cuda::swiglu_backward(nullptr, gate_up.data(), gate_up.ld, dact.data(), dact.ld, n, width, emitted.data(), emitted.ld);
    synchronize();
    check_kept(label("swiglu_backward", width), gate_up_before, gate_up, [&](int64_t r, int64_t c) { return r < n && c < 2 * width; });
    check_kept(label("swiglu_backward act", width), before, emitted, [&](int64_t r, int64_t c) { return r < n && c < width; });
    for (int64_t r = 0; r < n; ++r) CHECK_MSG(same_row(act, r, emitted, r, width), "act of backward, width %lld", static_cast<long long>(width));

    // act over dact, and no act at all, give the same gradients.
    BfMatrix second = inputs(), third = inputs();
    cuda::swiglu_backward(nullptr, third.data(), third.ld, dact.data(), dact.ld, n, width, nullptr, 0);
    cuda::swiglu_backward(nullptr, second.data(), second.ld, dact.data(), dact.ld, n, width, dact.data(), dact.ld);
    synchronize();
    for (int64_t r = 0; r < n; ++r)
      CHECK_MSG(same_row(gate_up, r, second, r, 2 * width) && same_row(gate_up, r, third, r, 2 * width) && same_row(act, r, dact, r, width),
                "in place, width %lld", static_cast<long long>(width));

    const std::vector<float> out = act.get(), gradient = gate_up.get();
    Elements forward, backward;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < width; ++c) {
        const double g = in[static_cast<size_t>(r * gate_up.ld + c)], u = in[static_cast<size_t>(r * gate_up.ld + width + c)];
        const double d = dy[static_cast<size_t>(r * dact.ld + c)], s = 1.0 / (1.0 + std::exp(-g));
        if (std::fabs(g) > 1e30) continue;  // products of the largest numbers: only the bits are compared
        forward.add(out[static_cast<size_t>(r * act.ld + c)], g * s * u);
        backward.add(gradient[static_cast<size_t>(r * gate_up.ld + c)], d * u * s * (1.0 + g * (1.0 - s)));
        backward.add(gradient[static_cast<size_t>(r * gate_up.ld + width + c)], d * g * s);
      }
    forward.check(label("swiglu_forward", width));
    backward.check(label("swiglu_backward", width));
  }
}
