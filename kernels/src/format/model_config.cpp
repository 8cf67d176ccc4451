#include "format/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "error.h"
#include "format/json.h"

namespace tlora {

namespace {

constexpr int64_t kMaxConfigBytes = 4 << 20;
// Far above any published model, and low enough that no product of two dimensions overflows 64 bits.
constexpr int64_t kMaxDimension = 1 << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// Typed access to the members of one object of config.json. A key that is null counts as absent, as in transformers.
class Fields {
 public:
  Fields(const std::string& file, const std::string& prefix, const Json& object)
      : file_(file), prefix_(prefix), object_(object) {}

  [[noreturn]] void bad(const std::string& key, const std::string& rule) const { raise(TL_BAD_FILE, key, rule); }
  [[noreturn]] void unsupported(const std::string& key, const std::string& rule) const {
    raise(TL_UNSUPPORTED, key, rule);
  }

  const Json* find(const std::string& key) const {
    const Json* value = object_.find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  bool has_null(const std::string& key) const {
    const Json* value = object_.find(key);
    return value != nullptr && value->is_null();
  }

  int64_t integer(const std::string& key, int64_t low, int64_t high, std::optional<int64_t> fallback = {}) const {
    const Json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      raise(TL_BAD_FILE, key, "required");
    }
    if (value->integer() == nullptr || *value->integer() < low || *value->integer() > high) {
      bad(key, "expected an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return *value->integer();
  }

  int32_t dimension(const std::string& key, std::optional<int64_t> fallback = {}) const {
    return static_cast<int32_t>(integer(key, 1, kMaxDimension, fallback));
  }

  // A finite number above zero.
  double positive(const std::string& key, std::optional<double> fallback = {}) const {
    const Json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      raise(TL_BAD_FILE, key, "required");
    }
    const std::optional<double> number = value->number();
    if (!number || !(*number > 0)) bad(key, "expected a number above 0");
    return *number;
  }

  bool boolean(const std::string& key, bool fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (value->boolean() == nullptr) bad(key, "expected true or false");
    return *value->boolean();
  }

  std::string string(const std::string& key, const std::optional<std::string>& fallback = {}) const {
    const Json* value = find(key);
    if (value == nullptr) {
      if (fallback) return *fallback;
      raise(TL_BAD_FILE, key, "required");
    }
    if (value->string() == nullptr) bad(key, "expected a string");
    return *value->string();
  }

  std::optional<Fields> object(const std::string& key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->object() == nullptr) bad(key, "expected an object");
    return Fields(file_, prefix_ + key + ".", *value);
  }

 private:
  [[noreturn]] void raise(tl_status status, const std::string& key, const std::string& rule) const {
    const Json* value = object_.find(key);
    throw Error(status, quoted(file_) + ": " + prefix_ + key + ": " + rule + ", found " +
                            (value == nullptr ? "no such key" : value->brief()));
  }

  const std::string& file_;
  std::string prefix_;
  const Json& object_;
};

struct Family {
  const char* model_type;
  const char* class_name;
  int32_t architecture;
  bool qkv_bias;
  bool qk_norm;
  // What transformers takes for an absent key.
  int64_t max_positions;
};

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", TL_ARCH_LLAMA, false, false, 2048},
    {"qwen2", "Qwen2ForCausalLM", TL_ARCH_QWEN2, true, false, 32768},
    {"qwen3", "Qwen3ForCausalLM", TL_ARCH_QWEN3, false, true, 32768},
    {"mistral", "MistralForCausalLM", TL_ARCH_MISTRAL, false, false, 131072},
};

const Family& find_family(const Fields& fields) {
  const std::string model_type = fields.string("model_type");
  for (const Family& family : kFamilies) {
    if (model_type != family.model_type) continue;
    // A classifier, an encoder or a derived class shares the model_type but not the maths or the tensor names.
    if (const Json* names = fields.find("architectures")) {
      if (names->array() == nullptr) fields.bad("architectures", "expected an array of strings");
      const bool named = std::any_of(names->array()->begin(), names->array()->end(), [&](const Json& name) {
        return name.string() != nullptr && *name.string() == family.class_name;
      });
      if (!named) {
        const auto& array = *names->array();
        fields.unsupported("architectures", std::string("expected ") + family.class_name + " in it" +
                                                (array.empty() ? "" : ", its first entry is " + array[0].brief()));
      }
    }
    return family;
  }
  fields.unsupported("model_type", "only llama, qwen2, qwen3 and mistral are supported");
}

void refuse_what_would_be_computed_wrongly(const Fields& fields, const Family& family) {
  if (fields.string("hidden_act", "silu") != "silu") fields.unsupported("hidden_act", "only \"silu\" is supported");
  // Qwen2 has biases on q, k and v whatever the key says; in the other families the key would add one on o_proj too.
  if (family.architecture != TL_ARCH_QWEN2 && fields.boolean("attention_bias", false)) {
    fields.unsupported("attention_bias", "only false is supported");
  }
  if (fields.boolean("mlp_bias", false)) fields.unsupported("mlp_bias", "only false is supported");
  if (fields.boolean("rope_interleaved", false)) fields.unsupported("rope_interleaved", "only false is supported");
  if (fields.find("quantization_config") != nullptr) {
    fields.unsupported("quantization_config", "quantised weights are not supported");
  }
}

void refuse_partial_rotary(const Fields& fields) {
  if (fields.positive("partial_rotary_factor", 1.0) != 1.0) {
    fields.unsupported("partial_rotary_factor", "only 1.0 is supported");
  }
}

// Out of line, so that the product is rounded on its own: inline, the compiler fuses it with an addition.
[[gnu::noinline]] float product(float a, float b) { return a * b; }

// The frequencies of one rope object (rope_scaling or rope_parameters), or the plain ones when it is absent. Every operation
// is rounded to fp32 where transformers does so: at position 100,000 one unit in the last place of a frequency is 0.006 rad.
std::vector<float> frequencies_of(const Fields& fields, const std::optional<Fields>& rope, int64_t max_positions,
                                  int32_t head_dim) {
  double theta = fields.positive("rope_theta", 10000.0);
  std::string type = "default";
  if (rope) {
    refuse_partial_rotary(*rope);
    if (rope->find("full_attention") != nullptr || rope->find("sliding_attention") != nullptr) {
      rope->unsupported(rope->find("full_attention") != nullptr ? "full_attention" : "sliding_attention",
                        "rope parameters by layer type are not supported");
    }
    const double inner = rope->positive("rope_theta", theta);
    if (fields.find("rope_theta") != nullptr && inner != theta) {
      rope->bad("rope_theta", "contradicts rope_theta " + fields.find("rope_theta")->brief() + " outside");
    }
    theta = inner;
    // "type" is the name that older files use.
    const std::string key = rope->find("rope_type") == nullptr && rope->find("type") != nullptr ? "type" : "rope_type";
    type = rope->string(key, "default");
    if (type != "default" && type != "linear" && type != "llama3") {
      rope->unsupported(key, "only default, linear and llama3 are supported");
    }
  }

  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
  if (type == "default") return frequencies;

  const double factor = rope->positive("factor");
  if (factor < 1) rope->bad("factor", "expected a number of at least 1");
  if (type == "linear") {
    for (float& frequency : frequencies) frequency /= static_cast<float>(factor);
    return frequencies;
  }

  const double low = rope->positive("low_freq_factor");
  const double high = rope->positive("high_freq_factor");
  if (!(high > low)) {
    rope->bad("high_freq_factor", "expected a number above low_freq_factor " + rope->find("low_freq_factor")->brief());
  }
  const double original = static_cast<double>(rope->integer("original_max_position_embeddings", 1, kMaxInt32, max_positions));
  const auto low_wavelength = static_cast<float>(original / low);
  const auto high_wavelength = static_cast<float>(original / high);
  for (float& frequency : frequencies) {
    const float wavelength = static_cast<float>(2 * M_PI) / frequency;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      frequency /= static_cast<float>(factor);
      continue;
    }
    const float smooth =
        (static_cast<float>(original) / wavelength - static_cast<float>(low)) / static_cast<float>(high - low);
    frequency = product(1.0f - smooth, frequency) / static_cast<float>(factor) + product(smooth, frequency);
  }
  return frequencies;
}

// Older files say rope_scaling and rope_theta, newer ones rope_parameters; some carry both for old and new readers.
std::vector<float> rope_frequencies(const Fields& fields, int64_t max_positions, int32_t head_dim) {
  refuse_partial_rotary(fields);
  const std::optional<Fields> scaling = fields.object("rope_scaling");
  const std::optional<Fields> parameters = fields.object("rope_parameters");
  std::vector<float> frequencies = frequencies_of(fields, parameters ? parameters : scaling, max_positions, head_dim);
  if (scaling && parameters && frequencies_of(fields, scaling, max_positions, head_dim) != frequencies) {
    fields.bad("rope_scaling", "contradicts rope_parameters");
  }
  for (const float frequency : frequencies) {
    if (!std::isfinite(frequency) || !(frequency > 0)) {
      const std::string key = parameters ? "rope_parameters" : scaling ? "rope_scaling" : "rope_theta";
      fields.bad(key, "gives a RoPE frequency that is not a positive fp32 number");
    }
  }
  return frequencies;
}

// The positions that full causal attention computes exactly: a window of w tokens changes nothing in sequences of at most
// w. Layer types are read as transformers does: absent, they follow from use_sliding_window and max_window_layers.
int64_t cut_to_window(const Fields& fields, const Family& family, int64_t max_positions, int32_t layers) {
  bool windowed = family.architecture == TL_ARCH_MISTRAL;
  if (family.architecture == TL_ARCH_QWEN2 || family.architecture == TL_ARCH_QWEN3) {
    windowed = fields.boolean("use_sliding_window", false) && fields.integer("max_window_layers", 0, kMaxInt32, 28) < layers;
  }
  if (const Json* types = fields.find("layer_types")) {
    if (types->array() == nullptr || types->array()->size() != static_cast<size_t>(layers)) {
      fields.bad("layer_types", "expected an array of num_hidden_layers " + std::to_string(layers));
    }
    bool sliding = false;
    for (const Json& type : *types->array()) {
      if (type.string() != nullptr && *type.string() == "full_attention") continue;
      if (type.string() == nullptr || *type.string() != "sliding_attention") {
        fields.unsupported("layer_types", "only full_attention and sliding_attention are supported, one entry is " + type.brief());
      }
      sliding = true;
    }
    // Mistral applies its window to every layer whatever the list says.
    if (family.architecture != TL_ARCH_MISTRAL) windowed = sliding;
  }
  if (!windowed) return max_positions;
  // null means no window; for an absent key Mistral and Qwen take 4096.
  if (fields.has_null("sliding_window")) return max_positions;
  const int64_t fallback = family.architecture == TL_ARCH_LLAMA ? kMaxInt32 : 4096;
  return std::min(max_positions, fields.integer("sliding_window", 1, kMaxInt32, fallback));
}

}  // namespace

ModelConfig load_model_config(const std::string& folder) {
  const std::string file = folder + "/config.json";
  const Json document = read_json_file(file, kMaxConfigBytes);
  if (document.object() == nullptr) {
    throw Error(TL_BAD_FILE, quoted(file) + ": expected an object, found " + document.brief());
  }
  const Fields fields(file, "", document);
  const Family& family = find_family(fields);
  refuse_what_would_be_computed_wrongly(fields, family);

  ModelConfig config;
  config.architecture = family.architecture;
  config.qkv_bias = family.qkv_bias;
  config.qk_norm = family.qk_norm;
  config.hidden = fields.dimension("hidden_size");
  config.layers = static_cast<int32_t>(fields.integer("num_hidden_layers", 1, kMaxLayers));
  config.heads = fields.dimension("num_attention_heads");
  config.intermediate = fields.dimension("intermediate_size");
  config.vocab = fields.dimension("vocab_size");
  config.tied_embeddings = fields.boolean("tie_word_embeddings", false);

  config.kv_heads = fields.dimension("num_key_value_heads", config.heads);
  if (config.heads % config.kv_heads != 0) {
    fields.bad("num_key_value_heads", "expected a divisor of num_attention_heads " + std::to_string(config.heads));
  }
  if (fields.find("head_dim") == nullptr && family.architecture != TL_ARCH_QWEN3 && config.hidden % config.heads != 0) {
    fields.bad("num_attention_heads", "expected a divisor of hidden_size " + std::to_string(config.hidden) +
                                          " where head_dim is absent");
  }
  config.head_dim = fields.dimension("head_dim", family.architecture == TL_ARCH_QWEN3 ? 128 : config.hidden / config.heads);
  if (config.head_dim % 2 != 0) {
    fields.bad("head_dim", "expected an even number, it is " + std::to_string(config.head_dim));
  }
  if (static_cast<int64_t>(config.heads) * config.head_dim > kMaxDimension) {
    fields.bad("num_attention_heads", "times head_dim " + std::to_string(config.head_dim) + " must be at most " +
                                          std::to_string(kMaxDimension));
  }

  config.rms_eps = static_cast<float>(fields.positive("rms_norm_eps", 1e-6));
  if (!(config.rms_eps > 0 && config.rms_eps < 1)) fields.bad("rms_norm_eps", "expected an fp32 number above 0 and below 1");

  const int64_t max_positions = fields.integer("max_position_embeddings", 1, kMaxInt32, family.max_positions);
  config.inverse_frequencies = rope_frequencies(fields, max_positions, config.head_dim);
  config.max_positions = static_cast<int32_t>(cut_to_window(fields, family, max_positions, config.layers));
  return config;
}

}  // namespace tlora
