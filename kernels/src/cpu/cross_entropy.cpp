#include <cmath>
#include <limits>

#include "cpu/cpu_backend.h"

namespace tlora::cpu {

void CpuBackend::cross_entropy(float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets,
                               const float* scale, double* loss, uint8_t* correct) {
  const float kLowest = -std::numeric_limits<float>::infinity();
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    float* row = logits + i * ld;
    Vec peak = broadcast(kLowest);
    const int64_t whole = vocab / kLanes * kLanes, rest = vocab - whole;
    for (int64_t c = 0; c < whole; c += kLanes) peak = maximum(peak, load(row + c));
    if (rest) peak = maximum(peak, load_part(row + whole, rest, kLowest));
    const float top = max_lanes(peak);
    const float target_logit = row[targets[i]];
    bool is_first = target_logit == top;
    for (int64_t c = 0; is_first && c < targets[i]; ++c) is_first = row[c] < top;

    Vec sums{};
    for (int64_t c = 0; c < whole; c += kLanes) {
      const Vec e = exponential(load(row + c) - top);
      sums += e;
      if (scale) store(row + c, e);
    }
    if (rest) {
      const Vec e = exponential(load_part(row + whole, rest, kLowest) - top);
      sums += e;
      if (scale) store_part(row + whole, e, rest);
    }
    const float sum = sum_lanes(sums);
    loss[i] = std::log(static_cast<double>(sum)) + (static_cast<double>(top) - target_logit);
    correct[i] = is_first;
    if (!scale) continue;
    const float factor = scale[i] / sum;
    const float at_target = row[targets[i]] * factor - scale[i];
    for (int64_t c = 0; c < whole; c += kLanes) store(row + c, round(load(row + c) * factor));
    for (int64_t c = whole; c < vocab; ++c) row[c] = round(row[c] * factor);
    row[targets[i]] = round(at_target);
  }
}

}  // namespace tlora::cpu
