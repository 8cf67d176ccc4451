// The product of a group of linears on Hopper (struct Gemm): wgmma fed by the tensor copy engine.
//
// Clusters of two CTAs, persistent. A CTA owns 128 rows x BN columns of the output at a time, its partner the next 128 rows
// of the same columns, so each loads half of the shared B operand and sends it to both. One warpgroup loads, two multiply
// (64 rows each, fp32 sums in registers), with a ring of 64-deep stages in between.
//
// Order of sums, for every output element: k ascending in steps of 16, then the strips' slices of 16, parts and chunks
// ascending. Tile width, stage count and grid decide only where and when: the width may be chosen freely from the shape.
//
// Gate and up with their activation (Gemm::act): a tile is BN / 2 columns of the gate beside the same columns of up, each
// half of B from its own rows of W, so a thread holds both numbers of an element of act. What it stores is act of the
// rounded numbers, as swiglu_forward's. Strips of the one half meet zeros in the other.
//
// Rotary positions (Gemm::rotation): tiles begin at a head and are a whole number of heads wide, so a lane holds both
// elements of every pair of its rows. The rounded tile turns in registers before it is stored.
//
// The adapters' strips are further stages after those of the base: a stage holds up to four slices of 16 strip columns, each
// loaded by itself, of any adapters and parts in order; or, in one piece, a chunk of 64 columns of one adapter. So a row block
// pays for the adapters that have rows in it, not for all of the batch. The two CTAs of a cluster may need different numbers of
// stages; the shorter list is filled up with stages that load nothing, because the ring's slots are shared.
#include "cuda/hopper.h"
#include "cuda/kernels.h"
#include "cuda/rotary.h"
#include "cuda/row.h"
#include "cuda/swiglu.h"

#include <algorithm>

namespace tlora::cuda {
namespace {

constexpr int kBlockRows = 128;
constexpr int kDepth = 64;  // elements of K per stage: one 128-byte row
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kOperandABytes = kBlockRows * kDepth * 2;
constexpr int kPairsPerGroup = 8;      // pairs of row blocks that are walked together over all columns, for the L2
// A CTA starts with 168 registers a thread, what its launch bounds leave of 65,536; who asks for more waits for ever.
constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= 168 * (1 + kConsumers), "registers");

template <int BN>
struct Ring {
  static constexpr int kStages = BN == 128 ? 6 : 4;
  static constexpr int kStageBytes = kOperandABytes + BN * kDepth * 2;
  static constexpr int kSharedBytes = 1024 + kStages * kStageBytes + 256;
};

struct Maps {
  CUtensorMap a, b;
  CUtensorMap strip, home;              // boxes of a chunk of 64 strip columns
  CUtensorMap strip_slice, home_slice;  // of a slice of 16
};

struct Arguments {
  int32_t m, n, k_blocks;
  int32_t pairs, column_tiles;
  int32_t parts;                      // column parts (1 when every column uses all strips)
  int32_t part_tile[kMaxParts + 1];   // first column tile of each part
  int32_t part_column[kMaxParts + 1]; // first column of each part
  int32_t strip_parts;                // 0: no strips
  uint32_t part_bit[kMaxParts];
  int32_t strip_rows, capacity;
  int32_t blocks;  // row blocks with chunks
  const StripChunk* chunks;
  const int32_t* chunk_first;
  const float* bias;
  int64_t to_residual;  // bytes from an element of out to its residual
  void* out;
  int64_t ldc;
  bf16* act;  // of gated tiles; part_column[1] is then the width of a half
  int64_t ld_act;
  const int32_t* position;
  const float* cosine;
  const float* sine;
  int32_t rotated;  // columns of the whole output, from the first
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct Tile {
  int block, part, column;  // row block of this CTA; column in the whole output
};

// Pairs of row blocks in groups, columns inside a group: neighbours in time share A and B in the L2.
__device__ __forceinline__ Tile tile_of(const Arguments& g, int work, int bn, uint32_t rank) {
  const int per_group = kPairsPerGroup * g.column_tiles;
  const int group = work / per_group, first = group * kPairsPerGroup;
  const int height = min(kPairsPerGroup, g.pairs - first);
  const int inside = work - group * per_group;
  const int column_tile = inside / height;
  Tile t;
  t.block = 2 * (first + inside % height) + static_cast<int>(rank);
  t.part = 0;
  while (t.part + 1 < g.parts && column_tile >= g.part_tile[t.part + 1]) ++t.part;
  t.column = g.part_column[t.part] + (column_tile - g.part_tile[t.part]) * bn;
  return t;
}

// The transpose of the 4 x 4 words that the four lanes of a quad hold: word i of lane q goes to word q of lane i.
__device__ __forceinline__ uint4 exchange_in_quad(const uint32_t* word, int quad) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool odd = quad & 1, high = quad & 2;
  // Pairs of lanes exchange the words of the other parity, then the words of the other half.
  const uint32_t a = __shfl_xor_sync(kAll, odd ? word[0] : word[1], 1), b = __shfl_xor_sync(kAll, odd ? word[2] : word[3], 1);
  const uint32_t w0 = odd ? a : word[0], w1 = odd ? word[1] : a, w2 = odd ? b : word[2], w3 = odd ? word[3] : b;
  const uint32_t c = __shfl_xor_sync(kAll, high ? w0 : w2, 2), d = __shfl_xor_sync(kAll, high ? w1 : w3, 2);
  return high ? make_uint4(c, d, w2, w3) : make_uint4(w0, w1, c, d);
}

// Two sums rounded, -0 made +0: a neighbour's zero strip would do that to a sum in one batch and not in another.
__device__ __forceinline__ uint32_t pack2_positive_zero(float low, float high) {
  uint32_t word = pack2(low, high);
  asm("add.rn.bf16x2 %0, %0, %1;" : "+r"(word) : "r"(0));
  return word;
}

// The chunks of a row block.
struct StripList {
  int first, end;
};
__device__ __forceinline__ StripList strips_of(const Arguments& g, int block) {
  if (block >= g.blocks) return {0, 0};
  return {__ldg(g.chunk_first + block), __ldg(g.chunk_first + block + 1)};
}

// What strip_info says of a stage: how many slices it holds, and
constexpr int kWideStage = 8;    // that they are a chunk in one piece
constexpr int kLastStage = 256;  // that it is the tile's last

// The stages that chunks take, in the order they are added.
struct StripStages {
  int whole = 0, slices = 0;  // finished stages, and slices in the one after them
  __device__ __forceinline__ void add(const StripChunk& chunk) {
    if (chunk.slices == 4) {
      whole += 1 + (slices > 0);
      slices = 0;
    } else {
      slices += chunk.slices;
      whole += slices / 4;
      slices %= 4;
    }
  }
  __device__ __forceinline__ int count() const { return whole + (slices > 0); }
};

// visit(part, chunk) for the strips of a row block that columns of `column_part` use.
template <class Visit>
__device__ __forceinline__ void for_strips(const Arguments& g, const StripList& list, int column_part, const Visit& visit) {
  const int part_first = g.parts > 1 ? column_part : 0, part_end = g.parts > 1 ? column_part + 1 : g.strip_parts;
  for (int p = part_first; p < part_end; ++p)
    for (int i = list.first; i < list.end; ++i) {
      const int4 raw = __ldg(reinterpret_cast<const int4*>(g.chunks + i));
      if (static_cast<uint32_t>(raw.w) & g.part_bit[p]) visit(p, StripChunk{raw.x, raw.y, raw.z, static_cast<uint32_t>(raw.w)});
    }
}

// Residual: it is added (K-major products alone). HeadDim: of the heads that are rotated, 0 for none.
template <int BN, bool KMajor, bool Fp32, bool Gated, bool Residual, int HeadDim>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kThreads, 1)
    gemm_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Arguments g) {
  static_assert(!Gated || (KMajor && !Fp32), "gated tiles are of a forward product");
  static_assert(HeadDim == 0 || (KMajor && !Fp32 && !Gated), "rotated tiles are of a forward product");
  static_assert(BN % (HeadDim ? HeadDim : BN) == 0, "whole heads");
  static_assert(!Residual || (KMajor && !Fp32 && !Gated && HeadDim == 0), "a residual is added to a forward product");
  constexpr int kStages = Ring<BN>::kStages, kStageBytes = Ring<BN>::kStageBytes;
  constexpr int kHalf = BN / 2;
  constexpr int kSliceABytes = kBlockRows * 32, kSliceBBytes = BN * 32, kSliceBytes = kSliceABytes + kSliceBBytes;
  extern __shared__ char raw[];
  char* const ring = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  uint64_t* const full = reinterpret_cast<uint64_t*>(ring + kStages * kStageBytes);
  uint64_t* const empty = full + kStages;
  int* const strip_info = reinterpret_cast<int*>(empty + kStages);

  const uint32_t rank = cluster_rank();
  // Broadcast, so that the compiler knows that a warp takes one path.
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(full + s, 1);
      // A slot receives from both producers: every thread of this CTA that reads it arrives, and one for each warpgroup of the
      // partner, which only its wgmmas read.
      mbarrier_init(empty + s, kConsumers * (128 + 1));
    }
    mbarrier_init_fence();
  }
  cluster_sync();

  constexpr int kTileColumns = Gated ? kHalf : BN;
  const int width = g.part_column[1];  // gated: columns of a half
  const int total = g.pairs * g.column_tiles;
  const int first_work = blockIdx.x / 2, work_step = gridDim.x / 2;
  int stage = 0;
  uint32_t phase = 0;
  auto advance = [&] {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  };

  if (warpgroup == 0) {
    registers_down<kProducerRegisters>();
    if (threadIdx.x == 0) {
      prefetch_map(&maps.a);
      prefetch_map(&maps.b);
      for (int work = first_work; work < total; work += work_step) {
        const Tile t = tile_of(g, work, kTileColumns, rank);
        const int row = t.block * kBlockRows;
        // The lists of strips are looked up in the middle of the base's stages: the chain of loads takes longer than the
        // multiplying warpgroups need for what the ring holds, if they must wait for it.
        StripList own_list{0, 0}, partner_list{0, 0};
        if (g.strip_parts > 0) {
          own_list = strips_of(g, t.block);
          partner_list = strips_of(g, t.block ^ 1);
        }
        StripStages own, partner;
        for (int k = 0; k < g.k_blocks; ++k, advance()) {
          if (k == g.k_blocks / 2) {
            for_strips(g, own_list, t.part, [&](int, const StripChunk& chunk) { own.add(chunk); });
            for_strips(g, partner_list, t.part, [&](int, const StripChunk& chunk) { partner.add(chunk); });
          }
          mbarrier_wait(empty + stage, phase ^ 1);
          char* const a = ring + stage * kStageBytes;
          char* const b = a + kOperandABytes;
          mbarrier_arrive_expect(full + stage, kStageBytes);
          tma_load(a, &maps.a, full + stage, k * kDepth, row);
          if constexpr (KMajor) {
            tma_load_multicast(b + rank * kHalf * 128, &maps.b, full + stage, k * kDepth,
                               t.column + static_cast<int>(rank) * (Gated ? width : kHalf), 3);
          } else {
#pragma unroll
            for (int c = 0; c < BN / 64; ++c)
              tma_load_multicast(b + c * (kDepth * 128) + rank * (kDepth / 2 * 128), &maps.b, full + stage, t.column + c * 64,
                                 k * kDepth + static_cast<int>(rank) * (kDepth / 2), 3);
          }
        }
        if (g.strip_parts == 0) continue;
        const int count = max(1, max(own.count(), partner.count()));
        int done = 0, slices = 0;
        auto finish_stage = [&](int info, uint32_t bytes) {
          strip_info[stage] = info + (++done == count ? kLastStage : 0);
          if (bytes) mbarrier_arrive_expect(full + stage, bytes);
          else mbarrier_arrive(full + stage);
          advance();
        };
        auto finish_slices = [&] {
          finish_stage(slices, slices * kSliceBytes);
          slices = 0;
        };
        for_strips(g, own_list, t.part, [&](int p, const StripChunk& chunk) {
          const int strip_row = p * g.strip_rows + row, home_row = p * g.capacity + chunk.home_column;
          // Gated: the other half gets the zeros that lie behind the matrix.
          const int first_row = Gated && p > 0 ? 2 * width : t.column;
          const int second_row = !Gated ? t.column + kHalf : p > 0 ? t.column + width : 2 * width;
          if (chunk.slices == 4) {
            if (slices > 0) finish_slices();
            mbarrier_wait(empty + stage, phase ^ 1);
            char* const a = ring + stage * kStageBytes;
            char* const b = a + kOperandABytes;
            tma_load(a, &maps.strip, full + stage, chunk.batch_column, strip_row);
            if constexpr (KMajor) {
              tma_load(b, &maps.home, full + stage, chunk.home_column, first_row);
              tma_load(b + kHalf * 128, &maps.home, full + stage, chunk.home_column, second_row);
            } else {
#pragma unroll
              for (int c = 0; c < BN / 64; ++c)
                tma_load(b + c * (kDepth * 128), &maps.home, full + stage, t.column + c * 64, home_row);
            }
            finish_stage(4 | kWideStage, kStageBytes);
            return;
          }
          for (int i = 0; i < chunk.slices; ++i) {
            if (slices == 0) mbarrier_wait(empty + stage, phase ^ 1);
            char* const a = ring + stage * kStageBytes + slices * kSliceABytes;
            char* const b = ring + stage * kStageBytes + kOperandABytes + slices * kSliceBBytes;
            tma_load(a, &maps.strip_slice, full + stage, chunk.batch_column + i * 16, strip_row);
            if constexpr (KMajor) {
              tma_load(b, &maps.home_slice, full + stage, chunk.home_column + i * 16, first_row);
              tma_load(b + kSliceBBytes / 2, &maps.home_slice, full + stage, chunk.home_column + i * 16, second_row);
            } else {
#pragma unroll
              for (int c = 0; c < BN / 64; ++c)
                tma_load(b + c * (16 * 128), &maps.home_slice, full + stage, t.column + c * 64, home_row + i * 16);
            }
            if (++slices == 4) finish_slices();
          }
        });
        if (slices > 0) finish_slices();
        while (done < count) {
          mbarrier_wait(empty + stage, phase ^ 1);
          finish_stage(0, 0);
        }
      }
    }
  } else {
    registers_up<kConsumerRegisters>();
    const int consumer = warpgroup - 1;
    const int thread = threadIdx.x % 128;
    const int lane = thread % 32, warp = thread / 32;
    float sums[BN / 2];

    // This warpgroup no longer reads the slot. Every thread says so for itself, as it has read strip_info, to its own producer;
    // one is enough for the partner's, which waits only for the products.
    auto release = [&](int slot) {
      mbarrier_arrive(empty + slot);
      if (thread == 0) mbarrier_arrive_cluster(empty + slot, rank ^ 1);
    };
    // The four slices of a stage of 64.
    auto multiply = [&](bool fresh) {
      const char* const a = ring + stage * kStageBytes + consumer * 64 * 128;
      const char* const b = ring + stage * kStageBytes + kOperandABytes;
      const uint64_t da = descriptor_k_major(a);
      const uint64_t db = KMajor ? descriptor_k_major(b) : descriptor_mn_major(b, kDepth * 128);
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s)
        wgmma<BN, KMajor ? 0 : 1>(sums, da + s * kDescriptorStepKMajor,
                                  db + s * (KMajor ? kDescriptorStepKMajor : kDescriptorStepMnMajor), !(fresh && s == 0));
      wgmma_commit();
    };
    auto multiply_slices = [&](int slices) {
      const char* const a = ring + stage * kStageBytes + consumer * 64 * 32;
      const char* const b = ring + stage * kStageBytes + kOperandABytes;
      uint64_t da = descriptor_k_major_32(a);
      uint64_t db = KMajor ? descriptor_k_major_32(b) : descriptor_mn_major(b, 16 * 128);
      wgmma_fence();
      for (int s = 0; s < slices; ++s) {
        wgmma<BN, KMajor ? 0 : 1>(sums, da, db, 1);
        da += kSliceABytes >> 4;
        db += kSliceBBytes >> 4;
      }
      wgmma_commit();
    };

    // The tile before, rounded, on its way out: its stores run beside the first products of this tile, since all CTAs come
    // to their tile's end at about the same time and the L2 takes as long for a wave of stores as for many products.
    constexpr int kStores = Fp32 ? 1 : BN / 32;  // of 32 columns, both rows of a lane
    // Word 4 half + j of each 8: columns 2q, 2q + 1 of block j, 8 wide, in row `half` of lane q of a quad. Beside the last
    // products it holds the residual.
    uint32_t packed[kStores * 8];
    bf16* out = nullptr;  // of this lane: its first row, its 8 columns of each 32
    int out_columns = 0;  // from there to the end of the part
    bool out_row[2] = {false, false};
    bf16* act = nullptr;  // gated: as `out`
    int rotated = 0;      // HeadDim: columns of the tile that are
    int position[2] = {0, 0};
    constexpr int kGates = Gated ? kStores / 2 : kStores;
    auto store = [&](int i) {
      const int columns = i % kGates * 32;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // After the exchange lane q has all of block q.
        const uint4 block = exchange_in_quad(packed + i * 8 + half * 4, lane % 4);
        if (out_row[half] && columns < out_columns)
          *reinterpret_cast<uint4*>(out + half * 8 * g.ldc + columns + (i < kGates ? 0 : width)) = block;
      }
    };

    // Half of the activation of 32 columns. Steps of their own: its arithmetic beside the stores' would take longer than a product.
    constexpr int kActs = Gated ? 2 * kGates : 0;
    auto store_act = [&](int step) {
      if constexpr (Gated) {
        const int i = step / 2, half = step % 2;
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t gate = packed[i * 8 + half * 4 + j], up = packed[(i + kGates) * 8 + half * 4 + j];
          const float low = __uint_as_float(gate << 16), high = __uint_as_float(gate & 0xffff0000u);
          word[j] = pack2(activate(low, sigmoid(low), __uint_as_float(up << 16)),
                          activate(high, sigmoid(high), __uint_as_float(up & 0xffff0000u)));
        }
        const uint4 block = exchange_in_quad(word, lane % 4);
        if (out_row[half] && i * 32 < out_columns) *reinterpret_cast<uint4*>(act + half * 8 * g.ld_act + i * 32) = block;
      }
    };

    // A step turns 8 columns of the lower half of every head of that tile, and their partners, in one of a lane's rows: few
    // enough that one trip to the L2 for the angles is over before the product beside it. Without branches, so that steps that
    // follow each other may overlap.
    constexpr int kRotations = HeadDim / 8;
    auto rotate_step = [&](int i) {
      if constexpr (HeadDim > 0) {
        const int block = i / 2, half = i % 2;
        const int64_t at = static_cast<int64_t>(position[half]) * (HeadDim / 2) + block * 8 + lane % 4 * 2;
        const float2 cosine = __ldg(reinterpret_cast<const float2*>(g.cosine + at));
        const float2 sine = __ldg(reinterpret_cast<const float2*>(g.sine + at));
#pragma unroll
        for (int first = 0; first < BN; first += HeadDim) {
          uint32_t& lows = packed[(first / 32 + block / 4) * 8 + half * 4 + block % 4];
          uint32_t& highs = packed[(first / 32 + HeadDim / 64 + block / 4) * 8 + half * 4 + block % 4];
          float low[2] = {__uint_as_float(lows << 16), __uint_as_float(lows & 0xffff0000u)};
          float high[2] = {__uint_as_float(highs << 16), __uint_as_float(highs & 0xffff0000u)};
          rotate(low[0], high[0], cosine.x, sine.x);
          rotate(low[1], high[1], cosine.y, sine.y);
          lows = first < rotated ? pack2(low[0], low[1]) : lows;
          highs = first < rotated ? pack2(high[0], high[1]) : highs;
        }
      }
    };

    Tile t = tile_of(g, min(first_work, total - 1), kTileColumns, rank);
    for (int work = first_work; work < total; work += work_step) {
      int previous = -1;
      auto product = [&](bool fresh, auto&& beside) {
        mbarrier_wait(full + stage, phase);
        multiply(fresh);
        beside();
        if (!fresh) {
          wgmma_wait<1>();
          release(previous);
        }
        previous = stage;
        advance();
      };
      int k = 0;
      if (!Fp32 && work != first_work) {
        if constexpr (HeadDim > 0) {
          if (g.k_blocks >= kRotations + kStores) {
#pragma unroll
            for (int i = 0; i < kRotations; ++i) product(i == 0, [&] { rotate_step(i); });
            k = kRotations;
          } else {
#pragma unroll
            for (int i = 0; i < kRotations; ++i) rotate_step(i);
          }
        }
        if (g.k_blocks >= kStores + kActs) {
#pragma unroll
          for (int i = 0; i < kStores; ++i, ++k) product(k == 0, [&] { store(i); });
#pragma unroll
          for (int i = 0; i < kActs; ++i, ++k) product(false, [&] { store_act(i); });
        } else {
#pragma unroll
          for (int i = 0; i < kStores; ++i) store(i);
#pragma unroll
          for (int i = 0; i < kActs; ++i) store_act(i);
        }
      }
      const int own_row = t.block * kBlockRows + consumer * 64 + warp * 16 + lane / 4, column = t.column;
      {
        const int from = column + lane % 4 * 8;
        out = static_cast<bf16*>(g.out) + own_row * g.ldc + from;
        if constexpr (Gated) act = g.act + own_row * g.ld_act + from;
        out_columns = g.part_column[t.part + 1] - from;
        out_row[0] = own_row < g.m;
        out_row[1] = own_row + 8 < g.m;
      }
      // The residual comes as the tile goes: 16 bytes of a block, then the transpose to where the sums are.
      auto load_residual = [&](int i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint4 block = make_uint4(0, 0, 0, 0);
          if (out_row[half] && i * 32 < out_columns)
            block = *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(out + half * 8 * g.ldc + i * 32) + g.to_residual);
          uint32_t* const word = packed + i * 8 + half * 4;
          word[0] = block.x, word[1] = block.y, word[2] = block.z, word[3] = block.w;
        }
      };
      auto turn_residual = [&](int i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t* const word = packed + i * 8 + half * 4;
          const uint4 turned = exchange_in_quad(word, lane % 4);
          word[0] = turned.x, word[1] = turned.y, word[2] = turned.z, word[3] = turned.w;
        }
      };
      if constexpr (Residual) {
        if (g.k_blocks - k >= 2 * kStores) {
#pragma unroll
          for (int i = 0; i < kStores; ++i) product(k + i == 0, [&] { load_residual(i); });
#pragma unroll
          for (int i = 0; i < kStores; ++i) product(false, [&] { turn_residual(i); });
          k += 2 * kStores;
        } else {
#pragma unroll
          for (int i = 0; i < kStores; ++i) load_residual(i);
#pragma unroll
          for (int i = 0; i < kStores; ++i) turn_residual(i);
        }
      }
      for (; k < g.k_blocks; ++k) product(k == 0, [] {});
      if (g.strip_parts > 0) {
        for (bool last = false; !last; advance()) {
          mbarrier_wait(full + stage, phase);
          const int info = __shfl_sync(~0u, strip_info[stage], 0);
          last = info >= kLastStage;
          if (info & kWideStage) multiply(false);
          else multiply_slices(info & (kWideStage - 1));
          wgmma_wait<1>();
          release(previous);
          previous = stage;
        }
      }
      if constexpr (HeadDim > 0) {
        // Here, so that the loads are back before the next tile wants them.
        rotated = g.rotated - column;
#pragma unroll
        for (int half = 0; half < 2; ++half) position[half] = out_row[half] ? __ldg(g.position + own_row + half * 8) : 0;
      }
      // Whatever lies between this wait and the next tile's first product leaves the tensor cores idle.
      t = tile_of(g, min(work + work_step, total - 1), kTileColumns, rank);
      asm volatile("" : "+r"(t.block), "+r"(t.part), "+r"(t.column));
      wgmma_wait<0>();
      release(previous);

      const int quad = lane % 4;
      if constexpr (Fp32) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* const to = static_cast<float*>(g.out) + (own_row + half * 8) * g.ldc + column + quad * 2;
#pragma unroll
          for (int j = 0; j < BN / 8; ++j)
            if (out_row[half] && j * 8 + quad * 2 < out_columns + quad * 8)
              *reinterpret_cast<float2*>(to + j * 8) = make_float2(sums[j * 4 + half * 2] + 0.0f, sums[j * 4 + half * 2 + 1] + 0.0f);
        }
      } else {
        if (!Gated && g.bias) {
          const int column = tile_of(g, work, kTileColumns, rank).column;  // again: held, it would cost everyone a register
#pragma unroll
          for (int j = 0; j < BN / 8; ++j) {
            const bool inside = j * 8 < out_columns + quad * 8;
            const float2 bias =
                inside ? __ldg(reinterpret_cast<const float2*>(g.bias + column + j * 8 + quad * 2)) : make_float2(0, 0);
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[j * 4 + e] += e & 1 ? bias.y : bias.x;
          }
        }
#pragma unroll
        for (int j = 0; j < BN / 8; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            uint32_t& word = packed[j / 4 * 8 + half * 4 + j % 4];
            float x = sums[j * 4 + half * 2], y = sums[j * 4 + half * 2 + 1];
            if constexpr (Residual) {
              x += __uint_as_float(word << 16);
              y += __uint_as_float(word & 0xffff0000u);
            }
            word = pack2_positive_zero(x, y);
          }
      }
    }
    if (!Fp32 && first_work < total) {
#pragma unroll
      for (int i = 0; i < kRotations; ++i) rotate_step(i);
#pragma unroll
      for (int i = 0; i < kStores; ++i) store(i);
#pragma unroll
      for (int i = 0; i < kActs; ++i) store_act(i);
    }
  }
  // The partner may still send into this CTA's slots or arrive on its barriers.
  cluster_sync();
}

#else
template <int BN, bool KMajor, bool Fp32, bool Gated, bool Residual, int HeadDim>
__global__ void gemm_kernel(const __grid_constant__ Maps, const __grid_constant__ Arguments) {}
#endif

template <int BN, bool KMajor, bool Fp32, bool Gated = false, bool Residual = false, int HeadDim = 0>
void launch(cudaStream_t stream, const Maps& maps, const Arguments& g, int processors) {
  static const bool ready = [] {
    check(cudaFuncSetAttribute(gemm_kernel<BN, KMajor, Fp32, Gated, Residual, HeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               Ring<BN>::kSharedBytes),
          "gemm_sm90: shared memory");
    return true;
  }();
  (void)ready;
  const int clusters = std::min(processors / 2, g.pairs * g.column_tiles);
  gemm_kernel<BN, KMajor, Fp32, Gated, Residual, HeadDim><<<2 * clusters, kThreads, Ring<BN>::kSharedBytes, stream>>>(maps, g);
  check_launch("gemm_sm90");
}

int processor_count() {
  static const int count = [] {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    return value;
  }();
  return count;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t column_tiles(const Gemm& g, bool by_part, int bn) {
  if (g.act) return ceil_div(g.part_n[0], bn / 2);
  if (!by_part) return ceil_div(g.n, bn);
  int64_t tiles = 0;
  for (int p = 0; p < g.parts; ++p) tiles += ceil_div(g.part_n[p], bn);
  return tiles;
}

// The width whose waves cost least. A narrower tile reads more of A and B per product: taken as 3% and 8% more time.
int tile_width(const Gemm& g, bool by_part, int clusters) {
  const int64_t pairs = ceil_div(g.m, 2 * kBlockRows);
  int best = 256;
  double best_cost = 0;
  for (const int bn : {256, 192, 128}) {
    if ((g.out_fp32 || g.act || g.rotation.head_dim) && bn == 192) continue;
    const double waves = static_cast<double>(ceil_div(pairs * column_tiles(g, by_part, bn), clusters));
    const double cost = waves * bn * (bn == 256 ? 1.0 : bn == 192 ? 1.03 : 1.08);
    if (best_cost == 0 || cost < best_cost) {
      best = bn;
      best_cost = cost;
    }
  }
  return best;
}

template <int BN>
void launch_width(cudaStream_t stream, const Gemm& g, const Maps& maps, const Arguments& arguments) {
  const int processors = processor_count();
  if (g.out_fp32) {
    if constexpr (BN != 192) launch<BN, true, true>(stream, maps, arguments, processors);
  } else if (g.act) {
    if constexpr (BN != 192) launch<BN, true, false, true>(stream, maps, arguments, processors);
  } else if (g.rotation.head_dim == 128) {
    if constexpr (BN != 192) launch<BN, true, false, false, false, 128>(stream, maps, arguments, processors);
  } else if (g.rotation.head_dim == 64) {
    if constexpr (BN != 192) launch<BN, true, false, false, false, 64>(stream, maps, arguments, processors);
  } else if (g.residual) {
    launch<BN, true, false, false, true>(stream, maps, arguments, processors);
  } else if (g.b_is_k_major) {
    launch<BN, true, false>(stream, maps, arguments, processors);
  } else {
    launch<BN, false, false>(stream, maps, arguments, processors);
  }
}

// Whether a kernel here takes the product: what the copy engine asks of addresses, and which additions there are. Only models of
// odd widths fail it in a step.
bool has_kernel(const Gemm& g, bool by_part) {
  auto whole = [](const void* p, int64_t ld, int64_t element) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld * element % 16 == 0;
  };
  if (!whole(g.a, g.lda, 2) || !whole(g.b, g.ldb, 2) || !whole(g.out, g.ldc, g.out_fp32 ? 4 : 2)) return false;
  if (g.strip && (!whole(g.strip, g.ld_strip, 2) || !whole(g.home, g.ld_home, 2))) return false;
  if (by_part)
    for (int p = 0; p + 1 < g.parts; ++p)
      if (g.part_n[p] % 8) return false;
  // Stores are 16 bytes wide.
  if (g.n % (g.out_fp32 ? 4 : 8) || (g.residual && !whole(g.residual, g.ld_residual, 2))) return false;
  if (g.residual && (!g.b_is_k_major || g.ld_residual != g.ldc)) return false;  // no product of a step
  return g.out_fp32 ? g.b_is_k_major && !g.bias && !g.residual : true;
}

}  // namespace

bool gemm_sm90_gives_act(const Gemm& g) {
  return g.b_is_k_major && g.parts == 2 && g.part_n[0] == g.part_n[1] && !g.out_fp32 && !g.bias && !g.residual && has_kernel(g, true) &&
         reinterpret_cast<uintptr_t>(g.act) % 16 == 0 && g.ld_act % 8 == 0;
}

bool gemm_sm90_rotates(const Gemm& g) {
  const Rotation& r = g.rotation;
  if ((r.head_dim != 64 && r.head_dim != 128) || r.columns % r.head_dim) return false;
  for (int p = 0; p + 1 < g.parts; ++p)  // tiles begin where parts do
    if (g.part_n[p] % r.head_dim) return false;
  return g.b_is_k_major && !g.out_fp32 && !g.act && !g.residual && has_kernel(g, true) &&
         reinterpret_cast<uintptr_t>(r.cosine) % 8 == 0 && reinterpret_cast<uintptr_t>(r.sine) % 8 == 0;
}

void gemm_sm90(cudaStream_t stream, const Gemm& g) {
  // Columns are cut by part only where a strip belongs to some of them; gated tiles have columns of both.
  const bool by_part = g.b_is_k_major && g.strip && g.parts > 1 && !g.act;
  if (!has_kernel(g, by_part)) return gemm_generic(stream, g);
  const int bn = tile_width(g, by_part, processor_count() / 2);

  Arguments a{};
  a.m = static_cast<int32_t>(g.m);
  a.n = static_cast<int32_t>(g.n);
  a.k_blocks = static_cast<int32_t>(ceil_div(g.k, kDepth));
  a.pairs = static_cast<int32_t>(ceil_div(g.m, 2 * kBlockRows));
  a.parts = by_part ? g.parts : 1;
  for (int p = 0; p < a.parts; ++p) {
    const int64_t columns = by_part || g.act ? g.part_n[p] : g.n;
    a.part_tile[p + 1] = a.part_tile[p] + static_cast<int32_t>(ceil_div(columns, g.act ? bn / 2 : bn));
    a.part_column[p + 1] = a.part_column[p] + static_cast<int32_t>(columns);
  }
  a.column_tiles = a.part_tile[a.parts];
  a.strip_parts = g.strip ? g.parts : 0;
  for (int p = 0; p < g.parts; ++p) a.part_bit[p] = g.part_bit[p];
  a.strip_rows = static_cast<int32_t>(g.strip_rows);
  a.capacity = static_cast<int32_t>(g.capacity);
  a.blocks = static_cast<int32_t>(ceil_div(g.m, kBlockRows));
  a.chunks = g.chunks;
  a.chunk_first = g.chunk_first;
  a.bias = g.bias;
  if (g.residual) a.to_residual = reinterpret_cast<const char*>(g.residual) - static_cast<const char*>(g.out);
  a.out = g.out;
  a.ldc = g.ldc;
  a.act = g.act;
  a.ld_act = g.ld_act;
  a.position = g.rotation.position;
  a.cosine = g.rotation.cosine;
  a.sine = g.rotation.sine;
  a.rotated = g.rotation.columns;

  Maps maps;
  maps.a = tensor_map(g.a, 2, g.padded_rows, g.k, g.lda, kBlockRows, 64);
  maps.b = g.b_is_k_major ? tensor_map(g.b, 2, g.n, g.k, g.ldb, bn / 2, 64) : tensor_map(g.b, 2, g.k, g.n, g.ldb, kDepth / 2, 64);
  if (g.strip) {
    maps.strip = tensor_map(g.strip, 2, g.parts * g.strip_rows, g.ld_strip, g.ld_strip, kBlockRows, 64);
    maps.strip_slice = tensor_map(g.strip, 2, g.parts * g.strip_rows, g.ld_strip, g.ld_strip, kBlockRows, 16);
    if (g.b_is_k_major) {
      maps.home = tensor_map(g.home, 2, g.n, g.capacity, g.ld_home, bn / 2, 64);
      maps.home_slice = tensor_map(g.home, 2, g.n, g.capacity, g.ld_home, bn / 2, 16);
    } else {
      maps.home = tensor_map(g.home, 2, g.parts * g.capacity, g.n, g.ld_home, kDepth, 64);
      maps.home_slice = tensor_map(g.home, 2, g.parts * g.capacity, g.n, g.ld_home, 16, 64);
    }
  } else {
    maps.strip = maps.home = maps.strip_slice = maps.home_slice = maps.a;
  }
  if (bn == 256) launch_width<256>(stream, g, maps, a);
  else if (bn == 192) launch_width<192>(stream, g, maps, a);
  else launch_width<128>(stream, g, maps, a);
}

}  // namespace tlora::cuda
