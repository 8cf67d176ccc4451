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
  int64_t strip_elements = 0;  // as in Batch
  int64_t strip_columns = 0;
  bool dropout = false;
  bool train = false;
  int32_t recompute = TL_RECOMPUTE_NOTHING;  // of training
  bool keep_inputs = false;  // with TL_RECOMPUTE_NOTHING: x1 and x2 of every layer, so that not even the norms are computed again
};

struct LayerBuffers {
  Matrix x1, x2;   // the normed inputs of q, k, v and of gate, up; shared unless inputs are kept
  Matrix qkv;      // q | k | v: raw with QK norm, otherwise q and k with their rotary positions
  Matrix q, k;     // normed and rotated: columns of qkv, or shared buffers with QK norm
  Matrix attention;
  Matrix middle;   // residual stream after attention
  Matrix gate_up;
  float* lse = nullptr;
  float* input_rstd = nullptr;
  float* post_rstd = nullptr;
  void* strip[kModules] = {};  // the strips of modules that share an input lie one after the other
};

struct StepBuffers {
  int64_t bytes = 0;
  int64_t rope_positions = 0;
  int32_t recompute = TL_RECOMPUTE_NOTHING;
  bool keep_inputs = false;
  RopeTable rope;
  // Inputs and results of the step, on the device.
  int32_t* tokens = nullptr;
  int64_t* rows = nullptr;  // those that reach the head
  int32_t* targets = nullptr;
  float* scale = nullptr;
  double* loss = nullptr;
  uint8_t* correct = nullptr;
  // Saved for backward. In evaluation all layers share one set, and the residual stream alternates between two buffers.
  // With recomputation layers share what backward makes again.
  std::vector<Matrix> hidden;  // input of layer i; [layers] is the output of the last
  std::vector<LayerBuffers> layers;
  // Shared scratch.
  Matrix act;
  void* attention_scratch = nullptr;
  Matrix dhidden, dnormed, dqkv, dattention;
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

}  // namespace tlora
