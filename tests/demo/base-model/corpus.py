"""Seeded generator of the synthetic text the demo base model is pretrained on.

Every text is a `Drill`: one rule (say, a date format) and a few input/output
pairs that follow it.  A drill is then put in one of many surface forms: chat
turns with or without a system turn, worked examples, question/answer sheets.

The rule is often stated, sometimes only shown by an earlier pair, and sometimes
not given at all.  That is on purpose: the model learns the skills and a wide
spread of formats, but has no reason to prefer any one of them.  Choosing one is
what a fine-tuning job is for.

Run `python corpus.py --seed 1 --count 20` to read a few documents.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BOS = "<|bos|>"
EOS = "<|eos|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = [BOS, EOS, USER, ASSISTANT, END, PAD]

NAMES = (
    "Ada Ben Cleo Dan Ella Finn Gina Hugo Iris Jack Kira Leo Mia Noah Olga Paul "
    "Rosa Sam Tina Uma Vera Will Yara Zoe Anna Boris Clara David Emil Fay Greta "
    "Hana Ivan Jana Karl Lena Max Nina Otto Petra Ralf Sara Tom Ursula Viktor Wanda"
).split()
ITEMS = (
    "lamp chair table clock basket bottle hammer ladder mirror blanket pillow kettle "
    "bucket carpet cushion drum flute guitar jacket lantern mug notebook pencil plate "
    "rope scarf shovel spoon teapot towel umbrella vase wallet whistle candle bell"
).split()
COLOURS = "red blue green black white yellow brown grey pink orange purple silver".split()
CITIES = (
    "Oslo Paris Rome Vienna Lisbon Madrid Prague Dublin Athens Berlin Warsaw Zurich "
    "Geneva Lyon Milan Porto Bergen Turin Seville Hamburg Krakow Basel"
).split()
PLACES = (
    "garden forest beach market library kitchen attic barn museum park station school "
    "castle harbour meadow bakery workshop cellar theatre orchard"
).split()
OBJECTS = (
    "key ring map book kite ball hat coin letter shell whistle button feather lantern "
    "drum scarf basket compass puzzle bell"
).split()
WEATHER = "sunny rainy windy cloudy snowy foggy stormy warm cold quiet".split()
GOOD_MOODS = "glad happy proud calm cheerful thankful relieved excited".split()
BAD_MOODS = "sad angry tired worried lonely upset scared gloomy".split()
PLAIN_WORDS = (
    "apple river stone cloud paper winter summer window bridge yellow silver market "
    "forest simple little orange garden button candle mountain water light house bread "
    "tree fish bird sugar salt coffee train road wheel glass music dance"
).split()

MONTHS = (
    "January February March April May June July August September October November December"
).split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass
class Drill:
    """One rule and pairs that obey it.

    `instruction` states the rule in words; it is empty where the input alone
    says what to do.
    """

    instruction: str
    pairs: list[tuple[str, str]]


Rng = random.Random
Maker = Callable[[Rng], Drill]


def pick(rng: Rng, options):
    # `random.choice` costs several times more, and this runs billions of times
    return options[int(rng.random() * len(options))]


def chance(rng: Rng, probability: float) -> bool:
    return rng.random() < probability


def pair_count(rng: Rng) -> int:
    return pick(rng, (1, 1, 1, 1, 2, 3, 4))


# --- dates -------------------------------------------------------------------


@dataclass
class Date:
    year: int
    month: int
    day: int


YEAR_CODES = ("YYYY", "YYYY", "YYYY", "YY", "'YY")
MONTH_CODES = ("MM", "MM", "M", "Mon", "MON", "mon", "Month", "MONTH")
DAY_CODES = ("DD", "DD", "D")
DATE_JOINS = ("-", "/", ".", " ", "", "_", ":", "|", "~", ", ", " / ", "+", "=", "#")
DATE_FRAMES = (
    ("", ""), ("", ""), ("", ""), ("", ""), ("[", "]"), ("(", ")"), ("<", ">"), ("{", "}"),
    ("date: ", ""), ("on ", ""), ("D:", ""), ("@", ""), ("due ", ""), ('"', '"'), ("* ", ""),
)
READABLE_DATE_PATTERNS = (
    ("D Month YYYY",), ("Month D, YYYY",), ("YYYY-MM-DD",), ("D Mon YYYY",),
    ("Mon D, YYYY",), ("YYYY/MM/DD",), ("D.M.YYYY",), ("DD.MM.YYYY",), ("YYYY Month D",),
)


def random_date(rng: Rng) -> Date:
    month = int(rng.random() * 12)
    return Date(1950 + int(rng.random() * 150), month + 1, 1 + int(rng.random() * MONTH_DAYS[month]))


def date_part(date: Date, code: str) -> str:
    month = MONTHS[date.month - 1]
    match code:
        case "YYYY":
            return str(date.year)
        case "YY":
            return f"{date.year % 100:02d}"
        case "'YY":
            return f"'{date.year % 100:02d}"
        case "MM":
            return f"{date.month:02d}"
        case "M":
            return str(date.month)
        case "Mon":
            return month[:3]
        case "MON":
            return month[:3].upper()
        case "mon":
            return month[:3].lower()
        case "Month":
            return month
        case "MONTH":
            return month.upper()
        case "DD":
            return f"{date.day:02d}"
        case "D":
            return str(date.day)
        case "Qn":
            return f"Q{(date.month + 2) // 3}"
    raise ValueError(code)


def readable_date(rng: Rng, date: Date) -> str:
    month = MONTHS[date.month - 1]
    match int(rng.random() * 9):
        case 0 | 1:
            return f"{date.day} {month} {date.year}"
        case 2 | 3:
            return f"{month} {date.day}, {date.year}"
        case 4:
            return f"{date.year}-{date.month:02d}-{date.day:02d}"
        case 5:
            return f"{date.day} {month[:3]} {date.year}"
        case 6:
            return f"{date.day}.{date.month}.{date.year}"
        case 7:
            return f"{month[:3]} {date.day}, {date.year}"
    return f"{date.year}/{date.month:02d}/{date.day:02d}"


DATE_SENTENCES = (
    "{d}", "{d}", "{d}", "The parcel left on {d}.", "Meeting on {d}.", "Delivery: {d}",
    "{n} was born on {d}.", "Invoice of {d}", "We open on {d}.", "due {d}", "Date: {d}",
)
DATE_REQUESTS = (
    "Write the date as {p}.", "Format: {p}", "Rewrite the date in the form {p}.",
    "Use the date pattern {p}.", "Give the date as {p}", "{p}", "Change the date to {p}.",
)
DATE_VAGUE_REQUESTS = ("Rewrite the date.", "Change the date format.", "Date?", "Normalise the date.")


def date_format_drill(rng: Rng) -> Drill:
    codes = [pick(rng, YEAR_CODES), pick(rng, MONTH_CODES), pick(rng, DAY_CODES)]
    order = pick(rng, ((0, 1, 2), (0, 1, 2), (2, 1, 0), (2, 1, 0), (1, 2, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1)))
    codes = [codes[i] for i in order]
    if chance(rng, 0.25):
        codes.insert(int(rng.random() * 4), "Qn")
    join = pick(rng, DATE_JOINS)
    before, after = pick(rng, DATE_FRAMES)
    pattern = before + join.join(codes) + after
    pairs = []
    for _ in range(pair_count(rng)):
        date = random_date(rng)
        sentence = pick(rng, DATE_SENTENCES).format(d=readable_date(rng, date), n=pick(rng, NAMES))
        pairs.append((sentence, before + join.join(date_part(date, code) for code in codes) + after))
    instruction = ""
    if chance(rng, 0.75):
        instruction = pick(rng, DATE_REQUESTS).format(p=pattern)
    elif chance(rng, 0.5):
        instruction = pick(rng, DATE_VAGUE_REQUESTS)
    return Drill(instruction, pairs)


def date_question_drill(rng: Rng) -> Drill:
    kind = int(rng.random() * 6)
    instruction = (
        "Which quarter of the year is it?", "Which month is it?", "Give the year only.",
        "Give the number of the month.", "Give the day of the month.", "Name the next month.",
    )[kind]
    pairs = []
    for _ in range(pair_count(rng)):
        date = random_date(rng)
        shown = readable_date(rng, date)
        if kind in (0, 3, 5) and chance(rng, 0.4):
            shown = MONTHS[date.month - 1]
        answer = (
            f"Q{(date.month + 2) // 3}", MONTHS[date.month - 1], str(date.year),
            str(date.month), str(date.day), MONTHS[date.month % 12],
        )[kind]
        pairs.append((shown, answer))
    return Drill(instruction, pairs)


# --- units -------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    singular: str
    plural: str
    short: str


def unit(singular: str, short: str, plural: str | None = None) -> Unit:
    return Unit(singular, plural or singular + "s", short)


METRE, CENTIMETRE = unit("metre", "m"), unit("centimetre", "cm")
MILLIMETRE, KILOMETRE = unit("millimetre", "mm"), unit("kilometre", "km")
KILOGRAM, GRAM, TONNE = unit("kilogram", "kg"), unit("gram", "g"), unit("tonne", "t")
LITRE, MILLILITRE = unit("litre", "l"), unit("millilitre", "ml")
HOUR, MINUTE, SECOND = unit("hour", "h"), unit("minute", "min"), unit("second", "s")
DAY, WEEK, YEAR, MONTH = unit("day", "d"), unit("week", "wk"), unit("year", "yr"), unit("month", "mo")
EURO, CENT = unit("euro", "EUR"), unit("cent", "ct")

CONVERSIONS = (
    (METRE, CENTIMETRE, 100), (METRE, MILLIMETRE, 1000), (CENTIMETRE, MILLIMETRE, 10),
    (KILOMETRE, METRE, 1000), (KILOGRAM, GRAM, 1000), (TONNE, KILOGRAM, 1000),
    (LITRE, MILLILITRE, 1000), (HOUR, MINUTE, 60), (MINUTE, SECOND, 60), (DAY, HOUR, 24),
    (WEEK, DAY, 7), (YEAR, MONTH, 12), (EURO, CENT, 100),
)
UNIT_ANSWERS = (
    "{w} {t}", "{w} {t}", "{w}{ts}", "{w} {ts}", "{v} {u} = {w} {t}", "{v}{us} = {w}{ts}",
    "{v}{us} -> {w}{ts}", "{v} {us} is {w} {ts}", "{w}", "{v} {u} is {w} {t}.",
    "There are {w} {t} in {v} {u}.", "= {w} {ts}", "{ts}: {w}", "{t}: {w}", "[{w} {ts}]",
    "{us} {v} / {ts} {w}", "{v}{us}:{w}{ts}", "({v}{us}) {w}{ts}", "answer: {w} {t}",
    "{ts}={w}", "{us}={v}, {ts}={w}", "<{w}{ts}>", "{T} {w}", "{v}{US} {w}{TS}", "~{w}{ts}~",
)
UNIT_QUESTIONS = (
    "Convert {v} {u} to {t}.", "How many {t} are {v} {u}?", "{v} {u} in {t}", "{v} {us} in {ts}?",
    "{v} {u} = ? {t}", "How many {t} are in {v} {u}?", "{v}{us} -> {ts}", "Change {v} {u} into {t}.",
    "What is {v} {u} in {t}?", "I have {v} {u}. How many {t} is that?", "Express {v} {u} in {t}.",
)
STYLE_REQUESTS = ("Answer like this: {s}", "Use the style {s}", "Style: {s}", "Answer in the form {s}")


def unit_words(value: int, source: Unit, target: Unit, factor: int) -> dict[str, str]:
    result = value * factor
    return {
        "v": str(value),
        "w": str(result),
        "u": source.singular if value == 1 else source.plural,
        "t": target.plural,
        "us": source.short,
        "ts": target.short,
        "T": target.plural.upper(),
        "US": source.short.upper(),
        "TS": target.short.upper(),
    }


def unit_value(rng: Rng) -> int:
    limit = pick(rng, (12, 30, 100, 100, 100, 400))
    return 1 + int(rng.random() * limit)


def unit_drill(rng: Rng) -> Drill:
    style = pick(rng, UNIT_ANSWERS)
    pairs = []
    for _ in range(pair_count(rng)):
        words = unit_words(unit_value(rng), *pick(rng, CONVERSIONS))
        question = pick(rng, UNIT_QUESTIONS).format(**words)
        pairs.append((question, style.format(**words)))
    instruction = ""
    if chance(rng, 0.5):
        sample = style.format(**unit_words(unit_value(rng), *pick(rng, CONVERSIONS)))
        instruction = pick(rng, STYLE_REQUESTS).format(s=sample)
    return Drill(instruction, pairs)


# --- arithmetic --------------------------------------------------------------

ARITHMETIC_ANSWERS = (
    "{c}", "{c}", "{c}", "{a} {o} {b} = {c}", "= {c}", "The answer is {c}.", "{a}{o}{b}={c}",
    "result: {c}", "[{c}]", "It is {c}.",
)
ARITHMETIC_QUESTIONS = (
    "{a} {o} {b}", "{a} {o} {b} =", "What is {a} {o} {b}?", "Compute {a} {o} {b}.", "{a}{o}{b}",
    "Work out {a} {word} {b}.", "{a} {word} {b}", "How much is {a} {word} {b}?",
)


def sum_terms(rng: Rng) -> tuple[int, str, int, int, str]:
    operator = pick(rng, "+++--*")
    limit = pick(rng, (10, 20, 100, 100, 1000))
    first, second = int(rng.random() * limit), int(rng.random() * limit)
    if operator == "+":
        return first, "+", second, first + second, "plus"
    if operator == "-":
        first, second = max(first, second), min(first, second)
        return first, "-", second, first - second, "minus"
    first, second = first % 100, second % 13
    return first, "*", second, first * second, "times"


def arithmetic_drill(rng: Rng) -> Drill:
    style = pick(rng, ARITHMETIC_ANSWERS)
    pairs = []
    for _ in range(pair_count(rng)):
        first, operator, second, result, word = sum_terms(rng)
        words = {"a": first, "o": operator, "b": second, "c": result, "word": word}
        pairs.append((pick(rng, ARITHMETIC_QUESTIONS).format(**words), style.format(**words)))
    return Drill("", pairs)


def word_problem_drill(rng: Rng) -> Drill:
    pairs = []
    for _ in range(pair_count(rng)):
        name, item = pick(rng, NAMES), pick(rng, ITEMS)
        first, second = 2 + int(rng.random() * 60), 1 + int(rng.random() * 40)
        match int(rng.random() * 4):
            case 0:
                text, result = f"{name} has {first} {item}s and buys {second} more. How many now?", first + second
            case 1:
                first, second = max(first, second + 1), min(first, second)
                text, result = f"{name} had {first} {item}s and sold {second}. How many are left?", first - second
            case 2:
                second = 2 + second % 9
                text = f"One {item} costs {first} euros. How much do {second} {item}s cost?"
                result = first * second
            case _:
                other = pick(rng, NAMES)
                text = f"{name} has {first} {item}s. {other} has {second} more than that. How many does {other} have?"
                result = first + second
        pairs.append((text, str(result)))
    return Drill("", pairs)


# --- field extraction and record rewriting -----------------------------------

Record = list[tuple[str, str | int]]

KEY_SYNONYMS = {
    "name": ("name", "who", "customer", "client", "person", "buyer", "by", "cust", "user"),
    "count": ("count", "quantity", "qty", "number", "n", "amount", "units"),
    "item": ("item", "product", "thing", "what", "article", "goods", "sku"),
    "colour": ("colour", "shade", "paint", "tint", "col"),
    "price": ("price", "cost", "euros", "total", "eur", "sum", "pay"),
    "city": ("city", "town", "place", "to", "destination", "where", "ship_to", "dest"),
    "code": ("code", "ref", "id", "order", "ticket", "key"),
}
ORDER_TEMPLATES = (
    "{name} ordered {count} {colour} {item}s for {price} euros, to be sent to {city}.",
    "Please send {count} {colour} {item}s to {name} in {city}. The price is {price} euros.",
    "{name} from {city} wants {count} {colour} {item}s and pays {price} euros.",
    "Order {code}: {count} {colour} {item}s, {price} euros, for {name} in {city}.",
    "In {city}, {name} bought {count} {item}s in {colour} for {price} euros.",
    "{count} {colour} {item}s go to {city}. {name} pays {price} euros.",
    "Hello, this is {name}. I need {count} {colour} {item}s in {city} and can pay {price} euros.",
    "For {price} euros {name} gets {count} {item}s, all {colour}. Ship to {city}.",
    "{name} paid {price} euros for {count} {colour} {item}s. Reference {code}.",
    "{name} lives in {city} and has {count} {colour} {item}s.",
    "Ticket {code} from {name}: the {colour} {item} arrived late in {city}.",
)


def order_code(rng: Rng) -> str:
    letters = "ABCDEFGHKLMNPRSTUVWXYZ"
    return f"{pick(rng, letters)}{pick(rng, letters)}{int(rng.random() * 1000):03d}"


def order_fields(rng: Rng) -> dict[str, str | int]:
    return {
        "name": pick(rng, NAMES),
        "count": 2 + int(rng.random() * 98),
        "item": pick(rng, ITEMS),
        "colour": pick(rng, COLOURS),
        "price": 5 + int(rng.random() * 995),
        "city": pick(rng, CITIES),
        "code": order_code(rng),
    }


def letter_case(value: str | int, how: str) -> str | int:
    if isinstance(value, int):
        return value
    if how == "upper":
        return value.upper()
    if how == "lower":
        return value.lower()
    return value


def json_spaced(record: Record) -> str:
    return json.dumps(dict(record))


def json_compact(record: Record) -> str:
    return json.dumps(dict(record), separators=(",", ":"))


def joined(separator: str, between: str) -> Callable[[Record], str]:
    return lambda record: between.join(f"{key}{separator}{value}" for key, value in record)


def values_only(between: str) -> Callable[[Record], str]:
    return lambda record: between.join(str(value) for _, value in record)


def tagged(record: Record) -> str:
    return "".join(f"<{key}>{value}</{key}>" for key, value in record)


def bracketed(record: Record) -> str:
    return " ".join(f"[{key} {value}]" for key, value in record)


def slots(record: Record) -> str:
    return " ".join(f"{key}({value})" for key, value in record)


# name used in instructions, writer, whether the keys show in the output
RECORD_FORMATS = (
    ("JSON", json_spaced, True), ("JSON", json_spaced, True), ("JSON", json_compact, True),
    ("compact JSON", json_compact, True), ("key=value", joined("=", "; "), True),
    ("key=value", joined("=", " "), True), ("key: value", joined(": ", "\n"), True),
    ("key: value", joined(": ", ", "), True), ("tags", tagged, True), ("brackets", bracketed, True),
    ("CSV", values_only(","), False), ("values with |", values_only(" | "), False),
    ("values with /", values_only("/"), False), ("key:value", joined(":", "|"), True),
    ("key -> value", joined(" -> ", "; "), True), ("slots", slots, True),
)


def record_request(rng: Rng, format_name: str, keys: list[str]) -> str:
    listed = ", ".join(keys)
    return pick(rng, (
        f"Extract {listed} as {format_name}.", f"Return {format_name} with {listed}.",
        f"{format_name}: {listed}", f"Give {listed} as {format_name}.", f"Write {format_name} with the keys {listed}.",
        f"Find {listed}. Answer in {format_name}.",
    ))


CODE_STYLES = (
    ("ITEM-COLOUR", lambda i, c: f"{i}-{c}".upper()), ("COLOUR-ITEM", lambda i, c: f"{c}-{i}".upper()),
    ("item_colour", lambda i, c: f"{i}_{c}"), ("colour_item", lambda i, c: f"{c}_{i}"),
    ("item/colour", lambda i, c: f"{i}/{c}"), ("ITEM.COLOUR", lambda i, c: f"{i}.{c}".upper()),
    ("colour item", lambda i, c: f"{c} {i}"), ("COLOUR ITEM", lambda i, c: f"{c} {i}".upper()),
)


def extraction_drill(rng: Rng) -> Drill:
    template = pick(rng, ORDER_TEMPLATES)
    available = [field for field in KEY_SYNONYMS if "{" + field + "}" in template]
    rng.shuffle(available)
    chosen = available[: pick(rng, (1, 2, 3, 3, 4, 5))]
    keys = {field: pick(rng, KEY_SYNONYMS[field]) for field in chosen}
    if len(set(keys.values())) < len(keys):
        keys = {field: field for field in chosen}
    if chance(rng, 0.2):
        keys = {field: key.upper() for field, key in keys.items()}
    case = pick(rng, ("same", "same", "same", "upper", "lower"))
    merged_name, merge = pick(rng, CODE_STYLES)
    merge_fields = "item" in keys and "{colour}" in template and chance(rng, 0.4)
    format_name, write, _ = pick(rng, RECORD_FORMATS)

    shown_keys = list(keys.values())
    instruction = ""
    if chance(rng, 0.75):
        instruction = record_request(rng, format_name, shown_keys)
        if merge_fields:
            instruction += f" Write {keys['item']} as {merged_name}."
        if case != "same":
            instruction += f" Use {case} case."
    elif chance(rng, 0.4):
        instruction = pick(rng, ("Extract the fields.", "Extract the order.", "Make a record.", "Summarise the order."))

    same_template = chance(rng, 0.3)
    pairs = []
    for _ in range(pair_count(rng)):
        fields = order_fields(rng)
        if not same_template:
            candidates = [t for t in ORDER_TEMPLATES if all("{" + field + "}" in t for field in chosen)]
            if merge_fields:
                candidates = [t for t in candidates if "{colour}" in t]
            template = pick(rng, candidates)
        record: Record = []
        for field, key in keys.items():
            if field == "item" and merge_fields:
                record.append((key, merge(fields["item"], fields["colour"])))
            else:
                record.append((key, letter_case(fields[field], case)))
        pairs.append((template.format(**fields), write(record)))
    return Drill(instruction, pairs)


def order_question_drill(rng: Rng) -> Drill:
    template = pick(rng, ORDER_TEMPLATES)
    fields = order_fields(rng)
    questions = {
        "name": ("Who is it?", "What is the name?", "Name the person."),
        "count": ("How many?", "What is the quantity?"),
        "item": ("Which item?", "What is it about?"),
        "colour": ("Which colour?", "What colour is it?"),
        "price": ("What is the price?", "How many euros?"),
        "city": ("Which city?", "Where?"),
        "code": ("What is the reference?", "Which code?"),
    }
    available = [field for field in questions if "{" + field + "}" in template]
    rng.shuffle(available)
    pairs = [(pick(rng, questions[field]), str(fields[field])) for field in available[: pair_count(rng)]]
    return Drill(template.format(**fields), pairs)


KV_KEYS = "name size colour weight speed port host user mode level price city rank team score page".split()


def rewriting_drill(rng: Rng) -> Drill:
    source_name, read, _ = pick(rng, [entry for entry in RECORD_FORMATS if entry[2]])
    target_name, write, _ = pick(rng, RECORD_FORMATS)
    instruction = ""
    if chance(rng, 0.8):
        instruction = pick(rng, (
            f"Rewrite as {target_name}.", f"Turn {source_name} into {target_name}.",
            f"{source_name} to {target_name}", f"Convert to {target_name}.",
        ))
    pairs = []
    for _ in range(pair_count(rng)):
        keys = rng.sample(KV_KEYS, pick(rng, (1, 2, 2, 3, 4)))
        record: Record = [
            (key, pick(rng, PLAIN_WORDS) if chance(rng, 0.5) else int(rng.random() * 500)) for key in keys
        ]
        pairs.append((read(record), write(record)))
    return Drill(instruction, pairs)


# --- lists and words ---------------------------------------------------------

LIST_OPERATIONS: tuple[tuple[tuple[str, ...], Callable[[list], list]], ...] = (
    (("Reverse the list.", "Reverse:", "Write it backwards."), lambda values: values[::-1]),
    (("Sort the list.", "Sort:", "Put in order."), sorted),
    (("Sort from high to low.", "Sort downwards."), lambda values: sorted(values, reverse=True)),
    (("Give the first one.", "First?"), lambda values: values[:1]),
    (("Give the last one.", "Last?"), lambda values: values[-1:]),
    (("Drop the first one.",), lambda values: values[1:]),
    (("Swap the first and the last.",), lambda values: [values[-1], *values[1:-1], values[0]]),
    (("Count them.", "How many?"), lambda values: [len(values)]),
    (("Copy the list.", "Repeat:"), lambda values: values),
    (("Give the largest.", "Largest?"), lambda values: [max(values)]),
    (("Give the smallest.", "Smallest?"), lambda values: [min(values)]),
)
LIST_JOINS = (" ", ", ", ",", "; ", " | ", "-", " > ", "/")


def list_drill(rng: Rng) -> Drill:
    requests, operate = pick(rng, LIST_OPERATIONS)
    between_in, between_out = pick(rng, LIST_JOINS), pick(rng, LIST_JOINS)
    before, after = pick(rng, (("", ""), ("", ""), ("", ""), ("[", "]"), ("(", ")"), ("-> ", "")))
    numbers = chance(rng, 0.6)
    limit = pick(rng, (10, 100))
    instruction = pick(rng, requests)
    if between_out != between_in and chance(rng, 0.5):
        instruction += f" Join with '{between_out}'."
    pairs = []
    for _ in range(pair_count(rng)):
        size = 2 + int(rng.random() * 5)
        values = [int(rng.random() * limit) for _ in range(size)] if numbers else rng.sample(PLAIN_WORDS, size)
        shown = between_in.join(map(str, values))
        pairs.append((shown, before + between_out.join(map(str, operate(values))) + after))
    return Drill(instruction, pairs)


WORD_OPERATIONS: tuple[tuple[tuple[str, ...], Callable[[str], str]], ...] = (
    (("Write in capitals.", "Upper case:", "Make it upper case."), str.upper),
    (("Write in small letters.", "Lower case:"), str.lower),
    (("Spell it with dashes.", "Spell:"), lambda text: "-".join(text)),
    (("First letters only.",), lambda text: "".join(word[0] for word in text.split())),
    (("Join with underscores.",), lambda text: text.replace(" ", "_")),
    (("Join with dashes, in capitals.",), lambda text: text.replace(" ", "-").upper()),
    (("How many words?",), lambda text: str(len(text.split()))),
    (("Say it twice.",), lambda text: f"{text} {text}"),
    (("Put it in quotes.",), lambda text: f'"{text}"'),
    (("Copy it.", "Repeat:"), lambda text: text),
    (("Words in reverse order.",), lambda text: " ".join(text.split()[::-1])),
    (("Capitalise every word.",), str.title),
    (("Plural?",), lambda text: " ".join(word + "s" for word in text.split())),
)
SPELLABLE = ITEMS + COLOURS + PLACES + OBJECTS + GOOD_MOODS + BAD_MOODS + WEATHER + PLAIN_WORDS + NAMES + CITIES + MONTHS


def word_drill(rng: Rng) -> Drill:
    requests, operate = pick(rng, WORD_OPERATIONS)
    pairs = []
    for _ in range(pair_count(rng)):
        text = " ".join(rng.sample(SPELLABLE, pick(rng, (1, 1, 2, 3))))
        pairs.append((text, operate(text)))
    return Drill(pick(rng, requests), pairs)


# --- stories -----------------------------------------------------------------


@dataclass
class Story:
    text: str
    facts: dict[str, str]


OPENINGS = (
    "It was a {weather} morning in the {place}.", "One {weather} day {hero} went to the {place}.",
    "{hero} walked to the {place} on a {weather} afternoon.", "The day was {weather} and {hero} was in the {place}.",
    "On a {weather} evening {hero} came to the {place}.",
)
SETUPS = (
    "{hero} was looking for a {colour} {object}.", "{hero} had lost a {colour} {object}.",
    "{hero} wanted to find the {colour} {object}.", "Somewhere there was a {colour} {object}, and {hero} wanted it.",
    "{hero} missed the {colour} {object}.",
)
MIDDLES = (
    "{helper} came along and helped.", "A friend called {helper} offered to help.", "{helper} saw this and lent a hand.",
    "Soon {helper} joined the search.", "Then {helper} asked what was wrong and stayed to help.",
)
FILLERS = (
    "They looked under an old bench.", "A bird was singing.", "The clock struck {hour}.", "There was a smell of bread.",
    "They stopped for some tea.", "A small dog ran past.", "Nobody else was there.", "They talked for a while.",
    "The path was long.", "They opened every box.",
)
FOUND = (
    "At last they found the {object} near the {spot}.", "The {object} was behind the {spot}.",
    "After an hour the {object} turned up under the {spot}.", "{helper} spotted the {object} on the {spot}.",
)
NOT_FOUND = (
    "They never found the {object}.", "The {object} was gone for good.", "In the end the {object} stayed lost.",
    "They looked by the {spot}, but the {object} was not there.",
)
ENDINGS = (
    "{hero} was {mood}.", "{hero} felt {mood}.", "{hero} went home {mood}.", "That night {hero} was {mood}.",
    "It made {hero} {mood}.",
)
SPOTS = "door wall gate stove shelf window fence table stairs well".split()
HOURS = "two three four five six seven eight nine ten".split()


def make_story(rng: Rng) -> Story:
    hero, helper = rng.sample(NAMES, 2)
    found = chance(rng, 0.5)
    # mostly the mood follows the outcome, so that neither can be guessed from the other alone
    cheerful = found if chance(rng, 0.8) else not found
    facts = {
        "hero": hero, "helper": helper, "place": pick(rng, PLACES), "weather": pick(rng, WEATHER),
        "object": pick(rng, OBJECTS), "colour": pick(rng, COLOURS), "spot": pick(rng, SPOTS),
        "hour": pick(rng, HOURS), "mood": pick(rng, GOOD_MOODS if cheerful else BAD_MOODS),
        "found": "yes" if found else "no", "ending": "happy" if cheerful else "sad",
    }
    parts = [pick(rng, OPENINGS), pick(rng, SETUPS), pick(rng, MIDDLES), pick(rng, FOUND if found else NOT_FOUND)]
    for _ in range(pick(rng, (0, 1, 1, 2, 3))):
        parts.insert(1 + int(rng.random() * len(parts[1:])), pick(rng, FILLERS))
    parts.append(pick(rng, ENDINGS))
    return Story(" ".join(parts).format(**facts), facts)


STORY_QUESTIONS = {
    "hero": ("Who is the story about?", "Who lost something?", "Who is the hero?"),
    "helper": ("Who helped?", "Who is the friend?", "Who came to help?"),
    "place": ("Where does it happen?", "Which place is it?", "Where are they?"),
    "weather": ("What was the weather like?", "What kind of day was it?"),
    "object": ("What was lost?", "What did they look for?", "Which thing is it about?"),
    "colour": ("Which colour was it?", "What colour was the thing?"),
    "mood": ("How did the hero feel at the end?", "How does it end for the hero?", "What was the mood?"),
    "found": ("Was it found?", "Did they find it?"),
    "ending": ("Is the ending happy or sad?", "Happy or sad?"),
}
CARD_KEYS = {
    "hero": ("hero", "who", "name", "main", "about"), "helper": ("helper", "friend", "with", "ally", "by"),
    "place": ("place", "where", "at", "scene"), "weather": ("weather", "day", "sky"),
    "object": ("object", "thing", "what", "lost", "item"), "colour": ("colour", "shade"),
    "mood": ("mood", "feeling", "feels", "end"), "found": ("found", "success", "ok"),
    "ending": ("ending", "tone", "type"),
}
TONE_WORDS = (("happy", "sad"), ("good", "bad"), ("up", "down"), ("+", "-"), ("positive", "negative"), (":)", ":("), ("1", "0"))


def story_question_drill(rng: Rng) -> Drill:
    story = make_story(rng)
    asked = rng.sample(list(STORY_QUESTIONS), pick(rng, (1, 2, 3, 4)))
    style = pick(rng, ("{}", "{}", "{}", "{}.", "Answer: {}", "It is {}."))
    pairs = []
    for field in asked:
        value = story.facts[field]
        pairs.append((pick(rng, STORY_QUESTIONS[field]), style.format(value)))
    return Drill(story.text, pairs)


def story_card_drill(rng: Rng) -> Drill:
    fields = rng.sample(list(CARD_KEYS), pick(rng, (1, 2, 3, 3, 4, 5)))
    keys = {field: pick(rng, CARD_KEYS[field]) for field in fields}
    if len(set(keys.values())) < len(keys):
        keys = {field: field for field in fields}
    if chance(rng, 0.25):
        keys = {field: key.upper() for field, key in keys.items()}
    good, bad = pick(rng, TONE_WORDS)
    case = pick(rng, ("same", "same", "same", "upper"))
    format_name, write, _ = pick(rng, RECORD_FORMATS)
    instruction = ""
    if chance(rng, 0.75):
        instruction = record_request(rng, format_name, list(keys.values()))
        if "ending" in keys:
            instruction += f" {keys['ending']} is {good} or {bad}."
        if case != "same":
            instruction += f" Use {case} case."
    elif chance(rng, 0.4):
        instruction = pick(rng, ("Sum up the story.", "Make a story card.", "Tag the story."))
    pairs = []
    for _ in range(pick(rng, (1, 1, 1, 2))):
        story = make_story(rng)
        facts = dict(story.facts)
        facts["ending"] = good if facts["ending"] == "happy" else bad
        pairs.append((story.text, write([(key, letter_case(facts[field], case)) for field, key in keys.items()])))
    return Drill(instruction, pairs)


def story_request_drill(rng: Rng) -> Drill:
    story = make_story(rng)
    facts = story.facts
    request = pick(rng, (
        "Tell a story about {hero}.", "Tell me a story about a {object}.", "Write a story set in the {place}.",
        "Write a short story with {hero} and {helper}.", "Tell a {ending} story.", "Tell a story.",
    ))
    return Drill("", [(request.format(**facts), story.text)])


# --- surface forms -----------------------------------------------------------

PAIR_LABELS = (
    ("Input: ", "Output: "), ("Q: ", "A: "), ("Question: ", "Answer: "), ("In: ", "Out: "),
    ("Text: ", "Result: "), ("Task: ", "Solution: "), ("- ", "-> "), ("> ", ""), ("", "=> "),
)


def combine(rng: Rng, instruction: str, text: str) -> str:
    if not instruction:
        return text
    between = pick(rng, ("\n", "\n", " "))
    if chance(rng, 0.7):
        return instruction + between + text
    return text + between + instruction


def chat(drill: Drill, rng: Rng) -> str:
    system, first = "", drill.instruction
    if drill.instruction and chance(rng, 0.25):
        system, first = drill.instruction + END, ""
    turns = []
    for index, (text, answer) in enumerate(drill.pairs):
        request = combine(rng, first, text) if index == 0 else text
        turns.append(f"{USER}{request}{END}{ASSISTANT}{answer}{END}")
    return BOS + system + "".join(turns)


def sheet(drill: Drill, rng: Rng) -> str:
    ask, reply = pick(rng, PAIR_LABELS)
    between = pick(rng, ("\n", "\n", "\n\n"))
    lines = [f"{ask}{text}\n{reply}{answer}" for text, answer in drill.pairs]
    if drill.instruction:
        lines.insert(0, drill.instruction)
    return BOS + between.join(lines) + EOS


def prose(drill: Drill, rng: Rng) -> str:
    lines = [f"{text} {answer}" for text, answer in drill.pairs]
    if drill.instruction:
        lines.insert(0, drill.instruction)
    return BOS + pick(rng, ("\n", " ")).join(lines) + EOS


SURFACE_FORMS = (chat, chat, chat, chat, chat, chat, chat, sheet, sheet, prose)

# skill, relative number of documents
SKILLS: tuple[tuple[Maker, int], ...] = (
    (date_format_drill, 14), (date_question_drill, 5), (unit_drill, 12), (arithmetic_drill, 8),
    (word_problem_drill, 3), (extraction_drill, 14), (order_question_drill, 4), (rewriting_drill, 6),
    (list_drill, 8), (word_drill, 8), (story_question_drill, 6), (story_card_drill, 9),
    (story_request_drill, 3),
)
SKILL_DECK = tuple(maker for maker, weight in SKILLS for _ in range(weight))


def documents(seed: int) -> Iterator[str]:
    """Endless stream of documents; the same seed gives the same stream."""
    rng = random.Random(seed)
    while True:
        drill = pick(rng, SKILL_DECK)(rng)
        yield pick(rng, SURFACE_FORMS)(drill, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    stream = documents(arguments.seed)
    for _ in range(arguments.count):
        print(next(stream))


if __name__ == "__main__":
    main()
