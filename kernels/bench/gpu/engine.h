// What the parts of bench_gpu share: the C ABI with failures that end the program, jobs and their batches, the clock, the
// device's memory as its driver counts it, and a JSON writer.
#pragma once

#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tlora.h"

namespace bench {

struct Options {
  std::string model, name = "model", out = ".", self, state, tokens;
  std::vector<std::string> stages, configs;
  int backend = TL_BACKEND_CUDA, device = 0, threads = 0, steps = 6, warmup = 2, shrink = 1;
  int64_t micro_batch = 0;     // tokens per call; 0 = all of a step in one
  double sustained = 0;        // TFLOP/s that back-to-back GEMMs keep up on this device, 0 = not known
};

[[noreturn]] inline void fail(const std::string& text) {
  std::fprintf(stderr, "bench_gpu: %s\n", text.c_str());
  std::exit(1);
}

inline void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

inline std::string last_error() {
  std::string text(static_cast<size_t>(tl_last_error(nullptr, 0)), '\0');
  tl_last_error(text.data(), static_cast<int64_t>(text.size()));
  return text;
}

inline void require(tl_status status, const char* what) {
  if (status != TL_OK) fail(std::string(what) + ": status " + std::to_string(status) + ": " + last_error());
}
#define REQUIRE_OK(call) ::bench::require((call), #call)

inline double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// ---- JSON out ----------------------------------------------------------------------------------------------------------

class Json {
 public:
  Json& raw(const std::string& key, const std::string& value) {
    text_ += (text_.empty() ? "" : ", ") + quote(key) + ": " + value;
    return *this;
  }
  Json& add(const std::string& key, const std::string& value) { return raw(key, quote(value)); }
  Json& add(const std::string& key, const char* value) { return raw(key, quote(value)); }
  Json& add(const std::string& key, bool value) { return raw(key, value ? "true" : "false"); }
  Json& add(const std::string& key, int64_t value) { return raw(key, std::to_string(value)); }
  Json& add(const std::string& key, int value) { return raw(key, std::to_string(value)); }
  Json& add(const std::string& key, double value) { return raw(key, number(value)); }
  Json& add(const std::string& key, const std::vector<double>& values) {
    std::string list;
    for (const double v : values) list += (list.empty() ? "" : ", ") + number(v);
    return raw(key, "[" + list + "]");
  }
  Json& add(const std::string& key, const Json& value) { return raw(key, value.text()); }
  Json& add(const std::string& key, const std::vector<Json>& values) {
    std::string list;
    for (const Json& v : values) list += (list.empty() ? "\n  " : ",\n  ") + v.text();
    return raw(key, "[" + list + "]");
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  static std::string number(double value) {
    if (!std::isfinite(value)) return "null";
    char text[40];
    std::snprintf(text, sizeof text, "%.10g", value);
    return text;
  }
  static std::string quote(const std::string& value) {
    std::string text = "\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') text += '\\';
      if (static_cast<unsigned char>(c) < 32) text += ' ';
      else text += c;
    }
    return text + "\"";
  }
  std::string text_;
};

// Under another name first: a stage that is killed leaves no half file.
inline void write_json(const Options& o, const std::string& stage, const Json& json) {
  const std::string path = o.out + "/" + stage + ".json", part = path + ".part";
  std::FILE* file = std::fopen(part.c_str(), "w");
  if (!file) fail("cannot write " + part);
  std::fprintf(file, "%s\n", json.text().c_str());
  std::fclose(file);
  if (std::rename(part.c_str(), path.c_str()) != 0) fail("cannot write " + path);
}

// ---- device memory -----------------------------------------------------------------------------------------------------

// Bytes in use on the device, all processes and contexts included. The driver is opened at run time, so that this program
// builds and starts without CUDA.
class DeviceMemory {
 public:
  explicit DeviceMemory(const Options& o) {
    if (o.backend != TL_BACKEND_CUDA) return;
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) fail(std::string("libcuda.so.1: ") + dlerror());
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
    const auto retain = reinterpret_cast<int (*)(void**, int)>(dlsym(driver, "cuDevicePrimaryCtxRetain"));
    set_current_ = reinterpret_cast<int (*)(void*)>(dlsym(driver, "cuCtxSetCurrent"));
    info_ = reinterpret_cast<int (*)(size_t*, size_t*)>(dlsym(driver, "cuMemGetInfo_v2"));
    int device = 0;
    if (!init || !get || !retain || !set_current_ || !info_ || init(0) || get(&device, o.device) || retain(&context_, device))
      fail("the CUDA driver does not answer");
  }
  bool known() const { return context_ != nullptr; }
  // 0 when the device is not CUDA's.
  int64_t used() const { return read(true); }
  int64_t total() const { return read(false); }

 private:
  int64_t read(bool used) const {
    size_t available = 0, all = 0;
    if (!context_) return 0;
    if (set_current_(context_) || info_(&available, &all)) fail("cuMemGetInfo failed");
    return static_cast<int64_t>(used ? all - available : all);
  }
  void* context_ = nullptr;
  int (*set_current_)(void*) = nullptr;
  int (*info_)(size_t*, size_t*) = nullptr;
};

// The highest use while it lives, looked at each millisecond by a thread of its own.
class PeakMemory {
 public:
  explicit PeakMemory(const DeviceMemory& memory) : memory_(memory), peak_(memory.used()) {
    if (memory.known()) thread_ = std::thread([this] {
      while (!done_) {
        look();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  ~PeakMemory() { stop(); }
  int64_t stop() {
    done_ = true;
    if (thread_.joinable()) thread_.join();
    look();
    return peak_;
  }

 private:
  void look() { peak_ = std::max(peak_, memory_.used()); }
  const DeviceMemory& memory_;
  std::atomic<bool> done_{false};
  int64_t peak_;
  std::thread thread_;
};

// ---- the engine --------------------------------------------------------------------------------------------------------

constexpr uint32_t kAllModules = 127;

class Model {
 public:
  Model(const std::string& folder, int backend, int device, int threads) {
    tl_model_options options{};
    options.struct_size = sizeof options;
    options.backend = backend;
    options.device = device;
    options.threads = threads;
    options.compute = TL_COMPUTE_BF16;
    const double start = now();
    REQUIRE_OK(tl_model_open(folder.data(), static_cast<int64_t>(folder.size()), &options, &handle));
    opened_in = now() - start;
    say("opened %s in %.2f s", folder.c_str(), opened_in);
  }
  explicit Model(const Options& o) : Model(o.model, o.backend, o.device, o.threads) {}
  ~Model() { tl_model_close(handle); }
  Model(const Model&) = delete;

  tl_model_info info() const {
    tl_model_info info{};
    info.struct_size = sizeof info;
    REQUIRE_OK(tl_model_describe(handle, &info));
    return info;
  }
  uint64_t add(int rank, uint32_t targets, uint64_t seed, float dropout = 0) {
    tl_adapter_config config{};
    config.struct_size = sizeof config;
    config.rank = rank;
    config.alpha = static_cast<float>(2 * rank);
    config.dropout = dropout;
    config.target_modules = targets;
    config.seed = seed;
    uint64_t slot = 0;
    REQUIRE_OK(tl_adapter_add(handle, &config, &slot));
    return slot;
  }
  void remove(uint64_t slot) { REQUIRE_OK(tl_adapter_remove(handle, slot)); }
  int64_t elements(uint64_t slot) {
    int32_t count = 0;
    REQUIRE_OK(tl_adapter_layout(handle, slot, nullptr, 0, &count));
    std::vector<tl_tensor_desc> tensors(static_cast<size_t>(count));
    REQUIRE_OK(tl_adapter_layout(handle, slot, tensors.data(), count, &count));
    return tensors.back().offset + tensors.back().rows * tensors.back().columns;
  }
  std::vector<float> get(uint64_t slot, int state) {
    std::vector<float> values(static_cast<size_t>(elements(slot)));
    REQUIRE_OK(tl_adapter_export(handle, slot, state, values.data(), static_cast<int64_t>(values.size())));
    return values;
  }
  void set(uint64_t slot, int state, const std::vector<float>& values) {
    REQUIRE_OK(tl_adapter_import(handle, slot, state, values.data(), static_cast<int64_t>(values.size())));
  }
  // Parameters that a token is multiplied with: all but the input embedding; a tied head counts.
  double active_parameters() const {
    const tl_model_info i = info();
    return static_cast<double>(i.parameters) - (i.tied_embeddings ? 0.0 : static_cast<double>(i.vocab) * i.hidden);
  }

  uint64_t handle = 0;
  double opened_in = 0;
};

struct Job {
  int rank = 16;
  int sequences = 1;  // per optimizer step
  uint32_t targets = kAllModules;
  float dropout = 0;
};

// All jobs' sequences of one step, job by job, with random tokens and random targets on every row.
struct Batch {
  std::vector<int32_t> tokens, targets;
  std::vector<tl_segment> segments;
  std::vector<tl_segment_result> results;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  void append(uint64_t slot, int length, float loss_scale, uint64_t dropout_key, uint64_t seed, int vocab) {
    segments.push_back({slot, size(), length, loss_scale, dropout_key});
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    const auto next = [&] {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab));
    };
    for (int i = 0; i < length; ++i) {
      tokens.push_back(next());
      targets.push_back(next());
    }
  }
  void run(Model& model, int64_t micro_batch = 0) {
    results.resize(segments.size());
    for (size_t first = 0; first < segments.size();) {
      const int64_t start = segments[first].start;
      std::vector<tl_segment> part;
      size_t last = first;
      do {
        part.push_back(segments[last]);
        part.back().start -= start;
        ++last;
      } while (last < segments.size() && (!micro_batch || segments[last].start + segments[last].length - start <= micro_batch));
      const int64_t rows = part.back().start + part.back().length;
      REQUIRE_OK(tl_forward_backward(model.handle, tokens.data() + start, targets.data() + start, rows, part.data(),
                                     static_cast<int32_t>(part.size()), results.data() + first));
      first = last;
    }
  }
  double loss() const {
    double sum = 0, count = 0;
    for (const tl_segment_result& r : results) {
      sum += r.loss_sum;
      count += r.loss_tokens;
    }
    return count > 0 ? sum / count : 0;
  }
};

inline tl_optimizer_item optimizer_item(uint64_t slot, int64_t step, float rate = 1e-4f) {
  return {slot, step, rate, 0.9f, 0.999f, 1e-8f, 0.0f, 1.0f};
}

// Jobs that train together, with a batch of equally long sequences.
class Group {
 public:
  Group(Model& model, const std::vector<Job>& jobs, int length, uint64_t seed = 1) : model_(model), steps_(jobs.size(), 0) {
    const int vocab = model.info().vocab;
    for (const Job& job : jobs) {
      slots.push_back(model.add(job.rank, job.targets, seed * 1000 + slots.size(), job.dropout));
      for (int i = 0; i < job.sequences; ++i)
        batch.append(slots.back(), length, 1.0f / static_cast<float>(job.sequences * length), static_cast<uint64_t>(i),
                     seed * 100000 + batch.segments.size(), vocab);
    }
  }
  ~Group() {
    for (const uint64_t slot : slots) tl_adapter_remove(model_.handle, slot);
  }
  Group(const Group&) = delete;

  // Forward, backward and AdamW of all jobs. Returns when the optimizer began.
  double step(int64_t micro_batch = 0) {
    batch.run(model_, micro_batch);
    const double middle = now();
    std::vector<tl_optimizer_item> items;
    for (size_t i = 0; i < slots.size(); ++i) items.push_back(optimizer_item(slots[i], ++steps_[i]));
    std::vector<tl_optimizer_result> updates(items.size());
    REQUIRE_OK(tl_optimizer_step(model_.handle, items.data(), static_cast<int32_t>(items.size()), updates.data()));
    for (const tl_optimizer_result& u : updates)
      if (!u.finite) fail("a step was not finite");
    return middle;
  }

  std::vector<uint64_t> slots;
  Batch batch;

 private:
  Model& model_;
  std::vector<int64_t> steps_;
};

// Parameters of one adapter on this model.
inline int64_t adapter_parameters(const tl_model_info& m, const Job& job) {
  const int64_t q = int64_t{m.heads} * m.head_dim, kv = int64_t{m.kv_heads} * m.head_dim, h = m.hidden, f = m.intermediate;
  const int64_t ends[7] = {h + q, h + kv, h + kv, q + h, h + f, h + f, f + h};
  int64_t sum = 0;
  for (int module = 0; module < 7; ++module)
    if (job.targets >> module & 1) sum += ends[module];
  return sum * job.rank * m.layers;
}

// What the engine says of a step of these jobs before they are added.
inline tl_memory_request estimate(const Model& model, const std::vector<Job>& jobs, int length) {
  const tl_model_info info = model.info();
  tl_memory_request r{};
  r.struct_size = sizeof r;
  r.max_segment = length;
  for (const Job& job : jobs) {
    r.tokens += int64_t{job.sequences} * length;
    r.adapter_parameters += adapter_parameters(info, job);
    r.adapters += 1;
    r.strip_columns += (job.rank + 15) / 16 * 16;
    if (job.dropout > 0) r.dropout = 1;
  }
  r.loss_tokens = r.tokens;
  REQUIRE_OK(tl_memory_estimate(model.handle, &r));
  return r;
}

inline const char* recompute_name(int policy) {
  return policy == TL_RECOMPUTE_NOTHING ? "nothing" : policy == TL_RECOMPUTE_MLP ? "mlp" : policy == TL_RECOMPUTE_LAYER ? "layer" : "?";
}

inline Json model_json(const Options& o, const Model& model) {
  const tl_model_info i = model.info();
  Json j;
  j.add("name", o.name).add("hidden", i.hidden).add("layers", i.layers).add("parameters", i.parameters);
  j.add("weight_bytes", i.weight_bytes).add("opened_in_s", model.opened_in).add("backend", o.backend == TL_BACKEND_CUDA ? "cuda" : "cpu");
  return j;
}

}  // namespace bench
