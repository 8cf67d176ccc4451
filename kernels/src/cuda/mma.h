// Warp-level tensor core and asynchronous copy wrappers that every architecture from sm_80 on has.
//
// Fragments of mma.m16n8k16 (lane l, quad row g = l / 4, quad column t = l % 4), two bf16 a register, lower column
// first:
//   A [16, 16] row-major:  a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8)
//   B [16, 8]  (k, n):     b0 (2t, g), b1 (2t + 8, g); the two elements of a register are neighbours along k
//   C [16, 8]  fp32:       c0 (g, 2t), c1 (g, 2t + 1), c2 (g + 8, 2t), c3 (g + 8, 2t + 1)
// So C tiles 2j and 2j + 1 of a row of tiles, packed, are the A fragment of columns [16j, 16j + 16):
//   a0 = pack(c0, c1) of 2j, a1 = pack(c2, c3) of 2j, a2 and a3 the same of 2j + 1.
//
// ldmatrix.x4 gives register r the 8 x 8 matrix whose eight 16-byte rows lanes 8r to 8r + 7 point at: lane l gets row
// l / 4, elements 2 (l % 4) and the next; with .trans column l / 4, elements of rows 2 (l % 4) and the next.
//   A from row-major [m, k]:                    lane l at row l % 16, column 8 (l / 16)
//   two B tiles (n0, n0 + 8), rows along n:     lane l at row n0 + l % 8 + 8 (l / 16), column k0 + 8 (l / 8 % 2)
//   two B tiles, rows along k, .trans:          lane l at row k0 + l % 16, column n0 + 8 (l / 16)
// b of the first tile is in registers 0 and 1, of the second in 2 and 3.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

namespace tlora::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- asynchronous copies -------------------------------------------------------------------------------------------

// 16 bytes, past L1; both addresses 16-byte aligned. When !valid nothing is read, wherever source points, and zeros are
// written.
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* source, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_4(uint32_t shared, const void* source, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(source), "r"(valid ? 4 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of this thread's youngest groups are under way. Other threads' copies need a barrier after
// it.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- shared memory to fragments ------------------------------------------------------------------------------------

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared)
               : "memory");
}

// ---- products ------------------------------------------------------------------------------------------------------

// c += A · B, bf16 in, fp32 sums.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_bf16(c, a, b[0], b[1]);
}

// Two fp32 rounded to nearest even, `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

}  // namespace tlora::cuda
