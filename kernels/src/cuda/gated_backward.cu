// The elementwise backward of act = silu(gate) * up, and what adapters multiply with its tiles while they are in shared memory:
//   dB_gate += dgate^T · S_gate      dB_up += dup^T · S_up      dA_down += dS_down^T · act
// gate, up and dact are read once, dgate and dup written once; act never leaves the SM.
//
// A CTA owns 64 columns for one walk (tables.h) and takes its tokens in chunks of 64. Each thread turns over the vectors it has
// copied itself, in place, so one barrier a chunk is enough: after it all tiles are operands, and all warps have done with the
// stage that is filled next. Walks of base-only rows, and of adapters that are not gated_fits or target none of the three, are
// elementwise only; act then takes the place of dact where lora_gradients will want it.
//
// Order of sums and rounding: those of swiglu_backward and lora_gradients, bit for bit. The tail of a sequence's last chunk is
// zero in all three tiles (zeros in give zeros out), and rows of neighbours are never read.
//
// 8 warps. Warp w has columns [16 (w % 4), …) and, of the products, all ranks of gate (w < 4) or down and half the ranks of
// up; both sums (this sequence, total) in registers, at most 24 + 24 a thread. Stage: three tiles [64, 64] and up to six strip
// slices, 36 KiB; 3 stages, two CTAs per SM: at least 48 KiB of rows under way.
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/lora_tile.h"
#include "cuda/row.h"
#include "cuda/sequence_chunks.h"
#include "cuda/swiglu.h"
#include "tlora.h"

namespace tlora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStages = 3;
constexpr int kProducts = 3;  // tiles and products in this order: gate, up, down
constexpr int kMostSlices = kGatedColumns / kSlice;
constexpr uint32_t kStripsAt = kProducts * kWideBytes;
constexpr uint32_t kStageBytes = kStripsAt + kProducts * kMostSlices * kNarrowBytes;
constexpr uint32_t kSharedBytes = kStages * kStageBytes;

__device__ __forceinline__ int module_of(int product) {
  return product == 0 ? TL_GATE_PROJ : product == 1 ? TL_UP_PROJ : TL_DOWN_PROJ;
}

struct Chunk {
  int row = 0;
  int rows = 0;  // 0: there is none
  bool ends_sequence = false;
};

// Where a product's sums live in the adapter's gradient; at: of rank 0 and the CTA's first column, null if it is not a target.
struct Destination {
  float* at = nullptr;
  int64_t rank_stride = 0, column_stride = 0;
};
__device__ __forceinline__ Destination destination(const DeviceAdapter& adapter, const GatedBackward& g, const ModuleSizes& sizes,
                                                   int64_t column, int product) {
  const int module = module_of(product);
  if (!(adapter.targets >> module & 1)) return {};
  float* const a = adapter.gradient + flat_offset(sizes, adapter.targets, adapter.rank, g.layer, module);
  if (product == 2) return {a + column, g.width, 1};
  return {a + adapter.rank * sizes.in[module] + column * adapter.rank, 1, adapter.rank};
}

// kSlices: of each product's strip; 0: nothing is multiplied.
template <int kSlices>
__device__ __forceinline__ void take_walk(unsigned char* shared, const Tables& tables, const GatedBackward& g,
                                          const ModuleSizes& sizes, const Walk& walk, int64_t column, bool act_to_dact) {
  const uint32_t stages = shared_address(shared);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, half = warp >> 2;
  const int64_t columns = g.width - column;
  bf16* const gate = g.gate_up + column;
  bf16* const up = gate + g.width;
  bf16* const dact = g.dact + column;

  // Slice 2 i + pass_half is copied by 128 threads, 16 bytes each.
  constexpr int kPasses = (kProducts * kSlices + 1) / 2;
  const int pass_half = threadIdx.x >> 7, strip_row = threadIdx.x >> 1 & 63;
  const bf16* strip[kPasses > 0 ? kPasses : 1];
  uint32_t wanted = 0;  // bit i: the adapter targets the module of slice 2 i + pass_half
  if constexpr (kSlices > 0) {
    const DeviceAdapter& adapter = tables.adapters[walk.adapter];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int j = 2 * i + pass_half, product = j / kSlices;
      strip[i] = (product == 0 ? g.strip_gate : product == 1 ? g.strip_up : g.strip_grad_down) + adapter.batch_column +
                 j % kSlices * kSlice + strip_row * g.ld_strip + 8 * (threadIdx.x & 1);
      if (product < kProducts && adapter.targets >> module_of(product) & 1) wanted |= 1u << i;
    }
  }

  SequenceChunks chunks(tables, walk.first, walk.count);
  auto load_next = [&](int stage) {
    Chunk c;
    if (!chunks.done()) {
      const uint32_t at = stages + stage * kStageBytes;
      c = {chunks.row(), chunks.rows(), chunks.ends_sequence()};
      const int64_t row = c.row;
      load_wide<64, kThreads>(at, gate + row * g.ld_gate_up, g.ld_gate_up, c.rows, columns);
      load_wide<64, kThreads>(at + kWideBytes, up + row * g.ld_gate_up, g.ld_gate_up, c.rows, columns);
      load_wide<64, kThreads>(at + 2 * kWideBytes, dact + row * g.ld_dact, g.ld_dact, c.rows, columns);
#pragma unroll
      for (int i = 0; i < kPasses; ++i) {
        const int j = 2 * i + pass_half;
        if (j < kProducts * kSlices)
          cp_async_16(at + kStripsAt + j * kNarrowBytes + narrow_offset(strip_row, threadIdx.x & 1),
                      strip[i] + row * g.ld_strip, (wanted >> i & 1) && strip_row < c.rows);
      }
      chunks.next();
    }
    cp_async_commit();
    return c;
  };
  Chunk now = load_next(0), next = load_next(1);

  // A thread's vectors are the 16-byte chunks that load_wide has it copy: one of rows `first` and first + 32.
  const int first = threadIdx.x >> 3, vector = threadIdx.x & 7;
  auto turn_over = [&](const Chunk& c, int stage) {
    unsigned char* const tile = shared + stage * kStageBytes + wide_offset(first, vector);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = first + i * 32;
      if (r >= c.rows || vector * 8 >= columns) continue;
      uint4* const of_gate = reinterpret_cast<uint4*>(tile + i * 32 * 128);
      uint4* const of_up = reinterpret_cast<uint4*>(tile + i * 32 * 128 + kWideBytes);
      uint4* const of_dact = reinterpret_cast<uint4*>(tile + i * 32 * 128 + 2 * kWideBytes);
      float gates[8], ups[8], dy[8];
      unpack8(*of_gate, gates);
      unpack8(*of_up, ups);
      unpack8(*of_dact, dy);
      turn_over8(gates, ups, dy);
      const uint4 dgate = pack8(gates), dup = pack8(ups), act = pack8(dy);
      if constexpr (kSlices > 0) {
        *of_gate = dgate;
        *of_up = dup;
        *of_dact = act;
      }
      const int64_t row = c.row + r;
      __stwb(reinterpret_cast<uint4*>(gate + row * g.ld_gate_up + 8 * vector), dgate);
      __stwb(reinterpret_cast<uint4*>(up + row * g.ld_gate_up + 8 * vector), dup);
      if (kSlices == 0 && act_to_dact) __stwb(reinterpret_cast<uint4*>(dact + row * g.ld_dact + 8 * vector), act);
    }
  };

  if constexpr (kSlices == 0) {
    for (int stage = 0; now.rows > 0; stage = stage + 1 == kStages ? 0 : stage + 1) {
      cp_async_wait<kStages - 2>();
      turn_over(now, stage);
      now = next;
      next = load_next(stage == 0 ? kStages - 1 : stage - 1);  // the stage of the chunk before, which this thread alone has read
    }
  } else {
    // Tiles of the warp's own product: all ranks, two to a slice; of up: ranks [8 half, …) of a slice. Element i of a tile:
    // column lane / 4 + 8 (i / 2) of the warp's 16, rank 2 (lane % 4) + i % 2 of the tile's 8.
    float own[2 * kSlices][4] = {}, total_own[2 * kSlices][4] = {};
    float both[kSlices][4] = {}, total_both[kSlices][4] = {};
    auto visit = [&](auto&& element) {
      const DeviceAdapter& adapter = tables.adapters[walk.adapter];  // read again at the end, not held
      auto tile = [&](const Destination& d, float (&sums)[4], int rank) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int c = (warp & 3) * 16 + (lane >> 2) + (i >> 1) * 8, r = rank + (lane & 3) * 2 + (i & 1);
          if (d.at && c < columns && r < adapter.rank) element(sums[i], d.at + r * d.rank_stride + c * d.column_stride);
        }
      };
      const Destination of_own = destination(adapter, g, sizes, column, 2 * half);
#pragma unroll
      for (int n = 0; n < 2 * kSlices; ++n) tile(of_own, total_own[n], 8 * n);
      const Destination of_up = destination(adapter, g, sizes, column, 1);
#pragma unroll
      for (int s = 0; s < kSlices; ++s) tile(of_up, total_both[s], kSlice * s + 8 * half);
    };
    visit([](float& sum, const float* memory) { sum = *memory; });

    const uint32_t own_wide = 2 * half * kWideBytes, own_strips = kStripsAt + 2 * half * kSlices * kNarrowBytes;
    const uint32_t up_strips = kStripsAt + kSlices * kNarrowBytes;
    struct Fragments {
      uint32_t own_a[4], own_b[kSlices][4], up_a[4], up_b[kSlices][2];
    };
    auto fragments = [&](uint32_t at, int step, Fragments& f) {
      const uint32_t wide = at + wide_offset(step * 16 + (lane & 7) + (lane >> 4 << 3), (warp & 3) * 2 + (lane >> 3 & 1));
      ldmatrix_x4_trans(f.own_a, wide + own_wide);
      ldmatrix_x4_trans(f.up_a, wide + kWideBytes);
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        ldmatrix_x4_trans(f.own_b[s], at + own_strips + s * kNarrowBytes + narrow_offset(step * 16 + (lane & 15), lane >> 4));
        ldmatrix_x2_trans(f.up_b[s], at + up_strips + s * kNarrowBytes + narrow_offset(step * 16 + (lane & 15), half));
      }
    };
    int stage = 0;
#pragma unroll 1
    while (now.rows > 0) {
      cp_async_wait<kStages - 2>();
      turn_over(now, stage);
      __syncthreads();
      const Chunk after = load_next(stage == 0 ? kStages - 1 : stage - 1);  // all warps have done with the stage before
      const uint32_t at = stages + stage * kStageBytes;
      Fragments f[2];
      fragments(at, 0, f[0]);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (step < 3) fragments(at, step + 1, f[(step + 1) & 1]);
        const Fragments& x = f[step & 1];
#pragma unroll
        for (int s = 0; s < kSlices; ++s) {
          mma_bf16(own[2 * s], x.own_a, x.own_b[s][0], x.own_b[s][1]);
          mma_bf16(own[2 * s + 1], x.own_a, x.own_b[s][2], x.own_b[s][3]);
          mma_bf16(both[s], x.up_a, x.up_b[s]);
        }
      }
      if (now.ends_sequence) {
        auto add = [](auto& total, auto& sum) {
#pragma unroll
          for (int n = 0; n < static_cast<int>(sizeof sum / sizeof sum[0]); ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              total[n][e] += sum[n][e];
              sum[n][e] = 0;
            }
        };
        add(total_own, own);
        add(total_both, both);
      }
      now = next;
      next = after;
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    visit([](float& sum, float* memory) { *memory = sum; });
  }
  cp_async_wait<0>();
}

// Grid: for every walk, longest first, the 64-column slices.
__global__ void __launch_bounds__(kThreads, 2)
    gated_backward_kernel(const __grid_constant__ Tables tables, const __grid_constant__ GatedBackward g,
                          const __grid_constant__ ModuleSizes sizes, int slices) {
  extern __shared__ __align__(128) unsigned char shared[];
  const Walk walk = tables.walks[blockIdx.x / slices];
  const int64_t column = int64_t{blockIdx.x % slices} * kWideColumns;
  constexpr uint32_t kDown = 1u << TL_DOWN_PROJ, kMlp = 1u << TL_GATE_PROJ | 1u << TL_UP_PROJ | kDown;
  int of_each = 0;
  bool act_to_dact = false;
  if (walk.adapter >= 0) {
    const DeviceAdapter& adapter = tables.adapters[walk.adapter];
    if (!gated_fits(adapter)) act_to_dact = adapter.targets & kDown;
    else if (adapter.targets & kMlp) of_each = adapter.columns / kSlice;
  }
  static_assert(kMostSlices == 2, "the cases below");
  switch (of_each) {
    case 0: return take_walk<0>(shared, tables, g, sizes, walk, column, act_to_dact);
    case 1: return take_walk<1>(shared, tables, g, sizes, walk, column, false);
    default: return take_walk<2>(shared, tables, g, sizes, walk, column, false);
  }
}

}  // namespace

void gated_backward(cudaStream_t stream, const Tables& tables, const GatedBackward& g, const ModuleSizes& sizes) {
  if (tables.walk_count == 0) return;
  check(cudaFuncSetAttribute(gated_backward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes), "gated_backward");
  const int64_t slices = (g.width + kWideColumns - 1) / kWideColumns;
  gated_backward_kernel<<<static_cast<unsigned>(slices * tables.walk_count), kThreads, kSharedBytes, stream>>>(
      tables, g, sizes, static_cast<int>(slices));
  check_launch("gated_backward");
}

int64_t gated_backward_shared_bytes() { return kSharedBytes; }

}  // namespace tlora::cuda
