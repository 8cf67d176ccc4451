// Page-locked host memory that is kept and reused: locking pages costs far more than copying them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>

#include "cuda/check.h"

namespace tlora::cuda {

class PinnedPool {
 public:
  PinnedPool() = default;
  ~PinnedPool() {
    for (const auto& [bytes, memory] : free_) cudaFreeHost(memory);
  }
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  void* take(int64_t bytes) {
    const auto it = free_.lower_bound(bytes);
    if (it != free_.end() && it->first <= 2 * bytes) {
      void* memory = it->second;
      sizes_[memory] = it->first;
      free_.erase(it);
      return memory;
    }
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault) != cudaSuccess) {
      cudaGetLastError();
      throw Error(TL_OUT_OF_MEMORY, "cannot lock " + std::to_string(bytes) + " bytes of host memory");
    }
    sizes_[memory] = bytes;
    return memory;
  }
  void give_back(void* memory) {
    free_.emplace(sizes_.at(memory), memory);
    sizes_.erase(memory);
  }

 private:
  std::multimap<int64_t, void*> free_;
  std::map<void*, int64_t> sizes_;
};

}  // namespace tlora::cuda
