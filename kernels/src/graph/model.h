// A frozen base model on one backend, its adapter slots and its workspace.
#pragma once

#include <map>
#include <memory>
#include <mutex>
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

  // ---- memory
  void describe(tl_model_info& info) const;
  void estimate(tl_memory_request& request) const;
  // Buffers for a step of this shape; grows the workspace when needed. cos and sin cover shape.longest positions.
  StepBuffers prepare(const StepShape& shape);

  std::mutex mutex;  // one call at a time

 private:
  void release() noexcept;
  void ensure_rope(int64_t positions);

  ModelConfig config_;
  int32_t compute_;
  std::unique_ptr<Backend> backend_;
  std::vector<LayerWeights> layers_;
  std::unique_ptr<FrozenLinear> embedding_;  // null when tied
  std::unique_ptr<FrozenLinear> head_;
  float* final_norm_ = nullptr;
  int64_t parameters_ = 0;
  int64_t weight_bytes_ = 0;
  int64_t adapter_bytes_ = 0;
  std::map<uint64_t, std::unique_ptr<Adapter>> adapters_;
  void* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  RopeTable rope_;
};

}  // namespace tlora
