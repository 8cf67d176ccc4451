// The engine, through tlora.h alone, against what PyTorch and PEFT got for the same adapters, each trained alone
// (golden/README.md). Here all adapters of a model train together: mixed ranks, batches and ages in one step.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "harness.h"
#include "paths.h"
#include "tlora.h"

namespace {

using engine::Model;
using engine::Sequence;
using tlora::Json;
using tlora::SafetensorsFile;

constexpr int64_t kMaxGoldenBytes = 10'000'000;
const char* const kModules[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

// Largest errors that a run may show.
struct Bounds {
  double loss;      // relative
  double gradient;  // ‖g − ref‖ / ‖ref‖, per tensor
  double norm;      // relative
  double weights;   // ‖w − ref‖ / ‖ref‖, per tensor, after the last step
  double logits;    // absolute
};
// golden.json holds how far PyTorch's own float32 is from float64: at most 6.4e-7, 2.7e-6, (not kept), 2.5e-6 and 1.6e-5.
constexpr Bounds kFp32 = {1e-5, 1e-4, 1e-4, 1e-4, 1e-4};
// A check of sanity: bf16 keeps 8 bits, and 20 steps of a small random model amplify that. PyTorch's own bfloat16: 1.4e-2,
// 0.11, (not kept), 0.26, and 1.2 with the weights of its own training.
constexpr Bounds kBf16 = {3e-2, 0.15, 0.25, 0.4, 0.4};
constexpr Bounds kStories = {1e-4, 0, 1e-3, 0, 0};
constexpr Bounds kStoriesBf16 = {3e-2, 0, 0.1, 0, 0};

using MicroBatch = std::vector<Sequence>;
using StepBatch = std::vector<MicroBatch>;

std::vector<int32_t> integers(const Json& array) {
  std::vector<int32_t> values;
  for (const Json& item : *array.array()) values.push_back(static_cast<int32_t>(*item.integer()));
  return values;
}

std::vector<double> numbers(const Json& array) {
  std::vector<double> values;
  for (const Json& item : *array.array()) values.push_back(*item.number());
  return values;
}

Sequence sequence_of(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets) {
  Sequence sequence;
  sequence.tokens = tokens;
  sequence.targets = targets;
  return sequence;
}

int64_t loss_tokens(const Sequence& sequence) {
  return std::count_if(sequence.targets.begin(), sequence.targets.end(), [](int32_t t) { return t != TL_IGNORE_INDEX; });
}

float number(const Json& object, const char* key) { return static_cast<float>(*object.find(key)->number()); }

// An adapter of a model with the numbers that are expected of it.
class Adapter {
 public:
  Adapter(Model& model, const Json& golden) : model_(model) {
    uint32_t targets = 0;
    for (const Json& module : *golden.find("modules")->array()) {
      for (uint32_t bit = 0; bit < 7; ++bit) {
        if (*module.string() == kModules[bit]) targets |= 1u << bit;
      }
    }
    slot = model.add(static_cast<int>(*golden.find("rank")->integer()), targets, 0, 0, number(golden, "alpha"),
                     *golden.find("rslora")->integer() != 0);
    layout_ = model.layout(slot);
    optimizer.slot = slot;
    optimizer.learning_rate = number(golden, "learning_rate");
    optimizer.beta1 = 0.9f;
    optimizer.beta2 = 0.999f;
    optimizer.epsilon = 1e-8f;
    optimizer.weight_decay = number(golden, "weight_decay");
    optimizer.max_grad_norm = number(golden, "max_grad_norm");
    losses = numbers(*golden.find("losses"));
    grad_norms = numbers(*golden.find("grad_norms"));
  }

  // Sets the weights from the file's tensors PREFIX.LAYER.MODULE.{A,B}; zero where the file has none.
  void import_weights(const SafetensorsFile& file, const std::string& prefix) const {
    std::vector<float> flat(static_cast<size_t>(model_.elements(slot)));
    for (const tl_tensor_desc& tensor : layout_) {
      const auto found = file.tensors().find(name(prefix, tensor));
      if (found == file.tensors().end()) continue;
      REQUIRE(found->second.shape == std::vector<int64_t>({tensor.rows, tensor.columns}));
      tlora::widen_to_f32(found->second, 0, found->second.elements, &flat[static_cast<size_t>(tensor.offset)]);
    }
    model_.set(slot, TL_STATE_WEIGHTS, flat);
  }

  // The largest ‖x − ref‖ / ‖ref‖ over the tensors of one state; every tensor must keep the bound.
  double worst_difference(int32_t state, const SafetensorsFile& file, const std::string& prefix, double bound) const {
    const std::vector<float> flat = model_.get(slot, state);
    double worst = 0;
    for (const tl_tensor_desc& tensor : layout_) {
      const auto found = file.tensors().find(name(prefix, tensor));
      REQUIRE_MSG(found != file.tensors().end(), "%s", name(prefix, tensor).c_str());
      std::vector<float> reference(static_cast<size_t>(found->second.elements));
      tlora::widen_to_f32(found->second, 0, found->second.elements, reference.data());
      double difference = 0, norm = 0;
      for (size_t i = 0; i < reference.size(); ++i) {
        const double delta = static_cast<double>(flat[static_cast<size_t>(tensor.offset) + i]) - reference[i];
        difference += delta * delta;
        norm += static_cast<double>(reference[i]) * reference[i];
      }
      const double relative = std::sqrt(difference / norm);
      CHECK_MSG(relative <= bound, "%s: %.3g above %.3g", name(prefix, tensor).c_str(), relative, bound);
      worst = std::max(worst, relative);
    }
    return worst;
  }

  uint64_t slot = 0;
  tl_optimizer_item optimizer = {};
  std::vector<double> losses, grad_norms;
  std::vector<StepBatch> batches;

 private:
  static std::string name(const std::string& prefix, const tl_tensor_desc& tensor) {
    return prefix + "." + std::to_string(tensor.layer) + "." + kModules[tensor.module] + (tensor.matrix == 0 ? ".A" : ".B");
  }

  Model& model_;
  std::vector<tl_tensor_desc> layout_;
};

struct Worst {
  double loss = 0, gradient = 0, norm = 0, weights = 0, logits = 0;
};

double relative(double value, double reference) { return std::abs(value - reference) / std::abs(reference); }

// Forward and backward of one step of all adapters. Call k packs the k-th micro-batch of every adapter that has one, the
// adapters' sequences dealt in turn. Returns the mean loss of each adapter.
std::vector<double> forward_backward(Model& model, const std::vector<Adapter>& adapters, size_t step) {
  std::vector<double> sums(adapters.size()), counts(adapters.size());
  size_t calls = 0;
  for (size_t a = 0; a < adapters.size(); ++a) {
    calls = std::max(calls, adapters[a].batches[step].size());
    for (const MicroBatch& part : adapters[a].batches[step]) {
      for (const Sequence& sequence : part) counts[a] += static_cast<double>(loss_tokens(sequence));
    }
  }
  for (size_t call = 0; call < calls; ++call) {
    std::vector<Sequence> packed;
    std::vector<size_t> owners;
    for (size_t index = 0, before = 1; packed.size() != before; ++index) {
      before = packed.size();
      for (size_t a = 0; a < adapters.size(); ++a) {
        const StepBatch& parts = adapters[a].batches[step];
        if (call >= parts.size() || index >= parts[call].size()) continue;
        packed.push_back(parts[call][index]);
        packed.back().slot = adapters[a].slot;
        packed.back().loss_scale = static_cast<float>(1 / counts[a]);
        owners.push_back(a);
      }
    }
    const std::vector<tl_segment_result> results = model.run(packed);
    for (size_t i = 0; i < results.size(); ++i) {
      CHECK_MSG(results[i].loss_tokens == loss_tokens(packed[i]), "segment %zu: %d loss tokens", i, results[i].loss_tokens);
      sums[owners[i]] += results[i].loss_sum;
    }
  }
  for (size_t a = 0; a < sums.size(); ++a) sums[a] /= counts[a];
  return sums;
}

// Trains all adapters together over all their batches; `after_backward(step)` runs before the optimizer.
template <typename AfterBackward>
void train(Model& model, const std::vector<Adapter>& adapters, const Bounds& bounds, Worst& worst,
           AfterBackward after_backward) {
  for (size_t step = 0; step < adapters[0].batches.size(); ++step) {
    const std::vector<double> losses = forward_backward(model, adapters, step);
    after_backward(step);
    std::vector<tl_optimizer_item> items;
    for (const Adapter& adapter : adapters) {
      items.push_back(adapter.optimizer);
      items.back().step = static_cast<int64_t>(step) + 1;
    }
    const std::vector<tl_optimizer_result> results = model.update(items);
    for (size_t a = 0; a < adapters.size(); ++a) {
      const double loss = relative(losses[a], adapters[a].losses[step]);
      const double norm = relative(results[a].grad_norm, adapters[a].grad_norms[step]);
      CHECK_MSG(loss <= bounds.loss, "adapter %zu step %zu: loss %.9g, expected %.9g: %.3g above %.3g", a, step + 1, losses[a],
                adapters[a].losses[step], loss, bounds.loss);
      CHECK_MSG(norm <= bounds.norm, "adapter %zu step %zu: gradient norm %.9g, expected %.9g", a, step + 1,
                results[a].grad_norm, adapters[a].grad_norms[step]);
      CHECK(results[a].finite == 1);
      worst.loss = std::max(worst.loss, loss);
      worst.norm = std::max(worst.norm, norm);
    }
  }
}

// The prompt through the frozen base and through every adapter, packed into one call.
void check_logits(Model& model, const std::vector<Adapter>& adapters, const std::vector<std::string>& names,
                  const std::vector<int32_t>& prompt, const SafetensorsFile& file, const Bounds& bounds, Worst& worst) {
  std::vector<int32_t> tokens;
  std::vector<tl_segment> segments;
  for (size_t i = 0; i <= adapters.size(); ++i) {
    tl_segment segment = {};
    segment.slot = i == 0 ? 0 : adapters[i - 1].slot;
    segment.start = static_cast<int64_t>(tokens.size());
    segment.length = static_cast<int32_t>(prompt.size());
    segments.push_back(segment);
    tokens.insert(tokens.end(), prompt.begin(), prompt.end());
  }
  std::vector<int64_t> rows(tokens.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  const size_t width = static_cast<size_t>(model.info().vocab);
  std::vector<float> logits(rows.size() * width);
  OK(tl_logits(model.handle, tokens.data(), static_cast<int64_t>(tokens.size()), segments.data(),
               static_cast<int32_t>(segments.size()), rows.data(), static_cast<int64_t>(rows.size()), logits.data()));
  for (size_t i = 0; i < segments.size(); ++i) {
    const std::string name = (i == 0 ? "base" : names[i - 1]) + ".logits";
    const tlora::TensorView& view = file.tensors().at(name);
    REQUIRE(view.elements == static_cast<int64_t>(prompt.size() * width));
    std::vector<float> reference(prompt.size() * width);
    tlora::widen_to_f32(view, 0, view.elements, reference.data());
    double largest = 0;
    for (size_t j = 0; j < reference.size(); ++j) {
      largest = std::max(largest, std::abs(static_cast<double>(logits[i * reference.size() + j]) - reference[j]));
    }
    CHECK_MSG(largest <= bounds.logits, "%s: %.3g above %.3g", name.c_str(), largest, bounds.logits);
    worst.logits = std::max(worst.logits, largest);
  }
}

void check_tiny_model(const char* name, int32_t compute, const Bounds& bounds) {
  const std::string folder = paths::golden(name);
  const Json golden = tlora::read_json_file(folder + "/golden.json", kMaxGoldenBytes);
  const SafetensorsFile file(folder + "/golden.safetensors");
  Model model(folder, 2, compute);

  std::vector<Adapter> adapters;
  std::vector<std::string> names;
  for (const Json& item : *golden.find("adapters")->array()) {
    names.push_back(*item.find("name")->string());
    adapters.emplace_back(model, item);
    for (const Json& step : *item.find("batches")->array()) {
      StepBatch parts;
      for (const Json& part : *step.array()) {
        MicroBatch sequences;
        for (const Json& sequence : *part.array()) {
          sequences.push_back(sequence_of(integers(*sequence.find("tokens")), integers(*sequence.find("targets"))));
        }
        parts.push_back(sequences);
      }
      adapters.back().batches.push_back(parts);
    }
    adapters.back().import_weights(file, names.back() + ".initial");
  }
  REQUIRE(adapters.size() == 3 && adapters[0].batches.size() == 20);

  Worst worst;
  train(model, adapters, bounds, worst, [&](size_t step) {
    if (step > 0) return;
    for (size_t a = 0; a < adapters.size(); ++a) {
      worst.gradient = std::max(
          worst.gradient, adapters[a].worst_difference(TL_STATE_GRADIENT, file, names[a] + ".gradient", bounds.gradient));
    }
  });
  for (size_t a = 0; a < adapters.size(); ++a) {
    worst.weights = std::max(
        worst.weights, adapters[a].worst_difference(TL_STATE_WEIGHTS, file, names[a] + ".final", bounds.weights));
    // From here on exactly PEFT's weights, so that the logits check the export and not the training once more.
    adapters[a].import_weights(file, names[a] + ".final");
  }
  check_logits(model, adapters, names, integers(*golden.find("prompt")), file, bounds, worst);
  std::printf("     %s: largest error of losses %.1e, gradients %.1e, norms %.1e, final weights %.1e, logits %.1e\n", name,
              worst.loss, worst.gradient, worst.norm, worst.weights, worst.logits);
}

std::string stories_folder() {
  const std::string folder = paths::shared_model("stories260K");
  if (!std::filesystem::exists(folder + "/model.safetensors")) SKIP("%s is absent", folder.c_str());
  return folder;
}

void check_stories(int32_t compute, const Bounds& bounds) {
  Model model(stories_folder(), 2, compute);
  const std::string folder = paths::golden("stories260K");
  const Json golden = tlora::read_json_file(folder + "/golden.json", kMaxGoldenBytes);
  std::vector<Adapter> adapters;
  adapters.emplace_back(model, golden);
  adapters[0].import_weights(SafetensorsFile(folder + "/golden.safetensors"), "initial");

  const Json::Array& stories = *golden.find("stories")->array();
  const auto per_step = static_cast<size_t>(*golden.find("stories_per_step")->integer());
  for (size_t step = 0; step < adapters[0].losses.size(); ++step) {
    MicroBatch sequences;
    for (size_t i = 0; i < per_step; ++i) {
      const std::vector<int32_t> story = integers(stories[(step * per_step + i) % stories.size()]);
      sequences.push_back(sequence_of({story.begin(), story.end() - 1}, {story.begin() + 1, story.end()}));
    }
    adapters[0].batches.push_back({sequences});
  }
  REQUIRE(adapters[0].batches.size() == 50);
  Worst worst;
  train(model, adapters, bounds, worst, [](size_t) {});
  std::printf("     stories260K: largest error of losses %.1e, norms %.1e\n", worst.loss, worst.norm);
}

}  // namespace

TEST(golden_llama) { check_tiny_model("llama", TL_COMPUTE_FP32, kFp32); }
TEST(golden_qwen2) { check_tiny_model("qwen2", TL_COMPUTE_FP32, kFp32); }
TEST(golden_qwen3) { check_tiny_model("qwen3", TL_COMPUTE_FP32, kFp32); }
TEST(golden_mistral) { check_tiny_model("mistral", TL_COMPUTE_FP32, kFp32); }

TEST(golden_llama_in_bf16) { check_tiny_model("llama", TL_COMPUTE_BF16, kBf16); }
TEST(golden_qwen2_in_bf16) { check_tiny_model("qwen2", TL_COMPUTE_BF16, kBf16); }
TEST(golden_qwen3_in_bf16) { check_tiny_model("qwen3", TL_COMPUTE_BF16, kBf16); }
TEST(golden_mistral_in_bf16) { check_tiny_model("mistral", TL_COMPUTE_BF16, kBf16); }

TEST(golden_stories260K) { check_stories(TL_COMPUTE_FP32, kStories); }
TEST(golden_stories260K_in_bf16) { check_stories(TL_COMPUTE_BF16, kStoriesBf16); }

TEST(stories260K_decodes_greedily_as_published) {
  const std::string folder = stories_folder();
  const Json expected = tlora::read_json_file(folder + "/expected_greedy.json", kMaxGoldenBytes);
  const std::vector<int32_t> ids = integers(*expected.find("greedy_from_bos_ids"));
  REQUIRE(ids.size() == 256);
  Model model(folder, 2);
  std::vector<int32_t> tokens = {1};
  std::vector<float> logits(static_cast<size_t>(model.info().vocab));
  for (size_t i = 0; i < ids.size(); ++i) {
    tl_segment segment = {};
    segment.length = static_cast<int32_t>(tokens.size());
    const auto n = static_cast<int64_t>(tokens.size());
    const int64_t row = n - 1;
    OK(tl_logits(model.handle, tokens.data(), n, &segment, 1, &row, 1, logits.data()));
    const auto next = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    REQUIRE_MSG(next == ids[i], "token %zu: %d, expected %d", i, next, ids[i]);
    tokens.push_back(next);
  }
}
