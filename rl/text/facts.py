"""Text with facts to recall, made from seeds, without end: what attention that looks far back is good for.

A document is prose of made-up words, with facts strewn in. A fact is a key and its value, one letter each; all keys
share ``VALUES`` values. The first time that a key occurs in a document, which of them follows is a toss; from then on
it is the same one again, which a model knows only if its attention finds the earlier place, however far back that is. A
value does not tell whose it is, so this takes two layers: one in which the value takes note of the key before it, and a
later one in which the key, met again, finds that value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LETTERS = "abcdefghijklmnopqrstuvwxyz "
KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&@"
VALUES = "01234567"
"""What a key can have, the same for all keys."""
WORDS = 256
"""Words of the language."""
SUCCESSORS = 4
"""Words that may follow a word: local structure, learned with any attention."""


@dataclass(frozen=True)
class Document:
    """A text, and which of its letters are recalled."""

    text: str
    distance: npt.NDArray[np.int64]
    """[letters]: where a letter is a recalled value, letters back to its key's last occurrence; 0 elsewhere."""


class Language:
    """Words and their order, fixed by ``seed``; documents differ by the generator that they are drawn with.

    ``words``: between facts on average. ``keys``: that a document is about, drawn anew for each; with few, facts repeat
    soon, and a model learns fast that they do. ``recent``: half of the facts repeat one of so many before, as texts
    stay with a subject for a while; the others take any of the document's keys. With 0 all do.
    """

    def __init__(self, words: float = 1.0, keys: int = len(KEYS), recent: int = 4, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0])
        self.words, self.keys, self.recent = words, keys, recent
        lengths = rng.integers(2, 7, WORDS)
        self._words = ["".join(LETTERS[i] for i in rng.integers(0, 26, n)) + " " for n in lengths]
        self._next = rng.integers(0, WORDS, (WORDS, SUCCESSORS))

    def draw(self, length: int, rng: np.random.Generator) -> Document:
        """Return a document of ``length`` letters."""
        values = rng.integers(0, len(VALUES), len(KEYS)).tolist()
        # Every draw gives at least two letters, so that so many always do.
        which = rng.integers(0, SUCCESSORS, length).tolist()
        is_fact = (rng.random(length) * (1 + self.words) < 1).tolist()
        about = rng.choice(rng.permutation(len(KEYS))[: self.keys], length).tolist()
        back = rng.integers(-2 * max(1, self.recent), 0, length).tolist()
        word = int(rng.integers(0, WORDS))
        parts: list[str] = []
        distance: list[int] = []
        last: dict[int, int] = {}
        told: list[int] = []
        for step in range(length):
            if len(distance) >= length:
                break
            if is_fact[step]:
                key = told[back[step]] if -len(told) <= back[step] and back[step] >= -self.recent else about[step]
                told.append(key)
                seen = last.get(key)
                last[key] = len(distance)
                parts.append(KEYS[key] + VALUES[values[key]])
                distance += [0, 0 if seen is None else last[key] - seen]
            else:
                parts.append(self._words[word])
                distance += [0] * len(self._words[word])
                word = int(self._next[word, which[step]])
        return Document("".join(parts)[:length], np.array(distance[:length]))
