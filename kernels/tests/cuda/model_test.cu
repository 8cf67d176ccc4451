// Whole random models through the C ABI on CUDA: losses and gradients against the CPU in TL_COMPUTE_BF16, AdamW steps,
// recompute policies, replayed steps and company to the bit. tl_model_open takes libtlora_cuda.so from this program's
// own folder.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "random_model.h"
#include "tlora.h"

namespace {

#define TL(call) REQUIRE_MSG((call) == TL_OK, "%s", last_error().c_str())

std::string last_error() {
  std::string text(static_cast<size_t>(tl_last_error(nullptr, 0)), '\0');
  tl_last_error(text.data(), static_cast<int64_t>(text.size()));
  return text;
}

// An environment variable for as long as this lives.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before, was_set_ = true;
    setenv(name, value.c_str(), 1);
  }
  ~Setting() {
    if (was_set_) setenv(name_, before_.c_str(), 1);
    else unsetenv(name_);
  }
  Setting(const Setting&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool was_set_ = false;
};

struct Slot {
  int rank;
  uint32_t targets;
  float dropout;
  uint64_t seed;
};

struct Sequence {
  int slot;  // index in the order of adding
  int length;
  uint64_t content;
};

// On one backend, with slots whose B is not zero (after tl_adapter_add it is, and dA with it).
class Model {
 public:
  Model(const random_model::Folder& folder, int backend, const std::vector<Slot>& slots) : vocab_(folder.spec().vocab) {
    tl_model_options options{};
    options.struct_size = sizeof options;
    options.backend = backend;
    options.compute = TL_COMPUTE_BF16;
    TL(tl_model_open(folder.path().data(), static_cast<int64_t>(folder.path().size()), &options, &handle_));
    for (const Slot& s : slots) {
      tl_adapter_config config{};
      config.struct_size = sizeof config;
      config.rank = s.rank;
      config.alpha = static_cast<float>(2 * s.rank);
      config.dropout = s.dropout;
      config.target_modules = s.targets;
      config.seed = s.seed;
      uint64_t slot = 0;
      TL(tl_adapter_add(handle_, &config, &slot));
      slots_.push_back(slot);
      std::vector<float> weights = get(static_cast<int>(slots_.size()) - 1, TL_STATE_WEIGHTS);
      for (const tl_tensor_desc& t : layout(static_cast<int>(slots_.size()) - 1))
        if (t.matrix == 1)
          for (int64_t i = 0; i < t.rows * t.columns; ++i)
            weights[static_cast<size_t>(t.offset + i)] =
                static_cast<float>(0.05 * device::noise(s.seed, static_cast<uint64_t>(t.layer * 7 + t.module),
                                                        static_cast<uint64_t>(i), 0));
      TL(tl_adapter_import(handle_, slot, TL_STATE_WEIGHTS, weights.data(), static_cast<int64_t>(weights.size())));
    }
  }
  ~Model() { tl_model_close(handle_); }
  Model(const Model&) = delete;

  std::vector<tl_tensor_desc> layout(int slot) const {
    int32_t count = 0;
    TL(tl_adapter_layout(handle_, slots_[static_cast<size_t>(slot)], nullptr, 0, &count));
    std::vector<tl_tensor_desc> tensors(static_cast<size_t>(count));
    TL(tl_adapter_layout(handle_, slots_[static_cast<size_t>(slot)], tensors.data(), count, &count));
    return tensors;
  }
  std::vector<float> get(int slot, int state) const {
    const tl_tensor_desc last = layout(slot).back();
    std::vector<float> values(static_cast<size_t>(last.offset + last.rows * last.columns));
    TL(tl_adapter_export(handle_, slots_[static_cast<size_t>(slot)], state, values.data(),
                         static_cast<int64_t>(values.size())));
    return values;
  }
  void clear(int slot) { TL(tl_adapter_clear_gradient(handle_, slots_[static_cast<size_t>(slot)])); }
  // Three rows of four carry a loss.
  std::vector<tl_segment_result> run(const std::vector<Sequence>& sequences, bool train = true) {
    std::vector<int32_t> tokens, targets;
    std::vector<tl_segment> segments;
    for (const Sequence& s : sequences) {
      segments.push_back({slots_[static_cast<size_t>(s.slot)], static_cast<int64_t>(tokens.size()), s.length, 1.0f / 64,
                          s.content * 13 + 1});
      auto token = [&](int t) {
        return static_cast<int32_t>(
            (s.content * 7919 + static_cast<uint64_t>(t) * 104729 + s.content * static_cast<uint64_t>(t)) %
            static_cast<uint64_t>(vocab_));
      };
      for (int t = 0; t < s.length; ++t) {
        tokens.push_back(token(t));
        targets.push_back(t % 4 == 1 ? TL_IGNORE_INDEX : token(t + 1));
      }
    }
    std::vector<tl_segment_result> results(segments.size());
    TL((train ? tl_forward_backward : tl_evaluate)(handle_, tokens.data(), targets.data(),
                                                   static_cast<int64_t>(tokens.size()), segments.data(),
                                                   static_cast<int32_t>(segments.size()), results.data()));
    return results;
  }
  // So large an epsilon that an element's step follows its gradient: the default's is its sign, and where a
  // gradient is smaller than its own rounding error, that is chance.
  std::vector<tl_optimizer_result> update(int64_t step) {
    std::vector<tl_optimizer_item> items;
    for (size_t i = 0; i < slots_.size(); ++i) {
      tl_optimizer_item item{};
      item.slot = slots_[i];
      item.step = step;
      item.learning_rate = 0.002f;
      item.beta1 = 0.9f;
      item.beta2 = 0.999f;
      item.epsilon = 0.1f;
      item.weight_decay = i == 1 ? 0.01f : 0;
      item.max_grad_norm = i == 0 ? 0.5f : 0;
      items.push_back(item);
    }
    std::vector<tl_optimizer_result> results(items.size());
    TL(tl_optimizer_step(handle_, items.data(), static_cast<int32_t>(items.size()), results.data()));
    return results;
  }
  // Of the losses and one slot's gradient.
  std::string bits(const std::vector<tl_segment_result>& results, int slot) const {
    const std::vector<float> gradient = get(slot, TL_STATE_GRADIENT);
    std::string bits(reinterpret_cast<const char*>(gradient.data()), gradient.size() * 4);
    for (const tl_segment_result& r : results) bits.append(reinterpret_cast<const char*>(&r.loss_sum), 8);
    return bits;
  }

 private:
  uint64_t handle_ = 0;
  int vocab_;
  std::vector<uint64_t> slots_;
};

double relative(const float* want, const float* got, size_t count) {
  double difference = 0, squares = 0;
  for (size_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    difference += d * d;
    squares += static_cast<double>(want[i]) * want[i];
  }
  return std::sqrt(difference / squares);
}

constexpr uint32_t kAll = 127;
const std::vector<Slot> kSlots = {
    {16, kAll, 0, 1}, {3, 1u << TL_Q_PROJ | 1u << TL_V_PROJ, 0.1f, 2}, {64, 0b1111000, 0, 3}};
const std::vector<Sequence> kSequences = {{0, 127, 1}, {1, 40, 2}, {2, 129, 3}, {0, 65, 4}, {1, 1, 5}, {2, 33, 6}};

// Weights of 1.7 / sqrt(hidden): projections of deviation 1 from normed inputs, so that scores, gates and logits have a
// shape but no softmax is all or nothing, where a rounding of its input is all of its gradient.
random_model::Spec spec(const char* type, int hidden, int heads, int kv_heads, int head_dim, int intermediate,
                        int vocab, bool tied) {
  random_model::Spec s;
  s.type = type;
  s.hidden = hidden;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = head_dim;
  s.intermediate = intermediate;
  s.vocab = vocab;
  s.tied = tied;
  s.scale = 1.7 / std::sqrt(static_cast<double>(hidden));
  s.seed = static_cast<uint64_t>(hidden + heads * 7 + vocab);
  return s;
}

// Both backends round at the same points, but attention's P and, behind it, whatever lies near a boundary round
// differently, and the differences of 2^-9 travel through two layers and back: at worst the two are as far apart as two
// independent roundings of one model. How far one is from no rounding at all, the CPU tells with these models in
// TL_COMPUTE_FP32 against TL_COMPUTE_BF16: slots' gradients 1.1 to 2.1%, single tensors up to 4%, losses up to 0.16% (a
// single token's 0.6%), three steps up to 1.9%; two roundings differ by sqrt(2) of that. A wrong scale, order, mask or
// a forgotten part moves a gradient by a tenth and more.
constexpr double kGradient = 3e-2, kTensor = 8e-2, kLoss = 5e-3, kMovement = 4e-2;

void compare(const random_model::Spec& model_spec, bool generic) {
  const std::string name = model_spec.type + (generic ? " (mma.sync)" : "");
  const random_model::Folder folder(model_spec);
  const Setting family("TLORA_CUDA_GENERIC", generic ? "1" : "0");
  Model cpu(folder, TL_BACKEND_CPU, kSlots), cuda(folder, TL_BACKEND_CUDA, kSlots);
  const int slots = static_cast<int>(kSlots.size());
  auto losses = [&](const std::vector<tl_segment_result>& want, const std::vector<tl_segment_result>& got,
                    const std::string& when) {
    for (size_t i = 0; i < want.size(); ++i) {
      CHECK_MSG(want[i].loss_tokens == got[i].loss_tokens, "%s, segment %zu", name.c_str(), i);
      // A mean of at least 1 nat, because a sure answer's loss is next to nothing; a single row has no others to even
      // it out.
      const double scale =
          std::max(want[i].loss_sum, static_cast<double>(want[i].loss_tokens)) * (want[i].loss_tokens == 1 ? 2 : 1);
      CHECK_MSG(std::fabs(got[i].loss_sum - want[i].loss_sum) <= kLoss * scale,
                "%s, %s, segment %zu: loss %.9g instead of %.9g", name.c_str(), when.c_str(), i, got[i].loss_sum,
                want[i].loss_sum);
    }
  };
  losses(cpu.run(kSequences, false), cuda.run(kSequences, false), "evaluation");

  std::vector<std::vector<float>> start;
  for (int slot = 0; slot < slots; ++slot) {
    start.push_back(cpu.get(slot, TL_STATE_WEIGHTS));
    CHECK_MSG(start.back() == cuda.get(slot, TL_STATE_WEIGHTS), "%s: initial weights of slot %d", name.c_str(), slot);
  }
  for (int step = 1; step <= 3; ++step) {
    losses(cpu.run(kSequences), cuda.run(kSequences), "step " + std::to_string(step));
    for (int slot = 0; slot < slots; ++slot) {
      const std::vector<float> want = cpu.get(slot, TL_STATE_GRADIENT), got = cuda.get(slot, TL_STATE_GRADIENT);
      const double off = relative(want.data(), got.data(), want.size());
      CHECK_MSG(off < kGradient, "%s, step %d, slot %d: gradients differ by %.3g of their norm", name.c_str(), step,
                slot, off);
      for (const tl_tensor_desc& t : cpu.layout(slot)) {
        const double of_tensor = relative(&want[static_cast<size_t>(t.offset)], &got[static_cast<size_t>(t.offset)],
                                          static_cast<size_t>(t.rows * t.columns));
        CHECK_MSG(of_tensor < kTensor,
                  "%s, step %d, slot %d, layer %d, module %d, %s: gradients differ by %.3g of their norm", name.c_str(),
                  step, slot, t.layer, t.module, t.matrix ? "B" : "A", of_tensor);
      }
    }
    const auto want = cpu.update(step), got = cuda.update(step);
    for (int slot = 0; slot < slots; ++slot) {
      const size_t i = static_cast<size_t>(slot);
      CHECK_MSG(want[i].finite && got[i].finite && std::fabs(got[i].grad_norm / want[i].grad_norm - 1) < kGradient,
                "%s, step %d, slot %d: norm %.9g instead of %.9g", name.c_str(), step, slot, got[i].grad_norm,
                want[i].grad_norm);
    }
  }
  losses(cpu.run(kSequences, false), cuda.run(kSequences, false), "after three steps");
  for (int slot = 0; slot < slots; ++slot) {
    std::vector<float> want = cpu.get(slot, TL_STATE_WEIGHTS), got = cuda.get(slot, TL_STATE_WEIGHTS);
    for (size_t i = 0; i < want.size(); ++i) {
      want[i] -= start[static_cast<size_t>(slot)][i];
      got[i] -= start[static_cast<size_t>(slot)][i];
    }
    const double off = relative(want.data(), got.data(), want.size());
    CHECK_MSG(off < kMovement, "%s, slot %d: three steps differ by %.3g of their length", name.c_str(), slot, off);
  }
}

const random_model::Spec kLlama = spec("llama", 256, 4, 2, 64, 320, 331, false);
const random_model::Spec kQwen2 = spec("qwen2", 128, 2, 1, 64, 192, 515, true);
const random_model::Spec kQwen3 = spec("qwen3", 256, 4, 1, 128, 384, 1100, true);
const random_model::Spec kMistral = spec("mistral", 256, 2, 2, 128, 448, 512, false);

}  // namespace

TEST(cuda_model_llama) {
  REQUIRE_GPU();
  compare(kLlama, false);
}
TEST(cuda_model_qwen2_tied) {
  REQUIRE_GPU();
  compare(kQwen2, false);
}
TEST(cuda_model_qwen3_tied) {
  REQUIRE_GPU();
  compare(kQwen3, false);
}
TEST(cuda_model_mistral) {
  REQUIRE_GPU();
  compare(kMistral, false);
}
TEST(cuda_model_generic_kernels) {
  REQUIRE_GPU();
  if (!device::is_sm90()) SKIP("this device has no others");
  compare(kLlama, true);
  compare(kQwen3, true);
}
// Widths that no tile divides; every multiple of 8 is allowed.
TEST(cuda_model_small_widths) {
  REQUIRE_GPU();
  compare(spec("llama", 24, 4, 2, 8, 40, 37, false), false);
  compare(spec("qwen3", 40, 5, 1, 32, 72, 101, true), false);
}

TEST(cuda_model_recompute_policies) {
  REQUIRE_GPU();
  for (const random_model::Spec& model_spec : {kQwen3, kLlama}) {
    const random_model::Folder folder(model_spec);
    std::string want[3];
    for (const char* policy : {"nothing", "mlp", "layer"}) {
      const Setting recompute("TLORA_RECOMPUTE", policy);
      Model model(folder, TL_BACKEND_CUDA, kSlots);
      const auto results = model.run(kSequences);
      for (int slot = 0; slot < 3; ++slot) {
        std::string bits = model.bits(results, slot);
        if (want[slot].empty()) want[slot] = std::move(bits);
        else CHECK_MSG(bits == want[slot], "%s, recompute %s, slot %d", model_spec.type.c_str(), policy, slot);
      }
    }
  }
}

// A step of a shape that was seen is recorded, and then replayed: with other tokens, between other shapes, after the
// adapters changed. A model that runs every step for the first time says what it must give.
TEST(cuda_model_replayed_steps) {
  REQUIRE_GPU();
  const random_model::Folder folder(kLlama);
  Model model(folder, TL_BACKEND_CUDA, kSlots);
  auto contents = [](uint64_t shift) {
    std::vector<Sequence> sequences = kSequences;
    for (Sequence& s : sequences) s.content += shift;
    return sequences;
  };
  auto step = [](Model& m, const std::vector<Sequence>& sequences) {
    for (int slot = 0; slot < 3; ++slot) m.clear(slot);
    const auto results = m.run(sequences);
    std::string bits;
    for (int slot = 0; slot < 3; ++slot) bits += m.bits(results, slot);
    return bits;
  };
  std::string want[4];
  for (uint64_t i = 0; i < 4; ++i) {
    Model fresh(folder, TL_BACKEND_CUDA, kSlots);
    want[i] = step(fresh, contents(100 * i));
  }
  for (const uint64_t i : {0, 1, 2, 0, 3, 1})
    CHECK_MSG(step(model, contents(100 * i)) == want[i], "contents %d", static_cast<int>(i));
  const std::vector<Sequence> other = {{2, 70, 9}, {0, 3, 10}};
  std::string first;
  for (int i = 0; i < 3; ++i) {
    const std::string bits = step(model, other);
    if (i == 0) first = bits;
    CHECK_MSG(bits == first, "another shape, time %d", i);
    CHECK_MSG(step(model, contents(0)) == want[0], "between steps of another shape, time %d", i);
  }
  // Three optimizer steps: of this model, which replays every one, and of one that runs, records and replays.
  Model twin(folder, TL_BACKEND_CUDA, kSlots);
  for (int64_t i = 1; i <= 3; ++i) {
    step(model, contents(0));
    model.update(i);
    step(twin, contents(0));
    twin.update(i);
  }
  for (int slot = 0; slot < 3; ++slot)
    CHECK_MSG(model.get(slot, TL_STATE_WEIGHTS) == twin.get(slot, TL_STATE_WEIGHTS),
              "weights of slot %d after three steps", slot);
}

TEST(cuda_model_company) {
  REQUIRE_GPU();
  const std::vector<bool> families = device::is_sm90() ? std::vector<bool>{false, true} : std::vector<bool>{true};
  for (const bool generic : families) {
    const Setting family("TLORA_CUDA_GENERIC", generic ? "1" : "0");
    const random_model::Folder folder(kQwen3);
    const Slot probe = {16, kAll, 0.1f, 9}, other = {200, kAll, 0, 10}, third = {8, kAll, 0.2f, 11};
    Model alone(folder, TL_BACKEND_CUDA, {probe}), among(folder, TL_BACKEND_CUDA, {other, probe, third});
    const std::vector<Sequence> own = {{0, 129, 1}, {0, 1, 2}, {0, 64, 3}};
    const auto want_results = alone.run(own);
    const auto got_results =
        among.run({{0, 37, 7}, {1, 129, 1}, {2, 5, 8}, {1, 1, 2}, {0, 150, 9}, {1, 64, 3}, {2, 70, 10}});
    const std::string want = alone.bits(want_results, 0);
    CHECK_MSG(among.bits({got_results[1], got_results[3], got_results[5]}, 1) == want, "%s",
              generic ? "mma.sync" : "wgmma");
    // Sequence by sequence.
    among.clear(1);
    std::vector<tl_segment_result> split;
    for (const Sequence& s : own) split.push_back(among.run({{1, s.length, s.content}})[0]);
    CHECK_MSG(among.bits(split, 1) == want, "one call for each sequence, %s", generic ? "mma.sync" : "wgmma");
  }
}
