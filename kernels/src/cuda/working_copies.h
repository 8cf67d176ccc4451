// The bf16 working copies of all adapters, side by side (struct Home): one allocation for all layers and modules, `capacity`
// columns wide. An adapter takes neighbouring columns, a multiple of 16; the first gap that fits is taken. The copies can always be made
// again from the fp32 master weights, so growing throws the old ones away first.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "cuda/tables.h"

namespace tlora::cuda {

class WorkingCopies {
 public:
  WorkingCopies() = default;
  ~WorkingCopies();
  WorkingCopies(const WorkingCopies&) = delete;
  WorkingCopies& operator=(const WorkingCopies&) = delete;

  static constexpr int32_t kGrowth = 64;  // columns: a box of the copy engine is as wide
  // Of the copies of so many columns.
  static int64_t bytes(int32_t layers, const ModuleSizes& sizes, int32_t columns);

  // Modules that share an input form one group: q, k, v | o | gate, up | down.
  void set_modules(int32_t layers, const ModuleSizes& sizes);

  // The first column of a gap of so many columns, now taken; -1 when there is none.
  int32_t take(int32_t columns);
  void give_back(int32_t first, int32_t columns);
  int32_t capacity() const { return capacity_; }
  // Makes room for a further gap of so many columns at the end. The contents are lost (zero): the caller refreshes every adapter.
  // Throws Error(TL_OUT_OF_MEMORY) and keeps the old capacity (contents lost all the same).
  void grow(int32_t columns, cudaStream_t stream);

  // Without adapters: gives the memory back.
  void clear() noexcept;

  const Home* device_homes() const { return homes_device_; }  // [layers * 7]
  const Home& home(int layer, int module) const { return homes_[static_cast<size_t>(layer * kModuleCount + module)]; }

 private:
  void allocate(int32_t capacity, cudaStream_t stream);

  int32_t layers_ = 0;
  ModuleSizes sizes_;
  int32_t capacity_ = 0;
  std::vector<bool> taken_;  // by 16 columns
  void* memory_ = nullptr;
  std::vector<Home> homes_;
  Home* homes_device_ = nullptr;
};

}  // namespace tlora::cuda
