// One packed batch through the model. The caller has validated every argument.
#pragma once

#include <vector>

#include "graph/model.h"

namespace tlora {

// Runs, owners and strip offsets of a segment table whose adapters are already looked up.
Batch make_batch(std::vector<Segment> segments, int64_t tokens, bool train);

// Fills buffers.hidden_in(layers) from buffers.tokens; with batch.train everything backward needs stays in the buffers, or
// can be made again from them (buffers.recompute).
void forward(const Model& model, const Batch& batch, StepBuffers& buffers);

// The halves of a layer's forward, up to the residual stream after attention and up to gate and up, or to their act where
// act.data is not null.
void attention_half(const Model& model, const Batch& batch, int layer, StepBuffers& buffers);
void mlp_half(const Model& model, const Batch& batch, int layer, StepBuffers& buffers, Matrix act);

// From buffers.dhidden = dL/d(output of the last layer): adds every adapter's gradient to its slot.
void backward(const Model& model, const Batch& batch, StepBuffers& buffers);

// tl_forward_backward (batch.train) or tl_evaluate.
void run_step(Model& model, const Batch& batch, const int32_t* tokens, const int32_t* targets, tl_segment_result* results);

void run_logits(Model& model, const Batch& batch, const int32_t* tokens, const int64_t* rows, int64_t row_count, float* logits);

// The parts of the linears that share an input, with their buffers.
std::vector<LinearPart> attention_inputs(const Model& model, const Batch& batch, int layer, StepBuffers& buffers, Matrix qkv);
std::vector<LinearPart> mlp_inputs(const Model& model, const Batch& batch, int layer, StepBuffers& buffers, Matrix gate_up);
std::vector<LinearPart> single_linear(const Model& model, const Batch& batch, int layer, int module, StepBuffers& buffers,
                                      Matrix y);

}  // namespace tlora
