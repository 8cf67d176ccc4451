// The whole model against an independent double-precision decoder, written naively below: losses, and every gradient element
// of two adapters (different rank, modules, dropout) by central differences of that decoder.
#include <cmath>
#include <functional>

#include "cpu/philox.h"
#include "engine.h"
#include "random_model.h"

namespace {

using Doubles = std::vector<double>;
const char* const kNames[7] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

struct Adapter {
  uint64_t slot;
  int rank;
  double scale;
  float dropout;
  uint64_t seed;
  std::vector<tl_tensor_desc> layout;
  Doubles weights;
};

class Reference {
 public:
  explicit Reference(const random_model::Folder& folder) : folder_(folder), s_(folder.spec()) {}

  // Sum of the cross-entropies of one sequence.
  double loss(const engine::Sequence& sequence, const Adapter& a, bool train) const {
    const int64_t n = static_cast<int64_t>(sequence.tokens.size()), d = s_.head_dim, q_columns = s_.heads * d, kv_columns = s_.kv_heads * d;
    Doubles h;
    for (const int32_t token : sequence.tokens)
      for (int c = 0; c < s_.hidden; ++c) h.push_back(folder_.tensor("model.embed_tokens.weight")[static_cast<size_t>(token * s_.hidden + c)]);
    for (int layer = 0; layer < s_.layers; ++layer) {
      const std::string at = "model.layers." + std::to_string(layer) + ".";
      auto linear = [&](int module, const Doubles& x, int64_t in, int64_t out) { return lora(x, n, in, out, layer, module, a, sequence.dropout_key, train); };
      const Doubles x1 = norm(h, s_.hidden, at + "input_layernorm.weight");
      Doubles q = linear(0, x1, s_.hidden, q_columns), k = linear(1, x1, s_.hidden, kv_columns);
      const Doubles v = linear(2, x1, s_.hidden, kv_columns);
      if (s_.type == "qwen3") {
        q = norm(q, d, at + "self_attn.q_norm.weight");
        k = norm(k, d, at + "self_attn.k_norm.weight");
      }
      rotate(q, n, s_.heads);
      rotate(k, n, s_.kv_heads);
      Doubles mixed(static_cast<size_t>(n * q_columns));
      for (int64_t head = 0; head < s_.heads; ++head)
        for (int64_t i = 0; i < n; ++i) {
          const int64_t g = head / (s_.heads / s_.kv_heads);
          Doubles p;
          double sum = 0;
          for (int64_t j = 0; j <= i; ++j) {
            double dot = 0;
            for (int64_t c = 0; c < d; ++c) dot += q[static_cast<size_t>(i * q_columns + head * d + c)] * k[static_cast<size_t>(j * kv_columns + g * d + c)];
            p.push_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
            sum += p.back();
          }
          for (int64_t j = 0; j <= i; ++j)
            for (int64_t c = 0; c < d; ++c)
              mixed[static_cast<size_t>(i * q_columns + head * d + c)] += p[static_cast<size_t>(j)] / sum * v[static_cast<size_t>(j * kv_columns + g * d + c)];
        }
      const Doubles o = linear(3, mixed, q_columns, s_.hidden);
      for (size_t i = 0; i < h.size(); ++i) h[i] += o[i];
      const Doubles x2 = norm(h, s_.hidden, at + "post_attention_layernorm.weight");
      Doubles gate = linear(4, x2, s_.hidden, s_.intermediate);
      const Doubles up = linear(5, x2, s_.hidden, s_.intermediate);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Doubles down = linear(6, gate, s_.intermediate, s_.hidden);
      for (size_t i = 0; i < h.size(); ++i) h[i] += down[i];
    }
    h = norm(h, s_.hidden, "model.norm.weight");
    const std::vector<float>& head = folder_.tensor(s_.tied ? "model.embed_tokens.weight" : "lm_head.weight");
    double total = 0;
    for (int64_t t = 0; t < n; ++t) {
      const int32_t target = sequence.targets[static_cast<size_t>(t)];
      if (target == TL_IGNORE_INDEX) continue;
      double sum = 0, at_target = 0;
      for (int o = 0; o < s_.vocab; ++o) {
        double logit = 0;
        for (int c = 0; c < s_.hidden; ++c) logit += h[static_cast<size_t>(t * s_.hidden + c)] * head[static_cast<size_t>(o * s_.hidden + c)];
        sum += std::exp(logit);
        if (o == target) at_target = logit;
      }
      total += std::log(sum) - at_target;
    }
    return total;
  }

 private:
  Doubles norm(const Doubles& x, int64_t width, const std::string& weight) const {
    const std::vector<float>& w = folder_.tensor(weight);
    Doubles y(x.size());
    for (size_t r = 0; r < x.size(); r += static_cast<size_t>(width)) {
      double sum = 0;
      for (size_t c = 0; c < static_cast<size_t>(width); ++c) sum += x[r + c] * x[r + c];
      const double inverse = 1 / std::sqrt(sum / static_cast<double>(width) + 1e-5);
      for (size_t c = 0; c < static_cast<size_t>(width); ++c) y[r + c] = x[r + c] * inverse * w[c];
    }
    return y;
  }
  void rotate(Doubles& x, int64_t n, int64_t heads) const {
    const int64_t d = s_.head_dim, half = d / 2;
    for (int64_t t = 0; t < n; ++t)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(t) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(d));
          double& lo = x[static_cast<size_t>((t * heads + h) * d + i)];
          double& hi = x[static_cast<size_t>((t * heads + h) * d + i + half)];
          const double new_lo = lo * std::cos(angle) - hi * std::sin(angle);
          hi = hi * std::cos(angle) + lo * std::sin(angle);
          lo = new_lo;
        }
  }
  Doubles lora(const Doubles& x, int64_t n, int64_t in, int64_t out, int layer, int module, const Adapter& a, uint64_t key, bool train) const {
    const std::string name = "model.layers." + std::to_string(layer) + "." + kNames[module];
    const std::vector<float>& w = folder_.tensor(name + ".weight");
    const std::vector<float>* bias = folder_.has(name + ".bias") ? &folder_.tensor(name + ".bias") : nullptr;
    const double *down = nullptr, *up = nullptr;
    for (const tl_tensor_desc& t : a.layout)
      if (t.layer == layer && t.module == module) (t.matrix ? up : down) = &a.weights[static_cast<size_t>(t.offset)];
    Doubles y(static_cast<size_t>(n * out));
    for (int64_t t = 0; t < n; ++t) {
      Doubles row(x.begin() + t * in, x.begin() + (t + 1) * in);
      for (int64_t o = 0; o < out; ++o) {
        double sum = bias ? (*bias)[static_cast<size_t>(o)] : 0.0f;
        for (int64_t c = 0; c < in; ++c) sum += row[static_cast<size_t>(c)] * w[static_cast<size_t>(o * in + c)];
        y[static_cast<size_t>(t * out + o)] = sum;
      }
      if (!down) continue;
      if (train && a.dropout > 0) {
        const tlora::cpu::DropoutMask mask(a.seed, key, layer, module, a.dropout);
        for (int64_t c = 0; c < in; c += tlora::cpu::DropoutMask::kChunk) {
          float factor[tlora::cpu::DropoutMask::kChunk];
          mask.factors(t, c, 1.0f / (1.0f - a.dropout), factor);
          for (int64_t i = c; i < std::min<int64_t>(in, c + tlora::cpu::DropoutMask::kChunk); ++i) row[static_cast<size_t>(i)] *= factor[i - c];
        }
      }
      for (int r = 0; r < a.rank; ++r) {
        double strip = 0;
        for (int64_t c = 0; c < in; ++c) strip += row[static_cast<size_t>(c)] * down[r * in + c];
        for (int64_t o = 0; o < out; ++o) y[static_cast<size_t>(t * out + o)] += a.scale * strip * up[o * a.rank + r];
      }
    }
    return y;
  }

  const random_model::Folder& folder_;
  const random_model::Spec& s_;
};

engine::Sequence sequence(uint64_t slot, int length, int vocab, uint64_t seed, float scale) {
  std::mt19937_64 random(seed);
  engine::Sequence s;
  s.slot = slot;
  s.dropout_key = seed;
  s.loss_scale = scale;
  for (int i = 0; i < length; ++i) {
    s.tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
    s.targets.push_back(i % 4 == 1 ? TL_IGNORE_INDEX : static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
  }
  return s;
}

void check_model(const random_model::Spec& spec, float dropout) {
  const random_model::Folder folder(spec);
  const Reference reference(folder);
  engine::Model model(folder.path(), 2);
  std::vector<Adapter> adapters;
  const uint32_t all = 127, some = 1u << TL_V_PROJ | 1u << TL_O_PROJ | 1u << TL_UP_PROJ;
  adapters.push_back({model.add(3, all, 21, 0, 5.0f), 3, 5.0 / 3, 0, 21, {}, {}});
  adapters.push_back({model.add(2, some, 22, dropout, 3.0f, true), 2, 3.0 / std::sqrt(2.0), dropout, 22, {}, {}});
  std::mt19937_64 random(5);
  for (Adapter& a : adapters) {
    a.layout = model.layout(a.slot);
    std::vector<float> weights(static_cast<size_t>(model.elements(a.slot)));
    for (float& w : weights) w = static_cast<float>(0.3 * (static_cast<double>(random() >> 11) * 0x1p-52 - 1.0));
    model.set(a.slot, TL_STATE_WEIGHTS, weights);
    a.weights.assign(weights.begin(), weights.end());
  }
  const std::vector<engine::Sequence> batch = {sequence(adapters[0].slot, 7, spec.vocab, 1, 0.3f), sequence(adapters[1].slot, 5, spec.vocab, 2, 0.7f),
                                               sequence(adapters[1].slot, 3, spec.vocab, 3, 0.7f), sequence(adapters[0].slot, 2, spec.vocab, 4, 0.1f)};
  const std::vector<tl_segment_result> trained = model.run(batch, true);
  const std::vector<tl_segment_result> evaluated = model.run(batch, false);
  auto adapter_of = [&](const engine::Sequence& s) -> Adapter& { return s.slot == adapters[0].slot ? adapters[0] : adapters[1]; };
  for (size_t i = 0; i < batch.size(); ++i) {
    const double train_loss = reference.loss(batch[i], adapter_of(batch[i]), true), plain = reference.loss(batch[i], adapter_of(batch[i]), false);
    CHECK_MSG(std::fabs(trained[i].loss_sum - train_loss) < 2e-6 * train_loss, "sequence %zu: loss %.9g, expected %.9g", i, trained[i].loss_sum, train_loss);
    CHECK_MSG(std::fabs(evaluated[i].loss_sum - plain) < 2e-6 * plain, "sequence %zu: evaluation %.9g, expected %.9g", i, evaluated[i].loss_sum, plain);
  }
  for (Adapter& a : adapters) {
    const std::vector<float> gradient = model.get(a.slot, TL_STATE_GRADIENT);
    auto loss = [&] {
      double sum = 0;
      for (const engine::Sequence& s : batch)
        if (s.slot == a.slot) sum += double{s.loss_scale} * reference.loss(s, a, true);
      return sum;
    };
    for (const tl_tensor_desc& t : a.layout) {
      double error = 0, largest = 0;
      for (int64_t i = t.offset; i < t.offset + t.rows * t.columns; ++i) {
        double& w = a.weights[static_cast<size_t>(i)];
        const double kept = w, eps = 1e-4;
        w = kept + eps;
        const double up = loss();
        w = kept - eps;
        const double down = loss();
        w = kept;
        const double difference = (up - down) / (2 * eps);
        error = std::max(error, std::fabs(difference - gradient[static_cast<size_t>(i)]));
        largest = std::max(largest, std::fabs(difference));
      }
      CHECK_MSG(error <= 2e-5 * largest && largest > 1e-4, "layer %d module %d %c: error %.3g of largest %.3g", t.layer, t.module, "AB"[t.matrix], error, largest);
    }
  }
}

random_model::Spec spec_of(const std::string& type, bool tied) {
  random_model::Spec spec;
  spec.type = type;
  spec.tied = tied;
  return spec;
}

TEST(gradient_llama) { check_model(spec_of("llama", false), 0); }
TEST(gradient_llama_tied_with_dropout) { check_model(spec_of("llama", true), 0.3f); }
TEST(gradient_qwen2) { check_model(spec_of("qwen2", true), 0); }
TEST(gradient_qwen3_with_dropout) {
  random_model::Spec spec = spec_of("qwen3", false);
  spec.heads = 3;
  spec.kv_heads = 1;
  spec.head_dim = 10;
  check_model(spec, 0.2f);
}
TEST(gradient_mistral) { check_model(spec_of("mistral", false), 0); }

}  // namespace
