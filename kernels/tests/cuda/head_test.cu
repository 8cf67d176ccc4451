// Cross entropy against a loop in double precision: loss, accuracy, dlogits in place, rows in other company.
#include "cuda/device.h"

using namespace device;

namespace {

struct Head {
  int64_t n, vocab, ld;
  std::vector<float> logits;  // [n, ld], NaN behind the vocabulary
  std::vector<int32_t> targets;
  std::vector<float> scale;

  Head(int64_t n_, int64_t vocab_)
      : n(n_), vocab(vocab_), ld((vocab_ + 7) / 8 * 8), logits(static_cast<size_t>(n_ * ld), NAN), targets(static_cast<size_t>(n_)),
        scale(static_cast<size_t>(n_), 0.01f) {}
  float* row(int64_t i) { return &logits[static_cast<size_t>(i * ld)]; }
  // Content `c` in row i.
  void set(int64_t i, uint64_t c, int32_t target) {
    for (int64_t v = 0; v < vocab; ++v) row(i)[v] = static_cast<float>(8.0 * noise(c, static_cast<uint64_t>(v), 0, 0));
    targets[static_cast<size_t>(i)] = target;
    scale[static_cast<size_t>(i)] = 0.01f * static_cast<float>(c % 7 + 1);
  }
};

struct Result {
  std::vector<double> loss;
  std::vector<uint8_t> correct;
  std::vector<uint16_t> words;  // the logits' memory as 16-bit words
};

Result run(const Head& h, bool gradients) {
  const Buffer<float> logits(h.logits), scale(h.scale);
  const Buffer<int32_t> targets(h.targets);
  const Buffer<double> loss(h.n);
  const Buffer<uint8_t> correct(h.n);
  cuda::cross_entropy(nullptr, logits.data(), h.ld, h.n, h.vocab, targets.data(), gradients ? scale.data() : nullptr, loss.data(),
                      correct.data());
  synchronize();
  const std::vector<float> memory = logits.get();
  Result r{loss.get(), correct.get(), std::vector<uint16_t>(memory.size() * 2)};
  std::memcpy(r.words.data(), memory.data(), memory.size() * 4);
  return r;
}

float from_word(uint16_t word) {
  const uint32_t bits = uint32_t{word} << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

const int64_t kVocabularies[] = {5, 331, 1100, 2049, 16384, 16392, 32003, 60001, 128256, 151936, 200019, 262150};

}  // namespace

TEST(cuda_cross_entropy) {
  REQUIRE_GPU();
  for (int64_t vocab : kVocabularies) {
    Head h(4, vocab);
    h.set(0, 1, 0);
    h.set(1, 2, static_cast<int32_t>(vocab - 1));
    h.set(2, 3, static_cast<int32_t>(vocab / 2));
    h.set(3, 4, static_cast<int32_t>(vocab / 3));
    h.row(2)[vocab / 2] = 9.0f;               // right
    h.row(3)[0] = h.row(3)[vocab / 3] = 9.0f;  // a tie with an earlier id
    const bool want_correct[] = {false, false, true, vocab / 3 == 0};
    const Result r = run(h, true), only_loss = run(h, false);
    for (int64_t i = 0; i < h.n; ++i) {
      const size_t at = static_cast<size_t>(i);
      const float* x = h.row(i);
      const int32_t target = h.targets[at];
      double top = -INFINITY, sum = 0;
      for (int64_t v = 0; v < vocab; ++v) top = std::max<double>(top, x[v]);
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(x[v] - top);
      const double want = std::log(sum) + top - x[target];
      CHECK_MSG(std::fabs(r.loss[at] - want) < 2e-6 * (1 + std::fabs(want)), "vocab %lld row %lld: loss %.9g instead of %.9g",
                static_cast<long long>(vocab), static_cast<long long>(i), r.loss[at], want);
      bool is_first = true;
      for (int64_t v = 0; v < vocab; ++v) is_first = is_first && (v < target ? x[v] < x[target] : x[v] <= x[target]);
      if (i >= 2) CHECK(is_first == want_correct[i]);
      CHECK_MSG(r.correct[at] == (is_first ? 1 : 0), "vocab %lld row %lld: correct", static_cast<long long>(vocab), static_cast<long long>(i));
      CHECK(only_loss.correct[at] == r.correct[at] && std::memcmp(&only_loss.loss[at], &r.loss[at], 8) == 0);

      int64_t wrong = 0;
      for (int64_t v = 0; v < vocab; ++v) {
        const double g = h.scale[at] * (std::exp(x[v] - top) / sum - (v == target));
        const double got = from_word(r.words[static_cast<size_t>(2 * i * h.ld + v)]);
        wrong += !(std::fabs(got - g) <= 0.0041 * std::fabs(g) + 1e-8 * h.scale[at]);
      }
      CHECK_MSG(wrong == 0, "vocab %lld row %lld: %lld dlogits are wrong", static_cast<long long>(vocab), static_cast<long long>(i),
                static_cast<long long>(wrong));
      std::vector<uint16_t> original(static_cast<size_t>(2 * h.ld));
      std::memcpy(original.data(), x, original.size() * 2);
      const uint16_t* words = &r.words[static_cast<size_t>(2 * i * h.ld)];
      const uint16_t* kept = &only_loss.words[static_cast<size_t>(2 * i * h.ld)];
      CHECK_MSG(std::memcmp(words + vocab, original.data() + vocab, static_cast<size_t>(2 * h.ld - vocab) * 2) == 0,
                "vocab %lld: wrote behind dlogits", static_cast<long long>(vocab));
      CHECK_MSG(std::memcmp(kept, original.data(), original.size() * 2) == 0, "vocab %lld: wrote logits", static_cast<long long>(vocab));
    }
  }
}

TEST(cuda_cross_entropy_rows_do_not_meet) {
  REQUIRE_GPU();
  for (int64_t vocab : kVocabularies) {
    Head alone(1, vocab), crowd(4, vocab);
    alone.set(0, 9, static_cast<int32_t>(vocab / 2));
    crowd.set(2, 9, static_cast<int32_t>(vocab / 2));
    const float poison[] = {NAN, INFINITY, 0, -INFINITY};
    for (int64_t i : {0, 1, 3})
      for (int64_t v = 0; v < vocab; ++v) crowd.row(i)[v] = poison[i];
    const Result a = run(alone, true), c = run(crowd, true);
    CHECK_MSG(std::memcmp(&a.loss[0], &c.loss[2], 8) == 0 && a.correct[0] == c.correct[2] &&
                  std::memcmp(&a.words[0], &c.words[static_cast<size_t>(4 * crowd.ld)], static_cast<size_t>(vocab) * 2) == 0,
              "vocab %lld", static_cast<long long>(vocab));
    for (size_t i : {0u, 1u, 3u}) CHECK_MSG(!std::isfinite(c.loss[i]), "vocab %lld row %zu", static_cast<long long>(vocab), i);
  }
}

TEST(cuda_cross_entropy_infinities) {
  REQUIRE_GPU();
  for (int64_t vocab : {331, 40000, 128256, 270000}) {
    Head h(4, vocab);
    for (int64_t i = 0; i < 4; ++i) h.set(i, static_cast<uint64_t>(i), 3);
    // Impossible ids are fine: all but the first five, large parts of the row without a finite logit.
    for (int64_t v = 5; v < vocab; ++v) h.row(0)[v] = -INFINITY;
    for (int64_t v = 0; v < 5; ++v) h.row(0)[v] = -200.0f + static_cast<float>(v);
    h.row(1)[vocab - 1] = INFINITY;
    h.row(2)[vocab / 2] = NAN;
    h.row(3)[3] = 1e30f;  // a certain answer
    const Result r = run(h, true);
    double sum = 0;
    for (int v = 0; v < 5; ++v) sum += std::exp(static_cast<double>(v) - 4);
    CHECK_MSG(std::fabs(r.loss[0] - (std::log(sum) + 1)) < 1e-5, "vocab %lld: %g", static_cast<long long>(vocab), r.loss[0]);
    int64_t bad = 0;
    for (int64_t v = 5; v < vocab; ++v) bad += from_word(r.words[static_cast<size_t>(v)]) != 0.0f;
    CHECK_MSG(bad == 0, "vocab %lld: %lld dlogits of impossible ids", static_cast<long long>(vocab), static_cast<long long>(bad));
    CHECK(!std::isfinite(r.loss[1]) && !std::isfinite(r.loss[2]));
    CHECK(r.loss[3] == 0.0 && r.correct[3] == 1);
  }
}
