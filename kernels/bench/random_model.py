"""Writes a random Hugging Face model folder of a named shape, for benches.

    python random_model.py {demo,smollm2-135m} DIR
"""
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    # The shape of tests/demo/base-model.
    "demo": dict(hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=8,
                 num_key_value_heads=4, head_dim=32, vocab_size=2048, max_position_embeddings=1024,
                 tie_word_embeddings=True),
    # HuggingFaceTB/SmolLM2-135M
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, head_dim=64, vocab_size=49152, max_position_embeddings=8192,
                         rope_theta=100000.0, tie_word_embeddings=True),
}

if __name__ == "__main__":
    shape, folder = sys.argv[1:]
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).float().save_pretrained(folder)
