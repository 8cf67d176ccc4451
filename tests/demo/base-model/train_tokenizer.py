"""Trains the demo base model's byte-level BPE tokenizer on the synthetic corpus.

Writes tokenizer.json and tokenizer_config.json.  Only components that the pure
JavaScript reader `@huggingface/tokenizers` also implements are used.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from corpus import ASSISTANT, BOS, END, EOS, PAD, SPECIAL_TOKENS, USER, documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 2048
MAX_LENGTH = 512
TOKENIZER_SEED = 7
SAMPLE_DOCUMENTS = 60_000

# A system turn has no marker of its own: it is the text between <|bos|> and the
# first <|end|>.  The {% generation %} block is what a trainer computes loss on.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ message['content'] + '" + END + "' }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '" + USER + "' + message['content'] + '" + END + "' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '" + ASSISTANT + "' }}"
    "{% generation %}{{ message['content'] + '" + END + "' }}{% endgeneration %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)


SPECIAL_PATTERN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def plain_texts(count: int) -> Iterator[str]:
    # the trainer does not know the markers in its input, and would spend merges on their letters
    for document in islice(documents(TOKENIZER_SEED), count):
        yield from filter(None, SPECIAL_PATTERN.split(document))


def train(sample_documents: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # one token per digit keeps numbers aligned, which small models need for arithmetic
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(plain_texts(sample_documents), trainer)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--documents", type=int, default=SAMPLE_DOCUMENTS)
    arguments = parser.parse_args()

    tokenizer = train(arguments.documents)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [EOS, USER, ASSISTANT],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
