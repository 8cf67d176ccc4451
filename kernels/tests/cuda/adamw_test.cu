// AdamW, initialisation and working copies of many adapters against a loop in double precision.
#include <algorithm>

#include "cpu/philox.h"
#include "cuda/device.h"

using namespace device;
using cuda::AdamwResult;
using cuda::AdamwSlot;
using cuda::Home;
using cuda::ModuleSizes;

namespace {

constexpr int kModuleCount = cuda::kModuleCount;

ModuleSizes make_sizes(std::vector<int64_t> in, std::vector<int64_t> out) {
  ModuleSizes s;
  std::copy(in.begin(), in.end(), s.in);
  std::copy(out.begin(), out.end(), s.out);
  return s;
}
const ModuleSizes kEven = make_sizes({24, 24, 24, 32, 24, 24, 40}, {32, 8, 8, 24, 40, 40, 24});
const ModuleSizes kOdd = make_sizes({3, 3, 3, 17, 3, 3, 1029}, {17, 5, 5, 3, 1029, 1029, 3});
const ModuleSizes kLarge = make_sizes({1024, 1024, 1024, 1024, 1024, 1024, 2816}, {1024, 256, 256, 1024, 2816, 2816, 1024});

int64_t elements_of(const ModuleSizes& sizes, uint32_t targets, int rank, int layers) {
  return cuda::flat_offset(sizes, targets, rank, layers, 0);
}

struct SlotSpec {
  int rank;
  uint32_t targets;
  int home_column;
  uint64_t content;
  int64_t step;
  float max_grad_norm;
};

// The slots of one call with their states, and the working copies of a model.
struct Pool {
  const ModuleSizes& sizes;
  int layers;
  int64_t capacity;
  std::vector<SlotSpec> specs;
  std::vector<std::vector<float>> host[4];  // weight, moment1, moment2, gradient by slot
  std::vector<Buffer<float>> state[4];
  std::vector<AdamwSlot> slots;
  std::vector<Buffer<bf16>> a, b;  // by (layer, module)
  std::vector<Home> homes;
  Buffer<Home> device_homes;
  std::vector<AdamwResult> results;

  Pool(const ModuleSizes& sizes_, int layers_, int64_t capacity_, const std::vector<SlotSpec>& specs_)
      : sizes(sizes_), layers(layers_), capacity(capacity_), specs(specs_) {
    for (const SlotSpec& s : specs) {
      const int64_t n = elements_of(sizes, s.targets, s.rank, layers);
      for (int k = 0; k < 4; ++k) {
        std::vector<float> v(static_cast<size_t>(n));
        for (int64_t e = 0; e < n; ++e) {
          const double x = noise(s.content, static_cast<uint64_t>(k), static_cast<uint64_t>(e), 0);
          v[static_cast<size_t>(e)] = static_cast<float>(k == 0 ? 0.1 * x : k == 1 ? 0.01 * x : k == 2 ? 1e-4 * x * x : 0.02 * x);
        }
        host[k].push_back(std::move(v));
      }
      AdamwSlot slot;
      slot.elements = n;
      slot.rank = s.rank;
      slot.home_column = s.home_column;
      slot.targets = s.targets;
      slot.step = s.step;
      slot.learning_rate = 1e-3f * static_cast<float>(s.content % 3 + 1);
      slot.beta1 = 0.9f;
      slot.beta2 = 0.999f;
      slot.epsilon = 1e-8f;
      slot.weight_decay = 0.01f;
      slot.max_grad_norm = s.max_grad_norm;
      slots.push_back(slot);
    }
    for (int l = 0; l < layers; ++l)
      for (int m = 0; m < kModuleCount; ++m) {
        Home h;
        h.lda = (sizes.in[m] + 15) / 16 * 16;
        h.ldb = capacity;
        a.emplace_back(capacity * h.lda);
        b.emplace_back(sizes.out[m] * h.ldb);
        h.a = a.back().data();
        h.b = b.back().data();
        homes.push_back(h);
      }
    device_homes = Buffer<Home>(homes);
  }

  void run() {
    int64_t total = 0;
    for (size_t i = 0; i < slots.size(); ++i) {
      for (int k = 0; k < 4; ++k) state[k].emplace_back(host[k][i]);
      slots[i].weight = state[0][i].data();
      slots[i].moment1 = state[1][i].data();
      slots[i].moment2 = state[2][i].data();
      slots[i].gradient = state[3][i].data();
      total += slots[i].elements;
    }
    const int count = static_cast<int>(slots.size());
    const Buffer<AdamwSlot> device_slots(slots);
    const Buffer<AdamwResult> device_results(count);
    const int64_t bytes = cuda::adamw_scratch_bytes(total, count);
    const Buffer<char> scratch(bytes + 64);
    cuda::adamw(nullptr, device_slots.data(), slots.data(), count, sizes, layers, device_homes.data(), scratch.data(),
                device_results.data());
    synchronize();
    results = device_results.get();
    const std::vector<char> used = scratch.get();
    for (int64_t i = bytes; i < bytes + 64; ++i) REQUIRE(used[static_cast<size_t>(i)] == static_cast<char>(0xff));
  }

  // What each home element must be: bits of slot s's weight, or untouched. Checks all homes against the weights `w`.
  void check_homes(const std::string& name, const std::vector<std::vector<float>>& w, const std::vector<bool>& written,
                   bool padding) const {
    int64_t wrong = 0;
    for (int l = 0; l < layers; ++l)
      for (int m = 0; m < kModuleCount; ++m) {
        const size_t at = static_cast<size_t>(l * kModuleCount + m);
        const std::vector<bf16> got_a = a[at].get(), got_b = b[at].get();
        const int64_t lda = homes[at].lda;
        std::vector<uint16_t> want_a(got_a.size(), 0xffff), want_b(got_b.size(), 0xffff);
        for (size_t s = 0; s < specs.size(); ++s) {
          if (!written[s] || !(specs[s].targets >> m & 1u)) continue;
          const int64_t rank = specs[s].rank, end = padding ? (rank + 15) / 16 * 16 : rank;
          const int64_t before = cuda::flat_offset(sizes, specs[s].targets, specs[s].rank, l, m);
          const auto copy = [&](int64_t e) {
            const float x = std::min(std::max(w[s][static_cast<size_t>(before + e)], -3.3895313892515355e38f), 3.3895313892515355e38f);
            return word(to_bf16(x));
          };
          for (int64_t r = 0; r < end; ++r) {
            for (int64_t c = 0; c < sizes.in[m]; ++c)
              want_a[static_cast<size_t>((specs[s].home_column + r) * lda + c)] = r < rank ? copy(r * sizes.in[m] + c) : 0;
            for (int64_t o = 0; o < sizes.out[m]; ++o)
              want_b[static_cast<size_t>(o * capacity + specs[s].home_column + r)] =
                  r < rank ? copy(rank * sizes.in[m] + o * rank + r) : 0;
          }
        }
        for (size_t i = 0; i < got_a.size(); ++i) wrong += word(got_a[i]) != want_a[i];
        for (size_t i = 0; i < got_b.size(); ++i) wrong += word(got_b[i]) != want_b[i];
      }
    CHECK_MSG(wrong == 0, "%s: %lld elements of the working copies are wrong", name.c_str(), static_cast<long long>(wrong));
  }

  static uint16_t word(bf16 x) {
    uint16_t bits;
    std::memcpy(&bits, &x, 2);
    return bits;
  }
};

// States, norm and verdict of slot s after run().
void check_slot(const std::string& name, const Pool& p, size_t s, bool want_finite) {
  const AdamwSlot& slot = p.slots[s];
  const std::vector<float> w = p.state[0][s].get(), m1 = p.state[1][s].get(), m2 = p.state[2][s].get(), g = p.state[3][s].get();
  CHECK_MSG((p.results[s].finite != 0) == want_finite, "%s: finite is %d", name.c_str(), p.results[s].finite);
  int64_t dirty = 0;
  for (float x : g) dirty += x != 0.0f;
  CHECK_MSG(dirty == 0, "%s: %lld gradients are not cleared", name.c_str(), static_cast<long long>(dirty));
  const auto same = [](const std::vector<float>& x, const std::vector<float>& y) {
    return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * 4) == 0;
  };
  if (!want_finite) {
    CHECK_MSG(same(w, p.host[0][s]) && same(m1, p.host[1][s]) && same(m2, p.host[2][s]), "%s: a rejected slot changed", name.c_str());
    return;
  }
  double squares = 0;
  for (float x : p.host[3][s]) squares += static_cast<double>(x) * x;
  const double norm = std::sqrt(squares);
  CHECK_MSG(std::fabs(p.results[s].grad_norm - norm) <= 1e-12 * norm, "%s: norm %.17g instead of %.17g", name.c_str(),
            p.results[s].grad_norm, norm);
  const double clip = slot.max_grad_norm > 0 ? std::min(1.0, slot.max_grad_norm / (norm + 1e-6)) : 1.0;
  const double beta1 = slot.beta1, beta2 = slot.beta2, step = static_cast<double>(slot.step);
  int64_t wrong = 0;
  for (size_t e = 0; e < w.size(); ++e) {
    const double gradient = p.host[3][s][e] * clip;
    const double want1 = p.host[1][s][e] + (1 - beta1) * (gradient - p.host[1][s][e]);
    const double want2 = p.host[2][s][e] * beta2 + (1 - beta2) * gradient * gradient;
    const double denominator = std::sqrt(want2) / std::sqrt(1 - std::pow(beta2, step)) + slot.epsilon;
    const double moved = slot.learning_rate / (1 - std::pow(beta1, step)) * want1 / denominator;
    const double want = p.host[0][s][e] * (1 - static_cast<double>(slot.learning_rate) * slot.weight_decay) - moved;
    // fp32 against the operands of each sum.
    const double near1 = 1e-6 * (std::fabs(p.host[1][s][e]) + std::fabs(gradient));
    wrong += !(std::fabs(m1[e] - want1) <= near1);
    wrong += !(std::fabs(m2[e] - want2) <= 1e-6 * want2 + 1e-37);
    wrong += !(std::fabs(w[e] - want) <= 1e-6 * (std::fabs(p.host[0][s][e]) + std::fabs(moved)) +
                                             slot.learning_rate / (1 - std::pow(beta1, step)) * near1 / denominator);
  }
  CHECK_MSG(wrong == 0, "%s: %lld of %zu new values are wrong", name.c_str(), static_cast<long long>(wrong), 3 * w.size());
}

std::vector<std::vector<float>> weights_of(const Pool& p) {
  std::vector<std::vector<float>> w;
  for (const Buffer<float>& b : p.state[0]) w.push_back(b.get());
  return w;
}

// All bits of a slot: states, result, its columns of the homes.
std::string bits_of(const Pool& p, size_t s) {
  std::string bits;
  for (const auto& state : p.state) {
    const std::vector<float> v = state[s].get();
    bits.append(reinterpret_cast<const char*>(v.data()), v.size() * 4);
  }
  bits.append(reinterpret_cast<const char*>(&p.results[s]), sizeof(AdamwResult));
  for (size_t i = 0; i < p.homes.size(); ++i) {
    const std::vector<bf16> a = p.a[i].get(), b = p.b[i].get();
    const int64_t first = p.specs[s].home_column, rank = p.specs[s].rank;
    bits.append(reinterpret_cast<const char*>(&a[static_cast<size_t>(first * p.homes[i].lda)]), static_cast<size_t>(rank * p.homes[i].lda) * 2);
    for (size_t o = 0; o < b.size() / static_cast<size_t>(p.capacity); ++o)
      bits.append(reinterpret_cast<const char*>(&b[o * static_cast<size_t>(p.capacity) + static_cast<size_t>(first)]), static_cast<size_t>(rank) * 2);
  }
  return bits;
}

const std::vector<SlotSpec> kSpecs = {{16, 0x7f, 32, 1, 1, 0},   {1, 0x7f, 0, 2, 7, 0.1f},  {3, 0x49, 16, 3, 1000, 1.0f},
                                      {20, 0x12, 48, 4, 3, 1e9f}, {8, 0x40, 80, 5, 2, 0.5f}};

}  // namespace

TEST(cuda_adamw) {
  REQUIRE_GPU();
  for (const ModuleSizes* sizes : {&kEven, &kOdd}) {
    Pool p(*sizes, 3, 96, kSpecs);
    p.run();
    for (size_t s = 0; s < kSpecs.size(); ++s) check_slot("slot " + std::to_string(s), p, s, true);
    p.check_homes("update", weights_of(p), std::vector<bool>(kSpecs.size(), true), false);
  }
}

TEST(cuda_adamw_many_blocks) {
  REQUIRE_GPU();
  Pool p(kLarge, 16, 32, {{16, 0x7f, 16, 1, 5, 1.0f}});  // more blocks than the threads that add them
  REQUIRE(p.slots[0].elements > 4096 * 1100);
  p.run();
  check_slot("large", p, 0, true);
  p.check_homes("large", weights_of(p), {true}, false);
}

TEST(cuda_adamw_many_slots) {
  REQUIRE_GPU();
  std::vector<SlotSpec> specs;
  for (int s = 0; s < 150; ++s) specs.push_back({s % 5 + 1, s % 2 ? 0x08u : 0x11u, 16 * s, static_cast<uint64_t>(s), s + 1, 0.01f * static_cast<float>(s)});
  Pool p(kEven, 2, 16 * 150, specs);
  p.host[3][140][3] = NAN;
  p.run();
  for (size_t s = 0; s < specs.size(); ++s) check_slot("slot " + std::to_string(s), p, s, s != 140);
  std::vector<bool> written(specs.size(), true);
  written[140] = false;
  p.check_homes("many slots", weights_of(p), written, false);
}

TEST(cuda_adamw_rejects_what_is_not_finite) {
  REQUIRE_GPU();
  std::vector<SlotSpec> specs;
  for (int s = 0; s < 8; ++s) specs.push_back({4, 0x7f, 16 * s, static_cast<uint64_t>(s), 1, 0});
  Pool p(kEven, 2, 128, specs);
  const size_t last = p.host[0][0].size() - 1;
  p.host[3][0][last] = NAN;
  p.host[3][1][0] = -INFINITY;
  p.host[1][2][5] = NAN;        // a moment
  p.host[2][3][last] = -1.0f;   // whose root is not a number
  p.host[0][4][7] = -3.4e38f;   // overflows
  p.host[3][4][7] = 1.0f;
  p.slots[4].learning_rate = 1e38f;
  p.slots[4].weight_decay = 0;
  p.host[0][5][7] = 3.4028e38f;  // large, but stays finite: the copy is held at the largest bf16
  p.host[0][5][8] = -3.4028e38f;
  p.slots[5].weight_decay = 0;
  p.host[3][6][9] = 1e30f;      // a finite norm whose square does not fit fp32
  p.run();
  const bool finite[] = {false, false, false, false, false, true, false, true};
  std::vector<bool> written;
  for (size_t s = 0; s < 8; ++s) {
    check_slot("slot " + std::to_string(s), p, s, finite[s]);
    written.push_back(finite[s]);
  }
  CHECK(!std::isfinite(p.results[0].grad_norm) && !std::isfinite(p.results[1].grad_norm));
  CHECK(std::fabs(p.results[6].grad_norm / 1e30 - 1) < 1e-6);
  p.check_homes("rejected", weights_of(p), written, false);
}

TEST(cuda_adamw_slots_do_not_meet) {
  REQUIRE_GPU();
  for (const ModuleSizes* sizes : {&kEven, &kOdd})
    for (size_t s = 0; s < kSpecs.size(); ++s) {
      SlotSpec elsewhere = kSpecs[s];
      elsewhere.home_column = 64;
      Pool alone(*sizes, 2, 128, {elsewhere}), crowd(*sizes, 2, 96, kSpecs);
      for (size_t other = 0; other < kSpecs.size(); ++other)
        if (other != s) crowd.host[3][other][other] = other % 2 ? NAN : INFINITY;
      alone.run();
      crowd.run();
      CHECK_MSG(bits_of(alone, 0) == bits_of(crowd, s), "slot %zu", s);
      CHECK(crowd.results[s].finite == 1 && crowd.results[s == 0 ? 1 : 0].finite == 0);
    }
}

TEST(cuda_adapter_init_and_refresh) {
  REQUIRE_GPU();
  for (const ModuleSizes* sizes : {&kEven, &kOdd}) {
    Pool p(*sizes, 3, 96, kSpecs);
    std::vector<std::vector<float>> all;
    for (size_t s = 0; s < kSpecs.size(); ++s) {
      const SlotSpec& spec = kSpecs[s];
      const uint64_t seed = 0x123456789abcdefull * (s + 1);
      const Buffer<float> weight(p.slots[s].elements);
      cuda::adapter_init(nullptr, weight.data(), seed, spec.rank, spec.targets, *sizes, 3);
      cuda::adapter_refresh(nullptr, weight.data(), spec.rank, spec.home_column, spec.targets, *sizes, 3, p.device_homes.data());
      synchronize();
      const std::vector<float> got = weight.get();
      std::vector<float> want(got.size(), 0.0f);
      for (int l = 0; l < 3; ++l)
        for (int m = 0; m < kModuleCount; ++m) {
          if (!(spec.targets >> m & 1u)) continue;
          float* a = &want[static_cast<size_t>(cuda::flat_offset(*sizes, spec.targets, spec.rank, l, m))];
          const float bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(sizes->in[m])));
          for (int64_t e = 0; e < spec.rank * sizes->in[m]; ++e) {
            uint32_t words[4];
            cpu::philox<1>(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(e / 4),
                           static_cast<uint32_t>(l * 7 + m), 0, cpu::kInitTag, words);
            a[e] = bound * (static_cast<float>(words[e % 4] >> 8) * 0x1p-23f - 1.0f);
          }
        }
      CHECK_MSG(std::memcmp(got.data(), want.data(), got.size() * 4) == 0, "slot %zu: initial weights", s);
      all.push_back(got);
    }
    p.check_homes("refresh", all, std::vector<bool>(kSpecs.size(), true), true);
  }
}
