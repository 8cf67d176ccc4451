// What this library is and what it can run on.
#pragma once

#include <memory>
#include <string>

#include "backend.h"

namespace tlora {

const char* build_id();
std::string build_info_json();

// The CUDA backend from libtlora_cuda.so in this library's own folder. Throws Error(TL_UNSUPPORTED) with the reason.
// That library exports
//   extern "C" tlora::Backend* tlora_cuda_backend(const char* build_id, const tlora::BackendOptions* options,
//                                                 char* reason, int64_t reason_capacity)
// which returns null with a terminated reason when build_id is not its own (the op table is C++ and not versioned
// otherwise) or when there is no usable device. options null: only say whether a device is usable (returns null, and an
// empty reason when it is), and
//   extern "C" int64_t tlora_cuda_devices(char* json, int64_t capacity)
// which writes at most capacity bytes of a JSON array [{"ordinal","name","memory_bytes","compute_capability",
// "multiprocessors","driver"}] of the usable devices and returns its length.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options);

}  // namespace tlora
