// Frozen weights: packed once when the model opens.
#include <cstdlib>
#include <cstring>

#include "cpu/cpu_backend.h"

namespace tlora::cpu {

CpuLinear::~CpuLinear() {
  std::free(forward);
  std::free(backward);
  std::free(bias);
}

std::vector<std::unique_ptr<FrozenLinear>> CpuBackend::pack_group(const std::vector<WeightSource>& sources) {
  std::vector<std::unique_ptr<FrozenLinear>> packed;
  for (const WeightSource& source : sources) packed.push_back(pack_linear(*source.weight, source.bias));
  return packed;
}

std::unique_ptr<FrozenLinear> CpuBackend::pack_linear(const TensorView& weight, const TensorView* bias) {
  auto linear = std::make_unique<CpuLinear>();
  const int64_t out = linear->out = weight.shape[0];
  const int64_t in = linear->in = weight.shape[1];
  const int64_t forward_bytes = panel_elements(in, out) * 4, backward_bytes = panel_elements(out, in) * 4;
  linear->forward = static_cast<float*>(allocate(forward_bytes));
  linear->backward = static_cast<float*>(allocate(backward_bytes));
  linear->resident_bytes = forward_bytes + backward_bytes + (bias ? out * 4 : 0);

  std::exception_ptr failure;
#pragma omp parallel num_threads(threads_)
  {
    std::vector<float> rows;
    try {
      rows.resize(static_cast<size_t>(kPanel * in));
    } catch (...) {
#pragma omp critical(tlora_failure)
      failure = std::current_exception();
    }
#pragma omp for schedule(dynamic)
    for (int64_t p = 0; p < panel_count(out); ++p) {
      if (rows.empty()) continue;
      const int64_t first = p * kPanel, count = std::min<int64_t>(kPanel, out - first);
      const int64_t width = panel_vectors(out, p) * kLanes;
      widen_to_f32(weight, first * in, count * in, rows.data());
      if (bf16_)
        for (int64_t i = 0; i < count * in; ++i) rows[static_cast<size_t>(i)] = round_bf16(rows[static_cast<size_t>(i)]);
      float* panel = linear->forward + first * in;
      for (int64_t k = 0; k < in; ++k)
        for (int64_t j = 0; j < width; ++j) panel[k * width + j] = j < count ? rows[static_cast<size_t>(j * in + k)] : 0.0f;
      for (int64_t q = 0; q < panel_count(in); ++q) {
        const int64_t column = q * kPanel, columns = std::min<int64_t>(kPanel, in - column);
        const int64_t q_width = panel_vectors(in, q) * kLanes;
        float* back = linear->backward + column * out + first * q_width;
        for (int64_t j = 0; j < count; ++j) {
          std::memcpy(back + j * q_width, rows.data() + j * in + column, static_cast<size_t>(columns) * 4);
          std::memset(back + j * q_width + columns, 0, static_cast<size_t>(q_width - columns) * 4);
        }
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  if (bias) linear->bias = pack_vector(*bias);
  return linear;
}

float* CpuBackend::pack_vector(const TensorView& tensor) {
  float* values = static_cast<float*>(allocate(tensor.elements * 4));
  widen_to_f32(tensor, 0, tensor.elements, values);
  for (int64_t i = 0; i < tensor.elements; ++i) values[i] = round(values[i]);
  return values;
}

void CpuBackend::embed(const FrozenLinear& table, const int32_t* tokens, int64_t n, Matrix x) {
  const auto& linear = static_cast<const CpuLinear&>(table);
  const int64_t vocab = linear.out, hidden = linear.in;
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t t = 0; t < n; ++t)
    for (int64_t p = 0; p < panel_count(hidden); ++p) {
      const int64_t first = p * kPanel, width = panel_vectors(hidden, p) * kLanes;
      const int64_t count = std::min<int64_t>(width, hidden - first);
      std::memcpy(f32(x) + t * x.ld + first, linear.backward + first * vocab + tokens[t] * width, static_cast<size_t>(count) * 4);
    }
}

}  // namespace tlora::cpu
