"""A task of copying: three marked spans of a text of random tokens, asked back in a template [2109.12533 §3.6 as we set
it up]. What is measured of a response is pure token arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from rollout.models.tokenizer import SPECIALS, build_tokenizer

LETTERS = "bcdfghklmn", "aeiou"
COMMON, RARE = 160, 60
RARE_SHARE = 0.03
"""Of the drawn tokens, those that are rare: each is seen about 50 times less often than a common one."""
SPANS = 3
OPEN = [f"[{name}" for name in "xyz"]
CLOSE = [f"{name}]" for name in "xyz"]
NAMES = ["X", "Y", "Z"]
VERBS = [" is ", " reads ", " says "]
END = ". "
WORDS = ["".join(pair) for pair in product(*LETTERS, *LETTERS)][: COMMON + RARE]
TOKENS = [*OPEN, *CLOSE, *NAMES, *VERBS, END, *WORDS]
IDS = {token: index for index, token in enumerate([*SPECIALS, *TOKENS])}
EOS = IDS["<eos>"]
ASK = IDS["<assistant>"]
FIRST_RARE = IDS[WORDS[COMMON]]


@dataclass(frozen=True)
class Item:
    """One text and what is asked for."""

    prompt: tuple[int, ...]
    """The text with its marked spans, and a token behind it."""
    response: tuple[int, ...]
    """The template with the spans, in the order X, Y, Z, and the end token."""
    spans: tuple[tuple[int, ...], ...]
    """Of X, Y and Z."""

    @property
    def pair(self) -> tuple[list[int], list[int]]:
        """Prompt and response, as a warm-up takes them."""
        return [*self.prompt], [*self.response]


def tokenizer() -> object:
    """Return the tokenizer of the task."""
    return build_tokenizer(TOKENS, 256)


def item(rng: random.Random, lengths: Sequence[int], size: int = 60) -> Item:
    """Return an item whose spans have ``lengths``; the text has ``size`` tokens besides the markers.

    Spans are placed at random without overlap, in any order of their names.
    """
    text = [IDS[_word(rng)] for _ in range(size)]
    order = rng.sample(range(SPANS), SPANS)
    gaps = sorted(rng.randrange(size - sum(lengths) + 1) for _ in range(SPANS))
    spans: dict[int, tuple[int, ...]] = {}
    source: list[int] = []
    done = skipped = 0
    for gap, name in zip(gaps, order, strict=True):
        source += text[done : done + gap - skipped]
        done, skipped = done + gap - skipped, gap
        spans[name] = tuple(text[done : done + lengths[name]])
        source += [IDS[OPEN[name]], *spans[name], IDS[CLOSE[name]]]
        done += lengths[name]
    source += text[done:]
    response: list[int] = []
    for name in range(SPANS):
        response += [IDS[NAMES[name]], IDS[rng.choice(VERBS)], *spans[name], IDS[END]]
    return Item((*source, ASK), (*response, EOS), tuple(spans[name] for name in range(SPANS)))


def _word(rng: random.Random) -> str:
    return WORDS[COMMON + rng.randrange(RARE)] if rng.random() < RARE_SHARE else WORDS[rng.randrange(COMMON)]


def slots(response: Sequence[int]) -> list[list[int]]:
    """Return what a response has for X, Y and Z: the tokens behind the name and its verb, up to the next full stop."""
    found: list[list[int]] = []
    for name in NAMES:
        tokens = [*response]
        if IDS[name] not in tokens:
            found.append([])
            continue
        rest = tokens[tokens.index(IDS[name]) + 2 :]
        ends = [index for index, token in enumerate(rest) if token in (IDS[END], EOS)]
        found.append(rest[: ends[0]] if ends else rest)
    return found


@dataclass(frozen=True)
class Recall:
    """How much of the spans came back; counts, which add up."""

    spans: int = 0
    exact: int = 0
    """Spans that are whole: the slot is the span, no token more or less."""
    tokens: int = 0
    right: int = 0
    """Tokens of spans that are in their place of the slot."""
    rare: int = 0
    rare_right: int = 0
    """The same of the rare ones."""

    def __add__(self, other: Recall) -> Recall:
        return Recall(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def recall(asked: Item, response: Sequence[int]) -> Recall:
    """Return what ``response`` brings back of the spans of ``asked``."""
    found = Recall()
    for span, slot in zip(asked.spans, slots(response), strict=True):
        hits = [at < len(slot) and slot[at] == token for at, token in enumerate(span)]
        rare = [hit for hit, token in zip(hits, span, strict=True) if token >= FIRST_RARE]
        found += Recall(1, slot == [*span], len(span), sum(hits), len(rare), sum(rare))
    return found
