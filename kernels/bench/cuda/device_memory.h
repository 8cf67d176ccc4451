// Device memory, random contents and event times for the CUDA benches.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "cuda/check.h"
#include "cuda/tables.h"

namespace tlora::bench {

using cuda::bf16;
using cuda::check;

inline __device__ uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

inline __device__ float normal(int64_t i, uint32_t seed) {
  const uint32_t u = mix(static_cast<uint32_t>(i) ^ mix(static_cast<uint32_t>(i >> 32) + seed)),
                 v = mix(u + 0x9E3779B9u);
  return sqrtf(-2.0f * logf((static_cast<float>(u) + 1.0f) * 0x1p-32f)) * cospif(static_cast<float>(v) * 0x1p-31f);
}

template <class T>
__global__ void fill_kernel(T* out, int64_t count, float mean, float deviation, uint32_t seed, bool positive) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const float value = mean + deviation * normal(i, seed);
    out[i] = static_cast<T>(positive ? fabsf(value) : value);
  }
}

struct Distribution {
  float mean = 0, deviation = 1;
  bool positive = false;  // absolute values
};

template <class T>
void fill(cudaStream_t stream, T* out, int64_t count, const Distribution& d, uint32_t seed) {
  fill_kernel<T><<<2048, 256, 0, stream>>>(out, count, d.mean, d.deviation, seed, d.positive);
  cuda::check_launch("fill");
}

template <class T>
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t count) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(count) * sizeof(T)), "cudaMalloc");
  }
  Memory(Memory&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Memory() { cudaFree(data_); }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

inline Memory<bf16> random_matrix(int64_t count, float deviation, uint32_t seed) {
  Memory<bf16> memory(count);
  fill(nullptr, memory.data(), count, {0, deviation}, seed);
  return memory;
}

template <class T>
Memory<T> upload(const std::vector<T>& values) {
  Memory<T> memory(static_cast<int64_t>(values.size()));
  check(cudaMemcpy(memory.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // other streams do not wait for the copy
  return memory;
}

struct Event {
  Event() { check(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event, stream), "cudaEventRecord"); }
  cudaEvent_t event;
};

inline double milliseconds(const Event& from, const Event& to) {
  float ms = 0;
  check(cudaEventSynchronize(to.event), "cudaEventSynchronize");
  check(cudaEventElapsedTime(&ms, from.event, to.event), "cudaEventElapsedTime");
  return ms;
}

}  // namespace tlora::bench
