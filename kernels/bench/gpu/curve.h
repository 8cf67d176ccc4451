// 200 steps of one adapter on the demo's model: the loss of each step on this backend against the CPU's in the same rounding.
#pragma once

#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include "engine.h"

namespace bench {

using Sequences = std::vector<std::vector<int32_t>>;

// One sequence of ids a line (curve_tokens.py), or, without a file, chains in which each token follows from the one before but
// for one in eight: something to learn either way.
inline Sequences curve_sequences(const std::string& path, int vocab) {
  Sequences all;
  if (path.empty()) {
    std::mt19937_64 random(1);
    const auto any = [&] { return static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)); };
    for (int i = 0; i < 800; ++i) {
      std::vector<int32_t> ids(1, any());
      while (ids.size() < 64) ids.push_back(random() % 8 == 0 ? any() : (5 * ids.back() + 3) % vocab);
      all.push_back(ids);
    }
    return all;
  }
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream ids(line);
    all.emplace_back(std::istream_iterator<int32_t>(ids), std::istream_iterator<int32_t>());
    if (all.back().size() < 2) all.pop_back();
  }
  if (all.empty()) fail("no sequences in " + path);
  return all;
}

inline std::vector<double> curve(Model& model, const Sequences& sequences, int steps) {
  constexpr size_t kSequences = 4;
  const uint64_t slot = model.add(8, kAllModules, 1);
  std::vector<double> losses;
  for (int step = 1; step <= steps; ++step) {
    Batch batch;
    size_t rows = 0;
    for (size_t i = 0; i < kSequences; ++i) {
      const uint64_t index = static_cast<uint64_t>(step - 1) * kSequences + i;
      const std::vector<int32_t>& ids = sequences[index % sequences.size()];
      batch.segments.push_back({slot, batch.size(), static_cast<int32_t>(ids.size()), 0, index});
      batch.tokens.insert(batch.tokens.end(), ids.begin(), ids.end());
      batch.targets.insert(batch.targets.end(), ids.begin() + 1, ids.end());
      batch.targets.push_back(TL_IGNORE_INDEX);
      rows += ids.size() - 1;
    }
    for (tl_segment& segment : batch.segments) segment.loss_scale = 1.0f / static_cast<float>(rows);
    batch.run(model);
    losses.push_back(batch.loss());
    const tl_optimizer_item item = optimizer_item(slot, step, 1e-3f);
    tl_optimizer_result update{};
    REQUIRE_OK(tl_optimizer_step(model.handle, &item, 1, &update));
  }
  model.remove(slot);
  return losses;
}

inline void run_curve(const Options& o) {
  constexpr int kSteps = 200;
  std::vector<double> here, reference;
  {
    Model model(o);
    here = curve(model, curve_sequences(o.tokens, model.info().vocab), kSteps);
  }
  {
    Model model(o.model, TL_BACKEND_CPU, 0, o.threads);
    reference = curve(model, curve_sequences(o.tokens, model.info().vocab), kSteps);
  }
  double worst = 0, sum = 0;
  for (size_t i = 0; i < here.size(); ++i) {
    // Not a number is as far away as can be.
    const double d = std::isfinite(here[i]) ? std::fabs(here[i] - reference[i]) : INFINITY;
    worst = std::max(worst, d);
    sum += d;
  }
  say("loss %.4f to %.4f, at most %.2e from the CPU's", here.front(), here.back(), worst);
  Json out;
  out.add("data", o.tokens.empty() ? "chains" : "demo corpus, answers upper-cased");
  out.add("backend", o.backend == TL_BACKEND_CUDA ? "cuda" : "cpu").add("steps", kSteps).add("first_loss", here.front()).add("last_loss", here.back());
  out.add("worst_difference", worst).add("mean_difference", sum / kSteps).add("losses", here).add("losses_cpu", reference);
  write_json(o, "curve", out);
}

}  // namespace bench
