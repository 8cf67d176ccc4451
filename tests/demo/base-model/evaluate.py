"""Measures what the demo base model can do, one skill of the corpus at a time.

    python evaluate.py [--model DIR]

Each sample is a chat whose first turn is already answered, which shows the
wanted format; the second answer counts when every token of it, end token
included, is the greedy choice.  Samples come from a seed pretraining never used.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from corpus import ASSISTANT, BOS, END, SKILLS, USER, Drill, combine, story_request_drill
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

HERE = Path(__file__).parent
SEED = 950_000


def dialogue(drill: Drill, rng: random.Random) -> tuple[str, str]:
    (first_text, first_answer), (text, answer) = drill.pairs[:2]
    opening = combine(rng, drill.instruction, first_text)
    prompt = f"{BOS}{USER}{opening}{END}{ASSISTANT}{first_answer}{END}{USER}{text}{END}{ASSISTANT}"
    return prompt, answer + END


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--samples", type=int, default=200)
    arguments = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    for index, (maker, _) in enumerate(SKILLS):
        if maker is story_request_drill:
            continue  # free text has no single right answer
        rng = random.Random(SEED + index)
        correct = total = 0
        while total < arguments.samples:
            drill = maker(rng)
            if len(drill.pairs) < 2:
                continue
            prompt, answer = dialogue(drill, rng)
            prompt_ids, answer_ids = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
            ids = torch.tensor([prompt_ids + answer_ids])
            if ids.shape[1] > model.config.max_position_embeddings:
                continue
            best = model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1].argmax(-1)
            correct += best.tolist() == answer_ids
            total += 1
        print(f"{maker.__name__.removesuffix('_drill')}: {correct / total:.1%}", flush=True)


if __name__ == "__main__":
    main()
