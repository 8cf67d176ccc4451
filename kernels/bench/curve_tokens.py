"""Token ids for the loss curve: chats of the demo model's own corpus whose answers are upper-cased, which it must learn.

    python curve_tokens.py > tokens.txt         one sequence a line, 800 of at most 64 tokens
"""
import pathlib
import random
import sys

from tokenizers import Tokenizer

BASE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "demo" / "base-model"
sys.path.insert(0, str(BASE))
from corpus import Drill, chat, word_drill  # noqa: E402

tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
rng = random.Random(2_000_000)
for _ in range(800):
    drill = word_drill(rng)
    drill = Drill(drill.instruction, [(text, answer.upper()) for text, answer in drill.pairs])
    print(*tokenizer.encode(chat(drill, rng)).ids[:64])
