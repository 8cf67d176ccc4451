// Philox4x32-10 and the engine's counters, bit for bit those of cpu/philox.h.
#pragma once

#include <cstdint>

namespace tlora::cuda {

constexpr uint32_t kInitTag = 0x74696e69;     // "init"
constexpr uint32_t kDropoutTag = 0x706f7264;  // "drop"

__device__ __forceinline__ uint4 philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2,
                                        uint32_t c3) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t y0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    const uint32_t y2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = y0;
    c2 = y2;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

// The dropout mask of one sequence at one (layer, module): its four words depend on neither row nor column.
__device__ __forceinline__ uint4 dropout_stream(uint64_t seed, uint64_t dropout_key, int layer, int module) {
  return philox(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(dropout_key),
                static_cast<uint32_t>(dropout_key >> 32), static_cast<uint32_t>(layer * 7 + module), kDropoutTag);
}
// Bit i: column 4 * quad + i of the row at `position` in its sequence is dropped.
__device__ __forceinline__ uint32_t dropped_of_four(uint4 stream, int position, int quad, uint32_t threshold) {
  const uint4 word =
      philox(stream.x, stream.y, static_cast<uint32_t>(quad), static_cast<uint32_t>(position), stream.z, stream.w);
  return static_cast<uint32_t>(word.x < threshold) | static_cast<uint32_t>(word.y < threshold) << 1 |
         static_cast<uint32_t>(word.z < threshold) << 2 | static_cast<uint32_t>(word.w < threshold) << 3;
}

}  // namespace tlora::cuda
