"""Writes goldens.json: what transformers makes of texts, templates and conversations.

    python make_goldens.py SHARED_DATA DEMO_MODEL > goldens.json

SHARED_DATA/models holds the tokenizers that the tests read; DEMO_MODEL is tests/demo/base-model.
"""

import json
import os
import sys

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

shared, demo = sys.argv[1], sys.argv[2]
models = os.path.join(shared, "models")

STRINGS = [
    "Hello, world!",
    " leading and trailing ",
    "  two  spaces\t\ttabs \n\n newlines \r\n",
    "12345 1,234.56 -7 0x1F",
    "don't WE'LL it's I'M",
    "naïve café — “quotes” … €",
    "e\u0301 A\u030a n\u0303 decomposed",
    "日本語のテキスト 中文 한국어",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 \U0001F9D1\U0001F3FD",
    "مرحبا עולם हिन्दी ไทย",
    "def f(x):\n    return x ** 2  # square\n\n\tif x:\n\t\tpass",
    "\u00a0nbsp\u2003em\u200bzero\u2028line",
    "\ufb01 \u2126 \u212b compatibility",
    "a" * 70 + " " * 35 + "b",
    "<not a token> <|almost|> </x>",
    "\x00\x01\x7f control",
]

CHATS = [
    [("user", "What is 2 + 2?"), ("assistant", "4")],
    [("system", "Answer in French."), ("user", "Hello"), ("assistant", "Bonjour à tous 😀\n\nÇa va ?")],
    [("user", "Name a colour."), ("assistant", "Blue."), ("user", "  Another\n"), ("assistant", "  Green\n")],
    [("user", "x"), ("assistant", "y"), ("user", "日本"), ("assistant", "東京です。"), ("user", "z"), ("assistant", "end")],
    [("user", "open question"), ("assistant", "answer"), ("user", "never answered")],
    [("user", "think"), ("assistant", "<think>\nhmm\n</think>\n\nThe answer is 7."), ("user", "sure?"), ("assistant", "Yes.")],
]

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds “numbers”.",
          "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}}}]
TOOL_CHAT = [
    {"role": "user", "content": "Add 1 and 2"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2, "note": "é \"q\""}}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]

# Each meets one thing in which template engines differ.
TEMPLATES = {
    "plain": "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}!{% endgeneration %}{% endfor %}",
    "only_assistant": "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %} {{ m.content }};{% endgeneration %}"
                      "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
    "strip_both": "{% for m in messages %}\n  {{ m.role }}\n  {%- generation -%}\n  {{ m.content }} \n {%- endgeneration -%}\n x\n{% endfor %}",
    "strip_none": "{% for m in messages %}\n  {{ m.role }}\n  {% generation %}\n  {{ m.content }} \n  {% endgeneration %}\n x\n{% endfor %}\n",
    "strip_left": "{% for m in messages %}\n {{ m.role }}  {%- generation %}\n{{ m.content }}  {%- endgeneration %}\n x\n{% endfor %}",
    "strip_right": "{% for m in messages %}\n {{ m.role }}  {% generation -%}\n\n {{ m.content }}  {% endgeneration -%}\n\n x\n{% endfor %}",
    "crlf": "{% for m in messages %}\r\n{{ m.role }}\r\n{% generation %}\r\n{{ m.content }}\r\n{% endgeneration %}\r\n{% endfor %}",
    "fresh_scope": "{% set tag = 'none' %}{% for m in messages %}{% if m.role == 'user' %}{% set tag = m.content %}{% endif %}"
                   "[{{ tag }}]{% if note is defined %}stale{% endif %}{% if loop.first %}{% set note = 1 %}{% endif %}"
                   "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ tag }}",
    "strip_arguments": "{% for m in messages %}{% generation %}[{{ m.content.strip('\n') }}|{{ m.content.lstrip(' x') }}|"
                       "{{ m.content.rstrip('.\n') }}|{{ m.content.strip() }}]{% endgeneration %}{% endfor %}",
    "trim_filter": "{% for m in messages %}{% generation %}[{{ m.content | trim }}|{{ m['content'] | trim | upper }}]{% endgeneration %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
                 "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}={{ ns.n }}",
    "macro": "{% macro turn(m) %}<{{ m.role }}>{{ m.content }}{% endmacro %}{% for m in messages %}{% generation %}{{ turn(m) }}"
             "{% endgeneration %}{% endfor %}",
    "slices": "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
              "{% for m in rest %}{{ loop.index0 }}/{{ loop.length }}{% generation %}{{ m['content'] }}{% endgeneration %}"
              "{{ '' if loop.last else '; ' }}{% endfor %}",
    "tojson": "{% for m in messages %}{% generation %}{{ m.content | tojson }}{{ m | tojson }}{% endgeneration %}{% endfor %}",
    "filtered_loop": "{% for m in messages if m.role != 'system' %}{{ loop.index }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "dictionary": "{% set names = {'user': 'U', 'assistant': 'A'} %}{% for m in messages %}{{ names.get(m.role, '?') }}"
                  "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "no_date": "{% if strftime_now is defined and false %}{{ strftime_now('%d') }}{% endif %}{% for m in messages %}{% generation %}"
               "{{ m.content }}{% endgeneration %}{% endfor %}",
}


def messages(chat):
    return [{"role": role, "content": content} for role, content in chat]


def fast(name):
    folder = os.path.join(models, name)
    config = json.load(open(os.path.join(folder, "tokenizer_config.json")))
    special = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(key)}
    return PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"), clean_up_tokenization_spaces=False,
                                   chat_template=config.get("chat_template"), **special)


def template_of(name):
    return json.load(open(os.path.join(models, name, "tokenizer_config.json")))["chat_template"]


def marked(template):
    """The same template with markers around what its assistant turns generate."""
    return template.replace(
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}",
        "{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + '<|end|>\n' }}{% endgeneration %}",
    )


tokenizers = {
    "phi-2": fast("phi-2"),
    "phi-3-mini": fast("phi-3-mini"),
    "Qwen3-8B": AutoTokenizer.from_pretrained(os.path.join(models, "Qwen3-8B")),
    "demo": AutoTokenizer.from_pretrained(demo),
}

encodings = {
    name: [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in STRINGS]
    for name, tokenizer in tokenizers.items()
}

renders = []
for name, template in TEMPLATES.items():
    for chat in CHATS[:4]:
        texts, spans = render_jinja_template([messages(chat)], chat_template=template, return_assistant_tokens_mask=True)
        renders.append({"name": name, "template": template, "messages": messages(chat), "text": texts[0],
                        "spans": [list(span) for span in spans[0]]})

chats = []
for name, source, template in [
    ("demo", None, None),
    ("phi-3-mini", None, marked(template_of("phi-3-mini"))),
    ("phi-3-mini", None, None),
    ("Qwen3-8B", None, None),
    ("Qwen3-8B", "qwen3-chat-template", None),
    ("Qwen3-8B", "qwen2.5-chat-template", None),
]:
    tokenizer = tokenizers[name]
    used = template or (template_of(source) if source else tokenizer.chat_template)
    # phi-3's header token swallows white space behind it, so transformers counts the header as generated where a turn begins with
    # white space. Training must not do that (examples.test.ts), so that conversation is no golden here.
    cases = [(messages(chat), None) for chat in CHATS if not (template and chat is CHATS[2])]
    if name == "Qwen3-8B":
        cases.append((TOOL_CHAT, TOOLS))
    for chat, tools in cases:
        out = tokenizer.apply_chat_template(chat, tools=tools, chat_template=used, tokenize=True, return_dict=True,
                                            return_assistant_tokens_mask="{% generation" in used)
        case = {"model": name, "messages": chat, "ids": out["input_ids"],
                "text": tokenizer.apply_chat_template(chat, tools=tools, chat_template=used, tokenize=False)}
        if source:
            case["template_of"] = source
        if template:
            case["template"] = template
        if tools:
            case["tools"] = tools
        if "{% generation" in used:
            case["mask"] = out["assistant_masks"]
        chats.append(case)

json.dump({"encodings": encodings, "renders": renders, "chats": chats}, sys.stdout, ensure_ascii=True, separators=(",", ":"))
print()
