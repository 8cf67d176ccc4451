#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
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

// Whole 64-byte lines, and never a multiple of 1 KiB, where the rows of a tile would fall into few cache sets.
int64_t CpuBackend::leading_dimension(int64_t columns) const {
  const int64_t padded = round_up(columns, 16);
  return padded % 256 == 0 ? padded + 16 : padded;
}

// Enough rows to feed the GEMM, few enough that logits stay a small part of the step.
int64_t CpuBackend::head_chunk(int64_t vocab) const { return std::clamp<int64_t>((int64_t{1} << 22) / vocab, 128, 1024); }

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
