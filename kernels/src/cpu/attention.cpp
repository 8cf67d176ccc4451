// Causal attention inside each segment. Every score and every output element is one chain from the micro-kernel; tiles
// depend on a segment's own length only. Scores live in a few rows at a time, never [T, T].
#include <algorithm>
#include <cmath>
#include <limits>

#include <omp.h>

#include "cpu/cpu_backend.h"

namespace tlora::cpu {
namespace {

constexpr int64_t kBlockTiles = 4;  // row tiles whose P and dS the backward keeps at once
constexpr int64_t kBlockRows = kBlockTiles * kMaxTileRows;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Sizes {
  int64_t d;
  int64_t transposed(int64_t t) const { return panel_elements(d, t); }  // K = d, N = t: K^T or V^T
  int64_t plain(int64_t t) const { return panel_elements(t, d); }       // K = t, N = d: V or K
  int64_t per_head(int64_t t, bool backward) const { return (backward ? 2 : 1) * transposed(t) + plain(t); }
  static int64_t score_ld(int64_t t) { return round_up(t, kPanel) + kLanes; }
  int64_t sum_panels() const { return panel_count(d) * kPanel; }
  int64_t per_thread(int64_t longest, bool backward) const {
    return backward ? 2 * kBlockRows * score_ld(longest) + 2 * sum_panels() * longest : kMaxTileRows * score_ld(longest);
  }
};

// panels of X^T (K = d, N = rows) from rows of X.
void pack_transposed(const float* x, int64_t ld, int64_t rows, int64_t d, float* out) {
  for (int64_t p = 0; p < panel_count(rows); ++p) {
    const int64_t width = panel_vectors(rows, p) * kLanes, first = p * kPanel, real = std::min<int64_t>(width, rows - first);
    float* panel = out + first * d;
    for (int64_t k = 0; k < d; ++k)
      for (int64_t j = 0; j < width; ++j) panel[k * width + j] = j < real ? x[(first + j) * ld + k] : 0.0f;
  }
}

// panels of X (K = rows, N = d).
void pack_plain(const float* x, int64_t ld, int64_t rows, int64_t d, float* out) {
  for (int64_t p = 0; p < panel_count(d); ++p) {
    const int64_t width = panel_vectors(d, p) * kLanes, first = p * kPanel, real = std::min<int64_t>(width, d - first);
    float* panel = out + first * rows;
    for (int64_t k = 0; k < rows; ++k)
      for (int64_t j = 0; j < width; ++j) panel[k * width + j] = j < real ? x[k * ld + first + j] : 0.0f;
  }
}

inline VecI lane_numbers() {
  VecI v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// scores[m][0..columns) = rows of `a` times the first `columns` columns of transposed panels, `columns` rounded up to lanes.
void multiply_transposed(const float* a, int64_t lda, int rows, const float* panels, int64_t d, int64_t t, int64_t columns,
                         float* scores, int64_t ld) {
  alignas(64) float tile[kMaxTileRows * kPanel];
  for (int64_t p = 0; p * kPanel < columns; ++p) {
    const int vectors = panel_vectors(t, p);
    const Part chain{a, lda, 1, panels + p * kPanel * d, vectors * kLanes, d};
    tile_chain(rows, vectors, &chain, 1, false, tile);
    for (int m = 0; m < rows; ++m)
      for (int v = 0; v < vectors; ++v) store(scores + m * ld + p * kPanel + v * kLanes, load(tile + m * kPanel + v * kLanes));
  }
}

struct HeadTask {
  const Segment* segment;
  int64_t head;
  int64_t first_tile, end_tile;
};

}  // namespace

int64_t CpuBackend::attention_scratch_bytes(AttentionShape shape, int64_t tokens, int64_t segments, int64_t longest,
                                            bool train) const {
  const Sizes size{shape.head_dim};
  const int64_t padded = tokens + segments * (kLanes - 1);
  const int64_t plain = tokens * round_up(size.d, kLanes), transposed = padded * size.d;
  const int64_t forward = shape.kv_heads * (plain + transposed) + threads_ * size.per_thread(longest, false);
  const int64_t backward = shape.kv_heads * (plain + 2 * transposed) + threads_ * size.per_thread(longest, true);
  return 4 * (train ? std::max(forward, backward) : forward);
}

void CpuBackend::attention_forward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                   float* lse, void* scratch) {
  const Sizes size{shape.head_dim};
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const VecI lanes = lane_numbers();

  std::vector<float*> packed;  // of each segment
  float* next = static_cast<float*>(scratch);
  std::vector<HeadTask> tasks;
  for (const Segment& s : batch.segments) {
    packed.push_back(next);
    next += shape.kv_heads * size.per_head(s.length, false);
    const RowTiles split(s.length);
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t tile = 0; tile < split.count; tile += kBlockTiles)
        tasks.push_back({&s, h, tile, std::min(split.count, tile + kBlockTiles)});
  }
  const int64_t per_thread = size.per_thread(batch.longest, false);
  float* const thread_scratch = next;

#pragma omp parallel num_threads(threads_)
  {
    float* scores = thread_scratch + omp_get_thread_num() * per_thread;
    alignas(64) float tile[kMaxTileRows * kPanel];

#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < static_cast<int64_t>(batch.segments.size()) * shape.kv_heads; ++task) {
      const Segment& s = batch.segments[static_cast<size_t>(task / shape.kv_heads)];
      const int64_t g = task % shape.kv_heads;
      float* to = packed[static_cast<size_t>(task / shape.kv_heads)] + g * size.per_head(s.length, false);
      pack_transposed(f32(k) + s.start * k.ld + g * d, k.ld, s.length, d, to);
      pack_plain(f32(v) + s.start * v.ld + g * d, v.ld, s.length, d, to + size.transposed(s.length));
    }

#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < static_cast<int64_t>(tasks.size()); ++task) {
      const HeadTask& ht = tasks[static_cast<size_t>(task)];
      const Segment& s = *ht.segment;
      const int64_t h = ht.head, ld = Sizes::score_ld(s.length);
      const float* k_panels =
          packed[static_cast<size_t>(&s - batch.segments.data())] + h / group * size.per_head(s.length, false);
      const float* v_panels = k_panels + size.transposed(s.length);
      const RowTiles split(s.length);
      for (int64_t t = ht.first_tile; t < ht.end_tile; ++t) {
        const int64_t first = split.begin(t), limit = split.begin(t + 1);
        const int rows = static_cast<int>(limit - first);
        multiply_transposed(f32(q) + (s.start + first) * q.ld + h * d, q.ld, rows, k_panels, d, s.length, limit, scores, ld);
        float inverse_sum[kMaxTileRows];
        for (int m = 0; m < rows; ++m) {
          float* row = scores + m * ld;
          const int32_t position = static_cast<int32_t>(first + m);
          Vec peak = broadcast(-kInfinity);
          for (int64_t c = 0; c < limit; c += kLanes) {
            const Vec score = lanes + static_cast<int32_t>(c) <= position ? load(row + c) * scale : broadcast(-kInfinity);
            store(row + c, score);
            peak = maximum(peak, score);
          }
          const float top = max_lanes(peak);
          Vec sums{};
          for (int64_t c = 0; c < limit; c += kLanes) {
            const Vec p = exponential(load(row + c) - top);
            sums += p;
            store(row + c, round(p));
          }
          const float sum = sum_lanes(sums);
          inverse_sum[m] = 1.0f / sum;
          lse[(s.start + position) * shape.heads + h] = top + std::log(sum);
        }
        for (int64_t p = 0; p < panel_count(d); ++p) {
          const int vectors = panel_vectors(d, p);
          const Part chain{scores, ld, 1, v_panels + p * kPanel * s.length, vectors * kLanes, limit};
          tile_chain(rows, vectors, &chain, 1, false, tile);
          const int64_t real = std::min<int64_t>(kPanel, d - p * kPanel);
          for (int m = 0; m < rows; ++m) {
            float* to = f32(out) + (s.start + first + m) * out.ld + h * d + p * kPanel;
            for (int64_t c = 0; c < real; ++c) to[c] = round(tile[m * kPanel + c] * inverse_sum[m]);
          }
        }
      }
    }
  }
}

void CpuBackend::attention_backward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                    const float* lse, Matrix dout, Matrix dqkv, void* scratch) {
  const Sizes size{shape.head_dim};
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const VecI lanes = lane_numbers();

  std::vector<float*> packed;
  float* next = static_cast<float*>(scratch);
  for (const Segment& s : batch.segments) {
    packed.push_back(next);
    next += shape.kv_heads * size.per_head(s.length, true);
  }
  const int64_t per_thread = size.per_thread(batch.longest, true);
  float* const thread_scratch = next;

#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (int64_t task = 0; task < static_cast<int64_t>(batch.segments.size()) * shape.kv_heads; ++task) {
    const Segment& s = batch.segments[static_cast<size_t>(task / shape.kv_heads)];
    const int64_t g = task % shape.kv_heads, ld = Sizes::score_ld(s.length);
    float* kt_panels = packed[static_cast<size_t>(task / shape.kv_heads)] + g * size.per_head(s.length, true);
    float* vt_panels = kt_panels + size.transposed(s.length);
    float* k_panels = vt_panels + size.transposed(s.length);
    pack_transposed(f32(k) + s.start * k.ld + g * d, k.ld, s.length, d, kt_panels);
    pack_transposed(f32(v) + s.start * v.ld + g * d, v.ld, s.length, d, vt_panels);
    pack_plain(f32(k) + s.start * k.ld + g * d, k.ld, s.length, d, k_panels);

    float* probabilities = thread_scratch + omp_get_thread_num() * per_thread;
    float* dscores = probabilities + kBlockRows * ld;
    float* dk_sum = dscores + kBlockRows * ld;  // [panel][key][kPanel]: a tile of it is a tile of the micro-kernel
    float* dv_sum = dk_sum + size.sum_panels() * s.length;
    std::fill(dk_sum, dv_sum + size.sum_panels() * s.length, 0.0f);
    alignas(64) float tile[kMaxTileRows * kPanel];

    const RowTiles split(s.length);
    for (int64_t h = g * group; h < (g + 1) * group; ++h)
      for (int64_t block = 0; block < split.count; block += kBlockTiles) {
        const int64_t block_end = std::min(split.count, block + kBlockTiles);
        const int64_t block_first = split.begin(block), block_limit = split.begin(block_end);
        for (int64_t t = block; t < block_end; ++t) {
          const int64_t first = split.begin(t), limit = split.begin(t + 1);
          const int rows = static_cast<int>(limit - first);
          float* p_rows = probabilities + (first - block_first) * ld;
          float* ds_rows = dscores + (first - block_first) * ld;
          const float* do_rows = f32(dout) + (s.start + first) * dout.ld + h * d;
          multiply_transposed(f32(q) + (s.start + first) * q.ld + h * d, q.ld, rows, kt_panels, d, s.length, limit, p_rows, ld);
          multiply_transposed(do_rows, dout.ld, rows, vt_panels, d, s.length, limit, ds_rows, ld);
          for (int m = 0; m < rows; ++m) {
            const int32_t position = static_cast<int32_t>(first + m);
            const int64_t row = s.start + position;
            const float* o = f32(out) + row * out.ld + h * d;
            const float* g_o = do_rows + m * dout.ld;
            Vec dots{};
            int64_t c = 0;
            for (; c + kLanes <= d; c += kLanes) dots += load(o + c) * load(g_o + c);
            if (c < d) dots += load_part(o + c, d - c) * load_part(g_o + c, d - c);
            const float dot = sum_lanes(dots), log_sum = lse[row * shape.heads + h];
            float* p_row = p_rows + m * ld;
            float* ds_row = ds_rows + m * ld;
            for (c = 0; c < limit; c += kLanes) {
              const VecI seen = lanes + static_cast<int32_t>(c) <= position;
              const Vec p = seen ? exponential(load(p_row + c) * scale - log_sum) : Vec{};
              const Vec ds = seen ? p * (load(ds_row + c) - dot) * scale : Vec{};
              store(p_row + c, round(p));
              store(ds_row + c, round(ds));
            }
            for (; c < block_limit; c += kLanes) {
              store(p_row + c, Vec{});
              store(ds_row + c, Vec{});
            }
          }
          for (int64_t p = 0; p < panel_count(d); ++p) {
            const int vectors = panel_vectors(d, p);
            const Part chain{ds_rows, ld, 1, k_panels + p * kPanel * s.length, vectors * kLanes, limit};
            tile_chain(rows, vectors, &chain, 1, false, tile);
            const int64_t real = std::min<int64_t>(kPanel, d - p * kPanel);
            for (int m = 0; m < rows; ++m) {
              float* to = f32(dqkv) + (s.start + first + m) * dqkv.ld + h * d + p * kPanel;
              for (int64_t c = 0; c < real; ++c) to[c] = round(tile[m * kPanel + c]);
            }
          }
        }
        const int64_t rows = block_limit - block_first;
        const float* do_block = f32(dout) + (s.start + block_first) * dout.ld + h * d;
        const float* q_block = f32(q) + (s.start + block_first) * q.ld + h * d;
        const RowTiles keys(block_limit);
        for (int64_t p = 0; p < panel_count(d); ++p)
          for (int64_t t = 0; t < keys.count; ++t) {
            const int64_t key = keys.begin(t);
            const int height = static_cast<int>(keys.size(t)), vectors = panel_vectors(d, p);
            const Part dv{probabilities + key, 1, ld, do_block + p * kPanel, dout.ld, rows};
            tile_chain(height, vectors, &dv, 1, true, dv_sum + (p * s.length + key) * kPanel);
            const Part dk{dscores + key, 1, ld, q_block + p * kPanel, q.ld, rows};
            tile_chain(height, vectors, &dk, 1, true, dk_sum + (p * s.length + key) * kPanel);
          }
      }

    for (int64_t t = 0; t < s.length; ++t) {
      float* dk = f32(dqkv) + (s.start + t) * dqkv.ld + (shape.heads + g) * d;
      float* dv = dk + shape.kv_heads * d;
      for (int64_t c = 0; c < d; ++c) {
        const int64_t at = (c / kPanel * s.length + t) * kPanel + c % kPanel;
        dk[c] = round(dk_sum[at]);
        dv[c] = round(dv_sum[at]);
      }
    }
  }
}

}  // namespace tlora::cpu
