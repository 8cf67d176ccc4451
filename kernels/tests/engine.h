// The C ABI with failures as test failures.
#pragma once

#include <string>
#include <vector>

#include "harness.h"
#include "tlora.h"

namespace engine {

inline std::string last_error() {
  std::string text(static_cast<size_t>(tl_last_error(nullptr, 0)), '\0');
  tl_last_error(text.data(), static_cast<int64_t>(text.size()));
  return text;
}

#define OK(call) REQUIRE_MSG((call) == TL_OK, "%s", engine::last_error().c_str())

struct Sequence {
  uint64_t slot = 0;
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  uint64_t dropout_key = 0;
  float loss_scale = 0;
};

class Model {
 public:
  explicit Model(const std::string& folder, int threads = 1, int compute = TL_COMPUTE_FP32) {
    tl_model_options options{};
    options.struct_size = sizeof options;
    options.threads = threads;
    options.compute = compute;
    OK(tl_model_open(folder.data(), static_cast<int64_t>(folder.size()), &options, &handle));
  }
  ~Model() { tl_model_close(handle); }
  Model(const Model&) = delete;

  uint64_t add(int rank, uint32_t targets, uint64_t seed, float dropout = 0, float alpha = 0, bool rslora = false) {
    tl_adapter_config config{};
    config.struct_size = sizeof config;
    config.rank = rank;
    config.alpha = alpha > 0 ? alpha : static_cast<float>(2 * rank);
    config.dropout = dropout;
    config.rslora = rslora;
    config.target_modules = targets;
    config.seed = seed;
    uint64_t slot = 0;
    OK(tl_adapter_add(handle, &config, &slot));
    return slot;
  }
  std::vector<tl_tensor_desc> layout(uint64_t slot) {
    int32_t count = 0;
    OK(tl_adapter_layout(handle, slot, nullptr, 0, &count));
    std::vector<tl_tensor_desc> tensors(static_cast<size_t>(count));
    OK(tl_adapter_layout(handle, slot, tensors.data(), count, &count));
    return tensors;
  }
  int64_t elements(uint64_t slot) {
    const tl_tensor_desc last = layout(slot).back();
    return last.offset + last.rows * last.columns;
  }
  std::vector<float> get(uint64_t slot, int state) {
    std::vector<float> values(static_cast<size_t>(elements(slot)));
    OK(tl_adapter_export(handle, slot, state, values.data(), static_cast<int64_t>(values.size())));
    return values;
  }
  void set(uint64_t slot, int state, const std::vector<float>& values) {
    OK(tl_adapter_import(handle, slot, state, values.data(), static_cast<int64_t>(values.size())));
  }
  std::vector<tl_segment_result> run(const std::vector<Sequence>& sequences, bool train = true) {
    std::vector<int32_t> tokens, targets;
    std::vector<tl_segment> segments;
    for (const Sequence& s : sequences) {
      segments.push_back({s.slot, static_cast<int64_t>(tokens.size()), static_cast<int32_t>(s.tokens.size()), s.loss_scale, s.dropout_key});
      tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
      targets.insert(targets.end(), s.targets.begin(), s.targets.end());
    }
    std::vector<tl_segment_result> results(segments.size());
    OK((train ? tl_forward_backward : tl_evaluate)(handle, tokens.data(), targets.data(), static_cast<int64_t>(tokens.size()),
                                                   segments.data(), static_cast<int32_t>(segments.size()), results.data()));
    return results;
  }
  std::vector<tl_optimizer_result> update(const std::vector<tl_optimizer_item>& items) {
    std::vector<tl_optimizer_result> results(items.size());
    OK(tl_optimizer_step(handle, items.data(), static_cast<int32_t>(items.size()), results.data()));
    return results;
  }
  tl_model_info info() {
    tl_model_info info{};
    info.struct_size = sizeof info;
    OK(tl_model_describe(handle, &info));
    return info;
  }

  uint64_t handle = 0;
};

}  // namespace engine
