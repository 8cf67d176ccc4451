#include "graph/model.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace tlora {
namespace {

const char* const kModuleNames[kModules] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                            "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

int64_t rope_bytes(int64_t positions, int64_t head_dim) { return positions * (head_dim / 2) * 4; }

}  // namespace

int64_t Model::module_in(int module) const {
  switch (module) {
    case TL_O_PROJ: return int64_t{config_.heads} * config_.head_dim;
    case TL_DOWN_PROJ: return config_.intermediate;
    default: return config_.hidden;
  }
}

int64_t Model::module_out(int module) const {
  switch (module) {
    case TL_Q_PROJ: return int64_t{config_.heads} * config_.head_dim;
    case TL_K_PROJ:
    case TL_V_PROJ: return int64_t{config_.kv_heads} * config_.head_dim;
    case TL_GATE_PROJ:
    case TL_UP_PROJ: return config_.intermediate;
    default: return config_.hidden;
  }
}

Model::Model(const std::string& folder, std::unique_ptr<Backend> backend, int32_t compute)
    : config_(load_model_config(folder)), compute_(compute), backend_(std::move(backend)) {
  const WeightFiles files(folder);
  // Checkpoints saved from the bare decoder (AutoModel) lack the "model." prefix.
  const std::string prefix = files.has("model.embed_tokens.weight") ? "model." : "";
  auto vector = [&](const std::string& name, int64_t width) {
    const TensorView& tensor = files.get(prefix + name, {width});
    parameters_ += width;
    weight_bytes_ += width * 4;
    return backend_->pack_vector(tensor);
  };
  auto linear = [&](const std::string& name, int64_t out, int64_t in, bool with_bias) {
    const TensorView* bias = with_bias ? &files.get(name + ".bias", {out}) : nullptr;
    auto packed = backend_->pack_linear(files.get(name + ".weight", {out, in}), bias);
    parameters_ += out * in + (with_bias ? out : 0);
    weight_bytes_ += packed->resident_bytes;
    return packed;
  };
  try {
    layers_.resize(static_cast<size_t>(config_.layers));
    for (int32_t i = 0; i < config_.layers; ++i) {
      LayerWeights& layer = layers_[static_cast<size_t>(i)];
      const std::string at = "layers." + std::to_string(i) + ".";
      for (int module = 0; module < kModules; ++module)
        layer.linear[module] = linear(prefix + at + kModuleNames[module], module_out(module), module_in(module),
                                      config_.qkv_bias && module <= TL_V_PROJ);
      layer.input_norm = vector(at + "input_layernorm.weight", config_.hidden);
      layer.post_norm = vector(at + "post_attention_layernorm.weight", config_.hidden);
      if (config_.qk_norm) {
        layer.q_norm = vector(at + "self_attn.q_norm.weight", config_.head_dim);
        layer.k_norm = vector(at + "self_attn.k_norm.weight", config_.head_dim);
      }
    }
    final_norm_ = vector("norm.weight", config_.hidden);
    if (config_.tied_embeddings) {
      head_ = linear(prefix + "embed_tokens", config_.vocab, config_.hidden, false);
    } else {
      embedding_ = linear(prefix + "embed_tokens", config_.vocab, config_.hidden, false);
      head_ = linear("lm_head", config_.vocab, config_.hidden, false);
    }
  } catch (...) {
    release();
    throw;
  }
}

Model::~Model() {
  while (!adapters_.empty()) remove_adapter(adapters_.begin()->first);
  release();
}

void Model::release() noexcept {
  auto free = [this](float* p, int64_t bytes) {
    if (p) backend_->release(p, bytes);
  };
  for (LayerWeights& layer : layers_) {
    free(layer.input_norm, config_.hidden * 4);
    free(layer.post_norm, config_.hidden * 4);
    free(layer.q_norm, config_.head_dim * 4);
    free(layer.k_norm, config_.head_dim * 4);
  }
  free(final_norm_, config_.hidden * 4);
  free(rope_.cosine, rope_bytes(rope_.positions, config_.head_dim));
  free(rope_.sine, rope_bytes(rope_.positions, config_.head_dim));
  if (workspace_) backend_->release(workspace_, workspace_bytes_);
}

Adapter& Model::add_adapter(const tl_adapter_config& config, uint64_t handle) {
  auto adapter = std::make_unique<Adapter>();
  adapter->handle = handle;
  adapter->config = config;
  adapter->rank = config.rank;
  adapter->strip_columns = backend_->strip_columns(config.rank);
  adapter->scale = static_cast<float>(
      config.rslora ? config.alpha / std::sqrt(static_cast<double>(config.rank)) : config.alpha / static_cast<double>(config.rank));
  adapter->matrices.resize(static_cast<size_t>(config_.layers) * kModules);
  int64_t working = 0;
  for (int32_t layer = 0; layer < config_.layers; ++layer)
    for (int module = 0; module < kModules; ++module) {
      if (!(config.target_modules >> module & 1u)) continue;
      LoraMatrices& m = adapter->matrices[static_cast<size_t>(layer) * kModules + static_cast<size_t>(module)];
      m.in = module_in(module);
      m.out = module_out(module);
      m.a = adapter->elements;
      m.b = m.a + m.in * adapter->rank;
      adapter->elements = m.b + m.out * adapter->rank;
      m.working = working;
      working += backend_->working_elements(m.in, m.out, adapter->rank);
    }
  adapter->working_bytes = working * backend_->working_element_bytes();
  try {
    for (float*& state : adapter->state) state = static_cast<float*>(backend_->allocate(adapter->elements * 4));
    adapter->working = backend_->allocate(adapter->working_bytes);
    backend_->adapter_init(*adapter);
    Adapter& added = *adapter;
    adapters_.emplace(handle, std::move(adapter));
    adapter_bytes_ += added.elements * 16 + added.working_bytes;
    return added;
  } catch (...) {
    if (adapter) {
      for (float* state : adapter->state)
        if (state) backend_->release(state, adapter->elements * 4);
      if (adapter->working) backend_->release(adapter->working, adapter->working_bytes);
    }
    throw;
  }
}

void Model::remove_adapter(uint64_t handle) {
  const auto it = adapters_.find(handle);
  Adapter& adapter = *it->second;
  for (float* state : adapter.state) backend_->release(state, adapter.elements * 4);
  backend_->release(adapter.working, adapter.working_bytes);
  adapter_bytes_ -= adapter.elements * 16 + adapter.working_bytes;
  adapters_.erase(it);
}

Adapter* Model::find_adapter(uint64_t handle) const {
  const auto it = adapters_.find(handle);
  return it == adapters_.end() ? nullptr : it->second.get();
}

std::vector<tl_tensor_desc> Model::adapter_layout(const Adapter& adapter) const {
  std::vector<tl_tensor_desc> tensors;
  for (int32_t layer = 0; layer < config_.layers; ++layer)
    for (int32_t module = 0; module < kModules; ++module) {
      const LoraMatrices& m = adapter.at(layer, module);
      if (m.in == 0) continue;
      tensors.push_back({layer, module, 0, 0, adapter.rank, m.in, m.a});
      tensors.push_back({layer, module, 1, 0, m.out, adapter.rank, m.b});
    }
  return tensors;
}

void Model::describe(tl_model_info& info) const {
  info.architecture = config_.architecture;
  info.hidden = config_.hidden;
  info.layers = config_.layers;
  info.heads = config_.heads;
  info.kv_heads = config_.kv_heads;
  info.head_dim = config_.head_dim;
  info.intermediate = config_.intermediate;
  info.vocab = config_.vocab;
  info.max_positions = config_.max_positions;
  info.tied_embeddings = config_.tied_embeddings;
  info.compute = compute_;
  info.parameters = parameters_;
  info.weight_bytes = weight_bytes_;
  info.adapter_bytes = adapter_bytes_;
  info.workspace_bytes = workspace_bytes_ + 2 * rope_bytes(rope_.positions, config_.head_dim);
}

void Model::estimate(tl_memory_request& request) const {
  StepShape shape;
  shape.tokens = request.tokens;
  shape.longest = request.max_segment;
  shape.segments = (request.tokens + request.max_segment - 1) / request.max_segment;
  shape.loss_rows = request.loss_tokens;
  // A row carries its own adapter's strip only; which rows are whose is not asked, so the mean width stands for all.
  shape.strip_elements = request.adapters ? request.tokens * request.strip_columns / request.adapters : 0;
  shape.train = true;
  const StepBuffers buffers = place_buffers(*this, shape, nullptr);
  request.step_bytes = buffers.bytes + 2 * rope_bytes(buffers.rope_positions, config_.head_dim);
  // Four fp32 states, and two working copies of every matrix.
  request.adapter_bytes = request.adapter_parameters * (16 + 2 * backend_->working_element_bytes());
}

void Model::ensure_rope(int64_t positions) {
  if (positions <= rope_.positions) return;
  const int64_t half = config_.head_dim / 2, bytes = rope_bytes(positions, config_.head_dim);
  std::vector<float> cosine(static_cast<size_t>(positions * half)), sine(cosine.size());
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * config_.inverse_frequencies[static_cast<size_t>(i)];
      cosine[static_cast<size_t>(p * half + i)] = std::cos(angle);
      sine[static_cast<size_t>(p * half + i)] = std::sin(angle);
    }
  RopeTable grown;
  grown.positions = positions;
  grown.cosine = static_cast<float*>(backend_->allocate(bytes));
  try {
    grown.sine = static_cast<float*>(backend_->allocate(bytes));
  } catch (...) {
    backend_->release(grown.cosine, bytes);
    throw;
  }
  backend_->upload(grown.cosine, cosine.data(), bytes);
  backend_->upload(grown.sine, sine.data(), bytes);
  if (rope_.cosine) {
    backend_->release(rope_.cosine, rope_bytes(rope_.positions, config_.head_dim));
    backend_->release(rope_.sine, rope_bytes(rope_.positions, config_.head_dim));
  }
  rope_ = grown;
}

StepBuffers Model::prepare(const StepShape& shape) {
  const StepBuffers sizes = place_buffers(*this, shape, nullptr);
  ensure_rope(sizes.rope_positions);
  if (sizes.bytes > workspace_bytes_) {
    if (workspace_) backend_->release(workspace_, workspace_bytes_);
    workspace_ = nullptr;
    workspace_bytes_ = 0;
    workspace_ = backend_->allocate(sizes.bytes);
    workspace_bytes_ = sizes.bytes;
  }
  StepBuffers buffers = place_buffers(*this, shape, workspace_);
  buffers.rope = rope_;
  return buffers;
}

}  // namespace tlora
