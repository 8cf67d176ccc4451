#include <omp.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "cpu/cpu_backend.h"
#include "error.h"

namespace tlora::cpu {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kSlack = 128;  // vector loads may run past the last column of the last row
constexpr int64_t kHugePage = 2 << 20;

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : threads_(options.threads > 0 ? options.threads : omp_get_max_threads()), bf16_(options.compute == TL_COMPUTE_BF16) {}

void* CpuBackend::allocate(int64_t bytes) {
  const int64_t align = bytes >= 2 * kHugePage ? kHugePage : kAlign;
  const int64_t padded = round_up(bytes + kSlack, align);
  void* memory = std::aligned_alloc(static_cast<size_t>(align), static_cast<size_t>(padded));
  if (!memory) throw Error(TL_OUT_OF_MEMORY, "cannot allocate " + std::to_string(bytes) + " bytes of host memory");
  // Row strides of activations exceed a 4 KiB page: without huge pages every row of a tile costs a TLB entry.
  if (align == kHugePage) madvise(memory, static_cast<size_t>(padded), MADV_HUGEPAGE);
  std::memset(static_cast<char*>(memory) + bytes, 0, static_cast<size_t>(kSlack));
  return memory;
}

void CpuBackend::release(void* memory, int64_t) noexcept { std::free(memory); }
void CpuBackend::zero(void* memory, int64_t bytes) { std::memset(memory, 0, static_cast<size_t>(bytes)); }
void CpuBackend::upload(void* device, const void* host, int64_t bytes) {
  std::memcpy(device, host, static_cast<size_t>(bytes));
}
void CpuBackend::download(void* host, const void* device, int64_t bytes) {
  std::memcpy(host, device, static_cast<size_t>(bytes));
}

}  // namespace tlora::cpu

namespace tlora {
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}
}  // namespace tlora
