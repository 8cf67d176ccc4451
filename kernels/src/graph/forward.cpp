// The decoder, top to bottom:
//   h_0 = E[tokens]
//   x1 = norm(h);  q, k, v = linear(x1);  a = attention(rope(q), rope(k), v);  m = h + linear_o(a)
//   x2 = norm(m);  g, u = linear(x2);     h' = m + linear_down(silu(g) * u)
#include "graph/step.h"

namespace tlora {
namespace {

LinearPart part_of(const Model& model, const Batch& batch, int layer, int module, int index, StepBuffers& buffers, Matrix y) {
  bool dropout = false;
  for (const auto& owner : batch.adapters) dropout |= batch.dropout(owner.first) > 0;
  LinearPart part;
  part.module = module;
  part.weight = model.layer(layer).linear[module].get();
  part.y = y;
  part.strip = buffers.layer(layer).strip[module];
  part.strip_grad = buffers.strip_grad[index];
  if (dropout) part.dropped = buffers.dropped[index];
  return part;
}

}  // namespace

std::vector<LinearPart> attention_inputs(const Model& model, const Batch& batch, int layer, StepBuffers& buffers, Matrix qkv) {
  const int64_t element = model.backend().activation_bytes();
  const int64_t q_columns = model.module_out(TL_Q_PROJ), k_columns = model.module_out(TL_K_PROJ);
  return {part_of(model, batch, layer, TL_Q_PROJ, 0, buffers, qkv),
          part_of(model, batch, layer, TL_K_PROJ, 1, buffers, columns(qkv, q_columns, element)),
          part_of(model, batch, layer, TL_V_PROJ, 2, buffers, columns(qkv, q_columns + k_columns, element))};
}

std::vector<LinearPart> mlp_inputs(const Model& model, const Batch& batch, int layer, StepBuffers& buffers, Matrix gate_up) {
  const int64_t element = model.backend().activation_bytes();
  return {part_of(model, batch, layer, TL_GATE_PROJ, 0, buffers, gate_up),
          part_of(model, batch, layer, TL_UP_PROJ, 1, buffers, columns(gate_up, model.config().intermediate, element))};
}

std::vector<LinearPart> single_linear(const Model& model, const Batch& batch, int layer, int module, StepBuffers& buffers,
                                      Matrix y) {
  return {part_of(model, batch, layer, module, 0, buffers, y)};
}

void attention_half(const Model& model, const Batch& batch, int layer, StepBuffers& buffers) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();
  const LayerWeights& w = model.layer(layer);
  const AttentionShape shape = model.attention();
  const int64_t v_first = model.module_out(TL_Q_PROJ) + model.module_out(TL_K_PROJ);
  LayerBuffers& b = buffers.layer(layer);
  const Matrix h = buffers.hidden_in(layer);

  backend.rmsnorm_forward(h, w.input_norm, c.rms_eps, nullptr, batch.tokens, c.hidden, b.x1, b.input_rstd);
  const auto qkv = attention_inputs(model, batch, layer, buffers, b.qkv);
  if (c.qk_norm) {
    backend.linear_forward(batch, layer, b.x1, qkv, nullptr);
    backend.rope_forward(batch, shape, b.qkv, w.q_norm, w.k_norm, c.rms_eps, buffers.rope, b.q, b.k);
  } else {
    backend.rotated_forward(batch, layer, b.x1, qkv, shape, buffers.rope);
  }
  backend.attention_forward(batch, shape, b.q, b.k, columns(b.qkv, v_first, backend.activation_bytes()), b.attention, b.lse,
                            buffers.attention_scratch);
  backend.linear_forward(batch, layer, b.attention, single_linear(model, batch, layer, TL_O_PROJ, buffers, b.middle), &h);
}

void mlp_half(const Model& model, const Batch& batch, int layer, StepBuffers& buffers, Matrix act) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();
  LayerBuffers& b = buffers.layer(layer);

  backend.rmsnorm_forward(b.middle, model.layer(layer).post_norm, c.rms_eps, nullptr, batch.tokens, c.hidden, b.x2,
                          b.post_rstd);
  const auto parts = mlp_inputs(model, batch, layer, buffers, b.gate_up);
  if (act.data) backend.gated_forward(batch, layer, b.x2, parts, act);
  else backend.linear_forward(batch, layer, b.x2, parts, nullptr);
}

void forward(const Model& model, const Batch& batch, StepBuffers& buffers) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();

  backend.embed(model.embedding(), buffers.tokens, batch.tokens, buffers.hidden_in(0));
  for (int i = 0; i < c.layers; ++i) {
    LayerBuffers& b = buffers.layer(i);
    attention_half(model, batch, i, buffers);
    mlp_half(model, batch, i, buffers, buffers.act);
    backend.linear_forward(batch, i, buffers.act,
                           single_linear(model, batch, i, TL_DOWN_PROJ, buffers, buffers.hidden_in(i + 1)), &b.middle);
  }
}

}  // namespace tlora
