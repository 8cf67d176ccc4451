// A frozen base model on one backend, its adapter slots and its workspace.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "backend.h"
#include "format/model_config.h"
#include "graph/workspace.h"

namespace tlora {

struct LayerWeights {
  std::unique_ptr<FrozenLinear> linear[kModules];
  float* input_norm = nullptr;
  float* post_norm = nullptr;
  float* q_norm = nullptr;  // Qwen3 only
  float* k_norm = nullptr;
};

class Model {
 public:
  Model(const std::string& folder, std::unique_ptr<Backend> backend, int32_t compute);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  Backend& backend() const { return *backend_; }
  const LayerWeights& layer(int i) const { return layers_[static_cast<size_t>(i)]; }
  const FrozenLinear& embedding() const { return config_.tied_embeddings ? *head_ : *embedding_; }
  const FrozenLinear& head() const { return *head_; }
  const float* final_norm() const { return final_norm_; }
  AttentionShape attention() const { return {config_.heads, config_.kv_heads, config_.head_dim}; }
  int64_t qkv_columns() const { return int64_t{config_.heads + 2 * config_.kv_heads} * config_.head_dim; }
  // in and out of W at a module, the same in every layer.
  int64_t module_in(int module) const;
  int64_t module_out(int module) const;

  // ---- slots
  Adapter& add_adapter(const tl_adapter_config& config, uint64_t handle);
  void remove_adapter(uint64_t handle);
  Adapter* find_adapter(uint64_t handle) const;
  std::vector<tl_tensor_desc> adapter_layout(const Adapter& adapter) const;
  // Any state of any slot: what an offloaded slot's memory does not hold is fetched, and its gradient is zero.
  void export_state(Adapter& adapter, int32_t state, float* values);
  void import_state(Adapter& adapter, int32_t state, const float* values);
  void clear_gradient(Adapter& adapter);
  void optimizer_step(std::vector<OptimizerTask>& tasks);
  void offload_adapter(Adapter& adapter);  // its gradient is zero
  void restore_adapter(Adapter& adapter);
  // False only when it is certain that the slot's gradient is zero.
  bool may_have_gradient(const Adapter& adapter) const { return with_gradient_.count(&adapter) > 0; }
  void gradients_touched(const Batch& batch);

  // ---- memory
  void describe(tl_model_info& info) const;
  void estimate(tl_memory_request& request) const;
  // Buffers for a step of this shape, under the first recompute policy that fits; grows the workspace when needed. cos and
  // sin cover shape.longest positions. Throws Error(TL_OUT_OF_MEMORY) before anything changes when no policy fits.
  StepBuffers prepare(const StepShape& shape);
  // One policy (TL_RECOMPUTE_*) for all steps from now on, or -1: the first that fits. The environment variable
  // TLORA_RECOMPUTE = nothing | mlp | layer is the same for every model opened under it.
  void force_recompute(int32_t policy) { forced_recompute_ = policy; }

  std::mutex mutex;  // one call at a time

 private:
  void release() noexcept;
  void ensure_rope(int64_t positions);
  void release_rope() noexcept;
  void release_workspace() noexcept;
  void with_workspace_in_reserve(const std::function<void()>& allocate);
  // The first policy under which the step and `beside` bytes more fit, or else the last.
  struct Plan {
    StepShape shape;
    int64_t step = 0;       // workspace and rope tables
    int64_t available = 0;  // for the step and what is beside it
    bool fits = false;
  };
  Plan plan(const StepShape& shape, int64_t beside) const;

  ModelConfig config_;
  int32_t compute_;
  std::unique_ptr<Backend> backend_;
  std::vector<LayerWeights> layers_;
  std::unique_ptr<FrozenLinear> embedding_;  // null when tied
  std::unique_ptr<FrozenLinear> head_;
  float* final_norm_ = nullptr;
  int64_t parameters_ = 0;
  int64_t weight_bytes_ = 0;
  int32_t forced_recompute_ = -1;
  std::map<uint64_t, std::unique_ptr<Adapter>> adapters_;
  std::set<const Adapter*> with_gradient_;
  void* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  RopeTable rope_;
};

}  // namespace tlora
