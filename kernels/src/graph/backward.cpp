// forward.cpp read upwards. Norms, rope and silu are recomputed from what forward saved; GEMMs and attention only as far as
// buffers.recompute says. Frozen weights get no gradient, and layer 0 no dX for q, k, v: the embedding below it is frozen.
//
// A group of linears is always linear_backward, then adapter_gradients, before any input of either is overwritten; between
// down and gate, up it is gated_backward that gives all of down's gradients, and of theirs what it can. So dS of down is used
// up before linear_backward of gate and up writes its own to the same memory.
#include "graph/step.h"

namespace tlora {

void backward(const Model& model, const Batch& batch, StepBuffers& buffers) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();
  const AttentionShape shape = model.attention();
  const int64_t n = batch.tokens;
  const int64_t v_first = model.module_out(TL_Q_PROJ) + model.module_out(TL_K_PROJ);
  const Matrix dh = buffers.dhidden;
  const Matrix dact = buffers.act;  // forward's act is not read again: gated_backward computes it
  // Only of what adapters target is the input wanted again, for dA.
  const bool mlp_targeted = batch.any_target(1u << TL_GATE_PROJ | 1u << TL_UP_PROJ);
  const bool o_targeted = batch.any_target(1u << TL_O_PROJ);
  const bool attention_targeted = batch.any_target(1u << TL_Q_PROJ | 1u << TL_K_PROJ | 1u << TL_V_PROJ);

  for (int i = c.layers - 1; i >= 0; --i) {
    const LayerWeights& w = model.layer(i);
    LayerBuffers& b = buffers.layer(i);
    const Matrix h = buffers.hidden_in(i);

    // Whether x1 and, with QK norm, q and k, and x2, are this layer's: forward left the last layer's in all shared buffers.
    const bool last = i + 1 == c.layers;
    const bool attention_at_hand = last || buffers.recompute == TL_RECOMPUTE_LAYER;
    const bool mlp_at_hand = last || buffers.recompute != TL_RECOMPUTE_NOTHING;
    if (!last && attention_at_hand) attention_half(model, batch, i, buffers);
    if (!last && mlp_at_hand) mlp_half(model, batch, i, buffers, {});

    const auto down = single_linear(model, batch, i, TL_DOWN_PROJ, buffers, dh);
    const auto mlp = mlp_inputs(model, batch, i, buffers, b.gate_up);
    backend.linear_backward(batch, i, down, dact);
    const GradientSides mlp_sides = backend.gated_backward(batch, i, dact, down[0], mlp);

    backend.linear_backward(batch, i, mlp, buffers.dnormed);
    if (mlp_targeted) {
      if (!mlp_at_hand && !buffers.keep_inputs)
        backend.rmsnorm_forward(b.middle, w.post_norm, c.rms_eps, nullptr, n, c.hidden, b.x2, nullptr);
      backend.adapter_gradients(batch, i, b.x2, mlp, mlp_sides);
    }
    backend.rmsnorm_backward(buffers.dnormed, b.middle, w.post_norm, b.post_rstd, nullptr, n, c.hidden, &dh, dh);

    const auto o = single_linear(model, batch, i, TL_O_PROJ, buffers, dh);
    backend.linear_backward(batch, i, o, buffers.dattention);
    if (o_targeted) backend.adapter_gradients(batch, i, b.attention, o);
    const Matrix v = columns(b.qkv, v_first, backend.activation_bytes());
    if (c.qk_norm) {
      if (!attention_at_hand)
        backend.rope_forward(batch, shape, b.qkv, w.q_norm, w.k_norm, c.rms_eps, buffers.rope, b.q, b.k);
      backend.attention_backward(batch, shape, b.q, b.k, v, b.attention, b.lse, buffers.dattention, buffers.dqkv,
                                 buffers.attention_scratch);
      backend.rope_backward(batch, shape, b.qkv, w.q_norm, w.k_norm, c.rms_eps, buffers.rope, buffers.dqkv);
    } else {
      backend.rotated_attention_backward(batch, shape, b.q, b.k, v, b.attention, b.lse, buffers.dattention, buffers.rope,
                                         buffers.dqkv, buffers.attention_scratch);
    }

    const auto qkv = attention_inputs(model, batch, i, buffers, buffers.dqkv);
    backend.linear_backward(batch, i, qkv, i > 0 ? buffers.dnormed : Matrix{});
    if (attention_targeted) {
      if (!attention_at_hand && !buffers.keep_inputs)
        backend.rmsnorm_forward(h, w.input_norm, c.rms_eps, nullptr, n, c.hidden, b.x1, nullptr);
      backend.adapter_gradients(batch, i, b.x1, qkv);
    }
    if (i > 0) backend.rmsnorm_backward(buffers.dnormed, h, w.input_norm, b.input_rstd, nullptr, n, c.hidden, &dh, dh);
  }
}

}  // namespace tlora
