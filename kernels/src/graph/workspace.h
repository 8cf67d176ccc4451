// The buffers of one step, laid out in one arena. The same function sizes the arena, places the buffers and answers
// tl_memory_estimate, so the estimate cannot drift from the truth.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"

namespace tlora {

class Model;

struct StepShape {
  int64_t tokens = 0;
  int64_t segments = 0;
  int64_t longest = 0;
  int64_t loss_rows = 0;
  int64_t strip_elements = 0;
  bool dropout = false;
  bool train = false;
};

struct LayerBuffers {
  Matrix qkv;      // raw q | k | v
  Matrix attention;
  Matrix middle;   // residual stream after attention
  Matrix gate_up;
  float* lse = nullptr;
  float* input_rstd = nullptr;
  float* post_rstd = nullptr;
  void* strip[kModules] = {};
};

struct StepBuffers {
  int64_t bytes = 0;
  int64_t rope_positions = 0;
  RopeTable rope;
  // Saved for backward. In evaluation all layers share one set, and the residual stream alternates between two buffers.
  std::vector<Matrix> hidden;  // input of layer i; [layers] is the output of the last
  std::vector<LayerBuffers> layers;
  // Shared scratch.
  Matrix normed, q, k, act;
  void* attention_scratch = nullptr;
  Matrix dhidden, dnormed, dqkv, dattention, dact;
  void* strip_grad[3] = {};
  Matrix dropped[3];  // only with dropout
  // Head.
  int64_t head_chunk = 0;  // rows
  Matrix head_input, head_dinput;
  float* head_rstd = nullptr;
  float* logits = nullptr;
  int64_t logits_ld = 0;

  Matrix& hidden_in(int layer) { return hidden[static_cast<size_t>(layer) % hidden.size()]; }
  LayerBuffers& layer(int i) { return layers[static_cast<size_t>(i) % layers.size()]; }
};

// base null: sizes only.
StepBuffers place_buffers(const Model& model, const StepShape& shape, void* base);

// Leading dimension for rows of `columns` elements: whole 64-byte lines of fp32, and never a multiple of 1 KiB, where the
// rows of a tile would fall into few cache sets.
int64_t leading_dimension(int64_t columns);

}  // namespace tlora
