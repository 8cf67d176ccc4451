// What libtlora_cuda.so exports (src/build_info.h). The runtime is linked statically, so that the library loads, and says why it can do
// nothing, where there is no driver.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda/cuda_backend.h"

#ifndef TLORA_BUILD_ID
#error "the Makefile defines TLORA_BUILD_ID"
#endif

namespace {

void say(const std::string& text, char* to, int64_t capacity) {
  if (capacity <= 0) return;
  const size_t length = std::min(text.size(), static_cast<size_t>(capacity - 1));
  std::memcpy(to, text.data(), length);
  to[length] = 0;
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// Empty when the device can run the kernels.
std::string refusal(int device) {
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, device); status != cudaSuccess)
    return std::string("device ") + std::to_string(device) + ": " + cudaGetErrorString(status);
  if (properties.major < 8)
    return std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." +
           std::to_string(properties.minor) + "; at least 8.0 is needed";
  return "";
}

std::string no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "there is no NVIDIA driver on this machine";
    return "the NVIDIA driver supports CUDA " + version(driver) + ", the library needs " + version(runtime);
  }
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (count == 0) return "there is no CUDA device";
  std::string reasons;
  for (int i = 0; i < count; ++i) {
    const std::string reason = refusal(i);
    if (reason.empty()) return "";
    reasons += (reasons.empty() ? "" : "; ") + reason;
  }
  return reasons;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text)
    if (c == '"' || c == '\\') (out += '\\') += c;
    else if (static_cast<unsigned char>(c) >= 0x20) out += c;
  return out + "\"";
}

// The kernel module's own version; the runtime tells only which CUDA it supports.
std::string driver_version() {
  std::string text;
  if (FILE* file = std::fopen("/proc/driver/nvidia/version", "r")) {
    char line[256];
    if (std::fgets(line, sizeof line, file)) {
      const std::string whole = line;
      for (size_t at = 0; at < whole.size();) {
        const size_t end = std::min(whole.find_first_of(" \t\n", at), whole.size());
        const std::string word = whole.substr(at, end - at);
        if (word.find('.') != std::string::npos && word.find_first_not_of("0123456789.") == std::string::npos) {
          text = word;
          break;
        }
        at = end + 1;
      }
    }
    std::fclose(file);
  }
  if (!text.empty()) return text;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  return "CUDA " + version(driver);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) tlora::Backend* tlora_cuda_backend(const char* build_id,
                                                                                     const tlora::BackendOptions* options,
                                                                                     char* reason, int64_t reason_capacity) {
  try {
    say("", reason, reason_capacity);
    if (std::strcmp(build_id, TLORA_BUILD_ID) != 0) {
      say(std::string("libtlora_cuda.so was built from other sources (") + TLORA_BUILD_ID + ") than libtlora.so (" + build_id + ")", reason,
          reason_capacity);
      return nullptr;
    }
    std::string text = no_device();
    if (text.empty() && options) {
      text = refusal(options->device);
      if (text.empty() && options->compute != TL_COMPUTE_BF16)
        text = "options.compute must be TL_COMPUTE_BF16 (1) on CUDA, got " + std::to_string(options->compute);
    }
    if (!text.empty() || !options) {
      say(text, reason, reason_capacity);
      return nullptr;
    }
    return new tlora::cuda::CudaBackend(*options);
  } catch (const std::exception& error) {
    say(error.what(), reason, reason_capacity);
    return nullptr;
  }
}

extern "C" __attribute__((visibility("default"))) int64_t tlora_cuda_devices(char* json, int64_t capacity) {
  std::string out = "[";
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess)
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp p{};
      if (!refusal(i).empty() || cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
      out += (out.size() > 1 ? "," : "") + std::string("{\"ordinal\":") + std::to_string(i) + ",\"name\":" + quoted(p.name) +
             ",\"memory_bytes\":" + std::to_string(p.totalGlobalMem) + ",\"compute_capability\":\"" + std::to_string(p.major) + "." +
             std::to_string(p.minor) + "\",\"multiprocessors\":" + std::to_string(p.multiProcessorCount) +
             ",\"driver\":" + quoted(driver_version()) + "}";
    }
  out += "]";
  if (json && capacity > 0) std::memcpy(json, out.data(), std::min(out.size(), static_cast<size_t>(capacity)));
  return static_cast<int64_t>(out.size());
}
