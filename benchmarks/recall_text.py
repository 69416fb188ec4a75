"""Procedural text with facts to recall, the language of ``benchmarks.moba_quality``: made from seeds, without end.

A sequence is prose of made-up words, letter by letter, with facts strewn in. A fact is a key and its value, one token
each; all keys share ``VALUES`` values. The first time that a key occurs in a sequence, which of them follows is a toss;
from then on it is the same one again, which a model knows only if its attention finds the earlier place, however far
back that is. A value does not tell whose it is, so this takes two layers: one in which the value takes note of the key
before it, and a later one in which the key, met again, finds that value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LETTERS = "abcdefghijklmnopqrstuvwxyz "
KEYS = 32
VALUES = 8
"""Values that a key can have, the same for all keys."""
KEY_0 = len(LETTERS)
"""Token id of the first key."""
VALUE_0 = KEY_0 + KEYS
"""Token id of the first value."""
VOCABULARY = VALUE_0 + VALUES

WORDS = 256
"""Words of the language."""
SUCCESSORS = 4
"""Words that may follow a word: local structure, learned with any attention."""

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """How many facts a sequence has, and how far back they lie."""

    words: float = 1.0
    """Words between facts on average."""
    keys: int = KEYS
    """Keys that a sequence is about, drawn anew for each. With few, facts repeat soon, and a model learns fast that
    they do."""
    recent: int = 4
    """Half of the facts repeat one of so many facts before, as texts stay with a subject for a while; the others take
    any of the sequence's keys, and lie as far back as it is long. With 0 all do."""


@dataclass(frozen=True)
class Sequences:
    """A batch."""

    tokens: Tokens
    """Token ids [n, length]."""
    distance: Tokens
    """[n, length]: where a token is a recalled value, tokens back to its key's last occurrence; 0 elsewhere."""


class Language:
    """Words and their order, fixed by ``seed``; sequences differ by the seed that they are drawn with."""

    def __init__(self, facts: Facts, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0])
        self.facts = facts
        lengths = rng.integers(2, 7, WORDS)
        self._words = [[*rng.integers(0, 26, n).tolist(), LETTERS.index(" ")] for n in lengths]
        self._next = rng.integers(0, WORDS, (WORDS, SUCCESSORS))

    def draw(self, count: int, length: int, seed: tuple[int, ...]) -> Sequences:
        """``count`` sequences of ``length`` tokens; equal seeds give equal sequences."""
        rng = np.random.default_rng([*seed, 1])
        rows = [self._one(length, rng) for _ in range(count)]
        tokens, distance = (np.array(part, dtype=np.int64) for part in zip(*rows, strict=True))
        return Sequences(tokens, distance)

    def _one(self, length: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        values = (VALUE_0 + rng.integers(0, VALUES, KEYS)).tolist()
        # Every draw gives at least two tokens, so that so many always do.
        which = rng.integers(0, SUCCESSORS, length).tolist()
        is_fact = (rng.random(length) * (1 + self.facts.words) < 1).tolist()
        about = rng.choice(rng.permutation(KEYS)[: self.facts.keys], length).tolist()
        back = rng.integers(-2 * max(1, self.facts.recent), 0, length).tolist()
        word = int(rng.integers(0, WORDS))
        tokens: list[int] = []
        distance: list[int] = []
        last: dict[int, int] = {}
        told: list[int] = []
        for step in range(length):
            if len(tokens) >= length:
                break
            if is_fact[step]:
                key = told[back[step]] if -len(told) <= back[step] and back[step] >= -self.facts.recent else about[step]
                told.append(key)
                seen = last.get(key)
                last[key] = len(tokens)
                tokens += [KEY_0 + key, values[key]]
                distance += [0, 0 if seen is None else last[key] - seen]
            else:
                tokens += self._words[word]
                distance += [0] * len(self._words[word])
                word = int(self._next[word, which[step]])
        return tokens[:length], distance[:length]
