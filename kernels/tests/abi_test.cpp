// The border: every rule of tlora.h is refused with its status and a text that names field, rule and value, changes nothing,
// and leaves the outputs alone.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>

#include "engine.h"
#include "random_model.h"

namespace {

using engine::Model;

const random_model::Folder& folder() {
  static const random_model::Folder shared{random_model::Spec()};
  return shared;
}

void expect(tl_status status, tl_status wanted, const std::string& fragment, int line) {
  const std::string text = engine::last_error();
  CHECK_MSG(status == wanted, "line %d: status %d, expected %d (%s)", line, status, wanted, text.c_str());
  CHECK_MSG(text.find(fragment) != std::string::npos, "line %d: \"%s\" is not in \"%s\"", line, fragment.c_str(), text.c_str());
}
#define REFUSED(call, fragment) expect(call, TL_INVALID_ARGUMENT, fragment, __LINE__)
#define MISSING(call, fragment) expect(call, TL_NOT_FOUND, fragment, __LINE__)

const float kNan = std::nanf(""), kInf = std::numeric_limits<float>::infinity();

TEST(abi_version_and_build_info) {
  CHECK(tl_abi_version() == TL_ABI_VERSION);
  int64_t length = 0;
  OK(tl_build_info(nullptr, 0, &length));
  REQUIRE(length > 0);
  std::string json(static_cast<size_t>(length) + 4, '#');
  int64_t again = 0;
  OK(tl_build_info(json.data(), length, &again));
  CHECK(again == length && json.substr(static_cast<size_t>(length)) == "####");
  for (const char* key : {"\"abi\":2", "\"build_id\":\"", "\"compiler\":\"", "\"flags\":\"", "\"cpu\":{\"name\":\"", "\"threads\":", "\"simd\":\"",
                          "\"backends\":[{\"name\":\"cpu\",\"available\":true", "{\"name\":\"cuda\",\"available\":"})
    CHECK_MSG(json.find(key) != std::string::npos, "%s is not in %s", key, json.c_str());
  char first[5] = "....";
  OK(tl_build_info(first, 3, &again));
  CHECK(first[0] == '{' && first[3] == '.' && again == length);
  REFUSED(tl_build_info(first, 3, nullptr), "length");
  REFUSED(tl_build_info(nullptr, 3, &again), "json");
  REFUSED(tl_build_info(first, -1, &again), "capacity");
}

TEST(abi_last_error_is_of_this_thread_and_fits) {
  REFUSED(tl_build_info(nullptr, -1, nullptr), "length");
  const std::string mine = engine::last_error();
  std::thread([] { CHECK(tl_last_error(nullptr, 0) == 0); }).join();
  char text[6] = "#####";
  CHECK(tl_last_error(text, 4) == static_cast<int64_t>(mine.size()));
  CHECK(std::memcmp(text, mine.data(), 4) == 0 && text[4] == '#');
}

TEST(abi_model_open) {
  const std::string path = folder().path();
  const int64_t length = static_cast<int64_t>(path.size());
  uint64_t model = 42;
  tl_model_options good{};
  good.struct_size = sizeof good;
  auto with = [&](auto change) {
    tl_model_options o = good;
    change(o);
    return tl_model_open(path.data(), length, &o, &model);
  };
  REFUSED(tl_model_open(nullptr, 3, &good, &model), "folder");
  REFUSED(tl_model_open(path.data(), 0, &good, &model), "folder_length");
  REFUSED(tl_model_open(path.data(), -1, &good, &model), "folder_length");
  REFUSED(tl_model_open("a\0b", 3, &good, &model), "NUL");
  REFUSED(tl_model_open(path.data(), length, nullptr, &model), "options");
  REFUSED(tl_model_open(path.data(), length, &good, nullptr), "model");
  REFUSED(with([](auto& o) { o.struct_size = 31; }), "options.struct_size must be 32, got 31");
  REFUSED(with([](auto& o) { o.backend = 2; }), "options.backend must be 0..1, got 2");
  REFUSED(with([](auto& o) { o.device = 1; }), "options.device");
  REFUSED(with([](auto& o) { o.threads = -1; }), "options.threads");
  REFUSED(with([](auto& o) { o.threads = 1025; }), "options.threads");
  REFUSED(with([](auto& o) { o.compute = 2; }), "options.compute");
  REFUSED(with([](auto& o) { o.reserved0 = 1; }), "reserved");
  REFUSED(with([](auto& o) { o.reserved1 = 1; }), "reserved");
  MISSING(tl_model_open("/nonexistent/model", 18, &good, &model), "/nonexistent/model");
  CHECK(model == 42);
  // On a machine without a usable device the reason must be told; with one the call may succeed.
  const tl_status cuda = with([](auto& o) { o.backend = TL_BACKEND_CUDA; });
  if (cuda == TL_OK) OK(tl_model_close(model));
  else expect(cuda, TL_UNSUPPORTED, "TL_BACKEND_CUDA is not available: ", __LINE__);
}

TEST(abi_handles_are_never_reused) {
  uint64_t first, slot;
  {
    Model model(folder().path());
    first = model.handle;
    slot = model.add(2, 1, 1);
    OK(tl_adapter_remove(model.handle, slot));
    MISSING(tl_adapter_remove(model.handle, slot), "slot");
    CHECK(model.add(2, 1, 1) != slot);
  }
  MISSING(tl_model_close(first), "model");
  MISSING(tl_adapter_remove(first, slot), "model");
  Model second(folder().path());
  CHECK(second.handle != first && second.handle != 0);
  tl_model_info info{};
  info.struct_size = sizeof info;
  MISSING(tl_model_describe(0, &info), "model");
}

TEST(abi_describe) {
  Model model(folder().path());
  const random_model::Spec& s = folder().spec();
  const tl_model_info info = model.info();
  CHECK(info.architecture == TL_ARCH_LLAMA && info.hidden == s.hidden && info.layers == s.layers && info.heads == s.heads && info.kv_heads == s.kv_heads);
  CHECK(info.head_dim == s.head_dim && info.intermediate == s.intermediate && info.vocab == s.vocab && info.max_positions == s.max_positions);
  CHECK(info.tied_embeddings == 0 && info.compute == TL_COMPUTE_FP32 && info.adapter_bytes == 0 && info.workspace_bytes == 0);
  const int64_t layer = s.hidden * (s.heads * 2 + s.kv_heads * 2) * s.head_dim + 3 * s.hidden * s.intermediate + 2 * s.hidden;
  CHECK_MSG(info.parameters == layer * s.layers + s.hidden + 2 * s.hidden * s.vocab, "%lld parameters", static_cast<long long>(info.parameters));
  CHECK(info.weight_bytes >= info.parameters * 4);
  const uint64_t slot = model.add(4, 127, 1);
  CHECK(model.info().adapter_bytes >= model.elements(slot) * 16);
  OK(tl_adapter_remove(model.handle, slot));
  CHECK(model.info().adapter_bytes == 0);
  tl_model_info wrong{};
  wrong.struct_size = 79;
  REFUSED(tl_model_describe(model.handle, &wrong), "info.struct_size must be 80, got 79");
  REFUSED(tl_model_describe(model.handle, nullptr), "info");
}

TEST(abi_adapter_add) {
  Model model(folder().path());
  tl_adapter_config good{};
  good.struct_size = sizeof good;
  good.rank = 4;
  good.alpha = 8;
  good.target_modules = 127;
  uint64_t slot = 42;
  auto with = [&](auto change) {
    tl_adapter_config c = good;
    change(c);
    return tl_adapter_add(model.handle, &c, &slot);
  };
  REFUSED(with([](auto& c) { c.struct_size = 0; }), "config.struct_size must be 40, got 0");
  REFUSED(with([](auto& c) { c.rank = 0; }), "config.rank must be 1..256, got 0");
  REFUSED(with([](auto& c) { c.rank = 257; }), "config.rank must be 1..256, got 257");
  for (const float bad : {0.0f, -1.0f, kNan, kInf}) REFUSED(with([&](auto& c) { c.alpha = bad; }), "config.alpha");
  for (const float bad : {1.0f, -0.1f, kNan, kInf}) REFUSED(with([&](auto& c) { c.dropout = bad; }), "config.dropout");
  REFUSED(with([](auto& c) { c.rslora = 2; }), "config.rslora");
  REFUSED(with([](auto& c) { c.target_modules = 0; }), "config.target_modules");
  REFUSED(with([](auto& c) { c.target_modules = 128; }), "config.target_modules");
  REFUSED(with([](auto& c) { c.reserved = 1; }), "config.reserved");
  REFUSED(tl_adapter_add(model.handle, nullptr, &slot), "config");
  REFUSED(tl_adapter_add(model.handle, &good, nullptr), "slot");
  MISSING(tl_adapter_add(model.handle + 1000, &good, &slot), "model");
  CHECK(slot == 42 && model.info().adapter_bytes == 0);
}

TEST(abi_layout_and_state) {
  Model model(folder().path());
  const uint64_t slot = model.add(3, 1u << TL_K_PROJ | 1u << TL_DOWN_PROJ, 5);
  const random_model::Spec& s = folder().spec();
  const auto layout = model.layout(slot);
  REQUIRE(layout.size() == 8);
  int64_t offset = 0;
  for (size_t i = 0; i < layout.size(); ++i) {
    const tl_tensor_desc& t = layout[i];
    const bool k = i % 4 < 2, b = i % 2;
    CHECK(t.layer == static_cast<int>(i / 4) && t.module == (k ? TL_K_PROJ : TL_DOWN_PROJ) && t.matrix == static_cast<int>(b) && t.offset == offset);
    CHECK(t.rows == (b ? (k ? s.kv_heads * s.head_dim : s.hidden) : 3) && t.columns == (b ? 3 : k ? s.hidden : s.intermediate));
    offset += t.rows * t.columns;
  }
  tl_tensor_desc two[3];
  two[2].layer = 77;
  int32_t count = 0;
  OK(tl_adapter_layout(model.handle, slot, two, 2, &count));
  CHECK(count == 8 && two[2].layer == 77);
  REFUSED(tl_adapter_layout(model.handle, slot, two, -1, &count), "capacity");
  REFUSED(tl_adapter_layout(model.handle, slot, nullptr, 1, &count), "tensors");
  REFUSED(tl_adapter_layout(model.handle, slot, two, 1, nullptr), "count");
  MISSING(tl_adapter_layout(model.handle, slot + 9, two, 1, &count), "slot");

  std::vector<float> values(static_cast<size_t>(offset));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f;
  for (int state = 0; state < 4; ++state) {
    model.set(slot, state, values);
    CHECK(model.get(slot, state) == values);
  }
  REFUSED(tl_adapter_import(model.handle, slot, 4, values.data(), offset), "state");
  REFUSED(tl_adapter_import(model.handle, slot, -1, values.data(), offset), "state");
  REFUSED(tl_adapter_import(model.handle, slot, 0, values.data(), offset - 1), "elements must be " + std::to_string(offset));
  REFUSED(tl_adapter_import(model.handle, slot, 0, nullptr, offset), "values");
  MISSING(tl_adapter_import(model.handle, 0, 0, values.data(), offset), "slot");
  REFUSED(tl_adapter_export(model.handle, slot, 4, values.data(), offset), "state");
  REFUSED(tl_adapter_export(model.handle, slot, 0, values.data(), offset + 1), "elements");
  REFUSED(tl_adapter_export(model.handle, slot, 0, nullptr, offset), "values");
  MISSING(tl_adapter_export(model.handle, slot + 9, 0, values.data(), offset), "slot");
  for (const float bad : {kNan, kInf, -kInf}) {
    std::vector<float> poisoned = values;
    for (float& v : poisoned) v += 1;
    poisoned[7] = bad;
    poisoned[9] = kNan;
    for (int state = 0; state < 4; ++state) REFUSED(tl_adapter_import(model.handle, slot, state, poisoned.data(), offset), "values[7] must be finite");
  }
  for (int state = 0; state < 4; ++state) CHECK(model.get(slot, state) == values);
  OK(tl_adapter_clear_gradient(model.handle, slot));
  for (const float g : model.get(slot, TL_STATE_GRADIENT)) CHECK(g == 0.0f);
  CHECK(model.get(slot, TL_STATE_WEIGHTS) == values);
  MISSING(tl_adapter_clear_gradient(model.handle, slot + 9), "slot");
}

struct Batch {
  std::vector<int32_t> tokens = {1, 2, 3, 4, 5}, targets = {2, 3, TL_IGNORE_INDEX, 5, 6};
  int64_t n = 5;
  std::vector<tl_segment> segments;
  int32_t count = 2;
  std::vector<int64_t> rows = {0, 4};
};

TEST(abi_batches) {
  Model model(folder().path());
  const uint64_t slot = model.add(2, 127, 1);
  const int vocab = folder().spec().vocab, longest = folder().spec().max_positions;
  Batch good;
  good.segments = {{slot, 0, 3, 0.1f, 0}, {slot, 3, 2, 0.1f, 1}};
  tl_segment_result results[3];
  std::memset(results, 0x5a, sizeof results);
  const tl_segment_result untouched = results[0];
  std::vector<float> logits(static_cast<size_t>(5 * vocab), -7.0f);
  // Each rule at every call that has it: train, evaluate, logits.
  auto refused = [&](auto change, const std::string& fragment, bool has_targets = false, tl_status status = TL_INVALID_ARGUMENT) {
    Batch b = good;
    change(b);
    const int line = __LINE__;
    expect(tl_forward_backward(model.handle, b.tokens.data(), b.targets.data(), b.n, b.segments.data(), b.count, results), status, fragment, line);
    expect(tl_evaluate(model.handle, b.tokens.data(), b.targets.data(), b.n, b.segments.data(), b.count, results), status, fragment, line);
    if (!has_targets)
      expect(tl_logits(model.handle, b.tokens.data(), b.n, b.segments.data(), b.count, b.rows.data(), 2, logits.data()), status, fragment, line);
  };
  refused([](Batch& b) { b.n = 0; }, "n must be");
  refused([](Batch& b) { b.n = -5; }, "n must be");
  refused([](Batch& b) { b.count = 0; }, "segment_count");
  refused([](Batch& b) { b.count = 6; }, "segment_count");
  refused([](Batch& b) { b.count = 1; }, "segments must be n = 5 rows in total, got 3");
  refused([](Batch& b) { b.segments[0].start = 1; }, "segments[0].start must be 0");
  refused([](Batch& b) { b.segments[1].start = 4; }, "segments[1].start must be 3");
  refused([](Batch& b) { b.segments[1].start = 2; }, "segments[1].start must be 3");
  refused([](Batch& b) { b.segments[0].length = 0; }, "segments[0].length");
  refused([](Batch& b) { b.segments[1].length = 3; }, "segments[1].length must be 1..2, got 3");
  refused([](Batch& b) { b.segments[1].length = -1; }, "segments[1].length");
  refused([&](Batch& b) { b.segments[1].slot = slot + 50; }, "segments[1].slot", false, TL_NOT_FOUND);
  refused([](Batch& b) { b.segments[1].loss_scale = kNan; }, "segments[1].loss_scale");
  refused([](Batch& b) { b.segments[1].loss_scale = kInf; }, "segments[1].loss_scale");
  refused([&](Batch& b) { b.tokens[4] = vocab; }, "tokens[4] must be 0.." + std::to_string(vocab - 1));
  refused([](Batch& b) { b.tokens[0] = -1; }, "tokens[0]");
  refused([&](Batch& b) { b.targets[1] = vocab; }, "targets[1]", true);
  refused([](Batch& b) { b.targets[1] = -1; }, "targets[1]", true);
  refused([&](Batch& b) {
    b.n = longest + 1;
    b.tokens.assign(static_cast<size_t>(b.n), 1);
    b.targets.assign(static_cast<size_t>(b.n), 1);
    b.segments = {{slot, 0, longest + 1, 0.1f, 0}};
    b.count = 1;
  }, "segments[0].length must be 1.." + std::to_string(longest));

  const Batch& g = good;
  Batch base = good;
  base.segments[0].slot = 0;
  REFUSED(tl_forward_backward(model.handle, g.tokens.data(), g.targets.data(), 5, base.segments.data(), 2, results), "segments[0].slot");
  REFUSED(tl_forward_backward(model.handle, nullptr, g.targets.data(), 5, g.segments.data(), 2, results), "tokens");
  REFUSED(tl_forward_backward(model.handle, g.tokens.data(), nullptr, 5, g.segments.data(), 2, results), "targets");
  REFUSED(tl_forward_backward(model.handle, g.tokens.data(), g.targets.data(), 5, nullptr, 2, results), "segments");
  REFUSED(tl_forward_backward(model.handle, g.tokens.data(), g.targets.data(), 5, g.segments.data(), 2, nullptr), "results");
  MISSING(tl_forward_backward(0, g.tokens.data(), g.targets.data(), 5, g.segments.data(), 2, results), "model");
  MISSING(tl_evaluate(0, g.tokens.data(), g.targets.data(), 5, g.segments.data(), 2, results), "model");

  auto logits_call = [&](const std::vector<int64_t>& rows, int64_t count) {
    return tl_logits(model.handle, g.tokens.data(), 5, g.segments.data(), 2, rows.data(), count, logits.data());
  };
  REFUSED(logits_call({0, 0}, 2), "rows[1] must be 1..4, got 0");
  REFUSED(logits_call({3, 1}, 2), "rows[1]");
  REFUSED(logits_call({0, 5}, 2), "rows[1]");
  REFUSED(logits_call({-1, 2}, 2), "rows[0]");
  REFUSED(logits_call({0}, 0), "row_count");
  REFUSED(logits_call({0, 1, 2, 3, 4, 4}, 6), "row_count");
  REFUSED(tl_logits(model.handle, g.tokens.data(), 5, g.segments.data(), 2, nullptr, 2, logits.data()), "rows");
  REFUSED(tl_logits(model.handle, g.tokens.data(), 5, g.segments.data(), 2, g.rows.data(), 2, nullptr), "logits");
  MISSING(tl_logits(0, g.tokens.data(), 5, g.segments.data(), 2, g.rows.data(), 2, logits.data()), "model");

  // Nothing was written or accumulated by all of that.
  CHECK(std::memcmp(&results[0], &untouched, sizeof untouched) == 0);
  for (const float v : logits) REQUIRE(v == -7.0f);
  for (const float v : model.get(slot, TL_STATE_GRADIENT)) REQUIRE(v == 0.0f);
}

TEST(abi_results_and_logits_agree) {
  Model model(folder().path(), 2);
  const uint64_t slot = model.add(4, 127, 3);
  std::vector<float> weights = model.get(slot, TL_STATE_WEIGHTS);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] += 0.05f * (static_cast<float>(i % 5) - 2.0f);
  model.set(slot, TL_STATE_WEIGHTS, weights);
  const int vocab = folder().spec().vocab;
  Batch b;
  const tl_segment segments[2] = {{0, 0, 3, 0.0f, 0}, {slot, 3, 2, 0.0f, 0}};
  tl_segment_result results[2];
  OK(tl_evaluate(model.handle, b.tokens.data(), b.targets.data(), 5, segments, 2, results));
  std::vector<float> logits(static_cast<size_t>(5 * vocab));
  const int64_t rows[5] = {0, 1, 2, 3, 4};
  OK(tl_logits(model.handle, b.tokens.data(), 5, segments, 2, rows, 5, logits.data()));
  std::vector<float> one(static_cast<size_t>(vocab));
  OK(tl_logits(model.handle, b.tokens.data(), 5, segments, 2, rows + 3, 1, one.data()));
  CHECK(std::memcmp(one.data(), &logits[static_cast<size_t>(3 * vocab)], one.size() * 4) == 0);
  for (int s = 0; s < 2; ++s) {
    double loss = 0;
    int count = 0, correct = 0;
    for (int64_t t = segments[s].start; t < segments[s].start + segments[s].length; ++t) {
      if (b.targets[static_cast<size_t>(t)] == TL_IGNORE_INDEX) continue;
      const float* row = &logits[static_cast<size_t>(t * vocab)];
      double sum = 0;
      int best = 0;
      for (int i = 0; i < vocab; ++i) {
        sum += std::exp(static_cast<double>(row[i]));
        if (row[i] > row[best]) best = i;
      }
      loss += std::log(sum) - row[b.targets[static_cast<size_t>(t)]];
      ++count;
      correct += best == b.targets[static_cast<size_t>(t)];
    }
    CHECK_MSG(std::fabs(results[s].loss_sum - loss) < 1e-5 * loss, "%.9g and %.9g", results[s].loss_sum, loss);
    CHECK(results[s].loss_tokens == count && results[s].correct == correct);
  }
  // A batch without any loss row is a legal one.
  const std::vector<int32_t> none(5, TL_IGNORE_INDEX);
  OK(tl_evaluate(model.handle, b.tokens.data(), none.data(), 5, segments, 2, results));
  CHECK(results[0].loss_sum == 0 && results[1].loss_tokens == 0);
  const tl_segment trained[1] = {{slot, 0, 5, 1.0f, 0}};
  OK(tl_forward_backward(model.handle, b.tokens.data(), none.data(), 5, trained, 1, results));
  CHECK(results[0].loss_sum == 0 && results[0].loss_tokens == 0);
  for (const float g : model.get(slot, TL_STATE_GRADIENT)) REQUIRE(g == 0.0f);
}

TEST(abi_optimizer_step) {
  Model model(folder().path());
  const uint64_t slot = model.add(2, 127, 1), other = model.add(2, 127, 2);
  const std::vector<float> before = model.get(slot, TL_STATE_WEIGHTS);
  const tl_optimizer_item good = {slot, 1, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.0f, 1.0f};
  tl_optimizer_result results[2] = {{-1, -1, -1}, {-1, -1, -1}};
  auto with = [&](auto change) {
    tl_optimizer_item items[2] = {{other, 1, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.0f, 1.0f}, good};
    change(items[1]);
    return tl_optimizer_step(model.handle, items, 2, results);
  };
  MISSING(with([](auto& i) { i.slot = 0; }), "items[1].slot");
  REFUSED(with([&](auto& i) { i.slot = other; }), "items[1].slot must be named once");
  REFUSED(with([](auto& i) { i.step = 0; }), "items[1].step must be at least 1, got 0");
  for (const float bad : {-1.0f, kNan, kInf}) {
    REFUSED(with([&](auto& i) { i.learning_rate = bad; }), "items[1].learning_rate");
    REFUSED(with([&](auto& i) { i.epsilon = bad; }), "items[1].epsilon");
    REFUSED(with([&](auto& i) { i.weight_decay = bad; }), "items[1].weight_decay");
    REFUSED(with([&](auto& i) { i.max_grad_norm = bad; }), "items[1].max_grad_norm");
    REFUSED(with([&](auto& i) { i.beta1 = bad; }), "items[1].beta1 must be in [0, 1)");
    REFUSED(with([&](auto& i) { i.beta2 = bad; }), "items[1].beta2");
  }
  REFUSED(with([](auto& i) { i.beta1 = 1.0f; }), "items[1].beta1");
  REFUSED(with([](auto& i) { i.beta2 = 1.0f; }), "items[1].beta2");
  REFUSED(tl_optimizer_step(model.handle, nullptr, 1, results), "items");
  REFUSED(tl_optimizer_step(model.handle, &good, 1, nullptr), "results");
  REFUSED(tl_optimizer_step(model.handle, &good, 0, results), "count");
  MISSING(tl_optimizer_step(0, &good, 1, results), "model");
  CHECK(results[0].finite == -1 && results[1].finite == -1);
  CHECK(model.get(slot, TL_STATE_WEIGHTS) == before);
}

TEST(abi_offload) {
  Model model(folder().path());
  const uint64_t slot = model.add(2, 127, 1), other = model.add(2, 127, 2);
  Batch b;
  const auto call = [&](auto* function) {
    const tl_segment segments[2] = {{other, 0, 3, 0.1f, 0}, {slot, 3, 2, 0.1f, 1}};
    tl_segment_result results[2];
    return function(model.handle, b.tokens.data(), b.targets.data(), 5, segments, 2, results);
  };
  const auto update = [&](int64_t step) {
    const tl_optimizer_item items[2] = {{other, step, 1e-3f, 0.9f, 0.999f, 1e-8f, 0, 0}, {slot, step, 1e-3f, 0.9f, 0.999f, 1e-8f, 0, 0}};
    tl_optimizer_result results[2];
    return tl_optimizer_step(model.handle, items, 2, results);
  };
  OK(call(tl_forward_backward));
  REFUSED(tl_adapter_offload(model.handle, slot), "slot must be one whose gradient is zero");
  OK(update(1));
  const std::string name = std::to_string(slot);
  std::vector<float> before[4];
  for (int state = 0; state < 4; ++state) before[state] = model.get(slot, state);
  REFUSED(tl_adapter_restore(model.handle, slot), "slot must be an offloaded slot, got " + name);
  OK(tl_adapter_offload(model.handle, slot));
  REFUSED(tl_adapter_offload(model.handle, slot), "slot must be a slot that is on the device (tl_adapter_restore), got " + name + ", which is offloaded");
  REFUSED(call(tl_forward_backward), "segments[1].slot must be a slot that is on the device");
  for (const float v : model.get(other, TL_STATE_GRADIENT)) REQUIRE(v == 0.0f);
  const std::vector<float> others = model.get(other, TL_STATE_WEIGHTS);
  REFUSED(update(2), "items[1].slot must be a slot that is on the device");
  CHECK(model.get(other, TL_STATE_WEIGHTS) == others);
  for (int state = 0; state < 4; ++state) {
    CHECK(model.get(slot, state) == before[state]);
    REFUSED(tl_adapter_import(model.handle, slot, state, before[state].data(), static_cast<int64_t>(before[state].size())), "slot must be a slot that is on the device");
  }
  OK(call(tl_evaluate));
  OK(tl_adapter_clear_gradient(model.handle, slot));
  OK(tl_adapter_restore(model.handle, slot));
  for (int state = 0; state < 4; ++state) CHECK(model.get(slot, state) == before[state]);
  REFUSED(tl_adapter_restore(model.handle, slot), "slot must be an offloaded slot");
  // What counts as a gradient: training and an import that is not zero, until it is cleared.
  model.set(slot, TL_STATE_GRADIENT, before[TL_STATE_GRADIENT]);
  OK(tl_adapter_offload(model.handle, slot));
  OK(tl_adapter_restore(model.handle, slot));
  model.set(slot, TL_STATE_GRADIENT, before[TL_STATE_WEIGHTS]);
  REFUSED(tl_adapter_offload(model.handle, slot), "slot must be one whose gradient is zero");
  OK(tl_adapter_clear_gradient(model.handle, slot));
  OK(tl_adapter_offload(model.handle, slot));
  OK(tl_adapter_remove(model.handle, slot));
  MISSING(tl_adapter_offload(model.handle, slot), "slot");
  MISSING(tl_adapter_restore(model.handle, slot), "slot");
  MISSING(tl_adapter_offload(0, other), "model");
  MISSING(tl_adapter_restore(0, other), "model");
  OK(tl_adapter_offload(model.handle, other));
}

// Sets TLORA_RECOMPUTE for the models opened in its life (null: unset).
class Recompute {
 public:
  explicit Recompute(const char* value) {
    if (const char* set = std::getenv("TLORA_RECOMPUTE")) before_ = set;
    set(value);
  }
  ~Recompute() { set(before_.empty() ? nullptr : before_.c_str()); }

 private:
  static void set(const char* value) { value ? setenv("TLORA_RECOMPUTE", value, 1) : unsetenv("TLORA_RECOMPUTE"); }
  std::string before_;
};

TEST(abi_recompute_of_the_environment) {
  int64_t bytes[4];
  const char* const names[4] = {nullptr, "nothing", "mlp", "layer"};
  for (int i = 0; i < 4; ++i) {
    const Recompute environment(names[i]);
    Model model(folder().path());
    tl_memory_request request{};
    request.struct_size = sizeof request;
    request.max_segment = request.tokens = 64;
    OK(tl_memory_estimate(model.handle, &request));
    CHECK(request.recompute == std::max(i - 1, 0) && request.fits == 1 && request.available_bytes == std::numeric_limits<int64_t>::max());
    bytes[i] = request.step_bytes;
  }
  CHECK(bytes[0] == bytes[1] && bytes[1] > bytes[2] && bytes[2] > bytes[3]);
  const Recompute environment("all");
  tl_model_options options{};
  options.struct_size = sizeof options;
  uint64_t model = 0;
  REFUSED(tl_model_open(folder().path().data(), static_cast<int64_t>(folder().path().size()), &options, &model), "TLORA_RECOMPUTE must be nothing, mlp or layer, got all");
}

TEST(abi_memory_estimate) {
  // The estimate of a step is what the workspace grows to.
  for (const auto& [tokens, segment, loss_tokens, dropout] : {std::tuple<int, int, int, int>{64, 16, 64, 0}, {300, 100, 10, 1}, {300, 100, 10, 0}, {1024, 512, 1024, 0}}) {
    Model model(folder().path(), 2);
    std::vector<engine::Sequence> batch;
    int64_t parameters = 0;
    const int ranks[2] = {16, 32};
    uint64_t slots[2];
    for (int i = 0; i < 2; ++i) {
      slots[i] = model.add(ranks[i], 127, 1, i ? 0.1f * static_cast<float>(dropout) : 0.0f);
      parameters += model.elements(slots[i]);
    }
    tl_memory_request request{};
    request.struct_size = sizeof request;
    request.max_segment = segment;
    request.tokens = tokens;
    request.loss_tokens = loss_tokens;
    request.adapter_parameters = parameters;
    request.adapters = 2;
    request.strip_columns = 48;
    request.dropout = dropout;
    OK(tl_memory_estimate(model.handle, &request));
    int lossy = loss_tokens;
    for (int first = 0; first < tokens; first += segment) {
      engine::Sequence s;
      s.slot = slots[batch.size() % 2];
      s.tokens.assign(static_cast<size_t>(segment), 1);
      s.targets.assign(static_cast<size_t>(segment), TL_IGNORE_INDEX);
      for (int i = 0; i < segment && lossy > 0; ++i, --lossy) s.targets[static_cast<size_t>(i)] = 1;
      batch.push_back(s);
    }
    model.run(batch);
    const tl_model_info info = model.info();
    const double step = static_cast<double>(request.step_bytes) / static_cast<double>(info.workspace_bytes);
    const double adapters = static_cast<double>(request.adapter_bytes) / static_cast<double>(info.adapter_bytes);
    CHECK_MSG(std::fabs(step - 1) < 0.05, "%d tokens: estimate %lld, workspace %lld", tokens, static_cast<long long>(request.step_bytes), static_cast<long long>(info.workspace_bytes));
    CHECK_MSG(std::fabs(adapters - 1) < 0.10, "estimate %lld, adapters %lld", static_cast<long long>(request.adapter_bytes), static_cast<long long>(info.adapter_bytes));
    const int64_t kept = info.workspace_bytes;
    model.run({batch[0]});
    CHECK(model.info().workspace_bytes == kept);  // reused
  }
  Model model(folder().path());
  tl_memory_request good{};
  good.struct_size = sizeof good;
  good.max_segment = 8;
  good.tokens = 8;
  auto with = [&](auto change) {
    tl_memory_request r = good;
    change(r);
    return tl_memory_estimate(model.handle, &r);
  };
  REFUSED(with([](auto& r) { r.struct_size = 1; }), "request.struct_size must be 80, got 1");
  REFUSED(with([](auto& r) { r.tokens = 0; }), "request.tokens");
  REFUSED(with([](auto& r) { r.max_segment = 0; }), "request.max_segment");
  REFUSED(with([](auto& r) { r.max_segment = 9; }), "request.max_segment must be 1..8, got 9");
  REFUSED(with([](auto& r) { r.loss_tokens = 9; }), "request.loss_tokens");
  REFUSED(with([](auto& r) { r.adapter_parameters = -1; }), "request.adapter_parameters");
  REFUSED(with([](auto& r) { r.adapters = -1; }), "request.adapters");
  REFUSED(with([](auto& r) { r.strip_columns = 1; }), "request.strip_columns");
  REFUSED(with([](auto& r) { r.dropout = 2; }), "request.dropout must be 0..1, got 2");
  REFUSED(with([](auto& r) { r.reserved = 1; }), "request.reserved");
  REFUSED(tl_memory_estimate(model.handle, nullptr), "request");
  MISSING(tl_memory_estimate(0, &good), "model");
}

TEST(abi_seed_decides_the_weights) {
  Model model(folder().path());
  const uint64_t a = model.add(4, 127, 7), b = model.add(4, 127, 7), c = model.add(4, 127, 8);
  CHECK(model.get(a, TL_STATE_WEIGHTS) == model.get(b, TL_STATE_WEIGHTS));
  CHECK(model.get(a, TL_STATE_WEIGHTS) != model.get(c, TL_STATE_WEIGHTS));
  for (const int state : {TL_STATE_MOMENT1, TL_STATE_MOMENT2, TL_STATE_GRADIENT})
    for (const float v : model.get(a, state)) REQUIRE(v == 0.0f);
}

}  // namespace
