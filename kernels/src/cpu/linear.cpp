// Linears with LoRA: the adapter's strip continues the base chain in the same registers, tile by tile.
#include <algorithm>

#include "cpu/cpu_backend.h"
#include "cpu/philox.h"

namespace tlora::cpu {

WorkingPanels working_panels(const Adapter& adapter, const LoraMatrices& m) {
  WorkingPanels w;
  w.down = static_cast<float*>(adapter.working) + m.working;
  w.up = w.down + panel_elements(m.in, adapter.rank);
  w.down_back = w.up + panel_elements(adapter.rank, m.out);
  w.up_back = w.down_back + panel_elements(m.out, adapter.rank);
  return w;
}

std::vector<BatchTile> batch_tiles(const Batch& batch) {
  std::vector<BatchTile> tiles;
  for (const Run& run : batch.runs) {
    const RowTiles split(run.rows);
    for (int64_t i = 0; i < split.count; ++i)
      tiles.push_back({&run, run.start + split.begin(i), static_cast<int>(split.size(i))});
  }
  return tiles;
}

namespace {

constexpr int64_t kBlockTiles = 24;    // at most this many row tiles share a panel while it is in cache
constexpr int64_t kStretch = 1024;     // K elements of a panel at once: 128 KiB beside up to 1.3 MiB of A
constexpr int64_t kGradientTiles = 8;  // row tiles of dB in one task
constexpr int kMaxParts = 8;           // q, k, v and their strips, with room
constexpr int64_t kTileElements = kMaxTileRows * kPanel;

// One operand of the base chain: A rows of a batch matrix times a packed panel.
struct BaseTerm {
  Matrix a;
  const float* panel;
  int64_t width;
  int64_t k;
};

int64_t strip_row(const BatchTile& tile) {
  return tile.run->strip + (tile.start - tile.run->start) * tile.run->adapter->strip_columns;
}

// Tiles per block: few enough blocks that a panel is read from memory seldom, enough tasks that all threads have work.
int64_t block_tiles(int64_t tiles, int64_t panels, int threads) {
  const int64_t blocks = std::max(ceil_div(tiles, kBlockTiles), std::min(ceil_div(8 * int64_t{threads}, panels), ceil_div(tiles, 4)));
  return ceil_div(tiles, blocks);
}

// The chain of every tile over all base terms, then over what strips(tile, parts) appends; finish(tile, acc) gets the sums.
// The K dimension is walked in stretches over all tiles of the block; the chains are only paused in between, so stretches
// and blocks change no bit. acc: scratch of count tiles.
template <class Strips, class Finish>
void chain_block(const BatchTile* tiles, int64_t count, const BaseTerm* terms, int term_count, int vectors,
                 const Strips& strips, float* acc, const Finish& finish) {
  int term = 0;
  int64_t k = 0;
  bool resume = false;
  while (term < term_count) {
    struct Piece {
      int term;
      int64_t k, length;
    } pieces[kMaxParts];
    int piece_count = 0;
    for (int64_t room = kStretch; term < term_count && room > 0;) {
      const int64_t length = std::min(room, terms[term].k - k);
      pieces[piece_count++] = {term, k, length};
      room -= length;
      k += length;
      if (k == terms[term].k) {
        ++term;
        k = 0;
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      Part parts[kMaxParts];
      int n = 0;
      for (int p = 0; p < piece_count; ++p) {
        const BaseTerm& t = terms[pieces[p].term];
        parts[n++] = {f32(t.a) + tiles[i].start * t.a.ld + pieces[p].k, t.a.ld, 1, t.panel + pieces[p].k * t.width, t.width,
                      pieces[p].length};
      }
      if (term == term_count) n += strips(tiles[i], parts + n);
      tile_chain(tiles[i].rows, vectors, parts, n, resume, acc + i * kTileElements);
      if (term == term_count) finish(tiles[i], acc + i * kTileElements);
    }
    resume = true;
  }
}

// Visits the vectors of one row of a tile that hold real columns: visit(column in the panel, lanes).
template <class Visit>
inline void for_vectors(int64_t columns, const Visit& visit) {
  for (int64_t c = 0; c < columns; c += kLanes) visit(c, std::min<int64_t>(kLanes, columns - c));
}

inline void store_lanes(float* p, Vec v, int64_t lanes) {
  if (lanes == kLanes) store(p, v);
  else store_part(p, v, lanes);
}

// Plain Y = X · panels over rows [0, n) for the head.
void multiply_rows(const float* a, int64_t lda, int64_t n, const float* panels, int64_t k, int64_t columns, float* y,
                   int64_t ldy, bool bf16, int threads) {
  std::vector<BatchTile> tiles;
  const RowTiles split(n);
  for (int64_t i = 0; i < split.count; ++i) tiles.push_back({nullptr, split.begin(i), static_cast<int>(split.size(i))});
  const int64_t panel_total = panel_count(columns), per_block = block_tiles(split.count, panel_total, threads);
  const int64_t blocks = ceil_div(split.count, per_block);
  const Matrix a_matrix{const_cast<float*>(a), lda};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 2)
  for (int64_t task = 0; task < blocks * panel_total; ++task) {
    alignas(64) float acc[kBlockTiles * kTileElements];
    const int64_t first = task / panel_total * per_block, p = task % panel_total;
    const int vectors = panel_vectors(columns, p);
    const BaseTerm term{a_matrix, panels + p * kPanel * k, vectors * kLanes, k};
    const int64_t column = p * kPanel, real = std::min<int64_t>(kPanel, columns - column);
    chain_block(
        tiles.data() + first, std::min(per_block, split.count - first), &term, 1, vectors,
        [](const BatchTile&, Part*) { return 0; }, acc,
        [&](const BatchTile& tile, const float* sums) {
          for (int m = 0; m < tile.rows; ++m)
            for_vectors(real, [&](int64_t c, int64_t lanes) {
              const Vec v = load(sums + m * kPanel + c);
              store_lanes(y + (tile.start + m) * ldy + column + c, bf16 ? round_bf16(v) : v, lanes);
            });
        });
  }
}

// At most a tile of rows of one segment whose adapter has dropout.
struct DropTile {
  const Segment* segment;
  int64_t first;  // position in the segment
  int rows;
};

std::vector<DropTile> drop_tiles(const Batch& batch) {
  std::vector<DropTile> tiles;
  for (const Segment& s : batch.segments) {
    if (!(batch.dropout(s.adapter) > 0)) continue;
    const RowTiles split(s.length);
    for (int64_t i = 0; i < split.count; ++i) tiles.push_back({&s, split.begin(i), static_cast<int>(split.size(i))});
  }
  return tiles;
}

}  // namespace

void CpuBackend::drop_inputs(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts) {
  const std::vector<DropTile> tiles = drop_tiles(batch);
  const int64_t part_count = static_cast<int64_t>(parts.size());
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (int64_t task = 0; task < static_cast<int64_t>(tiles.size()) * part_count; ++task) {
    const DropTile& tile = tiles[static_cast<size_t>(task / part_count)];
    const LinearPart& part = parts[static_cast<size_t>(task % part_count)];
    const Adapter& adapter = *tile.segment->adapter;
    const int64_t width = adapter.at(layer, part.module).in;
    if (width == 0) continue;
    const float probability = adapter.config.dropout, keep = 1.0f / (1.0f - probability);
    const DropoutMask mask(adapter.config.seed, tile.segment->dropout_key, layer, part.module, probability);
    for (int64_t m = 0; m < tile.rows; ++m) {
      const int64_t t = tile.first + m, row = tile.segment->start + t;
      const float* in = f32(x) + row * x.ld;
      float* out = f32(part.dropped) + row * part.dropped.ld;
      for (int64_t c = 0; c < width; c += DropoutMask::kChunk) {
        float factor[DropoutMask::kChunk];
        mask.factors(t, c, keep, factor);
        for_vectors(std::min<int64_t>(DropoutMask::kChunk, width - c), [&](int64_t i, int64_t lanes) {
          const Vec f = load(factor + i);
          // Selected, not multiplied: a dropped element is 0 even where x is not finite.
          store_lanes(out + c + i, select(f == 0.0f, Vec{}, round(load(in + c + i) * f)), lanes);
        });
      }
    }
  }
}

void CpuBackend::linear_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                const Matrix* residual) {
  const std::vector<BatchTile> tiles = batch_tiles(batch);
  const int64_t tile_count = static_cast<int64_t>(tiles.size());
  const int64_t part_count = static_cast<int64_t>(parts.size());
  if (parts[0].dropped.data) drop_inputs(batch, layer, x, parts);

  struct Output {
    const LinearPart* part;
    int64_t panel;
  };
  std::vector<Output> outputs;
  for (const LinearPart& part : parts)
    for (int64_t p = 0; p < panel_count(part.weight->out); ++p) outputs.push_back({&part, p});
  const int64_t output_count = static_cast<int64_t>(outputs.size());
  const int64_t per_block = block_tiles(tile_count, output_count, threads_), blocks = ceil_div(tile_count, per_block);

#pragma omp parallel num_threads(threads_)
  {
    alignas(64) float acc[kBlockTiles * kTileElements];

#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < tile_count * part_count; ++task) {
      const BatchTile& tile = tiles[static_cast<size_t>(task / part_count)];
      const LinearPart& part = parts[static_cast<size_t>(task % part_count)];
      const Adapter* adapter = tile.run->adapter;
      if (!adapter || adapter->at(layer, part.module).in == 0) continue;
      const LoraMatrices& m = adapter->at(layer, part.module);
      const Matrix input = batch.dropout(adapter) > 0 ? part.dropped : x;
      const float* down = working_panels(*adapter, m).down;
      float* strip = static_cast<float*>(part.strip) + strip_row(tile);
      for (int64_t p = 0; p < panel_count(adapter->rank); ++p) {
        const int vectors = panel_vectors(adapter->rank, p);
        const Part chain{f32(input) + tile.start * input.ld, input.ld, 1, down + p * kPanel * m.in, vectors * kLanes, m.in};
        tile_chain(tile.rows, vectors, &chain, 1, false, acc);
        for (int r = 0; r < tile.rows; ++r)
          for (int v = 0; v < vectors; ++v)
            store(strip + r * adapter->strip_columns + p * kPanel + v * kLanes,
                  round(adapter->scale * load(acc + r * kPanel + v * kLanes)));
      }
    }

#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < blocks * output_count; ++task) {
      const int64_t first = task / output_count * per_block, count = std::min(per_block, tile_count - first);
      const LinearPart& part = *outputs[static_cast<size_t>(task % output_count)].part;
      const int64_t p = outputs[static_cast<size_t>(task % output_count)].panel;
      const auto& weight = static_cast<const CpuLinear&>(*part.weight);
      const int vectors = panel_vectors(weight.out, p);
      const int64_t column = p * kPanel, real = std::min<int64_t>(kPanel, weight.out - column);
      const BaseTerm base{x, weight.forward + p * kPanel * weight.in, vectors * kLanes, weight.in};
      chain_block(
          tiles.data() + first, count, &base, 1, vectors,
          [&](const BatchTile& tile, Part* strips) {
            const Adapter* adapter = tile.run->adapter;
            if (!adapter || adapter->at(layer, part.module).in == 0) return 0;
            const float* up = working_panels(*adapter, adapter->at(layer, part.module)).up;
            strips[0] = {static_cast<float*>(part.strip) + strip_row(tile), adapter->strip_columns, 1,
                         up + p * kPanel * adapter->rank, vectors * kLanes, adapter->rank};
            return 1;
          },
          acc,
          [&](const BatchTile& tile, const float* sums) {
            for (int m = 0; m < tile.rows; ++m) {
              const int64_t row = tile.start + m;
              for_vectors(real, [&](int64_t c, int64_t lanes) {
                Vec v = load(sums + m * kPanel + c);
                if (weight.bias) v += load(weight.bias + column + c);
                if (residual) v += load(f32(*residual) + row * residual->ld + column + c);
                store_lanes(f32(part.y) + row * part.y.ld + column + c, round(v), lanes);
              });
            }
          });
    }
  }
}

void CpuBackend::linear_backward(const Batch& batch, int layer, const std::vector<LinearPart>& parts, Matrix dx) {
  const std::vector<BatchTile> tiles = batch_tiles(batch);
  const int64_t tile_count = static_cast<int64_t>(tiles.size());
  const int64_t part_count = static_cast<int64_t>(parts.size());
  const int64_t in = parts[0].weight->in;
  const std::vector<DropTile> dropped = dx.data ? drop_tiles(batch) : std::vector<DropTile>();
  const int64_t panels = dx.data ? panel_count(in) : 0;
  const int64_t per_block = block_tiles(tile_count, panel_count(in), threads_), blocks = ceil_div(tile_count, per_block);

#pragma omp parallel num_threads(threads_)
  {
    alignas(64) float acc[kBlockTiles * kTileElements];

#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < tile_count * part_count; ++task) {
      const BatchTile& tile = tiles[static_cast<size_t>(task / part_count)];
      const LinearPart& part = parts[static_cast<size_t>(task % part_count)];
      const Adapter* adapter = tile.run->adapter;
      if (!adapter || adapter->at(layer, part.module).in == 0) continue;
      const LoraMatrices& m = adapter->at(layer, part.module);
      const float* down_back = working_panels(*adapter, m).down_back;
      float* strip = static_cast<float*>(part.strip_grad) + strip_row(tile);
      for (int64_t p = 0; p < panel_count(adapter->rank); ++p) {
        const int vectors = panel_vectors(adapter->rank, p);
        const Part chain{f32(part.y) + tile.start * part.y.ld, part.y.ld, 1, down_back + p * kPanel * m.out, vectors * kLanes,
                         m.out};
        tile_chain(tile.rows, vectors, &chain, 1, false, acc);
        for (int r = 0; r < tile.rows; ++r)
          for (int v = 0; v < vectors; ++v)
            store(strip + r * adapter->strip_columns + p * kPanel + v * kLanes,
                  round(adapter->scale * load(acc + r * kPanel + v * kLanes)));
      }
    }

#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < blocks * panels; ++task) {
      const int64_t first = task / panels * per_block, count = std::min(per_block, tile_count - first);
      const int64_t p = task % panels;
      const int vectors = panel_vectors(in, p);
      const int64_t column = p * kPanel, real = std::min<int64_t>(kPanel, in - column);
      BaseTerm base[kMaxParts];
      for (int64_t i = 0; i < part_count; ++i) {
        const auto& weight = static_cast<const CpuLinear&>(*parts[static_cast<size_t>(i)].weight);
        base[i] = {parts[static_cast<size_t>(i)].y, weight.backward + p * kPanel * weight.out, vectors * kLanes, weight.out};
      }
      chain_block(
          tiles.data() + first, count, base, static_cast<int>(part_count), vectors,
          [&](const BatchTile& tile, Part* strips) {
            const Adapter* adapter = tile.run->adapter;
            int n = 0;
            if (!adapter || batch.dropout(adapter) > 0) return n;
            for (const LinearPart& part : parts) {
              const LoraMatrices& m = adapter->at(layer, part.module);
              if (m.in == 0) continue;
              strips[n++] = {static_cast<float*>(part.strip_grad) + strip_row(tile), adapter->strip_columns, 1,
                             working_panels(*adapter, m).up_back + p * kPanel * adapter->rank, vectors * kLanes,
                             adapter->rank};
            }
            return n;
          },
          acc,
          [&](const BatchTile& tile, const float* sums) {
            for (int m = 0; m < tile.rows; ++m)
              for_vectors(real, [&](int64_t c, int64_t lanes) {
                store_lanes(f32(dx) + (tile.start + m) * dx.ld + column + c, round(load(sums + m * kPanel + c)), lanes);
              });
          });
    }

#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < static_cast<int64_t>(dropped.size()); ++task) {
      const DropTile& tile = dropped[static_cast<size_t>(task)];
      const Segment& segment = *tile.segment;
      const Adapter& adapter = *segment.adapter;
      const float probability = adapter.config.dropout, keep = 1.0f / (1.0f - probability);
      for (const LinearPart& part : parts) {
        const LoraMatrices& m = adapter.at(layer, part.module);
        if (m.in == 0) continue;
        const DropoutMask mask(adapter.config.seed, segment.dropout_key, layer, part.module, probability);
        const float* up_back = working_panels(adapter, m).up_back;
        const float* strip = static_cast<float*>(part.strip_grad) + segment.strip + tile.first * adapter.strip_columns;
        for (int64_t c = 0; c < in; c += DropoutMask::kChunk) {
          float factor[kMaxTileRows][DropoutMask::kChunk];
          for (int r = 0; r < tile.rows; ++r) mask.factors(tile.first + r, c, keep, factor[r]);
          for (int64_t p = c / kPanel; p < panel_count(in) && p * kPanel < c + DropoutMask::kChunk; ++p) {
            const int vectors = panel_vectors(in, p);
            const Part chain{strip, adapter.strip_columns, 1, up_back + p * kPanel * adapter.rank, vectors * kLanes,
                             adapter.rank};
            tile_chain(tile.rows, vectors, &chain, 1, false, acc);
            const int64_t real = std::min<int64_t>(kPanel, in - p * kPanel);
            for (int r = 0; r < tile.rows; ++r) {
              float* out = f32(dx) + (segment.start + tile.first + r) * dx.ld + p * kPanel;
              const float* f_row = factor[r] + p * kPanel - c;
              for_vectors(real, [&](int64_t i, int64_t lanes) {
                const Vec f = load(f_row + i), before = load(out + i);
                store_lanes(out + i, select(f == 0.0f, before, round(before + f * load(acc + r * kPanel + i))), lanes);
              });
            }
          }
        }
      }
    }
  }
}

void CpuBackend::adapter_gradients(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                   GradientSides sides) {
  if (sides.a && parts[0].dropped.data) drop_inputs(batch, layer, x, parts);

  struct GradientTask {
    int64_t owner;  // index in batch.adapters
    const LinearPart* part;
    int matrix;     // 0: A, one panel of columns; 1: B, a block of row tiles
    int64_t index;
  };
  std::vector<GradientTask> gradients;
  for (size_t a = 0; a < batch.adapters.size(); ++a)
    for (const LinearPart& part : parts) {
      const LoraMatrices& m = batch.adapters[a].first->at(layer, part.module);
      if (m.in == 0) continue;
      for (int64_t p = 0; sides.a && p < panel_count(m.in); ++p) gradients.push_back({static_cast<int64_t>(a), &part, 0, p});
      for (int64_t b = 0; sides.b && b < ceil_div(RowTiles(m.out).count, kGradientTiles); ++b)
        gradients.push_back({static_cast<int64_t>(a), &part, 1, b});
    }

#pragma omp parallel num_threads(threads_)
  {
    alignas(64) float acc[kTileElements];

#pragma omp for schedule(dynamic, 2)
    for (int64_t task = 0; task < static_cast<int64_t>(gradients.size()); ++task) {
      const GradientTask& g = gradients[static_cast<size_t>(task)];
      const Adapter& adapter = *batch.adapters[static_cast<size_t>(g.owner)].first;
      const LoraMatrices& m = adapter.at(layer, g.part->module);
      const Matrix input = batch.dropout(&adapter) > 0 ? g.part->dropped : x;
      const int64_t rows = g.matrix ? m.out : adapter.rank, width = g.matrix ? adapter.rank : m.in;
      float* gradient = adapter.state[TL_STATE_GRADIENT] + (g.matrix ? m.b : m.a);
      const RowTiles split(rows);
      const int64_t tile_end = g.matrix ? std::min(split.count, (g.index + 1) * kGradientTiles) : split.count;
      const int64_t panel_end = g.matrix ? panel_count(width) : g.index + 1;
      for (int64_t tile = g.matrix ? g.index * kGradientTiles : 0; tile < tile_end; ++tile)
        for (int64_t p = g.matrix ? 0 : g.index; p < panel_end; ++p) {
          const int64_t first = split.begin(tile), column = p * kPanel, real = std::min<int64_t>(kPanel, width - column);
          const int height = static_cast<int>(split.size(tile)), vectors = panel_vectors(width, p);
          for (const int32_t s : batch.adapters[static_cast<size_t>(g.owner)].second) {
            const Segment& segment = batch.segments[static_cast<size_t>(s)];
            const float* strip = static_cast<const float*>(g.matrix ? g.part->strip : g.part->strip_grad) + segment.strip;
            const Part chain =
                g.matrix ? Part{f32(g.part->y) + segment.start * g.part->y.ld + first, 1, g.part->y.ld, strip + column,
                                adapter.strip_columns, segment.length}
                         : Part{strip + first, 1, adapter.strip_columns, f32(input) + segment.start * input.ld + column, input.ld,
                                segment.length};
            tile_chain(height, vectors, &chain, 1, false, acc);
            for (int r = 0; r < height; ++r)
              for_vectors(real, [&](int64_t c, int64_t lanes) {
                float* total = gradient + (first + r) * width + column + c;
                const Vec sum = load(acc + r * kPanel + c);
                if (lanes == kLanes) store(total, load(total) + sum);
                else store_part(total, load_part(total, lanes) + sum, lanes);
              });
          }
        }
    }
  }
}

void CpuBackend::head_logits(Matrix x, int64_t n, const FrozenLinear& head, float* logits, int64_t ld) {
  const auto& weight = static_cast<const CpuLinear&>(head);
  multiply_rows(f32(x), x.ld, n, weight.forward, weight.in, weight.out, logits, ld, false, threads_);
}

void CpuBackend::head_backward(const float* dlogits, int64_t ld, int64_t n, const FrozenLinear& head, Matrix dx) {
  const auto& weight = static_cast<const CpuLinear&>(head);
  multiply_rows(dlogits, ld, n, weight.backward, weight.out, weight.in, f32(dx), dx.ld, bf16_, threads_);
}

}  // namespace tlora::cpu
