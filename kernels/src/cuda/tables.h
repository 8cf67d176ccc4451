// What the CUDA kernels of one step know about the batch, in device memory; filled once per step by the backend.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

namespace tlora::cuda {

using bf16 = __nv_bfloat16;

constexpr int kModuleCount = 7;  // TL_Q_PROJ … TL_DOWN_PROJ
// Every activation matrix and strip has its rows padded to this many; kernels may read the padding rows (they hold
// anything) and must never let them reach a real row.
constexpr int kRowPad = 128;
constexpr int kTileRows = 64;  // rows of a RowTile at most
// Adapters of more strip columns than this get their gradients of the MLP by lora_gradients, after gated_backward.
constexpr int kGatedColumns = 32;

struct DeviceSegment {
  int32_t start = 0;
  int32_t length = 0;
  int32_t adapter = -1;  // in Tables::adapters, or -1: frozen base only
  int32_t reserved = 0;
  uint64_t dropout_key = 0;
};

struct DeviceAdapter {
  int32_t rank = 0;
  int32_t columns = 0;       // ceil16(rank): how many strip columns are its own
  int32_t batch_column = 0;  // the first of them in the strips of this batch, a multiple of 16
  int32_t home_column = 0;   // the first of them in the working copies (struct Home), a multiple of 16
  float scale = 0;           // alpha / rank or alpha / sqrt(rank)
  uint32_t targets = 0;      // bit set of modules
  uint32_t drop_threshold = 0;  // floor(p * 2^32); 0: no dropout in this step
  float keep = 1;               // 1 / (1 - p)
  uint64_t seed = 0;
  float* gradient = nullptr;  // flat fp32 state
  int32_t first = 0;          // its segments: adapter_segments[first … first + count), in table order
  int32_t count = 0;
};

// Whether gated_backward multiplies for the adapter what it has at hand; dropout wants another act.
__host__ __device__ inline bool gated_fits(const DeviceAdapter& adapter) {
  return adapter.columns <= kGatedColumns && adapter.drop_threshold == 0;
}

// The sequences of an adapter, or one that has none: adapter_segments[first … first + count).
struct Walk {
  int32_t adapter = -1;
  int32_t first = 0;
  int32_t count = 0;
  int32_t reserved = 0;
};

// At most kTileRows rows of one segment.
struct RowTile {
  int32_t start = 0;    // row in the batch
  int32_t rows = 0;
  int32_t adapter = -1;
  int32_t segment = 0;
};

// Rows [first, first + rows of the tile) of a segment, by position in the segment.
struct AttentionTile {
  int32_t start = 0;   // of the segment, row in the batch
  int32_t length = 0;  // of the segment
  int32_t first = 0;   // position of the tile's first row
  int32_t reserved = 0;
};

// Strip columns that rows of one 128-row block of the batch use: `slices` slices of 16 columns each, 1..4, from column
// batch_column of S and home_column of the working copies. An adapter of rank 200 has four: 64, 64, 64, 16 columns.
struct StripChunk {
  int32_t batch_column = 0;
  int32_t home_column = 0;
  int32_t slices = 0;
  uint32_t targets = 0;  // modules of its adapter
};

// Without padding bytes: it is part of a key (recorded_steps.h).
struct Tables {
  int32_t tokens = 0;
  int32_t segment_count = 0;
  int32_t adapter_count = 0;
  int32_t strip_columns = 0;  // of one part's strip: sum of the adapters' columns
  int32_t row_tile_count = 0;
  int32_t tile64_count = 0;
  int32_t tile128_count = 0;
  int32_t any_dropout = 0;
  int32_t walk_count = 0;
  int32_t gated_adapters = 0;  // how many are gated_fits
  const int32_t* position = nullptr;  // [tokens] in the row's own segment
  const DeviceSegment* segments = nullptr;
  const DeviceAdapter* adapters = nullptr;
  const int32_t* adapter_segments = nullptr;  // those of no adapter are the last
  // Every segment is in one walk; the longest walk first.
  const Walk* walks = nullptr;
  const RowTile* row_tiles = nullptr;
  // All tiles of all segments with 64 and with 128 rows; longest work of a causal query tile (largest `first`) first.
  const AttentionTile* tiles64 = nullptr;
  const AttentionTile* tiles128 = nullptr;
  // For the GEMMs: chunks of 128-row block b are strip_chunks[chunk_first[b] … chunk_first[b + 1]), by batch_column.
  const StripChunk* strip_chunks = nullptr;
  const int32_t* chunk_first = nullptr;
  // The same without the adapters that have dropout: their dX comes by lora_masked_expand.
  const int32_t* backward_chunk_first = nullptr;
};
static_assert(sizeof(Tables) == 10 * sizeof(int32_t) + 11 * sizeof(void*), "no padding");

// in and out of the seven linears, the same in every layer.
struct ModuleSizes {
  int64_t in[kModuleCount] = {};
  int64_t out[kModuleCount] = {};
};

// Elements before A of (layer, module) in an adapter's flat state; B follows A's rank * in elements. The adapter must
// target the module. Order: layer, module, A before B, dense.
__host__ __device__ inline int64_t flat_offset(const ModuleSizes& sizes, uint32_t targets, int rank, int layer, int module) {
  int64_t per_layer = 0, before = 0;
  for (int m = 0; m < kModuleCount; ++m) {
    if (!(targets >> m & 1u)) continue;
    per_layer += sizes.in[m] + sizes.out[m];
    if (m < module) before += sizes.in[m] + sizes.out[m];
  }
  return rank * (layer * per_layer + before);
}

// The bf16 working copies of all adapters at one (layer, module), side by side: element (r, c) of an adapter's A at
// a[(home_column + r) * lda + c], element (o, r) of its B at b[o * ldb + home_column + r]. Columns rank … ceil16(rank) of an
// adapter are zero. Always finite: what would round to infinity is held at the largest finite bf16.
struct Home {
  bf16* a = nullptr;
  int64_t lda = 0;
  bf16* b = nullptr;
  int64_t ldb = 0;
};

}  // namespace tlora::cuda
