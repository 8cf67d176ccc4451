// The two places where dropout of LoRA inputs costs passes of its own; rows of adapters without dropout are not
// touched.
//
// drop_inputs: element-wise, 8 columns a thread, X read once for all parts; bound by Philox (one call for 4 elements).
//
// lora_masked_expand: a CTA owns [64 rows of one segment, 64 columns] of dx and walks the parts in order. dS · A is one
// chain of mma k16 steps over the ranks ascending; then dx = round(dx + keep * sum) where the element was kept. dx
// stays in registers between the parts (as fp32 of a bf16 value). 4 warps of 16 rows; 24 KiB of shared memory. A lane's
// pair of columns is half of what one Philox call decides, so neighbouring lanes each do one of their two rows and
// swap.
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/lora_tile.h"
#include "cuda/philox.h"

namespace tlora::cuda {
namespace {

constexpr int kDropThreads = 256;
constexpr int kDropRows = 8;  // of a thread

// Grid: x = row tiles, y = columns / 2048, z = 8 rows of the tile each.
__global__ void __launch_bounds__(kDropThreads)
    drop_inputs_kernel(const __grid_constant__ Tables tables, const __grid_constant__ LoraGroup group) {
  __shared__ uint4 streams[kMaxParts];
  const RowTile tile = tables.row_tiles[blockIdx.x];
  if (tile.adapter < 0) return;
  const DeviceAdapter& adapter = tables.adapters[tile.adapter];
  const uint32_t threshold = adapter.drop_threshold, targets = adapter.targets;
  const float keep = adapter.keep;
  const int first = blockIdx.z * kDropRows, end = min(first + kDropRows, tile.rows);
  if (threshold == 0 || first >= end) return;
  const DeviceSegment& segment = tables.segments[tile.segment];
  if (threadIdx.x < group.parts)
    streams[threadIdx.x] =
        dropout_stream(adapter.seed, segment.dropout_key, group.layer, group.part[threadIdx.x].module);
  __syncthreads();

  const int64_t column = (int64_t{blockIdx.y} * kDropThreads + threadIdx.x) * 8, left = group.part[0].in - column;
  if (left <= 0) return;
  const int position = tile.start - segment.start;
  for (int row = first; row < end; ++row) {
    union {
      uint4 all;
      bf16 x[8];
    } in, out;
    in.all = *reinterpret_cast<const uint4*>(group.part[0].x + (tile.start + row) * group.part[0].ld_x + column);
    for (int p = 0; p < group.parts; ++p) {
      const LoraPart& part = group.part[p];
      if (!(targets >> part.module & 1)) continue;
      const int quad = static_cast<int>(column / 4);
      const uint32_t dropped = dropped_of_four(streams[p], position + row, quad, threshold) |
                               dropped_of_four(streams[p], position + row, quad + 1, threshold) << 4;
#pragma unroll
      for (int i = 0; i < 8; ++i)
        out.x[i] = dropped >> i & 1 ? __float2bfloat16_rn(0.0f) : __float2bfloat16_rn(__bfloat162float(in.x[i]) * keep);
      bf16* memory = part.dropped + (tile.start + row) * part.ld_dropped + column;
      if (left >= 8) {
        *reinterpret_cast<uint4*>(memory) = out.all;
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i)
          if (i < left) memory[i] = out.x[i];
      }
    }
  }
}

// Grid: x = 64-column slices, y = row tiles.
__global__ void __launch_bounds__(kLoraThreads)
    lora_masked_expand_kernel(const __grid_constant__ Tables tables, const __grid_constant__ LoraGroup group, bf16* dx,
                              int64_t ld_dx) {
  __shared__ __align__(128) unsigned char shared[3 * kWideBytes];
  __shared__ uint4 streams[kMaxParts];
  const RowTile tile = tables.row_tiles[blockIdx.y];
  if (tile.adapter < 0) return;
  const DeviceAdapter adapter = tables.adapters[tile.adapter];
  if (adapter.drop_threshold == 0) return;
  const DeviceSegment& segment = tables.segments[tile.segment];
  if (threadIdx.x < group.parts)
    streams[threadIdx.x] =
        dropout_stream(adapter.seed, segment.dropout_key, group.layer, group.part[threadIdx.x].module);

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t column = int64_t{blockIdx.x} * kWideColumns, columns = group.part[0].in - column;
  const uint32_t dx_tile = shared_address(shared), strip_tile = dx_tile + kWideBytes, a_tile = strip_tile + kWideBytes;
  bf16* own_dx = dx + tile.start * ld_dx + column;
  load_wide<64>(dx_tile, own_dx, ld_dx, tile.rows, columns);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();

  // The lane's pairs of columns: row lane / 4 + 8 half of the warp's 16, columns 8 n + 2 (lane % 4) and the next.
  auto pair_at = [&](int n, int half) {
    const int row = warp * 16 + half * 8 + (lane >> 2);
    return reinterpret_cast<__nv_bfloat162*>(shared + wide_offset(row, n) + (lane & 3) * 4);
  };
  float x[8][4];
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = __bfloat1622float2(*pair_at(n, half));
      x[n][2 * half] = pair.x;
      x[n][2 * half + 1] = pair.y;
    }

  const int odd = lane & 1;
  const int position = tile.start - segment.start + warp * 16 + (lane >> 2) + odd * 8;
#pragma unroll 1
  for (int p = 0; p < group.parts; ++p) {
    const LoraPart& part = group.part[p];
    if (!(adapter.targets >> part.module & 1)) continue;
    float acc[8][4] = {};
#pragma unroll 1
    for (int k = 0; k < adapter.columns; k += 64) {
      const int count = min(64, adapter.columns - k);
      __syncthreads();  // the tiles have been read
      const bf16* strip = part.strip_grad + tile.start * group.ld_strip + adapter.batch_column + k;
      const bf16* home = part.home.a + (adapter.home_column + k) * part.home.lda + column;
      load_wide<64>(strip_tile, strip, group.ld_strip, tile.rows, count);
      load_wide<64>(a_tile, home, part.home.lda, count, columns);
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (step * 16 >= count) break;
        uint32_t a[4], b[4][4];
        ldmatrix_x4(a, strip_tile + wide_offset(warp * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < 4; ++n)
          ldmatrix_x4_trans(b[n], a_tile + wide_offset(step * 16 + (lane & 15), n * 2 + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          mma_bf16(acc[2 * n], a, b[n][0], b[n][1]);
          mma_bf16(acc[2 * n + 1], a, b[n][2], b[n][3]);
        }
      }
    }
    const uint4 stream = streams[p];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int quad = static_cast<int>(column / 4) + n * 2 + (lane >> 1 & 1);
      const uint32_t mine = dropped_of_four(stream, position, quad, adapter.drop_threshold);
      const uint32_t other = __shfl_xor_sync(0xffffffffu, mine, 1);
      const uint32_t low = (odd ? other : mine) >> 2 * odd, high = (odd ? mine : other) >> 2 * odd;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool dropped = (i < 2 ? low : high) >> (i & 1) & 1;
        const float sum = __bfloat162float(__float2bfloat16_rn(__fmaf_rn(adapter.keep, acc[n][i], x[n][i])));
        x[n][i] = dropped ? x[n][i] : sum;
      }
    }
  }

  // Each pair goes back to where this lane alone has read it; then whole rows leave.
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) *pair_at(n, half) = __floats2bfloat162_rn(x[n][2 * half], x[n][2 * half + 1]);
  __syncthreads();
  const int chunk = threadIdx.x & 7, left = static_cast<int>(min(columns - 8 * chunk, int64_t{8}));
  for (int row = threadIdx.x >> 3; row < tile.rows; row += kLoraThreads / 8) {
    const unsigned char* from = shared + wide_offset(row, chunk);
    bf16* to = own_dx + row * ld_dx + 8 * chunk;
    if (left == 8) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int i = 0; i < left; ++i) to[i] = reinterpret_cast<const bf16*>(from)[i];
    }
  }
}

bool any_dropout(const LoraGroup& group) {
  for (int p = 0; p < group.parts; ++p)
    if (group.part[p].dropped) return true;
  return false;
}

}  // namespace

void drop_inputs(cudaStream_t stream, const Tables& tables, const LoraGroup& group) {
  if (tables.row_tile_count == 0 || !any_dropout(group)) return;
  const int64_t blocks = (group.part[0].in + kDropThreads * 8 - 1) / (kDropThreads * 8);
  const dim3 grid(static_cast<unsigned>(tables.row_tile_count), static_cast<unsigned>(blocks), kTileRows / kDropRows);
  drop_inputs_kernel<<<grid, kDropThreads, 0, stream>>>(tables, group);
  check_launch("drop_inputs");
}

void lora_masked_expand(cudaStream_t stream, const Tables& tables, const LoraGroup& group, bf16* dx, int64_t ld_dx) {
  if (tables.row_tile_count == 0) return;
  const int64_t slices = (group.part[0].in + kWideColumns - 1) / kWideColumns;
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(tables.row_tile_count));
  lora_masked_expand_kernel<<<grid, kLoraThreads, 0, stream>>>(tables, group, dx, ld_dx);
  check_launch("lora_masked_expand");
}

}  // namespace tlora::cuda
