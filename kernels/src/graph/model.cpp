#include "graph/model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "error.h"

namespace tlora {
namespace {

const char* const kModuleNames[kModules] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                            "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
// The modules that share their input, as first and count.
constexpr std::pair<int, int> kGroups[] = {{TL_Q_PROJ, 3}, {TL_O_PROJ, 1}, {TL_GATE_PROJ, 2}, {TL_DOWN_PROJ, 1}};

// Of one table.
int64_t rope_bytes(int64_t positions, int64_t head_dim) { return positions * (head_dim / 2) * 4; }

int32_t recompute_of_environment() {
  const char* name = std::getenv("TLORA_RECOMPUTE");
  if (!name || !*name) return -1;
  const char* const names[] = {"nothing", "mlp", "layer"};
  for (int32_t policy = TL_RECOMPUTE_NOTHING; policy <= TL_RECOMPUTE_LAYER; ++policy)
    if (std::string(name) == names[policy]) return policy;
  throw Error(TL_INVALID_ARGUMENT, std::string("TLORA_RECOMPUTE must be nothing, mlp or layer, got ") + name);
}

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
    : config_(load_model_config(folder)),
      compute_(compute),
      backend_(std::move(backend)),
      forced_recompute_(recompute_of_environment()) {
  const WeightFiles files(folder);
  // Checkpoints saved from the bare decoder (AutoModel) lack the "model." prefix.
  const std::string prefix = files.has("model.embed_tokens.weight") ? "model." : "";
  auto vector = [&](const std::string& name, int64_t width) {
    const TensorView& tensor = files.get(prefix + name, {width});
    parameters_ += width;
    weight_bytes_ += width * 4;
    return backend_->pack_vector(tensor);
  };
  auto source = [&](const std::string& name, int64_t out, int64_t in, bool with_bias) {
    WeightSource found;
    if (with_bias) found.bias = &files.get(name + ".bias", {out});
    found.weight = &files.get(name + ".weight", {out, in});
    parameters_ += out * in + (with_bias ? out : 0);
    return found;
  };
  auto group = [&](const std::vector<WeightSource>& sources) {
    auto packed = backend_->pack_group(sources);
    for (const auto& linear : packed) weight_bytes_ += linear->resident_bytes;
    return packed;
  };
  auto matrix = [&](const std::string& name) {  // [vocab, hidden]
    return std::move(group({source(name, config_.vocab, config_.hidden, false)})[0]);
  };
  try {
    layers_.resize(static_cast<size_t>(config_.layers));
    for (int32_t i = 0; i < config_.layers; ++i) {
      LayerWeights& layer = layers_[static_cast<size_t>(i)];
      const std::string at = "layers." + std::to_string(i) + ".";
      for (const auto& [first, count] : kGroups) {
        std::vector<WeightSource> sources;
        for (int module = first; module < first + count; ++module)
          sources.push_back(source(prefix + at + kModuleNames[module], module_out(module), module_in(module),
                                   config_.qkv_bias && module <= TL_V_PROJ));
        auto packed = group(sources);
        for (int j = 0; j < count; ++j) layer.linear[first + j] = std::move(packed[static_cast<size_t>(j)]);
      }
      layer.input_norm = vector(at + "input_layernorm.weight", config_.hidden);
      layer.post_norm = vector(at + "post_attention_layernorm.weight", config_.hidden);
      if (config_.qk_norm) {
        layer.q_norm = vector(at + "self_attn.q_norm.weight", config_.head_dim);
        layer.k_norm = vector(at + "self_attn.k_norm.weight", config_.head_dim);
      }
    }
    final_norm_ = vector("norm.weight", config_.hidden);
    if (config_.tied_embeddings) {
      head_ = matrix(prefix + "embed_tokens");
    } else {
      embedding_ = matrix(prefix + "embed_tokens");
      head_ = matrix("lm_head");
    }
    int64_t in[kModules], out[kModules];
    for (int module = 0; module < kModules; ++module) {
      in[module] = module_in(module);
      out[module] = module_out(module);
    }
    backend_->set_modules(config_.layers, in, out);
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
  release_rope();
  release_workspace();
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
  for (int32_t layer = 0; layer < config_.layers; ++layer)
    for (int module = 0; module < kModules; ++module) {
      if (!(config.target_modules >> module & 1u)) continue;
      LoraMatrices& m = adapter->matrices[static_cast<size_t>(layer) * kModules + static_cast<size_t>(module)];
      m.in = module_in(module);
      m.out = module_out(module);
      m.a = adapter->elements;
      m.b = m.a + m.in * adapter->rank;
      adapter->elements = m.b + m.out * adapter->rank;
    }
  Adapter& added = *adapters_.emplace(handle, std::move(adapter)).first->second;
  try {
    with_workspace_in_reserve([&] { backend_->adapter_attach(added); });
  } catch (...) {
    adapters_.erase(handle);
    throw;
  }
  try {
    backend_->adapter_init(added);
  } catch (...) {
    remove_adapter(handle);
    throw;
  }
  return added;
}

void Model::remove_adapter(uint64_t handle) {
  const auto it = adapters_.find(handle);
  backend_->adapter_detach(*it->second);
  with_gradient_.erase(it->second.get());
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

void Model::export_state(Adapter& adapter, int32_t state, float* values) {
  if (adapter.offloaded && state == TL_STATE_GRADIENT) {
    std::fill_n(values, adapter.elements, 0.0f);
    return;
  }
  const bool fetch = adapter.offloaded && state != TL_STATE_WEIGHTS;
  if (fetch) backend_->adapter_restore(adapter);
  backend_->download(values, adapter.state[state], adapter.elements * 4);
  if (fetch) backend_->adapter_offload(adapter);
}

void Model::import_state(Adapter& adapter, int32_t state, const float* values) {
  if (state == TL_STATE_GRADIENT) {
    // Marked before the upload: a failed one leaves anything.
    with_gradient_.insert(&adapter);
    backend_->upload(adapter.state[state], values, adapter.elements * 4);
    if (std::all_of(values, values + adapter.elements, [](float v) { return v == 0.0f; })) with_gradient_.erase(&adapter);
    return;
  }
  backend_->upload(adapter.state[state], values, adapter.elements * 4);
  backend_->adapter_refresh(adapter);
}

void Model::clear_gradient(Adapter& adapter) {
  if (!adapter.offloaded) backend_->zero(adapter.state[TL_STATE_GRADIENT], adapter.elements * 4);
  with_gradient_.erase(&adapter);
}

void Model::optimizer_step(std::vector<OptimizerTask>& tasks) {
  backend_->adamw(tasks);
  for (const OptimizerTask& task : tasks) with_gradient_.erase(task.adapter);
}

void Model::gradients_touched(const Batch& batch) {
  for (const auto& owner : batch.adapters) with_gradient_.insert(owner.first);
}

void Model::offload_adapter(Adapter& adapter) { backend_->adapter_offload(adapter); }
void Model::restore_adapter(Adapter& adapter) {
  with_workspace_in_reserve([&] { backend_->adapter_restore(adapter); });
}

// What estimate() calls available includes the workspace, which the next step can lay out smaller: so it is given up before
// an adapter is refused.
void Model::with_workspace_in_reserve(const std::function<void()>& allocate) {
  try {
    allocate();
  } catch (const Error& error) {
    if (error.status() != TL_OUT_OF_MEMORY || !workspace_) throw;
    release_workspace();
    allocate();
  }
}

void Model::release_workspace() noexcept {
  if (workspace_) backend_->release(workspace_, workspace_bytes_);
  workspace_ = nullptr;
  workspace_bytes_ = 0;
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
  info.adapter_bytes = 0;
  for (const auto& [handle, adapter] : adapters_) {
    info.adapter_bytes += adapter->working_bytes;
    for (const float* state : adapter->state)
      if (state) info.adapter_bytes += adapter->elements * 4;
  }
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
  shape.strip_columns = request.strip_columns;
  shape.dropout = request.dropout != 0;
  shape.train = true;
  // Four fp32 states and the working copies; without parameters the slots are there already.
  request.adapter_bytes = 0;
  if (request.adapter_parameters)
    request.adapter_bytes = request.adapter_parameters * 16 + backend_->working_bytes(request.adapter_parameters, request.strip_columns);
  const Plan plan = this->plan(shape, request.adapter_bytes);
  request.recompute = plan.shape.recompute;
  request.step_bytes = plan.step;
  request.available_bytes = plan.available;
  request.fits = plan.fits;
}

Model::Plan Model::plan(const StepShape& shape, int64_t beside) const {
  Plan plan;
  plan.shape = shape;
  const bool forced = forced_recompute_ >= 0;
  const int32_t first = shape.train && forced ? forced_recompute_ : TL_RECOMPUTE_NOTHING;
  const int32_t last = !shape.train ? first : forced ? forced_recompute_ : TL_RECOMPUTE_LAYER;
  const int64_t free = backend_->free_bytes();
  // A backend that does not know its memory keeps the least that spares it products.
  plan.shape.keep_inputs = shape.train && first == TL_RECOMPUTE_NOTHING && free != std::numeric_limits<int64_t>::max();
  plan.shape.recompute = first;
  for (;;) {
    const StepBuffers sizes = place_buffers(*this, plan.shape, nullptr);
    const int64_t rope = 2 * rope_bytes(sizes.rope_positions, config_.head_dim);
    plan.step = sizes.bytes + rope;
    // What the step itself has taken already is free to it; of rope tables that are longer than it needs, only its part.
    const int64_t own = workspace_bytes_ + std::min(rope, 2 * rope_bytes(rope_.positions, config_.head_dim));
    plan.available = free == std::numeric_limits<int64_t>::max() ? free : free + own;
    plan.fits = beside <= plan.available && plan.step <= plan.available - beside;
    if (plan.fits || (plan.shape.recompute == last && !plan.shape.keep_inputs)) return plan;
    if (plan.shape.keep_inputs) plan.shape.keep_inputs = false;
    else ++plan.shape.recompute;
  }
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
  release_rope();  // first: plan() counts on its memory
  rope_.positions = positions;
  try {
    rope_.cosine = static_cast<float*>(backend_->allocate(bytes));
    rope_.sine = static_cast<float*>(backend_->allocate(bytes));
    backend_->upload(rope_.cosine, cosine.data(), bytes);
    backend_->upload(rope_.sine, sine.data(), bytes);
  } catch (...) {
    release_rope();
    throw;
  }
}

void Model::release_rope() noexcept {
  const int64_t bytes = rope_bytes(rope_.positions, config_.head_dim);
  if (rope_.cosine) backend_->release(rope_.cosine, bytes);
  if (rope_.sine) backend_->release(rope_.sine, bytes);
  rope_ = {};
}

StepBuffers Model::prepare(const StepShape& shape) {
  const Plan plan = this->plan(shape, 0);
  if (!plan.fits)
    throw Error(TL_OUT_OF_MEMORY, "n: a step of " + std::to_string(shape.tokens) + " tokens needs " + std::to_string(plan.step) +
                                      " bytes at the least, and the device has " + std::to_string(plan.available) + " for it");
  const StepBuffers sizes = place_buffers(*this, plan.shape, nullptr);
  const bool grow = sizes.bytes > workspace_bytes_;
  if (grow) release_workspace();
  ensure_rope(sizes.rope_positions);
  if (grow) {
    workspace_ = backend_->allocate(sizes.bytes);
    workspace_bytes_ = sizes.bytes;
  }
  StepBuffers buffers = place_buffers(*this, plan.shape, workspace_);
  buffers.rope = rope_;
  return buffers;
}

}  // namespace tlora
