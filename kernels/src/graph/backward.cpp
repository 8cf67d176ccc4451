// forward.cpp read upwards. Norms, rope and silu are recomputed from what forward saved; no GEMM is. Frozen weights get no
// gradient, and layer 0 no dX for q, k, v: the embedding below it is frozen.
#include "graph/step.h"

namespace tlora {
namespace {

// Whether any adapter of the batch has one of these modules: only then dA needs the module's input again.
bool any_target(const Batch& batch, uint32_t modules) {
  for (const auto& owner : batch.adapters)
    if (owner.first->config.target_modules & modules) return true;
  return false;
}

}  // namespace

void backward(const Model& model, const Batch& batch, StepBuffers& buffers) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();
  const AttentionShape shape = model.attention();
  const int64_t n = batch.tokens;
  const int64_t v_first = model.module_out(TL_Q_PROJ) + model.module_out(TL_K_PROJ);
  const Matrix dh = buffers.dhidden;
  const bool needs_act = any_target(batch, 1u << TL_DOWN_PROJ);
  const bool needs_mlp_input = any_target(batch, 1u << TL_GATE_PROJ | 1u << TL_UP_PROJ);
  const bool needs_attention_input = any_target(batch, 1u << TL_Q_PROJ | 1u << TL_K_PROJ | 1u << TL_V_PROJ);

  for (int i = c.layers - 1; i >= 0; --i) {
    const LayerWeights& w = model.layer(i);
    LayerBuffers& b = buffers.layer(i);
    const Matrix h = buffers.hidden_in(i);

    if (needs_act) backend.swiglu_forward(b.gate_up, n, c.intermediate, buffers.act);
    backend.linear_backward(batch, i, buffers.act, single_linear(model, batch, i, TL_DOWN_PROJ, buffers, dh), buffers.dact);
    backend.swiglu_backward(b.gate_up, buffers.dact, n, c.intermediate);
    if (needs_mlp_input)
      backend.rmsnorm_forward(b.middle, w.post_norm, c.rms_eps, nullptr, n, c.hidden, buffers.normed, nullptr);
    backend.linear_backward(batch, i, buffers.normed, mlp_inputs(model, batch, i, buffers, b.gate_up), buffers.dnormed);
    backend.rmsnorm_backward(buffers.dnormed, b.middle, w.post_norm, b.post_rstd, nullptr, n, c.hidden, &dh, dh);

    backend.linear_backward(batch, i, b.attention, single_linear(model, batch, i, TL_O_PROJ, buffers, dh), buffers.dattention);
    backend.rope_forward(batch, shape, b.qkv, w.q_norm, w.k_norm, c.rms_eps, buffers.rope, buffers.q, buffers.k);
    backend.attention_backward(batch, shape, buffers.q, buffers.k, columns(b.qkv, v_first, backend.activation_bytes()),
                               b.attention, b.lse, buffers.dattention, buffers.dqkv, buffers.attention_scratch);
    backend.rope_backward(batch, shape, b.qkv, w.q_norm, w.k_norm, c.rms_eps, buffers.rope, buffers.dqkv);
    if (needs_attention_input)
      backend.rmsnorm_forward(h, w.input_norm, c.rms_eps, nullptr, n, c.hidden, buffers.normed, nullptr);
    backend.linear_backward(batch, i, buffers.normed, attention_inputs(model, batch, i, buffers, buffers.dqkv),
                            i > 0 ? buffers.dnormed : Matrix{});
    if (i > 0) backend.rmsnorm_backward(buffers.dnormed, h, w.input_norm, b.input_rstd, nullptr, n, c.hidden, &dh, dh);
  }
}

}  // namespace tlora
