// One SIMD vector of fp32 in GCC's vector extension, and the few functions every CPU op is written with.
// The vector width is a compile-time property of the target; an op's lane structure follows from it and from the row's own
// length only, so results are equal for any thread count and batch on one build.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace tlora::cpu {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kMaxTileRows = 14;  // 14 x 2 accumulators + 2 panel vectors + 1 broadcast = 31 of 32 registers
constexpr const char* kSimdName = "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8;
constexpr int kMaxTileRows = 6;   // 12 + 2 + 1 of 16
constexpr const char* kSimdName = "avx2";
#else
constexpr int kLanes = 4;
constexpr int kMaxTileRows = 4;   // 8 + 2 + 1 of 16
constexpr const char* kSimdName = "128-bit";
#endif
constexpr int kPanel = 2 * kLanes;  // columns of a full panel

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef float VecUnaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<VecUnaligned*>(p) = v; }
inline Vec broadcast(float x) { return x - Vec{}; }

// The first `count` (< kLanes) floats; the other lanes hold `fill`.
inline Vec load_part(const float* p, int64_t count, float fill = 0.0f) {
  Vec v = broadcast(fill);
  std::memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}
inline void store_part(float* p, Vec v, int64_t count) { std::memcpy(p, &v, static_cast<size_t>(count) * sizeof(float)); }

inline Vec select(VecI mask, Vec yes, Vec no) { return mask ? yes : no; }
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// Pairwise tree: lane i with lane i + w/2, then w/4, …
inline float sum_lanes(Vec v) {
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof lane);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
inline float max_lanes(Vec v) {
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof lane);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// Round to nearest even at bf16, kept as fp32. NaN stays NaN (its low mantissa bits could otherwise round to infinity).
inline Vec round_bf16(Vec v) {
  VecU bits = reinterpret_cast<VecU>(v);
  VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return v == v ? reinterpret_cast<Vec>(rounded) : v;
}
inline float round_bf16(float x) {
  if (x != x) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// e^x to about 1 ulp: Cody-Waite reduction by ln 2 and a degree-6 Taylor-minimax polynomial on [-ln2/2, ln2/2].
// Results below 2.8e-38 are flushed to 0 (exp(-inf) = 0), above FLT_MAX they are inf; NaN stays NaN.
inline Vec exponential(Vec x) {
  const float kLow = -86.5f, kHigh = 88.722839f;
  Vec bounded = x > kLow ? x : broadcast(kLow);
  bounded = bounded < kHigh ? bounded : broadcast(kHigh);
  const float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  Vec shifted = bounded * 1.44269504088896341f + kMagic;
  Vec n = shifted - kMagic;
  Vec r = bounded - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  VecI exponent = __builtin_convertvector(n, VecI);
  Vec power = reinterpret_cast<Vec>((exponent + 126) << 23);  // 2^(n-1): n may be 128
  Vec y = p * power * 2.0f;
  y = x < kLow ? Vec{} : y;
  y = x > kHigh ? broadcast(std::numeric_limits<float>::infinity()) : y;
  return x == x ? y : x;
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace tlora::cpu
