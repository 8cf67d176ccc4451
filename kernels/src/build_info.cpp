#include "build_info.h"

#include <dlfcn.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "cpu/vec.h"
#include "error.h"

#if !defined(TLORA_BUILD_ID) || !defined(TLORA_COMPILER) || !defined(TLORA_FLAGS)
#error "the Makefile defines TLORA_BUILD_ID, TLORA_COMPILER and TLORA_FLAGS"
#endif

namespace tlora {
namespace {

std::string quoted(const std::string& text) {
  static const char* const kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') (out += '\\') += c;
    else if (byte < 0x20) (((out += "\\u00") += kHex[byte >> 4]) += kHex[byte & 15]);
    else out += c;
  }
  return out + "\"";
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) {
      const size_t colon = line.find(':');
      if (colon != std::string::npos) return line.substr(line.find_first_not_of(" \t", colon + 1));
    }
  return "unknown";
}

std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(&build_id), &info) || !info.dli_fname) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

using CudaEntry = Backend* (*)(const char*, const BackendOptions*, char*, int64_t);

struct CudaLibrary {
  CudaEntry entry = nullptr;
  int64_t (*devices)(char*, int64_t) = nullptr;
};

// entry is null, with a reason, when the library is absent or is not ours.
CudaLibrary cuda_library(std::string& reason) {
  const std::string path = own_folder() + "/libtlora_cuda.so";
  if (access(path.c_str(), F_OK) != 0) {
    reason = "libtlora_cuda.so is not in the folder of libtlora.so";
    return {};
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* text = dlerror();
    reason = text ? text : "dlopen failed";
    return {};
  }
  CudaLibrary found;
  found.entry = reinterpret_cast<CudaEntry>(dlsym(library, "tlora_cuda_backend"));
  found.devices = reinterpret_cast<int64_t (*)(char*, int64_t)>(dlsym(library, "tlora_cuda_devices"));
  if (!found.entry) reason = "libtlora_cuda.so does not export tlora_cuda_backend";
  return found;
}

// Of a library whose entry has accepted this build's id.
std::string cuda_devices(const CudaLibrary& library) {
  if (!library.devices) return "[]";
  std::string json(static_cast<size_t>(std::max<int64_t>(0, library.devices(nullptr, 0))), ' ');
  const int64_t length = library.devices(json.data(), static_cast<int64_t>(json.size()));
  return length > 0 && length == static_cast<int64_t>(json.size()) ? json : "[]";
}

}  // namespace

const char* build_id() { return TLORA_BUILD_ID; }

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  std::string reason;
  if (const CudaEntry entry = cuda_library(reason).entry) {
    char text[1024] = "";
    if (Backend* backend = entry(build_id(), &options, text, sizeof text)) return std::unique_ptr<Backend>(backend);
    reason = text;
  }
  throw Error(TL_UNSUPPORTED, "options.backend: TL_BACKEND_CUDA is not available: " + reason);
}

std::string build_info_json() {
  const int64_t memory = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  std::string reason, devices = "[]";
  bool cuda = false;
  if (const CudaLibrary library = cuda_library(reason); library.entry) {
    char text[1024] = "";
    library.entry(build_id(), nullptr, text, sizeof text);
    reason = text;
    cuda = reason.empty();
    if (cuda) devices = cuda_devices(library);
  }
  const std::string name = cpu_name(), threads = std::to_string(omp_get_max_threads());
  return "{\"abi\":" + std::to_string(TL_ABI_VERSION) + ",\"build_id\":" + quoted(TLORA_BUILD_ID) +
         ",\"compiler\":" + quoted(TLORA_COMPILER) + ",\"flags\":" + quoted(TLORA_FLAGS) + ",\"cpu\":{\"name\":" + quoted(name) +
         ",\"threads\":" + threads + ",\"simd\":" + quoted(cpu::kSimdName) +
         "},\"backends\":[{\"name\":\"cpu\",\"available\":true,\"reason\":\"\",\"devices\":[{\"ordinal\":0,\"name\":" + quoted(name) +
         ",\"memory_bytes\":" + std::to_string(memory) + "}]},{\"name\":\"cuda\",\"available\":" + (cuda ? "true" : "false") +
         ",\"reason\":" + quoted(reason) + ",\"devices\":" + devices + "}]}";
}

}  // namespace tlora
