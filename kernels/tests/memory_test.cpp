// What the graph does about memory, on a device that has little of it: the recompute policies (equal bits, the first that
// fits, the refusal), the transfers of a step, and slots that leave the device and come back.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>

#include "cpu/cpu_backend.h"
#include "error.h"
#include "graph/step.h"
#include "harness.h"
#include "random_model.h"

namespace {

using namespace tlora;

constexpr int64_t kPlenty = int64_t{1} << 40;

// The CPU as a device of its own: a budget, rows padded to 128 and written as far as that, memory that holds NaN until it is
// written, and offloaded slots whose memory is really gone.
class SmallDevice : public cpu::CpuBackend {
 public:
  using CpuBackend::CpuBackend;
  int64_t row_padding() const override { return 128; }
  int64_t free_bytes() const override { return budget - used; }
  void* allocate(int64_t bytes) override {
    if (bytes > free_bytes()) throw Error(TL_OUT_OF_MEMORY, "the small device is full");
    void* memory = CpuBackend::allocate(bytes);
    std::memset(memory, 0xff, static_cast<size_t>(bytes));
    used += bytes;
    ++changes;
    return memory;
  }
  void release(void* memory, int64_t bytes) noexcept override {
    if (!memory) return;
    used -= bytes;
    ++changes;
    CpuBackend::release(memory, bytes);
  }
  void upload(void* device, const void* host, int64_t bytes) override {
    if (downloads) ++uploads_after_download;
    CpuBackend::upload(device, host, bytes);
  }
  void download(void* host, const void* device, int64_t bytes) override {
    ++downloads;
    CpuBackend::download(host, device, bytes);
  }
  void embed(const FrozenLinear& table, const int32_t* tokens, int64_t n, Matrix x) override {
    CpuBackend::embed(table, tokens, n, x);
    spoil(x, n, table.in);
  }
  void rmsnorm_forward(Matrix x, const float* weight, float eps, const int64_t* rows, int64_t n, int64_t width, Matrix y, float* rstd) override {
    CpuBackend::rmsnorm_forward(x, weight, eps, rows, n, width, y, rstd);
    spoil(y, n, width);
  }
  void rope_forward(const Batch& b, AttentionShape s, Matrix qkv, const float* q_norm, const float* k_norm, float eps, RopeTable table, Matrix q, Matrix k) override {
    CpuBackend::rope_forward(b, s, qkv, q_norm, k_norm, eps, table, q, k);
    spoil(q, b.tokens, s.heads * s.head_dim);
    spoil(k, b.tokens, s.kv_heads * s.head_dim);
  }
  void attention_forward(const Batch& b, AttentionShape s, Matrix q, Matrix k, Matrix v, Matrix out, float* lse, void* scratch) override {
    CpuBackend::attention_forward(b, s, q, k, v, out, lse, scratch);
    spoil(out, b.tokens, s.heads * s.head_dim);
  }
  void attention_backward(const Batch& b, AttentionShape s, Matrix q, Matrix k, Matrix v, Matrix out, const float* lse, Matrix dout, Matrix dqkv, void* scratch) override {
    CpuBackend::attention_backward(b, s, q, k, v, out, lse, dout, dqkv, scratch);
    spoil(dqkv, b.tokens, (s.heads + 2 * s.kv_heads) * s.head_dim);
  }
  void linear_forward(const Batch& b, int layer, Matrix x, const std::vector<LinearPart>& parts, const Matrix* residual) override {
    // A group: neighbouring columns of one matrix, and strips in one block.
    for (size_t i = 1; i < parts.size(); ++i) {
      CHECK(parts[i].y.data == static_cast<float*>(parts[i - 1].y.data) + parts[i - 1].weight->out && parts[i].y.ld == parts[0].y.ld);
      CHECK(parts[i].strip == static_cast<char*>(parts[i - 1].strip) + strip_bytes(b.tokens, b.strip_elements, b.strip_columns));
    }
    CpuBackend::linear_forward(b, layer, x, parts, residual);
    for (const LinearPart& part : parts) spoil(part.y, b.tokens, part.weight->out);
  }
  void linear_backward(const Batch& b, int layer, const std::vector<LinearPart>& parts, Matrix dx) override {
    for (size_t i = 1; i < parts.size(); ++i)
      CHECK(parts[i].strip_grad == static_cast<char*>(parts[i - 1].strip_grad) + strip_bytes(b.tokens, b.strip_elements, b.strip_columns));
    CpuBackend::linear_backward(b, layer, parts, dx);
    if (dx.data) spoil(dx, b.tokens, parts[0].weight->in);
  }
  void swiglu_forward(Matrix gate_up, int64_t n, int64_t width, Matrix act) override {
    CpuBackend::swiglu_forward(gate_up, n, width, act);
    spoil(act, n, width);
  }
  void head_logits(Matrix x, int64_t n, const FrozenLinear& head, float* logits, int64_t ld) override {
    CpuBackend::head_logits(x, n, head, logits, ld);
    spoil({logits, ld}, n, head.out);
  }
  void head_backward(const float* dlogits, int64_t ld, int64_t n, const FrozenLinear& head, Matrix dx) override {
    CpuBackend::head_backward(dlogits, ld, n, head, dx);
    spoil(dx, n, head.in);
  }
  void adapter_offload(Adapter& a) override {
    for (const int s : {TL_STATE_MOMENT1, TL_STATE_MOMENT2}) away_[&a][s].assign(a.state[s], a.state[s] + a.elements);
    for (int64_t i = 0; i < a.elements; ++i) REQUIRE(a.state[TL_STATE_GRADIENT][i] == 0.0f);
    for (const int s : {TL_STATE_MOMENT1, TL_STATE_MOMENT2, TL_STATE_GRADIENT}) {
      release(a.state[s], a.elements * 4);
      a.state[s] = nullptr;
    }
    a.offloaded = true;
  }
  void adapter_restore(Adapter& a) override {
    if (free_bytes() < a.elements * 12) throw Error(TL_OUT_OF_MEMORY, "the small device is full");
    for (const int s : {TL_STATE_MOMENT1, TL_STATE_MOMENT2, TL_STATE_GRADIENT}) a.state[s] = static_cast<float*>(allocate(a.elements * 4));
    for (const auto& [s, values] : away_.at(&a)) std::memcpy(a.state[s], values.data(), values.size() * 4);
    zero(a.state[TL_STATE_GRADIENT], a.elements * 4);
    away_.erase(&a);
    a.offloaded = false;
  }
  void adapter_detach(Adapter& a) noexcept override {
    away_.erase(&a);
    CpuBackend::adapter_detach(a);
  }

  int64_t budget = kPlenty, used = 0, changes = 0;
  int downloads = 0, uploads_after_download = 0;

 private:
  // The rows of padding hold anything.
  void spoil(Matrix m, int64_t n, int64_t columns) const {
    for (int64_t r = n; r < padded_rows(*this, n); ++r)
      std::fill_n(static_cast<float*>(m.data) + r * m.ld, columns, std::numeric_limits<float>::quiet_NaN());
  }
  std::map<const Adapter*, std::map<int, std::vector<float>>> away_;
};

random_model::Spec spec_of(const char* type) {
  random_model::Spec spec;
  spec.type = type;
  spec.layers = 4;
  spec.tied = spec.type == "qwen2";
  return spec;
}

struct SlotSpec {
  int rank;
  uint32_t targets;
  float dropout;
};

// A model with slots, and packed batches for it.
struct Rig {
  Rig(const random_model::Folder& folder, const std::vector<SlotSpec>& specs, bool small = true, int32_t compute = TL_COMPUTE_FP32)
      : vocab(folder.spec().vocab) {
    const BackendOptions options{0, 2, compute};
    std::unique_ptr<Backend> backend;
    if (small) backend.reset(device = new SmallDevice(options));
    else backend = make_cpu_backend(options);
    model = std::make_unique<Model>(folder.path(), std::move(backend), compute);
    model->force_recompute(-1);  // whatever the environment says
    for (const SlotSpec& s : specs) {
      tl_adapter_config config{};
      config.rank = s.rank;
      config.alpha = 8;
      config.target_modules = s.targets;
      config.dropout = s.dropout;
      config.seed = 7 + slots.size();
      slots.push_back(&model->add_adapter(config, slots.size() + 1));
    }
  }

  // Three sequences of up to `length` tokens for each of the named slots; -1 is the base.
  Batch batch(const std::vector<int>& names, int step, int length, bool train = true) {
    std::mt19937_64 random(static_cast<uint64_t>(step));
    std::vector<Segment> segments;
    tokens.clear();
    targets.clear();
    for (int i = 0; i < 3; ++i)
      for (const int name : names) {
        Segment s;
        s.adapter = name < 0 ? nullptr : slots[static_cast<size_t>(name)];
        s.start = static_cast<int64_t>(tokens.size());
        s.length = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(length));
        s.loss_scale = 0.05f;
        s.dropout_key = static_cast<uint64_t>(step * 10 + i);
        for (int64_t t = 0; t < s.length; ++t) {
          tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
          targets.push_back(random() % 4 ? static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)) : TL_IGNORE_INDEX);
        }
        segments.push_back(s);
      }
    return make_batch(segments, static_cast<int64_t>(tokens.size()), train);
  }
  std::vector<tl_segment_result> run(const Batch& b) {
    std::vector<tl_segment_result> results(b.segments.size());
    run_step(*model, b, tokens.data(), targets.data(), results.data());
    return results;
  }
  void update(const std::vector<int>& names, int step) {
    std::vector<OptimizerTask> tasks;
    for (const int name : names) tasks.push_back({slots[static_cast<size_t>(name)], {0, step, 1e-2f, 0.9f, 0.999f, 1e-8f, 0.01f, 1.0f}, {}});
    model->optimizer_step(tasks);
  }
  std::vector<float> state(int name, int32_t which) {
    Adapter& a = *slots[static_cast<size_t>(name)];
    std::vector<float> values(static_cast<size_t>(a.elements));
    model->export_state(a, which, values.data());
    return values;
  }
  int64_t workspace_bytes() const {
    tl_model_info info{};
    model->describe(info);
    return info.workspace_bytes;
  }
  int64_t adapter_bytes() const {
    tl_model_info info{};
    model->describe(info);
    return info.adapter_bytes;
  }

  int vocab;
  SmallDevice* device = nullptr;
  std::unique_ptr<Model> model;
  std::vector<Adapter*> slots;
  std::vector<int32_t> tokens, targets;
};

void add(std::string& bits, const std::vector<float>& values) { bits.append(reinterpret_cast<const char*>(values.data()), values.size() * 4); }

// Two steps of all slots: losses, gradients, weights.
std::string train(Rig& rig) {
  std::vector<int> names;
  for (size_t i = 0; i < rig.slots.size(); ++i) names.push_back(static_cast<int>(i));
  std::string bits;
  for (int step = 1; step <= 2; ++step) {
    const auto results = rig.run(rig.batch(names, step, 50));
    bits.append(reinterpret_cast<const char*>(results.data()), results.size() * sizeof results[0]);
    for (const int name : names) add(bits, rig.state(name, TL_STATE_GRADIENT));
    rig.update(names, step);
    for (const int name : names) add(bits, rig.state(name, TL_STATE_WEIGHTS));
  }
  return bits;
}

// Without QK norm attention reads q and k where their product left them; with it every layer shares two buffers.
TEST(rotated_positions_take_memory_only_with_norms) {
  for (const char* type : {"llama", "qwen2", "mistral", "qwen3"}) {
    const random_model::Folder folder(spec_of(type));
    Rig rig(folder, {});
    StepShape shape;
    shape.tokens = shape.longest = 10;
    shape.segments = shape.loss_rows = 1;
    shape.train = true;
    StepBuffers b = place_buffers(*rig.model, shape, reinterpret_cast<void*>(uintptr_t{4096}));  // reads and writes nothing
    for (int i = 0; i < 4; ++i) {
      const LayerBuffers& l = b.layer(i);
      const Matrix k = columns(l.qkv, rig.model->module_out(TL_Q_PROJ), rig.model->backend().activation_bytes());
      const bool in_place = l.q.data == l.qkv.data && l.q.ld == l.qkv.ld && l.k.data == k.data && l.k.ld == k.ld;
      const bool shared = l.q.data == b.layer(0).q.data && l.k.data == b.layer(0).k.data && l.q.data != l.k.data;
      CHECK_MSG(std::string(type) == "qwen3" ? shared && !in_place : in_place, "%s, layer %d", type, i);
    }
  }
}

TEST(recompute_policies_give_equal_bits) {
  const std::vector<std::vector<SlotSpec>> companies = {
      {{8, 127, 0}, {3, 1u << TL_V_PROJ | 1u << TL_O_PROJ | 1u << TL_UP_PROJ, 0.3f}, {20, 127, 0.1f}},
      {{5, 1u << TL_DOWN_PROJ, 0.2f}},
      {{4, 1u << TL_Q_PROJ, 0}, {4, 1u << TL_K_PROJ, 0}},
      {{4, 1u << TL_O_PROJ, 0}, {40, 1u << TL_GATE_PROJ, 0}}};
  for (const char* type : {"llama", "qwen2", "qwen3", "mistral"}) {
    const random_model::Folder folder(spec_of(type));
    for (size_t company = 0; company < companies.size(); ++company)
      for (const int32_t compute : {TL_COMPUTE_FP32, TL_COMPUTE_BF16}) {
        if (compute == TL_COMPUTE_BF16 && company > 0) continue;
        Rig plain(folder, companies[company], false, compute);
        const std::string expected = train(plain);
        int64_t bytes = kPlenty;
        for (int32_t policy = TL_RECOMPUTE_NOTHING; policy <= TL_RECOMPUTE_LAYER; ++policy) {
          Rig rig(folder, companies[company], true, compute);
          rig.model->force_recompute(policy);
          CHECK_MSG(train(rig) == expected, "%s, company %zu, compute %d, policy %d", type, company, compute, policy);
          CHECK_MSG(rig.workspace_bytes() < bytes, "policy %d: %lld bytes, %lld before", policy, static_cast<long long>(rig.workspace_bytes()), static_cast<long long>(bytes));
          bytes = rig.workspace_bytes();
        }
      }
  }
}

tl_memory_request request_of(const Batch& b, const std::vector<int32_t>& targets) {
  tl_memory_request request{};
  request.struct_size = sizeof request;
  request.tokens = b.tokens;
  request.max_segment = static_cast<int32_t>(b.longest);
  for (const int32_t t : targets) request.loss_tokens += t != TL_IGNORE_INDEX;
  request.adapters = static_cast<int32_t>(b.adapters.size());
  request.strip_columns = static_cast<int32_t>(b.strip_columns);
  return request;
}

TEST(recompute_is_the_first_policy_that_fits) {
  const random_model::Folder folder(spec_of("llama"));
  const std::vector<SlotSpec> one = {{16, 127, 0}};
  const int length = 180;
  // Tiers: inputs kept, nothing, mlp, layer.
  constexpr int32_t kTiers = 4;
  const int32_t policies[kTiers] = {TL_RECOMPUTE_NOTHING, TL_RECOMPUTE_NOTHING, TL_RECOMPUTE_MLP, TL_RECOMPUTE_LAYER};
  // One slot, so that the estimate is exact but for the number of segments, which the CPU's scratch does not depend on.
  int64_t need[kTiers];
  for (int32_t tier = 0; tier < kTiers; ++tier) {
    Rig rig(folder, one);
    rig.model->force_recompute(policies[tier]);
    if (tier == 1) rig.device->budget = rig.device->used + need[0] - 1;
    const Batch b = rig.batch({0}, 1, length);
    tl_memory_request request = request_of(b, rig.targets);
    rig.model->estimate(request);
    need[tier] = request.step_bytes;
    CHECK(request.recompute == policies[tier] && request.fits == 1 && request.available_bytes == rig.device->free_bytes());
    rig.run(b);
    CHECK_MSG(rig.workspace_bytes() == need[tier], "tier %d: estimate %lld, workspace %lld", tier, static_cast<long long>(need[tier]), static_cast<long long>(rig.workspace_bytes()));
  }
  for (int32_t tier = 1; tier < kTiers; ++tier) REQUIRE(need[tier - 1] > need[tier]);
  for (int32_t tier = 0; tier < kTiers; ++tier)
    for (const int64_t less : {0, 1}) {
      Rig rig(folder, one);
      // A small step before: its workspace must be given back, not counted twice.
      rig.run(rig.batch({0}, 2, 2));
      const int64_t kept = rig.workspace_bytes(), changes = rig.device->changes, used = rig.device->used;
      rig.device->budget = used - kept + need[tier] - less;
      const Batch b = rig.batch({0}, 1, length);
      tl_memory_request request = request_of(b, rig.targets);
      rig.model->estimate(request);
      const int32_t expected = tier + static_cast<int32_t>(less), last = kTiers - 1, got = std::min(expected, last);
      CHECK(request.available_bytes == need[tier] - less);
      CHECK(request.recompute == policies[got] && request.fits == (expected < kTiers) && request.step_bytes == need[got]);
      tl_memory_request beside = request;  // the same with slots that are not there yet
      beside.adapter_parameters = 100;
      rig.model->estimate(beside);
      CHECK(beside.adapter_bytes == 2400 && beside.fits == (beside.recompute < TL_RECOMPUTE_LAYER || need[last] + 2400 <= request.available_bytes));
      CHECK(beside.recompute >= request.recompute && rig.device->changes == changes);
      if (expected < kTiers) {
        rig.run(b);
        CHECK(rig.workspace_bytes() == need[expected]);
        rig.run(rig.batch({0}, 2, 2));
        CHECK(rig.workspace_bytes() == need[expected]);  // grows only
        continue;
      }
      try {
        rig.run(b);
        CHECK_MSG(false, "a step that does not fit was run");
      } catch (const Error& error) {
        const std::string text = error.what();
        CHECK(error.status() == TL_OUT_OF_MEMORY);
        for (const int64_t number : {b.tokens, need[last], need[tier] - less})
          CHECK_MSG(text.find(std::to_string(number)) != std::string::npos, "%lld is not in %s", static_cast<long long>(number), text.c_str());
      }
      CHECK(rig.device->changes == changes && rig.device->used == used && rig.workspace_bytes() == kept);
      for (const float g : rig.state(0, TL_STATE_WEIGHTS)) REQUIRE(std::isfinite(g));
      rig.run(rig.batch({0}, 2, 2));
      CHECK(rig.workspace_bytes() == kept);
      const Batch evaluated = rig.batch({-1}, 1, length, false);  // keeps nothing for backward
      rig.run(evaluated);
    }
}

TEST(step_transfers) {
  const random_model::Folder folder(spec_of("llama"));
  Rig rig(folder, {{8, 127, 0}});
  for (const bool train : {true, false}) {
    const Batch b = rig.batch({0}, 1, 40, train);
    rig.device->downloads = rig.device->uploads_after_download = 0;
    rig.run(b);
    CHECK(rig.device->downloads == 2 && rig.device->uploads_after_download == 0);  // losses and hits, at the end
  }
  const Batch b = rig.batch({0}, 1, 40, false);
  const std::vector<int64_t> rows = {0, 2};
  std::vector<float> logits(static_cast<size_t>(2 * rig.vocab));
  rig.device->downloads = 0;
  run_logits(*rig.model, b, rig.tokens.data(), rows.data(), 2, logits.data());
  CHECK(rig.device->downloads == 1);
}

TEST(offloaded_slots_leave_the_device_and_come_back) {
  const random_model::Folder folder(spec_of("llama"));
  const std::vector<SlotSpec> specs = {{8, 127, 0.1f}, {16, 127, 0}};
  std::vector<float> expected[4];
  for (const bool moving : {false, true}) {
    Rig rig(folder, specs);
    Adapter& a = *rig.slots[0];
    for (int step = 1; step <= 3; ++step) {
      if (moving && step == 2) {
        CHECK(!rig.model->may_have_gradient(a));
        std::vector<float> before[4];
        for (int s = 0; s < 4; ++s) before[s] = rig.state(0, s);
        const int64_t used = rig.device->used, bytes = rig.adapter_bytes();
        rig.model->offload_adapter(a);
        CHECK(a.offloaded && rig.device->used == used - 12 * a.elements && rig.adapter_bytes() == bytes - 12 * a.elements);
        for (int s = 0; s < 4; ++s) CHECK(rig.state(0, s) == before[s]);
        CHECK(a.offloaded && rig.device->used == used - 12 * a.elements);
        rig.model->clear_gradient(a);
        // Where there is no room for its moments, they cannot be read, and nothing changes.
        const int64_t budget = rig.device->budget;
        rig.device->budget = rig.device->used;
        try {
          rig.state(0, TL_STATE_MOMENT1);
          CHECK_MSG(false, "moments without memory");
        } catch (const Error& error) {
          CHECK(error.status() == TL_OUT_OF_MEMORY && a.offloaded);
        }
        rig.device->budget = budget;
        rig.run(rig.batch({1, 0}, 5, 30, false));  // evaluated all the same
        rig.run(rig.batch({1}, 6, 30));            // and the other trains
        rig.update({1}, 1);
        rig.model->restore_adapter(a);
        CHECK(!a.offloaded && rig.device->used >= used);
        for (int s = 0; s < 4; ++s) CHECK(rig.state(0, s) == before[s]);
      }
      rig.run(rig.batch({0}, step, 30));
      CHECK(rig.model->may_have_gradient(a));
      rig.update({0}, step);
    }
    for (int s = 0; s < 4; ++s) {
      const std::vector<float> state = rig.state(0, s);
      if (!moving) expected[s] = state;
      CHECK(state == expected[s]);
    }
    if (moving) rig.model->offload_adapter(a);
    rig.model->remove_adapter(1);  // offloaded or not
    rig.model->remove_adapter(2);
    CHECK(rig.adapter_bytes() == 0);
  }
}

}  // namespace
