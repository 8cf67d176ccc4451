// The extern "C" border: handles, validation of every argument, and the end of every exception.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "build_info.h"
#include "error.h"
#include "graph/model.h"
#include "graph/step.h"
#include "tlora.h"

static_assert(sizeof(tl_model_options) == 32 && sizeof(tl_model_info) == 80 && sizeof(tl_memory_request) == 80);
static_assert(sizeof(tl_adapter_config) == 40 && sizeof(tl_tensor_desc) == 40 && sizeof(tl_segment) == 32);
static_assert(sizeof(tl_segment_result) == 16 && sizeof(tl_optimizer_item) == 40 && sizeof(tl_optimizer_result) == 16);

namespace tlora {
namespace {

thread_local std::string last_error;

template <class Body>
tl_status guarded(const Body& body) noexcept {
  try {
    body();
    return TL_OK;
  } catch (const Error& error) {
    last_error = error.what();
    return error.status();
  } catch (const std::bad_alloc&) {
    last_error = "out of host memory";
    return TL_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    last_error = "out of host memory: a table larger than the address space";
    return TL_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    last_error = std::string("internal error: ") + error.what();
    return TL_INTERNAL;
  } catch (...) {
    last_error = "internal error";
    return TL_INTERNAL;
  }
}

std::string text(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.9g", value);
  return buffer;
}

[[noreturn]] void refuse(const std::string& field, const std::string& rule, const std::string& value) {
  throw Error(TL_INVALID_ARGUMENT, field + " must be " + rule + ", got " + value);
}

void check_range(const std::string& field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    refuse(field, high == std::numeric_limits<int64_t>::max() ? "at least " + std::to_string(low)
                                                              : std::to_string(low) + ".." + std::to_string(high),
           std::to_string(value));
}

void check_pointer(const std::string& field, const void* pointer) {
  if (!pointer) refuse(field, "a non-null pointer", "null");
}

template <class Struct>
void check_struct(const std::string& name, const Struct* value) {
  check_pointer(name, value);
  if (value->struct_size != sizeof(Struct))
    refuse(name + ".struct_size", std::to_string(sizeof(Struct)), std::to_string(value->struct_size));
}

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxTokens = int64_t{1} << 31;

std::atomic<uint64_t> next_handle{1};
std::mutex models_mutex;
std::map<uint64_t, std::shared_ptr<Model>> models;

std::shared_ptr<Model> find_model(uint64_t handle) {
  const std::lock_guard<std::mutex> lock(models_mutex);
  const auto it = models.find(handle);
  if (it == models.end()) throw Error(TL_NOT_FOUND, "model: no open model has handle " + std::to_string(handle));
  return it->second;
}

// A model and the right to use it until the end of the call.
class ModelCall {
 public:
  explicit ModelCall(uint64_t handle) : model_(find_model(handle)), lock_(model_->mutex) {}
  Model* operator->() const { return model_.get(); }
  Model& operator*() const { return *model_; }

 private:
  std::shared_ptr<Model> model_;
  std::lock_guard<std::mutex> lock_;
};

Adapter& find_slot(const Model& model, const std::string& field, uint64_t slot) {
  if (Adapter* adapter = model.find_adapter(slot)) return *adapter;
  throw Error(TL_NOT_FOUND, field + ": the model has no slot " + std::to_string(slot));
}

// Not offloaded.
void check_present(const std::string& field, const Adapter& adapter) {
  if (adapter.offloaded)
    refuse(field, "a slot that is on the device (tl_adapter_restore)", std::to_string(adapter.handle) + ", which is offloaded");
}

// Checks tokens and segment table; returns the segments with their adapters.
std::vector<Segment> check_batch(const Model& model, const int32_t* tokens, int64_t n, const tl_segment* table, int32_t count,
                                 bool train) {
  const ModelConfig& c = model.config();
  check_pointer("tokens", tokens);
  check_pointer("segments", table);
  check_range("n", n, 1, kMaxTokens);
  check_range("segment_count", count, 1, n);
  std::vector<Segment> segments(static_cast<size_t>(count));
  int64_t expected = 0;
  for (int32_t i = 0; i < count; ++i) {
    const tl_segment& s = table[i];
    const std::string name = "segments[" + std::to_string(i) + "].";
    if (s.start != expected)
      refuse(name + "start", std::to_string(expected) + " (segments lie in order without gaps)", std::to_string(s.start));
    check_range(name + "length", s.length, 1, std::min<int64_t>(c.max_positions, n - expected));
    if (!std::isfinite(s.loss_scale)) refuse(name + "loss_scale", "finite", text(s.loss_scale));
    if (train && s.slot == 0) refuse(name + "slot", "an adapter slot (0, the frozen base, cannot train)", "0");
    Segment& segment = segments[static_cast<size_t>(i)];
    segment.adapter = s.slot ? &find_slot(model, name + "slot", s.slot) : nullptr;
    if (train) check_present(name + "slot", *segment.adapter);
    segment.start = s.start;
    segment.length = s.length;
    segment.loss_scale = s.loss_scale;
    segment.dropout_key = s.dropout_key;
    expected += s.length;
  }
  if (expected != n) refuse("segments", "n = " + std::to_string(n) + " rows in total", std::to_string(expected));
  for (int64_t t = 0; t < n; ++t)
    if (tokens[t] < 0 || tokens[t] >= c.vocab) check_range("tokens[" + std::to_string(t) + "]", tokens[t], 0, c.vocab - 1);
  return segments;
}

void check_targets(const Model& model, const int32_t* targets, int64_t n) {
  const int32_t vocab = model.config().vocab;
  for (int64_t t = 0; t < n; ++t)
    if (targets[t] != TL_IGNORE_INDEX && (targets[t] < 0 || targets[t] >= vocab))
      refuse("targets[" + std::to_string(t) + "]", "0.." + std::to_string(vocab - 1) + " or " + std::to_string(TL_IGNORE_INDEX),
             std::to_string(targets[t]));
}

void step(uint64_t handle, const int32_t* tokens, const int32_t* targets, int64_t n, const tl_segment* segments, int32_t count,
          tl_segment_result* results, bool train) {
  const ModelCall model(handle);
  check_pointer("targets", targets);
  check_pointer("results", results);
  const Batch batch = make_batch(check_batch(*model, tokens, n, segments, count, train), n, train);
  check_targets(*model, targets, n);
  std::vector<tl_segment_result> own(static_cast<size_t>(count));
  run_step(*model, batch, tokens, targets, own.data());
  std::copy(own.begin(), own.end(), results);
}

void check_adapter_config(const tl_adapter_config* config) {
  check_struct("config", config);
  check_range("config.rank", config->rank, 1, TL_MAX_RANK);
  if (!std::isfinite(config->alpha) || config->alpha <= 0) refuse("config.alpha", "finite and above 0", text(config->alpha));
  if (!(config->dropout >= 0 && config->dropout < 1)) refuse("config.dropout", "in [0, 1)", text(config->dropout));
  check_range("config.rslora", config->rslora, 0, 1);
  if (config->target_modules == 0 || config->target_modules >> kModules)
    refuse("config.target_modules", "a non-empty set of the bits 0.." + std::to_string(kModules - 1),
           std::to_string(config->target_modules));
  if (config->reserved) refuse("config.reserved", "0", std::to_string(config->reserved));
}

void check_state(const Adapter& adapter, int32_t state, const void* values, int64_t elements) {
  check_range("state", state, TL_STATE_WEIGHTS, TL_STATE_GRADIENT);
  check_pointer("values", values);
  if (elements != adapter.elements) refuse("elements", std::to_string(adapter.elements), std::to_string(elements));
}

// Names the first element that is not. Blocks without an exit inside, so that the compiler can use vectors.
void check_finite(const float* values, int64_t elements) {
  constexpr int64_t kBlock = 1 << 16;
  int64_t bad = elements;
#pragma omp parallel for schedule(static) reduction(min : bad)
  for (int64_t first = 0; first < elements; first += kBlock) {
    const int64_t end = std::min(elements, first + kBlock);
    int finite = 1;
    for (int64_t i = first; i < end; ++i) finite &= std::fabs(values[i]) <= std::numeric_limits<float>::max();
    for (int64_t i = first; !finite && i < end; ++i)
      if (!std::isfinite(values[i])) {
        bad = std::min(bad, i);
        break;
      }
  }
  if (bad < elements) refuse("values[" + std::to_string(bad) + "]", "finite", text(values[bad]));
}

void check_optimizer_item(const std::string& name, const tl_optimizer_item& item) {
  auto finite_not_negative = [&](const char* field, float value) {
    if (!(std::isfinite(value) && value >= 0)) refuse(name + field, "finite and at least 0", text(value));
  };
  auto below_one = [&](const char* field, float value) {
    if (!(value >= 0 && value < 1)) refuse(name + field, "in [0, 1)", text(value));
  };
  check_range(name + "step", item.step, 1, kNoLimit);
  finite_not_negative("learning_rate", item.learning_rate);
  below_one("beta1", item.beta1);
  below_one("beta2", item.beta2);
  finite_not_negative("epsilon", item.epsilon);
  finite_not_negative("weight_decay", item.weight_decay);
  finite_not_negative("max_grad_norm", item.max_grad_norm);
}

}  // namespace
}  // namespace tlora

using namespace tlora;

int32_t tl_abi_version(void) { return TL_ABI_VERSION; }

int64_t tl_last_error(char* text, int64_t capacity) {
  const int64_t length = static_cast<int64_t>(last_error.size());
  if (text && capacity > 0) std::memcpy(text, last_error.data(), static_cast<size_t>(std::min(length, capacity)));
  return length;
}

tl_status tl_build_info(char* json, int64_t capacity, int64_t* length) {
  return guarded([&] {
    check_pointer("length", length);
    check_range("capacity", capacity, 0, kNoLimit);
    if (capacity > 0) check_pointer("json", json);
    const std::string info = build_info_json();
    if (capacity > 0) std::memcpy(json, info.data(), static_cast<size_t>(std::min<int64_t>(capacity, static_cast<int64_t>(info.size()))));
    *length = static_cast<int64_t>(info.size());
  });
}

tl_status tl_model_open(const char* folder, int64_t folder_length, const tl_model_options* options, uint64_t* model) {
  return guarded([&] {
    check_pointer("folder", folder);
    check_range("folder_length", folder_length, 1, 4096);
    if (std::memchr(folder, 0, static_cast<size_t>(folder_length))) refuse("folder", "free of NUL bytes", "a path with one");
    check_struct("options", options);
    check_pointer("model", model);
    check_range("options.backend", options->backend, TL_BACKEND_CPU, TL_BACKEND_CUDA);
    if (options->backend == TL_BACKEND_CPU && options->device != 0)
      refuse("options.device", "0 for the CPU", std::to_string(options->device));
    check_range("options.device", options->device, 0, 1023);
    check_range("options.threads", options->threads, 0, 1024);
    check_range("options.compute", options->compute, TL_COMPUTE_FP32, TL_COMPUTE_BF16);
    if (options->reserved0 || options->reserved1)
      refuse("options.reserved0 and reserved1", "0", std::to_string(options->reserved0 ? options->reserved0 : options->reserved1));
    const BackendOptions backend_options{options->device, options->threads, options->compute};
    auto backend = options->backend == TL_BACKEND_CUDA ? make_cuda_backend(backend_options) : make_cpu_backend(backend_options);
    auto opened =
        std::make_shared<Model>(std::string(folder, static_cast<size_t>(folder_length)), std::move(backend), options->compute);
    const uint64_t handle = next_handle++;
    const std::lock_guard<std::mutex> lock(models_mutex);
    models.emplace(handle, std::move(opened));
    *model = handle;
  });
}

tl_status tl_model_close(uint64_t model) {
  return guarded([&] {
    std::shared_ptr<Model> closing = find_model(model);
    {
      const std::lock_guard<std::mutex> lock(models_mutex);
      models.erase(model);
    }
    const std::lock_guard<std::mutex> last_call(closing->mutex);
  });
}

tl_status tl_model_describe(uint64_t model, tl_model_info* info) {
  return guarded([&] {
    check_struct("info", info);
    ModelCall(model)->describe(*info);
  });
}

tl_status tl_memory_estimate(uint64_t model, tl_memory_request* request) {
  return guarded([&] {
    check_struct("request", request);
    const ModelCall call(model);
    check_range("request.tokens", request->tokens, 1, kMaxTokens);
    check_range("request.max_segment", request->max_segment, 1, std::min<int64_t>(call->config().max_positions, request->tokens));
    check_range("request.loss_tokens", request->loss_tokens, 0, request->tokens);
    check_range("request.adapter_parameters", request->adapter_parameters, 0, int64_t{1} << 40);
    check_range("request.adapters", request->adapters, 0, 1 << 20);
    check_range("request.strip_columns", request->strip_columns, 0, int64_t{request->adapters} * TL_MAX_RANK);
    check_range("request.dropout", request->dropout, 0, 1);
    if (request->reserved) refuse("request.reserved", "0", std::to_string(request->reserved));
    call->estimate(*request);
  });
}

tl_status tl_adapter_add(uint64_t model, const tl_adapter_config* config, uint64_t* slot) {
  return guarded([&] {
    check_adapter_config(config);
    check_pointer("slot", slot);
    const ModelCall call(model);
    const uint64_t handle = next_handle++;
    call->add_adapter(*config, handle);
    *slot = handle;
  });
}

tl_status tl_adapter_remove(uint64_t model, uint64_t slot) {
  return guarded([&] {
    const ModelCall call(model);
    find_slot(*call, "slot", slot);
    call->remove_adapter(slot);
  });
}

tl_status tl_adapter_offload(uint64_t model, uint64_t slot) {
  return guarded([&] {
    const ModelCall call(model);
    Adapter& adapter = find_slot(*call, "slot", slot);
    check_present("slot", adapter);
    if (call->may_have_gradient(adapter))
      refuse("slot", "one whose gradient is zero (tl_optimizer_step or tl_adapter_clear_gradient)",
             std::to_string(slot) + ", which has trained since");
    call->offload_adapter(adapter);
  });
}

tl_status tl_adapter_restore(uint64_t model, uint64_t slot) {
  return guarded([&] {
    const ModelCall call(model);
    Adapter& adapter = find_slot(*call, "slot", slot);
    if (!adapter.offloaded) refuse("slot", "an offloaded slot", std::to_string(slot) + ", which is on the device");
    call->restore_adapter(adapter);
  });
}

tl_status tl_adapter_layout(uint64_t model, uint64_t slot, tl_tensor_desc* tensors, int32_t capacity, int32_t* count) {
  return guarded([&] {
    check_pointer("count", count);
    check_range("capacity", capacity, 0, kNoLimit);
    if (capacity > 0) check_pointer("tensors", tensors);
    const ModelCall call(model);
    const std::vector<tl_tensor_desc> layout = call->adapter_layout(find_slot(*call, "slot", slot));
    std::copy_n(layout.begin(), std::min<size_t>(layout.size(), static_cast<size_t>(capacity)), tensors);
    *count = static_cast<int32_t>(layout.size());
  });
}

tl_status tl_adapter_export(uint64_t model, uint64_t slot, int32_t state, float* values, int64_t elements) {
  return guarded([&] {
    const ModelCall call(model);
    Adapter& adapter = find_slot(*call, "slot", slot);
    check_state(adapter, state, values, elements);
    call->export_state(adapter, state, values);
  });
}

tl_status tl_adapter_import(uint64_t model, uint64_t slot, int32_t state, const float* values, int64_t elements) {
  return guarded([&] {
    const ModelCall call(model);
    Adapter& adapter = find_slot(*call, "slot", slot);
    check_state(adapter, state, values, elements);
    check_present("slot", adapter);
    check_finite(values, elements);
    call->import_state(adapter, state, values);
  });
}

tl_status tl_forward_backward(uint64_t model, const int32_t* tokens, const int32_t* targets, int64_t n,
                              const tl_segment* segments, int32_t segment_count, tl_segment_result* results) {
  return guarded([&] { step(model, tokens, targets, n, segments, segment_count, results, true); });
}

tl_status tl_evaluate(uint64_t model, const int32_t* tokens, const int32_t* targets, int64_t n, const tl_segment* segments,
                      int32_t segment_count, tl_segment_result* results) {
  return guarded([&] { step(model, tokens, targets, n, segments, segment_count, results, false); });
}

tl_status tl_logits(uint64_t model, const int32_t* tokens, int64_t n, const tl_segment* segments, int32_t segment_count,
                    const int64_t* rows, int64_t row_count, float* logits) {
  return guarded([&] {
    const ModelCall call(model);
    check_pointer("rows", rows);
    check_pointer("logits", logits);
    const Batch batch = make_batch(check_batch(*call, tokens, n, segments, segment_count, false), n, false);
    check_range("row_count", row_count, 1, n);
    for (int64_t i = 0; i < row_count; ++i)
      check_range("rows[" + std::to_string(i) + "]", rows[i], i ? rows[i - 1] + 1 : 0, n - 1);
    run_logits(*call, batch, tokens, rows, row_count, logits);
  });
}

tl_status tl_optimizer_step(uint64_t model, const tl_optimizer_item* items, int32_t count, tl_optimizer_result* results) {
  return guarded([&] {
    const ModelCall call(model);
    check_pointer("items", items);
    check_pointer("results", results);
    check_range("count", count, 1, 1 << 20);
    std::vector<OptimizerTask> tasks;
    std::map<uint64_t, int32_t> seen;
    for (int32_t i = 0; i < count; ++i) {
      const std::string name = "items[" + std::to_string(i) + "].";
      Adapter& adapter = find_slot(*call, name + "slot", items[i].slot);
      if (!seen.emplace(items[i].slot, i).second)
        refuse(name + "slot", "named once", std::to_string(items[i].slot) + " again (items[" + std::to_string(seen[items[i].slot]) + "])");
      check_present(name + "slot", adapter);
      check_optimizer_item(name, items[i]);
      tasks.push_back({&adapter, items[i], {}});
    }
    call->optimizer_step(tasks);
    for (int32_t i = 0; i < count; ++i) results[i] = tasks[static_cast<size_t>(i)].result;
  });
}

tl_status tl_adapter_clear_gradient(uint64_t model, uint64_t slot) {
  return guarded([&] {
    const ModelCall call(model);
    call->clear_gradient(find_slot(*call, "slot", slot));
  });
}
