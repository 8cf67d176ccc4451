// gradient += dA, dB for all parts and adapters of a group in one launch: dA = dS^T · drop(X), dB = dY^T · S.
//
// A CTA owns 64 columns of X or of one part's dY for one adapter and computes D [64 columns, strip columns] over the
// tokens of the adapter's sequences. Where parts share X (no dropout) all their dS strips are multiplied with one read
// of X; more than 64 strip columns take further turns over the rows.
//
// Order of sums, per element: the gradient in memory, then + every sequence in table order; a sequence is one chain of
// mma k16 steps ascending from its first token, in chunks of 64 tokens. The last chunk is filled up with zeros in
// shared memory: rows of neighbours are never read. A batch split at sequence boundaries therefore gives the same bits,
// and nothing depends on the slices.
//
// 4 warps, each 16 of the 64 columns and all strip columns; both sums (this sequence, total) in registers, at most 32 +
// 32 a thread. Stage: rows [64, 64] and up to 4 strip slices, 16 KiB; 6 stages run on across sequences. Two CTAs per
// SM.
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/lora_tile.h"
#include "cuda/sequence_chunks.h"

namespace tlora::cuda {
namespace {

// What a CTA multiplies: columns [column, column + 64) of `source` with strip slices of the parts.
struct Operand {
  const bf16* source;
  int64_t ld;
  int64_t width;
  int64_t column;
  uint32_t parts;
  int per_part;  // slices of one part
  int first;     // slice of this turn
};

template <bool kIsA, int kSlices>
__device__ __forceinline__ void accumulate(uint32_t stages, const Tables& tables, const LoraGroup& group,
                                           const ModuleSizes& sizes, const DeviceAdapter& adapter,
                                           const Operand& operand) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t ld_strip = group.ld_strip, columns = operand.width - operand.column;
  const bf16* source = operand.source + operand.column;

  const bf16* strip[kSlices];
  float* gradient[kSlices];  // of the slice's first rank and the CTA's first column
  int ranks[kSlices];        // real ones of the slice
  const int64_t rank_stride = kIsA ? operand.width : 1, column_stride = kIsA ? 1 : adapter.rank;
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    const LoraPart& part = group.part[nth_part(operand.parts, (operand.first + s) / operand.per_part)];
    const int rank = (operand.first + s) % operand.per_part * kSlice;
    strip[s] = (kIsA ? part.strip_grad : part.strip) + adapter.batch_column + rank;
    ranks[s] = min(kSlice, adapter.rank - rank);
    gradient[s] = adapter.gradient + flat_offset(sizes, adapter.targets, adapter.rank, group.layer, part.module) +
                  (kIsA ? 0 : adapter.rank * part.in) + rank * rank_stride + operand.column * column_stride;
  }

  SequenceChunks chunks(tables, adapter.first, adapter.count);
  uint32_t ends = 0;  // bit i % 32: chunk i is the last of its sequence
  int issued = 0;
  auto load_next = [&](int stage) {
    if (!chunks.done()) {
      const uint32_t at = stages + stage * kLoraStageBytes;
      const int64_t row = chunks.row();
      const int rows = chunks.rows();
      load_wide<64>(at, source + row * operand.ld, operand.ld, rows, columns);
#pragma unroll
      for (int s = 0; s < kSlices; ++s)
        load_narrow(at + kWideBytes + s * kNarrowBytes, strip[s] + row * ld_strip, ld_strip, rows);
      const uint32_t bit = 1u << (issued & 31);
      ends = chunks.ends_sequence() ? ends | bit : ends & ~bit;
      ++issued;
      chunks.next();
    }
    cp_async_commit();
  };
#pragma unroll 1
  for (int i = 0; i < kLoraStages - 1; ++i) load_next(i);

  // Element i of tile n: column lane / 4 + 8 (i / 2) of the warp's 16, rank 8 n + 2 (lane % 4) + i % 2 of the slice.
  auto visit = [&](auto&& element) {
#pragma unroll
    for (int s = 0; s < kSlices; ++s)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = warp * 16 + (lane >> 2) + (i >> 1) * 8, rank = n * 8 + (lane & 3) * 2 + (i & 1);
          if (column < columns && rank < ranks[s])
            element(2 * s + n, i, gradient[s] + rank * rank_stride + column * column_stride);
        }
  };
  float total[2 * kSlices][4] = {}, acc[2 * kSlices][4] = {};
  visit([&](int tile, int i, const float* memory) { total[tile][i] = *memory; });

  auto fragments = [&](uint32_t at, int step, uint32_t (&a)[4], uint32_t (&b)[kSlices][4]) {
    ldmatrix_x4_trans(a, at + wide_offset(step * 16 + (lane & 7) + (lane >> 4 << 3), warp * 2 + (lane >> 3 & 1)));
#pragma unroll
    for (int s = 0; s < kSlices; ++s)
      ldmatrix_x4_trans(b[s], at + kWideBytes + s * kNarrowBytes + narrow_offset(step * 16 + (lane & 15), lane >> 4));
  };
  int stage = 0;
#pragma unroll 1
  for (int i = 0; i < issued; ++i) {
    cp_async_wait<kLoraStages - 2>();
    __syncthreads();
    const bool ends_sequence = ends >> (i & 31) & 1;
    load_next(stage == 0 ? kLoraStages - 1 : stage - 1);  // the stage that all warps finished before the barrier
    const uint32_t at = stages + stage * kLoraStageBytes;
    uint32_t a[2][4], b[2][kSlices][4];
    fragments(at, 0, a[0], b[0]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (step < 3) fragments(at, step + 1, a[(step + 1) & 1], b[(step + 1) & 1]);
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        mma_bf16(acc[2 * s], a[step & 1], b[step & 1][s][0], b[step & 1][s][1]);
        mma_bf16(acc[2 * s + 1], a[step & 1], b[step & 1][s][2], b[step & 1][s][3]);
      }
    }
    if (ends_sequence) {
#pragma unroll
      for (int n = 0; n < 2 * kSlices; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          total[n][e] += acc[n][e];
          acc[n][e] = 0;
        }
    }
    stage = stage + 1 == kLoraStages ? 0 : stage + 1;
  }
  visit([&](int tile, int i, float* memory) { *memory = total[tile][i]; });
  cp_async_wait<0>();
  __syncthreads();  // the next turn fills the stages again
}

template <bool kIsA>
__device__ __forceinline__ void all_turns(uint32_t stages, const Tables& tables, const LoraGroup& group,
                                          const ModuleSizes& sizes, const DeviceAdapter& adapter, Operand operand) {
  const int slices = __popc(operand.parts) * operand.per_part, turns = (slices + kMaxSlices - 1) / kMaxSlices;
  const int per_turn = (slices + turns - 1) / turns;
#pragma unroll 1
  for (operand.first = 0; operand.first < slices; operand.first += per_turn) {
    switch (min(per_turn, slices - operand.first)) {
      case 1: accumulate<kIsA, 1>(stages, tables, group, sizes, adapter, operand); break;
      case 2: accumulate<kIsA, 2>(stages, tables, group, sizes, adapter, operand); break;
      case 3: accumulate<kIsA, 3>(stages, tables, group, sizes, adapter, operand); break;
      default: accumulate<kIsA, 4>(stages, tables, group, sizes, adapter, operand);
    }
  }
}

// Grid: x = 64-column slices of X (`inputs` times: once for all parts, or for every part's own dropped X; 0: nobody wants dA),
// then of the parts' dY; y = adapters.
__global__ void __launch_bounds__(kLoraThreads, 2)
    lora_gradients_kernel(const __grid_constant__ Tables tables, const __grid_constant__ LoraGroup group,
                          const __grid_constant__ ModuleSizes sizes, int inputs, Sides gated, Sides others) {
  extern __shared__ __align__(128) unsigned char shared[];
  const DeviceAdapter adapter = tables.adapters[blockIdx.y];
  uint32_t active = 0;
  for (int p = 0; p < group.parts; ++p)
    if (adapter.targets >> group.part[p].module & 1) active |= 1u << p;
  const bool dropout = adapter.drop_threshold != 0;

  Operand operand;
  operand.per_part = adapter.columns / kSlice;
  int slice = blockIdx.x;
  const int x_slices = static_cast<int>((group.part[0].in + kWideColumns - 1) / kWideColumns);
  const bool is_a = slice < x_slices * inputs;
  const Sides sides = gated_fits(adapter) ? gated : others;
  if (!(is_a ? sides.a : sides.b)) return;
  int p = 0;
  if (is_a) {
    p = slice / x_slices;
    slice -= p * x_slices;
    if (!dropout && p > 0) return;
    operand.parts = dropout ? active & 1u << p : active;
  } else {
    slice -= x_slices * inputs;
    for (;; ++p) {
      const int own = static_cast<int>((group.part[p].out + kWideColumns - 1) / kWideColumns);
      if (slice < own) break;
      slice -= own;
    }
    operand.parts = active & 1u << p;
  }
  if (operand.parts == 0) return;
  operand.column = int64_t{slice} * kWideColumns;

  const uint32_t stages = shared_address(shared);
  const LoraPart& part = group.part[p];
  if (is_a) {
    operand.source = dropout ? part.dropped : part.x;
    operand.ld = dropout ? part.ld_dropped : part.ld_x;
    operand.width = part.in;
    all_turns<true>(stages, tables, group, sizes, adapter, operand);
  } else {
    operand.source = part.dy;
    operand.ld = part.ld_dy;
    operand.width = part.out;
    all_turns<false>(stages, tables, group, sizes, adapter, operand);
  }
}

}  // namespace

void lora_gradients(cudaStream_t stream, const Tables& tables, const LoraGroup& group, const ModuleSizes& sizes, Sides gated,
                    Sides others) {
  if (tables.gated_adapters == 0) gated = {false, false};
  if (tables.gated_adapters == tables.adapter_count) others = {false, false};
  int inputs = gated.a || others.a ? 1 : 0;
  int64_t slices = 0;
  for (int p = 0; p < group.parts; ++p) {
    if (inputs && group.part[p].dropped) inputs = group.parts;
    if (gated.b || others.b) slices += (group.part[p].out + kWideColumns - 1) / kWideColumns;
  }
  slices += inputs * ((group.part[0].in + kWideColumns - 1) / kWideColumns);
  if (slices == 0) return;
  check(cudaFuncSetAttribute(lora_gradients_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kLoraSharedBytes),
        "lora_gradients");
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(tables.adapter_count));
  lora_gradients_kernel<<<grid, kLoraThreads, kLoraSharedBytes, stream>>>(tables, group, sizes, inputs, gated, others);
  check_launch("lora_gradients");
}

}  // namespace tlora::cuda
