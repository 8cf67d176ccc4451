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
// empty reason when it is).
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options);

}  // namespace tlora
