// Writes a tiny random model folder (config.json and model.safetensors, fp32) and reads it back as doubles.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace random_model {

struct Spec {
  std::string type = "llama";  // llama, qwen2, qwen3, mistral
  int hidden = 24, layers = 2, heads = 4, kv_heads = 2, head_dim = 8, intermediate = 40, vocab = 37, max_positions = 512;
  bool tied = false;
  double scale = 0.25;  // of the weights: large enough for every gradient to matter
  uint64_t seed = 1;
};

// A temporary folder with the model; removed with the object.
class Folder {
 public:
  explicit Folder(const Spec& spec) : spec_(spec) {
    std::string pattern = (std::filesystem::temp_directory_path() / "tlora-model-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed for " + pattern);
    path_ = pattern;
    make_tensors();
    write();
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  const std::string& path() const { return path_; }
  const Spec& spec() const { return spec_; }
  const std::vector<float>& tensor(const std::string& name) const { return tensors_.at(name).values; }
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  void add(const std::string& name, std::vector<int64_t> shape, double mean, double scale) {
    Tensor t{shape, {}};
    int64_t count = 1;
    for (const int64_t s : shape) count *= s;
    for (int64_t i = 0; i < count; ++i)
      t.values.push_back(static_cast<float>(mean + scale * (static_cast<double>(random_() >> 11) * 0x1p-52 - 1.0)));
    tensors_[name] = std::move(t);
  }

  void make_tensors() {
    random_.seed(spec_.seed);
    const Spec& s = spec_;
    const int64_t q = int64_t{s.heads} * s.head_dim, kv = int64_t{s.kv_heads} * s.head_dim;
    add("model.embed_tokens.weight", {s.vocab, s.hidden}, 0, 1.0);
    for (int i = 0; i < s.layers; ++i) {
      const std::string at = "model.layers." + std::to_string(i) + ".";
      add(at + "self_attn.q_proj.weight", {q, s.hidden}, 0, s.scale);
      add(at + "self_attn.k_proj.weight", {kv, s.hidden}, 0, s.scale);
      add(at + "self_attn.v_proj.weight", {kv, s.hidden}, 0, s.scale);
      add(at + "self_attn.o_proj.weight", {s.hidden, q}, 0, s.scale);
      add(at + "mlp.gate_proj.weight", {s.intermediate, s.hidden}, 0, s.scale);
      add(at + "mlp.up_proj.weight", {s.intermediate, s.hidden}, 0, s.scale);
      add(at + "mlp.down_proj.weight", {s.hidden, s.intermediate}, 0, s.scale);
      add(at + "input_layernorm.weight", {s.hidden}, 1, 0.3);
      add(at + "post_attention_layernorm.weight", {s.hidden}, 1, 0.3);
      if (s.type == "qwen2") {
        add(at + "self_attn.q_proj.bias", {q}, 0, 0.5);
        add(at + "self_attn.k_proj.bias", {kv}, 0, 0.5);
        add(at + "self_attn.v_proj.bias", {kv}, 0, 0.5);
      }
      if (s.type == "qwen3") {
        add(at + "self_attn.q_norm.weight", {s.head_dim}, 1, 0.3);
        add(at + "self_attn.k_norm.weight", {s.head_dim}, 1, 0.3);
      }
    }
    add("model.norm.weight", {s.hidden}, 1, 0.3);
    if (!s.tied) add("lm_head.weight", {s.vocab, s.hidden}, 0, 0.5);
  }

  void write() const {
    const Spec& s = spec_;
    const std::map<std::string, std::string> classes = {
        {"llama", "LlamaForCausalLM"}, {"qwen2", "Qwen2ForCausalLM"}, {"qwen3", "Qwen3ForCausalLM"}, {"mistral", "MistralForCausalLM"}};
    std::ofstream(path_ + "/config.json")
        << "{\"architectures\":[\"" << classes.at(s.type) << "\"],\"model_type\":\"" << s.type << "\",\"hidden_size\":" << s.hidden
        << ",\"num_hidden_layers\":" << s.layers << ",\"num_attention_heads\":" << s.heads << ",\"num_key_value_heads\":" << s.kv_heads
        << ",\"head_dim\":" << s.head_dim << ",\"intermediate_size\":" << s.intermediate << ",\"vocab_size\":" << s.vocab
        << ",\"max_position_embeddings\":" << s.max_positions << ",\"tie_word_embeddings\":" << (s.tied ? "true" : "false")
        << ",\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"hidden_act\":\"silu\"}";
    std::string header = "{", data;
    for (const auto& [name, t] : tensors_) {
      std::string shape;
      for (const int64_t v : t.shape) shape += (shape.empty() ? "" : ",") + std::to_string(v);
      const size_t first = data.size();
      data.append(reinterpret_cast<const char*>(t.values.data()), t.values.size() * 4);
      header += (header.size() > 1 ? ",\"" : "\"") + name + "\":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[" +
                std::to_string(first) + "," + std::to_string(data.size()) + "]}";
    }
    header += "}";
    while (header.size() % 8) header += ' ';
    const uint64_t length = header.size();
    std::ofstream file(path_ + "/model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), 8);
    file << header << data;
  }

  Spec spec_;
  std::string path_;
  std::mt19937_64 random_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace random_model
