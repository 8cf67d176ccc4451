// Turns CUDA failures into tlora::Error.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "error.h"

namespace tlora::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(status == cudaErrorMemoryAllocation ? TL_OUT_OF_MEMORY : TL_INTERNAL,
              std::string(what) + ": " + cudaGetErrorString(status));
}

// After a launch.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace tlora::cuda
