// Cross entropy against a loop in double precision: loss, accuracy, dlogits in place, rows in other company. All of it with
// the kernels of any architecture and, on Hopper, with the one for large vocabularies.
#include "cuda/device.h"

using namespace device;

namespace {

struct Head {
  int64_t n, vocab, ld;
  std::vector<float> logits;  // [n, ld], NaN behind the vocabulary
  std::vector<int32_t> targets;
  std::vector<float> scale;

  Head(int64_t n_, int64_t vocab_, int64_t behind = 0)
      : n(n_), vocab(vocab_), ld((vocab_ + 7) / 8 * 8 + behind), logits(static_cast<size_t>(n_ * ld), NAN),
        targets(static_cast<size_t>(n_)), scale(static_cast<size_t>(n_), 0.01f) {}
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

enum Kernel { kAny, kHopper };

std::vector<Kernel> kernels(int64_t vocab) {
  if (is_sm90() && cuda::cross_entropy_sm90_supports(vocab)) return {kAny, kHopper};
  return {kAny};
}

Result run(Kernel kernel, const Head& h, bool gradients) {
  const Buffer<float> logits(h.logits), scale(h.scale);
  const Buffer<int32_t> targets(h.targets);
  const Buffer<double> loss(h.n);
  const Buffer<uint8_t> correct(h.n);
  (kernel == kHopper ? cuda::cross_entropy_sm90 : cuda::cross_entropy)(nullptr, logits.data(), h.ld, h.n, h.vocab, targets.data(),
                                                                       gradients ? scale.data() : nullptr, loss.data(),
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

const int64_t kVocabularies[] = {5,     331,   1100,   2049,   16384,  16392,  32003,  60001,  65535,  65536,
                                 65537, 65601, 128256, 128257, 151931, 151936, 200019, 262150, 458752, 458753};

}  // namespace

TEST(cuda_cross_entropy) {
  REQUIRE_GPU();
  for (int64_t vocab : kVocabularies) {
    Head h(4, vocab, vocab % 2 ? 72 : 0);
    h.set(0, 1, 0);
    h.set(1, 2, static_cast<int32_t>(vocab - 1));
    h.set(2, 3, static_cast<int32_t>(vocab / 2));
    h.set(3, 4, static_cast<int32_t>(vocab / 3));
    h.row(2)[vocab / 2] = 9.0f;                // right
    h.row(3)[0] = h.row(3)[vocab / 3] = 9.0f;  // a tie with an earlier id
    const bool want_correct[] = {false, false, true, vocab / 3 == 0};
    for (const Kernel kernel : kernels(vocab)) {
      const Result r = run(kernel, h, true), only_loss = run(kernel, h, false);
      for (int64_t i = 0; i < h.n; ++i) {
        const size_t at = static_cast<size_t>(i);
        const std::string where =
            "kernel " + std::to_string(kernel) + ", vocab " + std::to_string(vocab) + ", row " + std::to_string(i);
        const float* x = h.row(i);
        const int32_t target = h.targets[at];
        double top = -INFINITY, sum = 0;
        for (int64_t v = 0; v < vocab; ++v) top = std::max<double>(top, x[v]);
        for (int64_t v = 0; v < vocab; ++v) sum += std::exp(x[v] - top);
        const double want = std::log(sum) + top - x[target];
        CHECK_MSG(std::fabs(r.loss[at] - want) < 2e-6 * (1 + std::fabs(want)), "%s: loss %.9g instead of %.9g", where.c_str(),
                  r.loss[at], want);
        bool is_first = true;
        for (int64_t v = 0; v < vocab; ++v) is_first = is_first && (v < target ? x[v] < x[target] : x[v] <= x[target]);
        if (i >= 2) CHECK(is_first == want_correct[i]);
        CHECK_MSG(r.correct[at] == (is_first ? 1 : 0), "%s: correct", where.c_str());
        CHECK_MSG(only_loss.correct[at] == r.correct[at] && std::memcmp(&only_loss.loss[at], &r.loss[at], 8) == 0,
                  "%s: another loss without gradients", where.c_str());

        int64_t wrong = 0;
        for (int64_t v = 0; v < vocab; ++v) {
          const double g = h.scale[at] * (std::exp(x[v] - top) / sum - (v == target));
          const double got = from_word(r.words[static_cast<size_t>(2 * i * h.ld + v)]);
          wrong += !(std::fabs(got - g) <= 0.0041 * std::fabs(g) + 1e-8 * h.scale[at]);
        }
        CHECK_MSG(wrong == 0, "%s: %lld dlogits are wrong", where.c_str(), static_cast<long long>(wrong));
        std::vector<uint16_t> original(static_cast<size_t>(2 * h.ld));
        std::memcpy(original.data(), x, original.size() * 2);
        const uint16_t* words = &r.words[static_cast<size_t>(2 * i * h.ld)];
        const uint16_t* kept = &only_loss.words[static_cast<size_t>(2 * i * h.ld)];
        CHECK_MSG(std::memcmp(words + vocab, original.data() + vocab, static_cast<size_t>(2 * h.ld - vocab) * 2) == 0,
                  "%s: wrote behind dlogits", where.c_str());
        CHECK_MSG(std::memcmp(kept, original.data(), original.size() * 2) == 0, "%s: wrote logits", where.c_str());
      }
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
    for (const Kernel kernel : kernels(vocab)) {
      const Result a = run(kernel, alone, true), c = run(kernel, crowd, true);
      CHECK_MSG(std::memcmp(&a.loss[0], &c.loss[2], 8) == 0 && a.correct[0] == c.correct[2] &&
                    std::memcmp(&a.words[0], &c.words[static_cast<size_t>(4 * crowd.ld)], static_cast<size_t>(vocab) * 2) == 0,
                "kernel %d, vocab %lld", kernel, static_cast<long long>(vocab));
      for (size_t i : {0u, 1u, 3u})
        CHECK_MSG(!std::isfinite(c.loss[i]), "kernel %d, vocab %lld, row %zu", kernel, static_cast<long long>(vocab), i);
    }
  }
}

// Rows of a few contents, some not finite, again and again: each has the bits that it has alone, at any place and among any
// number. The many rows are many rounds of the Hopper kernel's rings, at vocabularies of few and of all pieces of a ring.
TEST(cuda_cross_entropy_many_rows) {
  REQUIRE_GPU();
  struct Shape {
    int64_t vocab, n, behind;
  };
  const Shape shapes[] = {{331, 133, 0},    {40000, 133, 8},   {65536, 601, 0},  {65537, 601, 64}, {128256, 2, 0},
                          {128256, 3, 128}, {128256, 133, 0},  {151931, 133, 0}, {151936, 300, 8}, {458752, 70, 0}};
  constexpr int64_t kContents = 5;
  for (const Shape& shape : shapes) {
    Head contents(kContents, shape.vocab, shape.behind);
    for (int64_t c = 0; c < kContents; ++c)
      contents.set(c, static_cast<uint64_t>(20 + c), static_cast<int32_t>((shape.vocab - 1) * c / (kContents - 1)));
    contents.row(1)[contents.targets[1]] = 9.0f;
    contents.row(2)[shape.vocab - 1] = NAN;
    contents.row(3)[shape.vocab / 5] = INFINITY;
    for (int64_t v = shape.vocab / 3; v < shape.vocab; ++v) contents.row(4)[v] = -INFINITY;
    contents.targets[4] = static_cast<int32_t>(shape.vocab / 7);

    Head many(shape.n, shape.vocab, shape.behind);
    const size_t row_bytes = static_cast<size_t>(many.ld) * 4;
    auto content_of = [](int64_t i) { return (i + i / kContents) % kContents; };  // so that clusters meet all of them
    for (int64_t i = 0; i < shape.n; ++i) {
      const int64_t c = content_of(i);
      std::memcpy(many.row(i), contents.row(c), row_bytes);
      many.targets[static_cast<size_t>(i)] = contents.targets[static_cast<size_t>(c)];
      many.scale[static_cast<size_t>(i)] = contents.scale[static_cast<size_t>(c)];
    }
    for (const Kernel kernel : kernels(shape.vocab)) {
      std::vector<Result> alone;
      for (int64_t c = 0; c < kContents; ++c) {
        Head one(1, shape.vocab, shape.behind);
        std::memcpy(one.row(0), contents.row(c), row_bytes);
        one.targets[0] = contents.targets[static_cast<size_t>(c)];
        one.scale[0] = contents.scale[static_cast<size_t>(c)];
        alone.push_back(run(kernel, one, true));
        CHECK_MSG(std::isfinite(alone.back().loss[0]) == (c != 2 && c != 3), "content %lld", static_cast<long long>(c));
      }
      CHECK(alone[1].correct[0] == 1);
      const Result r = run(kernel, many, true), only_loss = run(kernel, many, false);
      int64_t losses = 0, gradients = 0, written = 0;
      for (int64_t i = 0; i < shape.n; ++i) {
        const size_t at = static_cast<size_t>(i), first = static_cast<size_t>(2 * i * many.ld);
        const Result& want = alone[static_cast<size_t>(content_of(i))];
        for (const Result* got : {&r, &only_loss})
          losses += std::memcmp(&got->loss[at], &want.loss[0], 8) != 0 || got->correct[at] != want.correct[0];
        gradients += std::memcmp(&r.words[first], want.words.data(), row_bytes) != 0;
        written += std::memcmp(&only_loss.words[first], many.row(i), row_bytes) != 0;
      }
      CHECK_MSG(losses + gradients + written == 0,
                "kernel %d, vocab %lld, %lld rows: %lld losses, %lld rows of dlogits, %lld of logits", kernel,
                static_cast<long long>(shape.vocab), static_cast<long long>(shape.n), static_cast<long long>(losses),
                static_cast<long long>(gradients), static_cast<long long>(written));
    }
  }
}

// The target and one equal logit, each wherever a block's share or a piece of it begins or ends.
TEST(cuda_cross_entropy_ties_at_borders) {
  REQUIRE_GPU();
  for (const int64_t vocab : {65537, 128256}) {
    const int64_t share = (vocab / 8 + 64) / 64 * 64;
    const std::vector<int64_t> places = {0, 3, 4095, 4096, share - 1, share,
                                         share + 4095, share + 4096, 3 * share + 1030, 7 * share, vocab - 2, vocab - 1};
    const int64_t count = static_cast<int64_t>(places.size());
    Head h(count * count, vocab);
    for (int64_t i = 0; i < h.n; ++i) {
      const int64_t target = places[static_cast<size_t>(i / count)], equal = places[static_cast<size_t>(i % count)];
      std::fill(h.row(i), h.row(i) + vocab, 0.0f);
      h.row(i)[target] = h.row(i)[equal] = 3.0f;
      h.targets[static_cast<size_t>(i)] = static_cast<int32_t>(target);
    }
    for (const Kernel kernel : kernels(vocab)) {
      const Result r = run(kernel, h, true);
      int64_t wrong_loss = 0, wrong_correct = 0, wrong = 0;
      for (int64_t i = 0; i < h.n; ++i) {
        const size_t at = static_cast<size_t>(i);
        const int64_t target = places[static_cast<size_t>(i / count)], equal = places[static_cast<size_t>(i % count)];
        const int64_t tops = target == equal ? 1 : 2;
        const double sum = static_cast<double>(tops) + static_cast<double>(vocab - tops) * std::exp(-3.0);
        wrong_loss += !(std::fabs(r.loss[at] - std::log(sum)) < 2e-6 * (1 + std::log(sum)));
        wrong_correct += r.correct[at] != (target <= equal ? 1 : 0);
        for (int64_t v = 0; v < vocab; ++v) {
          const double p = (v == target || v == equal ? 1.0 : std::exp(-3.0)) / sum, g = h.scale[at] * (p - (v == target));
          wrong += !(std::fabs(from_word(r.words[static_cast<size_t>(2 * i * h.ld + v)]) - g) <= 0.0041 * std::fabs(g));
        }
      }
      CHECK_MSG(wrong_loss + wrong_correct + wrong == 0, "kernel %d, vocab %lld: %lld losses, %lld correct, %lld dlogits", kernel,
                static_cast<long long>(vocab), static_cast<long long>(wrong_loss), static_cast<long long>(wrong_correct),
                static_cast<long long>(wrong));
    }
  }
}

TEST(cuda_cross_entropy_hopper_takes) {
  REQUIRE_GPU();
  for (const int64_t vocab : {5, 32000, 65535, 458753, 1000000}) CHECK(!cuda::cross_entropy_sm90_supports(vocab));
  for (const int64_t vocab : {65536, 128256, 151936, 262144, 458752})
    CHECK(cuda::cross_entropy_sm90_supports(vocab) == is_sm90());
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
    for (const Kernel kernel : kernels(vocab)) {
      const Result r = run(kernel, h, true);
      double sum = 0;
      for (int v = 0; v < 5; ++v) sum += std::exp(static_cast<double>(v) - 4);
      CHECK_MSG(std::fabs(r.loss[0] - (std::log(sum) + 1)) < 1e-5, "kernel %d, vocab %lld: %g", kernel,
                static_cast<long long>(vocab), r.loss[0]);
      int64_t bad = 0;
      for (int64_t v = 5; v < vocab; ++v) bad += from_word(r.words[static_cast<size_t>(v)]) != 0.0f;
      CHECK_MSG(bad == 0, "kernel %d, vocab %lld: %lld dlogits of impossible ids", kernel, static_cast<long long>(vocab),
                static_cast<long long>(bad));
      CHECK(!std::isfinite(r.loss[1]) && !std::isfinite(r.loss[2]));
      CHECK(r.loss[3] == 0.0 && r.correct[3] == 1);
    }
  }
}
