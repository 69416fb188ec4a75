"""How much of one statement another has: words, runs of words and numbers, each weighed by its rarity in the training
pool. Pure functions, no library.

What every second problem says ("find the sum of all positive integers") weighs next to nothing and is no evidence.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from recipes.curate.text import NUMBER, canonical, ngrams, template, words

LONGEST = 20_000
"""Characters of a text that are looked at; a bound for hostile ones."""
UNSEEN = 0.8
"""Weight of what stands in no evaluation problem: it is not counted, and mostly rare."""
_RARE = 4
"""A word in one of 10 ** 4 problems or fewer weighs 1; in one of a hundred, a half."""
_SMOOTHING = 1000
"""Problems without the word that are counted beside the pool: in a pool of a few dozen every word would be frequent."""
_SHORT_FRACTION = re.compile(r"\\[dt]?frac *([0-9a-z]) *([0-9a-z])(?![a-z])")
_SPACED = re.compile(r"(?<![A-Za-z\\])[A-Z](?: [A-Z])+(?![A-Za-z])")
_WORD = re.compile(r"\\[a-z]{2,}|[^\W\d_]{2,}(?:'[^\W\d_]+)?")
_COMMON = frozenset(
    r"""a about above after all also an and any are as at be been before below but by can compute could determine did do
    does each equal equals evaluate every find for from given had has have he her here his how i if in into is it its
    least less let many may more most much must my no not number numbers of on one only or our over shall she should
    show so some such suppose than that the their them then there these they this those to two under up us value
    values was we were what when where which who whose why will with would you your \frac \sqrt \text \begin \end
    \overline \dots \ldots \cdots""".split()  # noqa: SIM905  a list of words reads worse
)
"""Words that are never evidence, however small the pool."""
_SUFFIXES = ("ing", "ed", "es", "s", "ly")


@dataclass(frozen=True, slots=True)
class Form:
    """What of a statement is compared."""

    canonical: str
    """As ``text.canonical``; for a text that consists of signs alone, the text."""
    plain: str
    """The same without drawings."""
    template: str
    length: int
    """Tokens."""
    words: frozenset[str]
    """Different words that can be evidence, without their endings."""
    runs: frozenset[str]
    """Different runs of ``n`` tokens, every number as ``#``."""
    numbers: Mapping[str, int]
    """Number -> how often it stands there."""


def form_of(text: str, n: int) -> Form:
    """Return the forms of a statement in which others are looked for; ``n``: tokens per run."""
    whole = _joined(text[:LONGEST])
    plain = without_drawings(whole)
    tokens = words(plain)
    said = " ".join(tokens) or " ".join(plain.split())
    masked = template(tokens)
    numbers = Counter(token for token in tokens if _is_number(token))
    return Form(
        canonical=said if plain == whole else canonical(whole),
        plain=said,
        template=" ".join(masked),
        length=len(tokens),
        words=frozenset(stem(word) for word in set(masked) if _WORD.fullmatch(word) and word not in _COMMON),
        runs=frozenset(ngrams(masked, n)),
        numbers=numbers,
    )


def _joined(text: str) -> str:
    r"""Return the text without what converters make different: ``A B C`` for ``ABC``, ``\frac12`` for
    ``\frac{1}{2}``.
    """
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    return _SPACED.sub(lambda found: found[0].replace(" ", ""), text)


@lru_cache(maxsize=1 << 16)
def _is_number(token: str) -> bool:
    """Return whether a template masks the token: digits, or a number in words."""
    return template((token,)) == [NUMBER]


def without_drawings(text: str) -> str:
    """Return the text without Asymptote code, unless there is nothing else: copies mostly lack it."""
    parts, end = [], 0
    while (start := text.find("[asy]", end)) >= 0:
        parts.append(text[end:start])
        close = text.find("[/asy]", start)
        end = len(text) if close < 0 else close + len("[/asy]")
    left = " ".join([*parts, text[end:]]) if parts else text
    return left if left.strip() else text


def stem(word: str) -> str:
    """Return the word without a common English ending, so that ``bought`` stays and ``tickets`` is ``ticket``."""
    if word.startswith("\\"):
        return word
    word = word.partition("'")[0]
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) >= len(suffix) + 3:
            return word[: -len(suffix)]
    return word


def keys(form: Form) -> Iterable[str]:
    """Yield what rarity is counted of: words, runs and numbers. No two kinds share a text: runs of one token are
    none.
    """
    yield from form.words
    yield from form.numbers
    yield from (run for run in form.runs if " " in run)


class Rarity:
    """In how many training problems each word, run and number of the evaluation sets stands.

    Memory is bounded by the evaluation sets. Counts of parts of the pool merge.
    """

    def __init__(self, vocabulary: Iterable[str], n: int) -> None:
        self.n = n
        self.counts: dict[str, int] = dict.fromkeys(vocabulary, 0)
        self.problems = 0

    def count(self, statements: Iterable[str]) -> None:
        """Add training problems."""
        counts = self.counts
        for statement in statements:
            self.problems += 1
            for key in keys(form_of(statement, self.n)):
                if key in counts:
                    counts[key] += 1

    def merge(self, other: Rarity) -> None:
        """Add what another part of the pool has; both are of the same evaluation sets."""
        self.problems += other.problems
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count

    def weights(self) -> dict[str, float]:
        """Return key -> weight from 0 (in every problem) to 1 (in one of ten thousand or fewer)."""
        total = self.problems + _SMOOTHING
        return {key: max(0.0, min(1.0, -math.log10((n + 0.5) / total) / _RARE)) for key, n in self.counts.items()}


@dataclass(frozen=True)
class Weight:
    """What a form weighs, all in all."""

    words: float
    runs: float
    numbers: float


def weight_of(form: Form, weights: Mapping[str, float]) -> Weight:
    """Return the sums of weights of a form's words, runs and numbers (each number as often as it stands there)."""
    known = weights.get
    return Weight(
        sum(known(word, UNSEEN) for word in form.words),
        sum(known(run, UNSEEN) for run in form.runs),
        sum(known(number, UNSEEN) * times for number, times in form.numbers.items()),
    )


@dataclass(frozen=True)
class Likeness:
    """What two statements share."""

    words: float
    """Jaccard index of words, weighed by rarity."""
    runs: float
    """The same of runs of words, numbers masked."""
    numbers: float
    """The same of numbers, each counted as often as it stands there; 0 where neither has any."""
    counted: float
    """Weight of the numbers that both have."""
    others: float
    """Weight of the numbers that only one has."""
    inside: float
    """Which part of the shorter one's runs the other has, or of its numbers if that is less; weighed."""
    mass: float
    """Weight of the shared words and, to a lesser part, runs: how much there is to judge by."""
    shared: int
    """Runs that both have."""


RUN = 0.2
"""What a run adds to ``mass``: neighbouring runs overlap, so each says little that is new."""


def likeness(one: Form, first: Weight, other: Form, second: Weight, weights: Mapping[str, float]) -> Likeness:
    """Return what two forms share; ``first`` and ``second`` are what they weigh."""
    known = weights.get
    both = one.runs & other.runs
    said = sum(known(word, UNSEEN) for word in one.words & other.words)
    run = sum(known(key, UNSEEN) for key in both)
    counted = sum(
        known(number, UNSEEN) * min(times, other.numbers.get(number, 0)) for number, times in one.numbers.items()
    )
    shorter = min(first, second, key=lambda weight: weight.runs)
    inside = _share(run, shorter.runs)
    if shorter.numbers:
        inside = min(inside, _share(counted, shorter.numbers))
    return Likeness(
        words=_share(said, first.words + second.words - said),
        runs=_share(run, first.runs + second.runs - run),
        numbers=_share(counted, first.numbers + second.numbers - counted),
        counted=counted,
        others=first.numbers + second.numbers - 2 * counted,
        inside=inside,
        mass=said + RUN * run,
        shared=len(both),
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 1e-9 else 0.0
