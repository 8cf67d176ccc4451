#include "cuda/working_copies.h"

#include <algorithm>

#include "cuda/check.h"
#include "tlora.h"

namespace tlora::cuda {
namespace {

constexpr int32_t kUnit = 16;

int group_first(int module) {
  return module <= TL_V_PROJ ? TL_Q_PROJ : module == TL_UP_PROJ ? TL_GATE_PROJ : module;
}
int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

WorkingCopies::~WorkingCopies() {
  cudaFree(memory_);
  cudaFree(homes_device_);
}

int64_t WorkingCopies::bytes(int32_t layers, const ModuleSizes& sizes, int32_t columns) {
  int64_t elements = 0;
  for (int m = 0; m < kModuleCount; ++m) elements += round_up(sizes.in[m], 64) + sizes.out[m];
  return layers * elements * columns * 2;
}

void WorkingCopies::set_modules(int32_t layers, const ModuleSizes& sizes) {
  layers_ = layers;
  sizes_ = sizes;
  homes_.assign(static_cast<size_t>(layers) * kModuleCount, Home{});
  check(cudaMalloc(reinterpret_cast<void**>(&homes_device_), homes_.size() * sizeof(Home)), "cudaMalloc of the adapter table");
}

int32_t WorkingCopies::take(int32_t columns) {
  const size_t wanted = static_cast<size_t>(columns / kUnit);
  size_t run = 0;
  for (size_t i = 0; i < taken_.size(); ++i) {
    run = taken_[i] ? 0 : run + 1;
    if (run < wanted) continue;
    const size_t first = i + 1 - wanted;
    std::fill_n(taken_.begin() + static_cast<std::ptrdiff_t>(first), wanted, true);
    return static_cast<int32_t>(first) * kUnit;
  }
  return -1;
}

void WorkingCopies::give_back(int32_t first, int32_t columns) {
  std::fill_n(taken_.begin() + first / kUnit, columns / kUnit, false);
}

void WorkingCopies::clear() noexcept {
  cudaFree(memory_);
  memory_ = nullptr;
  capacity_ = 0;
  taken_.clear();
}

void WorkingCopies::grow(int32_t columns, cudaStream_t stream) {
  const int32_t before = capacity_;
  int32_t free_tail = 0;
  while (free_tail < static_cast<int32_t>(taken_.size()) && !taken_[taken_.size() - 1 - static_cast<size_t>(free_tail)]) ++free_tail;
  const int32_t wanted = static_cast<int32_t>(round_up(before - free_tail * kUnit + columns, kGrowth));
  try {
    allocate(wanted, stream);
  } catch (const Error&) {
    if (before) allocate(before, stream);
    throw;
  }
  taken_.resize(static_cast<size_t>(wanted / kUnit), false);
}

void WorkingCopies::allocate(int32_t capacity, cudaStream_t stream) {
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  cudaFree(memory_);
  memory_ = nullptr;
  capacity_ = 0;

  // Offsets first, then one allocation.
  int64_t bytes = 0;
  auto place = [&](int64_t elements) {
    const int64_t at = bytes;
    bytes += round_up(elements * 2, 256);
    return at;
  };
  std::vector<int64_t> a_offset(homes_.size()), b_offset(homes_.size());
  for (int32_t layer = 0; layer < layers_; ++layer)
    for (int m = 0; m < kModuleCount; ++m) {
      const size_t i = static_cast<size_t>(layer * kModuleCount + m);
      if (group_first(m) != m) {  // right behind the module before it, so that a group is one matrix
        a_offset[i] = a_offset[i - 1] + int64_t{capacity} * round_up(sizes_.in[m], 64) * 2;
        b_offset[i] = b_offset[i - 1] + sizes_.out[m - 1] * capacity * 2;
        continue;
      }
      int64_t parts = 0, out = 0;
      for (int other = m; other < kModuleCount && group_first(other) == m; ++other) {
        ++parts;
        out += sizes_.out[other];
      }
      a_offset[i] = place(parts * capacity * round_up(sizes_.in[m], 64));
      b_offset[i] = place(out * capacity);
    }
  if (cudaMalloc(&memory_, static_cast<size_t>(bytes)) != cudaSuccess) {
    cudaGetLastError();
    memory_ = nullptr;
    throw Error(TL_OUT_OF_MEMORY, "cannot allocate " + std::to_string(bytes) + " bytes of device memory for the working copies of adapters (" +
                                      std::to_string(capacity) + " columns)");
  }
  check(cudaMemsetAsync(memory_, 0, static_cast<size_t>(bytes), stream), "cudaMemsetAsync");
  for (size_t i = 0; i < homes_.size(); ++i) {
    const int m = static_cast<int>(i % kModuleCount);
    char* base = static_cast<char*>(memory_);
    homes_[i] = {reinterpret_cast<bf16*>(base + a_offset[i]), round_up(sizes_.in[m], 64), reinterpret_cast<bf16*>(base + b_offset[i]), capacity};
  }
  check(cudaMemcpyAsync(homes_device_, homes_.data(), homes_.size() * sizeof(Home), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  capacity_ = capacity;
}

}  // namespace tlora::cuda
