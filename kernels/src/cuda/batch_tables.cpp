#include "cuda/batch_tables.h"

#include <algorithm>
#include <cstring>

namespace tlora::cuda {
namespace {

constexpr int kSlice = 16;       // columns
constexpr int kChunkSlices = 4;  // one 128-byte box of bf16

std::vector<AttentionTile> attention_tiles(const Batch& batch, int32_t rows) {
  std::vector<AttentionTile> tiles;
  for (const Segment& s : batch.segments)
    for (int64_t first = 0; first < s.length; first += rows)
      tiles.push_back({static_cast<int32_t>(s.start), static_cast<int32_t>(s.length), static_cast<int32_t>(first), 0});
  std::stable_sort(tiles.begin(), tiles.end(), [](const AttentionTile& a, const AttentionTile& b) { return a.first > b.first; });
  return tiles;
}

// Appends the segments without an adapter to adapter_segments, where the adapters' own are.
std::vector<Walk> longest_first(const Batch& batch, const std::vector<DeviceAdapter>& adapters,
                                std::vector<int32_t>& adapter_segments) {
  std::vector<std::pair<int64_t, Walk>> walks;  // with their tokens
  for (size_t i = 0; i < adapters.size(); ++i) {
    int64_t tokens = 0;
    for (const int32_t s : batch.adapters[i].second) tokens += batch.segments[static_cast<size_t>(s)].length;
    walks.push_back({tokens, {static_cast<int32_t>(i), adapters[i].first, adapters[i].count, 0}});
  }
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    if (batch.segments[s].adapter) continue;
    walks.push_back({batch.segments[s].length, {-1, static_cast<int32_t>(adapter_segments.size()), 1, 0}});
    adapter_segments.push_back(static_cast<int32_t>(s));
  }
  std::stable_sort(walks.begin(), walks.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Walk> sorted;
  for (const auto& walk : walks) sorted.push_back(walk.second);
  return sorted;
}

}  // namespace

template <class T>
int64_t BatchTables::append(const std::vector<T>& values) {
  const size_t at = (image_.size() + 255) / 256 * 256;
  image_.resize(at + std::max<size_t>(values.size(), 1) * sizeof(T));
  std::memcpy(image_.data() + at, values.data(), values.size() * sizeof(T));
  return static_cast<int64_t>(at);
}

BatchTables::BatchTables(const Batch& batch, const std::vector<Placement>& placements) {
  std::vector<DeviceAdapter> adapters;
  std::vector<int32_t> adapter_segments;
  int32_t column = 0;
  for (size_t i = 0; i < batch.adapters.size(); ++i) {
    const Adapter& a = *batch.adapters[i].first;
    DeviceAdapter d;
    d.rank = a.rank;
    d.columns = static_cast<int32_t>(a.strip_columns);
    d.batch_column = column;
    d.home_column = placements[i].home_column;
    d.scale = a.scale;
    d.targets = a.config.target_modules;
    const float p = batch.dropout(&a);
    d.drop_threshold = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
    d.keep = 1.0f / (1.0f - p);
    d.seed = a.config.seed;
    d.gradient = a.state[TL_STATE_GRADIENT];
    d.first = static_cast<int32_t>(adapter_segments.size());
    d.count = static_cast<int32_t>(batch.adapters[i].second.size());
    column += d.columns;
    adapter_segments.insert(adapter_segments.end(), batch.adapters[i].second.begin(), batch.adapters[i].second.end());
    adapters.push_back(d);
  }

  std::vector<int32_t> position;
  std::vector<DeviceSegment> segments;
  std::vector<RowTile> row_tiles;
  const int64_t blocks = (batch.tokens + kRowPad - 1) / kRowPad;
  std::vector<std::vector<int32_t>> owners(static_cast<size_t>(blocks));  // adapters of each 128-row block
  for (const Segment& s : batch.segments) {
    DeviceSegment d;
    d.start = static_cast<int32_t>(s.start);
    d.length = static_cast<int32_t>(s.length);
    d.dropout_key = s.dropout_key;
    for (size_t i = 0; i < batch.adapters.size(); ++i)
      if (batch.adapters[i].first == s.adapter) d.adapter = static_cast<int32_t>(i);
    for (int32_t first = 0; first < d.length; first += kTileRows)
      row_tiles.push_back({d.start + first, std::min(kTileRows, d.length - first), d.adapter, static_cast<int32_t>(segments.size())});
    for (int64_t b = s.start / kRowPad; d.adapter >= 0 && b <= (s.start + s.length - 1) / kRowPad; ++b)
      owners[static_cast<size_t>(b)].push_back(d.adapter);
    for (int32_t t = 0; t < d.length; ++t) position.push_back(t);
    segments.push_back(d);
  }

  for (std::vector<int32_t>& block : owners) {
    std::sort(block.begin(), block.end());
    block.erase(std::unique(block.begin(), block.end()), block.end());
  }
  std::vector<StripChunk> chunks;
  std::vector<int32_t> chunk_first, backward_chunk_first;
  auto append_chunks = [&](bool backward, std::vector<int32_t>& first) {
    for (const std::vector<int32_t>& block : owners) {
      first.push_back(static_cast<int32_t>(chunks.size()));
      for (const int32_t i : block) {
        const DeviceAdapter& a = adapters[static_cast<size_t>(i)];
        if (backward && a.drop_threshold) continue;
        for (int32_t c = 0; c < a.columns; c += kSlice * kChunkSlices)
          chunks.push_back({a.batch_column + c, a.home_column + c, std::min(kChunkSlices, (a.columns - c) / kSlice), a.targets});
      }
    }
    first.push_back(static_cast<int32_t>(chunks.size()));
  };
  append_chunks(false, chunk_first);
  append_chunks(true, backward_chunk_first);
  for (const DeviceAdapter& a : adapters) {
    counts_.any_dropout |= a.drop_threshold != 0 ? 1 : 0;
    counts_.gated_adapters += gated_fits(a) ? 1 : 0;
  }

  const std::vector<Walk> walks = longest_first(batch, adapters, adapter_segments);
  const std::vector<AttentionTile> tiles64 = attention_tiles(batch, 64), tiles128 = attention_tiles(batch, 128);
  counts_.tokens = static_cast<int32_t>(batch.tokens);
  counts_.segment_count = static_cast<int32_t>(segments.size());
  counts_.adapter_count = static_cast<int32_t>(adapters.size());
  counts_.strip_columns = column;
  counts_.walk_count = static_cast<int32_t>(walks.size());
  counts_.row_tile_count = static_cast<int32_t>(row_tiles.size());
  counts_.tile64_count = static_cast<int32_t>(tiles64.size());
  counts_.tile128_count = static_cast<int32_t>(tiles128.size());
  position_ = append(position);
  segments_ = append(segments);
  adapters_ = append(adapters);
  adapter_segments_ = append(adapter_segments);
  walks_ = append(walks);
  row_tiles_ = append(row_tiles);
  tiles64_ = append(tiles64);
  tiles128_ = append(tiles128);
  strip_chunks_ = append(chunks);
  chunk_first_ = append(chunk_first);
  backward_chunk_first_ = append(backward_chunk_first);
}

Tables BatchTables::at(const void* device) const {
  const char* base = static_cast<const char*>(device);
  Tables t = counts_;
  t.position = reinterpret_cast<const int32_t*>(base + position_);
  t.segments = reinterpret_cast<const DeviceSegment*>(base + segments_);
  t.adapters = reinterpret_cast<const DeviceAdapter*>(base + adapters_);
  t.adapter_segments = reinterpret_cast<const int32_t*>(base + adapter_segments_);
  t.walks = reinterpret_cast<const Walk*>(base + walks_);
  t.row_tiles = reinterpret_cast<const RowTile*>(base + row_tiles_);
  t.tiles64 = reinterpret_cast<const AttentionTile*>(base + tiles64_);
  t.tiles128 = reinterpret_cast<const AttentionTile*>(base + tiles128_);
  t.strip_chunks = reinterpret_cast<const StripChunk*>(base + strip_chunks_);
  t.chunk_first = reinterpret_cast<const int32_t*>(base + chunk_first_);
  t.backward_chunk_first = reinterpret_cast<const int32_t*>(base + backward_chunk_first_);
  return t;
}

}  // namespace tlora::cuda
