/** A random two-layer Llama with a byte-level tokenizer, small enough to make and train anywhere in milliseconds. */

import { lehmer } from "../engine/testing/shards.ts";
import { type TensorInput, writeSafetensors } from "../peft/safetensors.ts";

const shape = { hidden: 32, intermediate: 64, layers: 2, heads: 2, kvHeads: 1, headDim: 16, positions: 256 };
const special = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"];
const vocab = 256 + special.length;

/** GPT-2's printable stand-in for each byte. */
function byteSymbols(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

export async function writeTinyModel(folder: string, seed = 1): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const { hidden, intermediate, layers, heads, kvHeads, headDim, positions } = shape;
  await write(folder, "config.json", {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    max_position_embeddings: positions,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
    attention_bias: false,
    mlp_bias: false,
    vocab_size: vocab,
    bos_token_id: 256,
    eos_token_id: 257,
    torch_dtype: "float32",
  });

  const draw = lehmer(seed);
  const tensor = (name: string, rows: number, columns: number): TensorInput => {
    const scale = 1 / Math.sqrt(columns);
    const data = Float32Array.from({ length: rows * columns }, () => (draw() / 2147483647 * 2 - 1) * 1.7 * scale);
    return { name, dtype: "F32", shape: [rows, columns], data };
  };
  const ones = (name: string): TensorInput => ({
    name,
    dtype: "F32",
    shape: [hidden],
    data: new Float32Array(hidden).fill(1),
  });
  const tensors = [tensor("model.embed_tokens.weight", vocab, hidden), ones("model.norm.weight")];
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    tensors.push(
      ones(`${at}.input_layernorm.weight`),
      ones(`${at}.post_attention_layernorm.weight`),
      tensor(`${at}.self_attn.q_proj.weight`, heads * headDim, hidden),
      tensor(`${at}.self_attn.k_proj.weight`, kvHeads * headDim, hidden),
      tensor(`${at}.self_attn.v_proj.weight`, kvHeads * headDim, hidden),
      tensor(`${at}.self_attn.o_proj.weight`, hidden, heads * headDim),
      tensor(`${at}.mlp.gate_proj.weight`, intermediate, hidden),
      tensor(`${at}.mlp.up_proj.weight`, intermediate, hidden),
      tensor(`${at}.mlp.down_proj.weight`, hidden, intermediate),
    );
  }
  await Deno.writeFile(`${folder}/model.safetensors`, writeSafetensors(tensors, { format: "pt" }));

  const symbols = byteSymbols();
  await write(folder, "tokenizer.json", {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, i) => ({
      id: 256 + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries([...symbols, ...special].map((symbol, id) => [symbol, id])),
      merges: [],
    },
  });
  await write(folder, "tokenizer_config.json", {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: "<|bos|>",
    eos_token: "<|end|>",
    pad_token: "<|end|>",
    add_bos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: positions,
    chat_template: "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}" +
      "{{ '<|user|>' + message['content'] + '<|end|>' }}{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}" +
      "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
  });
}

async function write(folder: string, name: string, value: unknown): Promise<void> {
  await Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value, null, 2));
}

/** Chat lines about nothing, different for each seed. */
export function chatLines(seed: number, count: number): string {
  const draw = lehmer(seed);
  const word = (): string => Array.from({ length: 2 + draw() % 6 }, () => "abcdefghij"[draw() % 10]).join("");
  return Array.from({ length: count }, () => {
    const asked = Array.from({ length: 1 + draw() % 4 }, word).join(" ");
    return JSON.stringify({
      messages: [{ role: "user", content: asked }, { role: "assistant", content: asked.toUpperCase() }],
    });
  }).join("\n") + "\n";
}
