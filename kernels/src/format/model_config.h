// The dimensions and constants of a Hugging Face config.json that the engine needs, checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tlora.h"

namespace tlora {

struct ModelConfig {
  int32_t architecture;   // TL_ARCH_*
  int32_t hidden;
  int32_t layers;
  int32_t heads;
  int32_t kv_heads;       // divides heads
  int32_t head_dim;       // even
  int32_t intermediate;
  int32_t vocab;
  int32_t max_positions;
  bool tied_embeddings;
  bool qkv_bias;          // Qwen2: bias on q, k, v
  bool qk_norm;           // Qwen3: RMSNorm over head_dim on q and k before RoPE
  float rms_eps;
  // RoPE inverse frequencies fp32[head_dim / 2], with rope_scaling (none, "linear", "llama3") already applied.
  std::vector<float> inverse_frequencies;
};

// Throws Error(TL_NOT_FOUND | TL_BAD_FILE | TL_UNSUPPORTED) naming file, key, rule and value. What the engine would compute
// wrongly is refused, not ignored: other activations than silu, attention or MLP biases it does not know, rope types it
// does not know, sliding windows shorter than max_positions (max_positions is cut to the window instead where that is exact).
ModelConfig load_model_config(const std::string& folder);

}  // namespace tlora
