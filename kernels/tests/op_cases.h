// The shapes that every op is tried on, and the company each shape's adapter 0 is tried in: what the op tests of all backends
// have in common.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lab.h"

namespace op_cases {

using lab::AdapterSpec;
using lab::SequenceSpec;

struct Shape {
  const char* name;
  std::vector<AdapterSpec> adapters;   // adapter 0 is the one whose bits are compared
  std::vector<SequenceSpec> sequences;
  int64_t a = 0, b = 0, c = 0, d = 0;  // dimensions, by op
  int compute = TL_COMPUTE_FP32;
};

struct Setting {
  int threads;
  std::vector<SequenceSpec> sequences;
  bool check;  // compare with the reference (once per shape)
};

// The same sequences of adapter 0: as given, on other thread counts, alone, and moved between new neighbours.
inline std::vector<std::pair<std::string, Setting>> settings(const Shape& shape) {
  std::vector<SequenceSpec> alone, moved;
  for (const SequenceSpec& s : shape.sequences)
    if (s.adapter == 0) alone.push_back(s);
  const int other = shape.adapters.size() > 1 ? 1 : -1;
  moved.push_back({other, 5, 900});
  moved.push_back({-1, 17, 901});
  for (size_t i = 0; i < alone.size(); ++i) {
    moved.push_back(alone[i]);
    moved.push_back({other, static_cast<int64_t>(1 + 3 * i), 910 + i});
  }
  return {{"2 threads", {2, shape.sequences, true}}, {"1 thread", {1, shape.sequences, false}}, {"3 threads", {3, shape.sequences, false}},
          {"alone", {2, alone, false}}, {"moved", {2, moved, false}}};
}

inline const std::vector<AdapterSpec> kOneAdapter = {{8, 127, 0}};
inline const std::vector<AdapterSpec> kTwoAdapters = {{8, 127, 0}, {3, 127, 0}};
inline const std::vector<SequenceSpec> kMixed = {{1, 3, 11}, {0, 13, 1}, {1, 29, 12}, {0, 1, 2}, {0, 40, 3}};

// Modules 0, 1, 2 share an input of width a; outputs b, c, d (0: no such module).
inline std::vector<Shape> linear_shapes() {
  const int bf16 = TL_COMPUTE_BF16;
  return {
      {"one token", {{1, 127, 0}}, {{0, 1, 1}}, 5, 3},
      {"ranks 16 and 3", {{16, 127, 0}, {3, 127, 0}}, kMixed, 96, 64, 32, 32},
      {"rank 200 beside 1 and the base", {{200, 1, 0}, {1, 3, 0}}, {{1, 13, 4}, {-1, 9, 5}, {0, 33, 1}, {1, 2, 6}, {0, 14, 2}}, 70, 45, 33},
      {"rank 256, subset of modules", {{256, 2, 0}, {64, 5, 0}}, {{0, 29, 1}, {1, 15, 5}, {0, 13, 2}}, 33, 17, 16, 48},
      {"rank 64, long input", {{64, 127, 0}, {16, 127, 0}}, {{1, 40, 7}, {0, 127, 1}, {1, 1, 8}, {0, 2, 2}}, 1100, 30},
      {"dropout beside none", {{16, 127, 0.25f}, {3, 127, 0}}, kMixed, 150, 40, 24, 24},
      {"dropout in all", {{3, 5, 0.1f}, {20, 7, 0.6f}}, kMixed, 100, 40, 24, 24},
      {"129 rows", {{16, 127, 0}, {8, 1, 0}}, {{1, 129, 5}, {0, 129, 1}}, 48, 100},
      {"bf16", {{16, 127, 0}, {3, 127, 0.5f}}, kMixed, 64, 48, 32, 32, bf16},
      {"bf16 with dropout", {{8, 127, 0.3f}}, {{0, 13, 1}}, 64, 48, 0, 0, bf16},
  };
}

// a: width.
inline std::vector<Shape> norm_shapes() {
  return {{"width 3", kOneAdapter, {{0, 1, 1}}, 3}, {"width 64", kTwoAdapters, kMixed, 64},
          {"width 1029", kTwoAdapters, {{1, 3, 4}, {0, 13, 1}}, 1029}, {"width 17", kTwoAdapters, {{1, 129, 4}, {0, 127, 1}}, 17}};
}

// a heads, b kv heads, c head_dim, d = 1: with q and k norms.
inline std::vector<Shape> rope_shapes() {
  return {{"d 8", kTwoAdapters, kMixed, 2, 1, 8, 0}, {"d 64 with norms", kTwoAdapters, kMixed, 3, 1, 64, 1},
          {"d 6 with norms", kTwoAdapters, kMixed, 3, 3, 6, 1}, {"d 128", kTwoAdapters, {{1, 2, 9}, {0, 129, 1}}, 2, 2, 128, 0}};
}

// a heads, b kv heads, c head_dim.
inline std::vector<Shape> attention_shapes() {
  return {{"one token", kOneAdapter, {{0, 1, 1}}, 1, 1, 8},
          {"d 8, 8:1", kTwoAdapters, kMixed, 8, 1, 8},
          {"d 24, 2:1", kTwoAdapters, kMixed, 4, 2, 24},
          {"d 40, 1:1", kTwoAdapters, {{0, 13, 1}, {1, 127, 5}}, 3, 3, 40},
          {"d 64, 2:1, 129 tokens", kTwoAdapters, {{1, 13, 5}, {0, 129, 1}, {1, 1, 6}}, 4, 2, 64},
          {"d 128, 4:1, 127 tokens", kTwoAdapters, {{0, 127, 1}, {1, 16, 6}, {0, 33, 2}}, 4, 1, 128},
          {"bf16", kTwoAdapters, kMixed, 4, 2, 32, 0, TL_COMPUTE_BF16}};
}

// a: width.
inline std::vector<Shape> swiglu_shapes() {
  return {{"width 1", kOneAdapter, {{0, 1, 1}}, 1}, {"width 45", kTwoAdapters, kMixed, 45}, {"width 128", kTwoAdapters, kMixed, 128}};
}

// a hidden, b vocab.
inline std::vector<Shape> head_shapes() {
  return {{"tiny", kOneAdapter, {{0, 1, 1}}, 3, 5}, {"vocab 331", kTwoAdapters, kMixed, 64, 331},
          {"hidden 33, vocab 1100", kTwoAdapters, {{1, 13, 5}, {0, 15, 1}}, 33, 1100}};
}

}  // namespace op_cases
