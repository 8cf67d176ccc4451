"""Writes a random Hugging Face model folder of a named shape, for benches: bf16 weights N(0, 0.02), norms one, biases zero.
16 GB take seconds: all tensors are cut from one block of random values.

    python random_model.py SHAPE DIR [--layers N]        SHAPE: see SHAPES
"""
import argparse
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SHAPES = {
    # The shape of tests/demo/base-model.
    "demo": dict(model_type="llama", hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=8,
                 num_key_value_heads=4, head_dim=32, vocab_size=2048, max_position_embeddings=1024,
                 tie_word_embeddings=True),
    # HuggingFaceTB/SmolLM2-135M
    "smollm2-135m": dict(model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3, head_dim=64, vocab_size=49152,
                         max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True),
    # Qwen/Qwen2.5-0.5B
    "qwen2.5-0.5b": dict(model_type="qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                         num_attention_heads=14, num_key_value_heads=2, head_dim=64, vocab_size=151936,
                         max_position_embeddings=32768, rope_theta=1000000.0, rms_norm_eps=1e-6,
                         tie_word_embeddings=True),
    # meta-llama/Meta-Llama-3-8B
    "llama3-8b": dict(model_type="llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                      num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
                      max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False),
    # Qwen/Qwen3-8B
    "qwen3-8b": dict(model_type="qwen3", hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=151936,
                     max_position_embeddings=40960, rope_theta=1000000.0, rms_norm_eps=1e-6, tie_word_embeddings=False),
}
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

BLOCK = 64 << 20  # random values, 128 MB as bf16
PIECE = 16 << 20  # values written at a time; each piece begins elsewhere in the block


def config_of(shape, layers=None):
    config = dict(architectures=[CLASSES[SHAPES[shape]["model_type"]]], hidden_act="silu", attention_bias=False,
                  rope_theta=10000.0, rms_norm_eps=1e-5, initializer_range=0.02, torch_dtype="bfloat16", use_cache=True)
    config.update(SHAPES[shape])
    if layers:
        config["num_hidden_layers"] = layers
    return config


def tensors_of(config):
    """Names and shapes in file order."""
    hidden, ff, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    tensors = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        tensors[layer + "input_layernorm.weight"] = (hidden,)
        for name, shape in dict(q_proj=(q, hidden), k_proj=(kv, hidden), v_proj=(kv, hidden), o_proj=(hidden, q)).items():
            tensors[f"{layer}self_attn.{name}.weight"] = shape
            if config["model_type"] == "qwen2" and name != "o_proj":
                tensors[f"{layer}self_attn.{name}.bias"] = shape[:1]
        if config["model_type"] == "qwen3":
            tensors[layer + "self_attn.q_norm.weight"] = tensors[layer + "self_attn.k_norm.weight"] = (head,)
        tensors[layer + "post_attention_layernorm.weight"] = (hidden,)
        for name, shape in dict(gate_proj=(ff, hidden), up_proj=(ff, hidden), down_proj=(hidden, ff)).items():
            tensors[f"{layer}mlp.{name}.weight"] = shape
    tensors["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = (config["vocab_size"], hidden)
    return tensors


def bf16(values):
    """float32 to bf16 bits, to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write(shape, folder, layers=None):
    config = config_of(shape, layers)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=2)

    header, offset = {"__metadata__": {"format": "pt"}}, 0
    tensors = tensors_of(config)
    for name, dims in tensors.items():
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)

    random = np.random.default_rng(0)
    block = bf16(random.standard_normal(min(BLOCK, max(offset // 2, 1 << 16)), dtype=np.float32) * np.float32(0.02))
    ones = bf16(np.ones(max(config["hidden_size"], config["head_dim"]), dtype=np.float32))
    pieces = []  # place in the file, values
    for name, dims in tensors.items():
        place = 8 + len(text) + header[name]["data_offsets"][0]
        count = int(np.prod(dims))
        if name.endswith("norm.weight"):
            pieces.append((place, ones[:count]))
        elif name.endswith(".bias"):
            pieces.append((place, np.zeros(count, np.uint16)))
        else:
            for first in range(0, count, PIECE):
                length = min(PIECE, count - first)
                start = int(random.integers(0, len(block) - length + 1))
                pieces.append((place + 2 * first, block[start:start + length]))

    file = os.open(os.path.join(folder, "model.safetensors"), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)

    def put(piece):
        place, values = piece
        data = memoryview(values).cast("B")
        while data:
            written = os.pwrite(file, data, place)
            place, data = place + written, data[written:]

    try:
        os.pwrite(file, struct.pack("<Q", len(text)) + text, 0)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, pieces))
    finally:
        os.close(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder")
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    write(args.shape, args.folder, args.layers)
