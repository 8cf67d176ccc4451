// cuBLASLt, opened at run time: a bf16 GEMM of the vendor's as ceiling and baseline of our own (bench/cuda). No step
// needs it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

#include "cuda/tables.h"

namespace tlora::cuda {

class CublasLt {
 public:
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Looks for the library in this order: the file or folder in TLORA_CUBLASLT; the loader's own path; the toolkit's
  // folders; the nvidia wheels of Python environments. False: `reason` says what was tried. True again when already
  // loaded.
  bool load(std::string& reason);
  bool loaded() const;
  // As the library says it, for instance 130101; 0 when not loaded.
  int64_t version() const;
  // Of the file that was opened.
  const std::string& path() const;

  // C = A · op(B), all row-major, A [m, k] and C [m, n]; b_is_k_major: B [n, k], op(B) = B^T; else B [k, n]. C bf16 or
  // fp32. fp32 sums, no split-K; the first algorithm of the library's own heuristic, kept per shape; a workspace per
  // stream. Pointers 16-byte aligned, leading dimensions in elements, multiples of 8. Throws Error.
  void gemm(cudaStream_t stream, bool b_is_k_major, int64_t m, int64_t n, int64_t k, const bf16* a, int64_t lda,
            const bf16* b, int64_t ldb, void* c, int64_t ldc, bool c_fp32);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace tlora::cuda
