// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the counters the engine uses.
//
// Initialisation  key = seed, counter = {e / 4, tensor, 0, 'init'}: word e % 4 is element e of A at tensor
//                 = layer * 7 + module.
// Dropout         two levels, because seed, dropout_key, module, position and column need more than one counter:
//                 (s0, s1, s2, s3) = Philox(key = seed, counter = {dropout_key low, high, tensor, 'drop'});
//                 word c % 4 of Philox(key = {s0, s1}, counter = {c / 4, position, s2, s3}) decides column c of the row at
//                 `position` in its own sequence: dropped when word < floor(p * 2^32).
#pragma once

#include <array>
#include <cstdint>

namespace tlora::cpu {

constexpr uint32_t kInitTag = 0x74696e69;     // "init"
constexpr uint32_t kDropoutTag = 0x706f7264;  // "drop"

// `Count` counters at once that differ in word 0 only (first, first + 1, …): out[4 * i + w].
template <int Count>
inline void philox(uint32_t key0, uint32_t key1, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t* out) {
  uint32_t x0[Count], x1[Count], x2[Count], x3[Count];
  for (int i = 0; i < Count; ++i) {
    x0[i] = first + static_cast<uint32_t>(i);
    x1[i] = c1;
    x2[i] = c2;
    x3[i] = c3;
  }
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < Count; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53} * x0[i];
      const uint64_t p1 = uint64_t{0xCD9E8D57} * x2[i];
      const uint32_t y0 = static_cast<uint32_t>(p1 >> 32) ^ x1[i] ^ key0;
      const uint32_t y2 = static_cast<uint32_t>(p0 >> 32) ^ x3[i] ^ key1;
      x1[i] = static_cast<uint32_t>(p1);
      x3[i] = static_cast<uint32_t>(p0);
      x0[i] = y0;
      x2[i] = y2;
    }
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
#pragma omp simd
  for (int i = 0; i < Count; ++i) {
    out[4 * i + 0] = x0[i];
    out[4 * i + 1] = x1[i];
    out[4 * i + 2] = x2[i];
    out[4 * i + 3] = x3[i];
  }
}

// The dropout mask of one sequence at one (layer, module).
class DropoutMask {
 public:
  DropoutMask(uint64_t seed, uint64_t dropout_key, int layer, int module, float probability)
      : threshold_(static_cast<uint32_t>(static_cast<double>(probability) * 4294967296.0)) {
    uint32_t s[4];
    philox<1>(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(dropout_key),
              static_cast<uint32_t>(dropout_key >> 32), static_cast<uint32_t>(layer * 7 + module), kDropoutTag, s);
    stream_ = {s[0], s[1], s[2], s[3]};
  }
  static constexpr int kChunk = 64;  // columns per call
  // factor[i] = 0 or `keep` for columns column + i (column a multiple of kChunk).
  void factors(int64_t position, int64_t column, float keep, float* factor) const {
    uint32_t words[kChunk];
    philox<kChunk / 4>(stream_[0], stream_[1], static_cast<uint32_t>(column / 4), static_cast<uint32_t>(position), stream_[2],
                       stream_[3], words);
#pragma omp simd
    for (int i = 0; i < kChunk; ++i) factor[i] = words[i] < threshold_ ? 0.0f : keep;
  }

 private:
  uint32_t threshold_;
  std::array<uint32_t, 4> stream_;
};

}  // namespace tlora::cpu
