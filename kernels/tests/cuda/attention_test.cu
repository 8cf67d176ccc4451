// Attention, forward and backward, against double precision, and its bits in different company. Every implementation
// runs through the same cases, where it supports them.
#include <cmath>
#include <limits>

#include "cuda/device.h"

namespace {

using namespace device;

struct Implementation {
  const char* name;
  bool (*supports)(const cuda::AttentionArguments&);
  void (*forward)(cudaStream_t, const cuda::Tables&, const cuda::AttentionArguments&);
  void (*backward)(cudaStream_t, const cuda::Tables&, const cuda::AttentionArguments&);
};
bool always(const cuda::AttentionArguments&) { return true; }
const Implementation kImplementations[] = {
    {"generic", always, cuda::attention_forward, cuda::attention_backward},
    {"sm90", cuda::attention_sm90_supports, cuda::attention_forward_sm90, cuda::attention_backward_sm90},
};

struct Heads {
  int q, kv, d;
  int group() const { return q / kv; }
  int columns() const { return (q + 2 * kv) * d; }
};

// Sequences whose content is at least this hold only infinities and NaN.
constexpr uint64_t kPoison = 1000;

// Queries four times as large as the rest, so that the softmax has a shape: the scaled scores' deviation is about 1.3.
double value(int which, uint64_t content, int64_t t, int64_t c) {
  if (content >= kPoison) return c % 3 == 0 ? INFINITY : c % 3 == 1 ? -INFINITY : NAN;
  return (which == 0 ? 4.0 : 1.0) *
         noise(static_cast<uint64_t>(which), content, static_cast<uint64_t>(t), static_cast<uint64_t>(c));
}

// Inputs and outputs of one batch on the device; v lies in qkv, whose q and k columns are NaN.
struct Run {
  Run(const TestBatch& batch, Heads heads)
      : heads(heads),
        tables(batch.tables),
        tokens(batch.tokens()),
        q(batch.matrix(heads.q * heads.d, [](uint64_t s, int64_t t, int64_t c) { return value(0, s, t, c); })),
        k(batch.matrix(heads.kv * heads.d, [](uint64_t s, int64_t t, int64_t c) { return value(1, s, t, c); })),
        qkv(batch.matrix(heads.columns(),
                         [heads](uint64_t s, int64_t t, int64_t c) {
                           const int64_t column = c - (heads.q + heads.kv) * heads.d;
                           return column < 0 ? NAN : value(2, s, t, column);
                         })),
        dout(batch.matrix(heads.q * heads.d, [](uint64_t s, int64_t t, int64_t c) { return value(3, s, t, c); })),
        out(tokens, heads.q * heads.d),
        dqkv(tokens, heads.columns()),
        lse(padded(tokens) * heads.q),
        delta(padded(tokens) * heads.q) {
    a.heads = heads.q, a.kv_heads = heads.kv, a.head_dim = heads.d;
    a.q = q.data(), a.ld_q = q.ld;
    a.k = k.data(), a.ld_k = k.ld;
    a.v = qkv.data() + (heads.q + heads.kv) * heads.d, a.ld_v = qkv.ld;
    a.out = out.data(), a.ld_out = out.ld;
    a.lse = lse.data();
    a.dout = dout.data(), a.ld_dout = dout.ld;
    a.dq = dqkv.data(), a.dk = a.dq + heads.q * heads.d, a.dv = a.dk + heads.kv * heads.d, a.ld_dqkv = dqkv.ld;
    a.delta = delta.data(), a.padded_rows = padded(tokens), a.rows = static_cast<int32_t>(padded(tokens));
  }
  void operator()(const Implementation& implementation) {
    out.memory.poison(), dqkv.memory.poison(), lse.poison(), delta.poison();
    implementation.forward(nullptr, tables, a);
    implementation.backward(nullptr, tables, a);
    synchronize();
  }
  // The bits of all outputs at the rows of one segment.
  std::string bits(const Segment& s) const {
    std::string bits;
    const auto append = [&](const auto& host, int64_t ld, int64_t columns) {
      for (int64_t r = s.start; r < s.start + s.length; ++r)
        bits.append(reinterpret_cast<const char*>(&host[static_cast<size_t>(r * ld)]),
                    static_cast<size_t>(columns) * sizeof(host[0]));
    };
    append(out.memory.get(), out.ld, out.columns);
    append(dqkv.memory.get(), dqkv.ld, dqkv.columns);
    append(lse.get(), heads.q, heads.q);
    return bits;
  }

  Heads heads;
  cuda::Tables tables;
  int64_t tokens;
  BfMatrix q, k, qkv, dout, out, dqkv;
  Buffer<float> lse, delta;
  cuda::AttentionArguments a;
};

struct Reference {
  std::vector<double> out, lse, dqkv;  // [tokens, q * d], [tokens, q], [tokens, columns]
};

Reference reference(const Run& run, const Batch& batch) {
  const Heads h = run.heads;
  const int64_t d = h.d, columns = h.columns();
  const std::vector<float> q = run.q.get(), k = run.k.get(), qkv = run.qkv.get(), dout = run.dout.get();
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  Reference r;
  r.out.resize(static_cast<size_t>(run.tokens * h.q * d));
  r.lse.resize(static_cast<size_t>(run.tokens * h.q));
  r.dqkv.resize(static_cast<size_t>(run.tokens * columns));
  std::vector<double> p, ds;
  for (const Segment& s : batch.segments)
    for (int64_t head = 0; head < h.q; ++head) {
      const int64_t g = head / h.group();
      for (int64_t i = 0; i < s.length; ++i) {
        const int64_t row = s.start + i;
        const float* q_row = &q[static_cast<size_t>(row * run.q.ld + head * d)];
        const float* do_row = &dout[static_cast<size_t>(row * run.dout.ld + head * d)];
        const auto k_row = [&](int64_t j) { return &k[static_cast<size_t>((s.start + j) * run.k.ld + g * d)]; };
        const auto v_row = [&](int64_t j) {
          return &qkv[static_cast<size_t>((s.start + j) * run.qkv.ld + (h.q + h.kv + g) * d)];
        };
        p.assign(static_cast<size_t>(i + 1), 0);
        ds.assign(static_cast<size_t>(i + 1), 0);
        double top = -std::numeric_limits<double>::infinity(), sum = 0, dot = 0;
        for (int64_t j = 0; j <= i; ++j) {
          const float* key = k_row(j);
          const float* v = v_row(j);
          double score = 0, dp = 0;
          for (int64_t c = 0; c < d; ++c)
            score += double{q_row[c]} * double{key[c]}, dp += double{do_row[c]} * double{v[c]};
          p[static_cast<size_t>(j)] = score * scale;
          ds[static_cast<size_t>(j)] = dp;
          top = std::max(top, score * scale);
        }
        for (double& x : p) x = std::exp(x - top), sum += x;
        for (double& x : p) x /= sum;
        r.lse[static_cast<size_t>(row * h.q + head)] = top + std::log(sum);
        for (int64_t j = 0; j <= i; ++j) dot += p[static_cast<size_t>(j)] * ds[static_cast<size_t>(j)];
        double* out = &r.out[static_cast<size_t>((row * h.q + head) * d)];
        double* dq = &r.dqkv[static_cast<size_t>(row * columns + head * d)];
        for (int64_t j = 0; j <= i; ++j) {
          const double weight = p[static_cast<size_t>(j)], dscore = weight * (ds[static_cast<size_t>(j)] - dot) * scale;
          const float* key = k_row(j);
          const float* v = v_row(j);
          double* dk = &r.dqkv[static_cast<size_t>((s.start + j) * columns + (h.q + g) * d)];
          double* dv = dk + h.kv * d;
          for (int64_t c = 0; c < d; ++c) {
            out[c] += weight * double{v[c]};
            dq[c] += dscore * double{key[c]};
            dk[c] += dscore * double{q_row[c]};
            dv[c] += weight * double{do_row[c]};
          }
        }
      }
    }
  return r;
}

std::vector<SequenceSpec> sequences_of(const std::vector<int64_t>& lengths) {
  std::vector<SequenceSpec> sequences;
  for (size_t i = 0; i < lengths.size(); ++i) sequences.push_back({-1, lengths[i], i});
  return sequences;
}

// bf16 outputs: the result rounds once (2^-9 of itself) and so do P and dS before their products, whose errors average
// out over the keys; delta is of the rounded out. All of it stays under 1% of the largest value. lse is fp32 from end
// to end, and 1e-4 of its largest value (about 7) is well under what one key too many or too few of 300 would change
// (3e-3).
constexpr double kTolerance = 1e-2, kLseTolerance = 1e-4;

void compare(Heads heads, const std::vector<int64_t>& lengths) {
  const TestBatch batch({}, sequences_of(lengths));
  Run run(batch, heads);
  const Reference want = reference(run, batch.batch);
  for (const Implementation& implementation : kImplementations) {
    if (!implementation.supports(run.a)) continue;
    run(implementation);
    const std::string name = std::string(implementation.name) + " heads " + std::to_string(heads.q) + ":" +
                             std::to_string(heads.kv) + " d " + std::to_string(heads.d) + " ";
    const std::vector<float> out = run.out.get(), dqkv = run.dqkv.get(), lse = run.lse.get();
    Comparison of_out, of_lse, of_dq, of_dk, of_dv;
    int64_t outside = 0;
    for (int64_t row = 0; row < run.tokens; ++row) {
      const float* o = &out[static_cast<size_t>(row * run.out.ld)];
      for (int64_t c = 0; c < run.out.columns; ++c)
        of_out.add(o[c], want.out[static_cast<size_t>(row * run.out.columns + c)]);
      for (int64_t c = run.out.columns; c < run.out.ld; ++c) outside += !std::isnan(o[c]);
      const float* g = &dqkv[static_cast<size_t>(row * run.dqkv.ld)];
      for (int64_t c = 0; c < run.dqkv.columns; ++c) {
        Comparison& of = c < heads.q * heads.d ? of_dq : c < (heads.q + heads.kv) * heads.d ? of_dk : of_dv;
        of.add(g[c], want.dqkv[static_cast<size_t>(row * run.dqkv.columns + c)]);
      }
      for (int64_t c = run.dqkv.columns; c < run.dqkv.ld; ++c) outside += !std::isnan(g[c]);
      for (int64_t h = 0; h < heads.q; ++h) {
        const size_t at = static_cast<size_t>(row * heads.q + h);
        of_lse.add(lse[at], want.lse[at]);
      }
    }
    of_out.check(name + "out", kTolerance);
    of_lse.check(name + "lse", kLseTolerance);
    of_dq.check(name + "dq", kTolerance);
    of_dk.check(name + "dk", kTolerance);
    of_dv.check(name + "dv", kTolerance);
    CHECK_MSG(outside == 0, "%s%lld elements beside the matrices were written", name.c_str(),
              static_cast<long long>(outside));
  }
}

const std::vector<int64_t> kLengths = {1, 2, 63, 64, 65, 127, 128, 129, 300};

TEST(attention_d128_gqa_4_to_1) {
  REQUIRE_GPU();
  compare({4, 1, 128}, kLengths);
}
TEST(attention_d128_gqa_2_to_1_and_one_head_each) {
  REQUIRE_GPU();
  compare({4, 2, 128}, {129, 1, 300, 2, 64});
  compare({2, 2, 128}, {65, 127, 3});
}
TEST(attention_d128_long) {
  REQUIRE_GPU();
  compare({2, 1, 128}, {1000, 5});
}
TEST(attention_d64) {
  REQUIRE_GPU();
  compare({8, 1, 64}, {300, 1, 129, 63, 2});
  compare({2, 2, 64}, kLengths);
  compare({4, 2, 64}, {1, 700});
}
TEST(attention_small_heads) {
  REQUIRE_GPU();
  compare({4, 1, 32}, kLengths);
  compare({8, 4, 32}, {40, 257});
  compare({4, 2, 24}, kLengths);
  compare({8, 1, 16}, kLengths);
  compare({2, 2, 8}, kLengths);
}
// Not a multiple of 8: rows that 16-byte copies cannot reach; more than the next smaller tile width: columns of
// padding.
TEST(attention_odd_heads) {
  REQUIRE_GPU();
  compare({3, 1, 6}, kLengths);
  compare({2, 1, 20}, kLengths);
  compare({2, 2, 2}, {1, 2, 70});
  compare({2, 1, 100}, {129, 1, 65});
  compare({4, 2, 80}, {129, 1, 65});
  compare({2, 1, 50}, {128, 64, 3});
}

const Heads kBitShapes[] = {{4, 1, 128}, {2, 2, 128}, {4, 2, 64}, {2, 1, 32}, {2, 1, 16}, {2, 1, 20}, {2, 1, 100}};

// A sequence alone, between others, between others in another order, and between sequences of infinities and NaN.
TEST(attention_bits_do_not_depend_on_company) {
  REQUIRE_GPU();
  const std::vector<SequenceSpec> probes = {{-1, 1, 1}, {-1, 63, 2}, {-1, 129, 3}, {-1, 200, 4}, {-1, 64, 5}};
  const auto probe = [&](int i) { return probes[static_cast<size_t>(i)]; };
  const std::vector<std::vector<SequenceSpec>> companies = {
      probes,
      {{-1, 77, 20}, probe(3), {-1, 1, 21}, probe(2), probe(4), {-1, 310, 22}, probe(0), probe(1)},
      {{-1, 5, kPoison},
       probe(2),
       {-1, 130, kPoison + 1},
       probe(3),
       {-1, 1, kPoison + 2},
       probe(0),
       {-1, 2, kPoison + 3},
       probe(1),
       {-1, 61, kPoison + 4},
       probe(4),
       {-1, 33, kPoison + 5}},
  };
  for (const Heads heads : kBitShapes) {
    std::vector<std::unique_ptr<TestBatch>> alone_batches;
    std::vector<std::unique_ptr<Run>> alone;
    for (const SequenceSpec& p : probes) {
      alone_batches.push_back(std::make_unique<TestBatch>(std::vector<AdapterSpec>{}, std::vector<SequenceSpec>{p}));
      alone.push_back(std::make_unique<Run>(*alone_batches.back(), heads));
    }
    for (size_t company = 0; company < companies.size(); ++company) {
      const TestBatch batch({}, companies[company]);
      Run together(batch, heads);
      for (const Implementation& implementation : kImplementations) {
        if (!implementation.supports(together.a)) continue;
        together(implementation);
        for (size_t i = 0; i < probes.size(); ++i) {
          Run& single = *alone[i];
          single(implementation);
          const std::string want = single.bits(alone_batches[i]->batch.segments[0]);
          for (size_t s = 0; s < companies[company].size(); ++s)
            if (companies[company][s].content == probes[i].content)
              CHECK_MSG(together.bits(batch.batch.segments[s]) == want, "%s heads %d:%d d %d, company %d, length %d",
                        implementation.name, heads.q, heads.kv, heads.d, static_cast<int>(company),
                        static_cast<int>(probes[i].length));
        }
      }
    }
  }
}

// Backward that turns dq and dk back against backward and rope_backward: bit for bit, in all of dqkv. The tables have exactly
// the positions of the longest sequence.
TEST(attention_rotated_backward) {
  REQUIRE_GPU();
  const Implementation& sm90 = kImplementations[1];
  const std::vector<std::vector<SequenceSpec>> batches = {
      sequences_of(kLengths),
      sequences_of({700, 1, 300, 64, 1000}),
      {{-1, 5, kPoison}, {-1, 129, 1}, {-1, 130, kPoison + 1}, {-1, 1, 2}, {-1, 200, 3}, {-1, 61, kPoison + 2}, {-1, 64, 4}}};
  bool any = false;
  for (const Heads heads : {Heads{4, 1, 128}, Heads{2, 2, 128}, Heads{4, 2, 64}, Heads{8, 1, 64}})
    for (const auto& sequences : batches) {
      const TestBatch batch({}, sequences);
      std::vector<float> c, s;
      for (int64_t p = 0; p < batch.batch.longest; ++p)
        for (int i = 0; i < heads.d / 2; ++i) {
          const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * i / heads.d);
          c.push_back(static_cast<float>(std::cos(angle)));
          s.push_back(static_cast<float>(std::sin(angle)));
        }
      const Buffer<float> cosine(c), sine(s);
      Run apart(batch, heads), fused(batch, heads);
      if (!sm90.supports(apart.a)) continue;
      any = true;
      apart(sm90);
      const std::vector<bf16> rotated = apart.dqkv.memory.get();
      cuda::RopeArguments rope;
      rope.heads = heads.q, rope.kv_heads = heads.kv, rope.head_dim = heads.d;
      rope.cosine = cosine.data(), rope.sine = sine.data();
      cuda::rope_backward(nullptr, batch.tables, rope, apart.dqkv.data(), apart.dqkv.ld, apart.dqkv.data(), apart.dqkv.ld);
      synchronize();
      const std::vector<bf16> want = apart.dqkv.memory.get();
      const auto equal = [](const std::vector<bf16>& x, const std::vector<bf16>& y) {
        return std::memcmp(x.data(), y.data(), x.size() * sizeof(bf16)) == 0;
      };
      CHECK_MSG(!equal(rotated, want), "d %d: rope_backward does nothing", heads.d);
      fused.a.cosine = cosine.data(), fused.a.sine = sine.data();
      fused(sm90);
      const std::vector<bf16> got = fused.dqkv.memory.get();
      int64_t wrong = 0, first = 0;
      for (size_t i = 0; i < want.size(); ++i)
        if (std::memcmp(&got[i], &want[i], sizeof(bf16)) != 0 && wrong++ == 0) first = static_cast<int64_t>(i);
      CHECK_MSG(wrong == 0, "heads %d:%d d %d, %d sequences: %lld elements differ, the first in row %lld, column %lld", heads.q,
                heads.kv, heads.d, static_cast<int>(sequences.size()), static_cast<long long>(wrong),
                static_cast<long long>(first / fused.dqkv.ld), static_cast<long long>(first % fused.dqkv.ld));
    }
  if (!any) SKIP("attention_sm90 wants a device of compute capability 9.0");
}

// A race would show as bits that move.
TEST(attention_bits_repeat) {
  REQUIRE_GPU();
  const TestBatch batch({}, sequences_of({700, 129, 1, 512, 300, 64, 1000}));
  for (const Heads heads : {Heads{8, 2, 128}, Heads{8, 8, 64}, Heads{8, 2, 32}}) {
    Run run(batch, heads);
    for (const Implementation& implementation : kImplementations) {
      if (!implementation.supports(run.a)) continue;
      std::vector<std::string> first;
      for (int repeat = 0; repeat < 6; ++repeat) {
        run(implementation);
        for (size_t s = 0; s < batch.batch.segments.size(); ++s) {
          std::string bits = run.bits(batch.batch.segments[s]);
          if (repeat == 0)
            first.push_back(std::move(bits));
          else
            CHECK_MSG(bits == first[s], "%s d %d: segment %d of run %d differs", implementation.name, heads.d,
                      static_cast<int>(s), repeat);
        }
      }
    }
  }
}

}  // namespace
