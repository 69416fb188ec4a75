"""Training problems that stand in an evaluation set: candidates, and which of them are confirmed.

Candidates come two ways, by whitened neighbours [2103.15316] and by shared words and runs of words, so that what one
way misses the other can find. Each is then judged by its texts. Both lists are for people to check. Training problems
are streamed, and each is judged by itself: any part of them can be looked through in a process of its own.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recipes.curate.likeness import Form, Likeness, Rarity, Weight, form_of, keys, likeness, weight_of
from rollout.files import replacing
from rollout.lines import read_lines
from rollout.strict_json import dumps

if TYPE_CHECKING:
    import numpy as np

    from recipes.curate.config import ContaminationConfig
    from recipes.curate.evaluation_sets import EvaluationSet
    from rollout.embedding.neighbours import Index

Kind = Literal["same", "contains", "reworded", "renumbered"]
"""The evidence, strongest first: the same text; one inside of the other; the same problem in other words; the same
text with other numbers."""
KINDS: tuple[Kind, ...] = ("same", "contains", "reworded", "renumbered")
MATCHES = "matches.jsonl"
SHOWN = 1000
"""Candidates that are kept although they are not confirmed: there are several for each row of the pool."""
_POSTINGS = 30
"""Evaluation problems that one word or run leads to."""
_TELLING = 0.5
"""Lightest word or run that leads to candidates."""
_FEW = 50
"""Training problems with a word that always leads to candidates: a small pool may be contaminated through and through.
"""
_LIKELY = 0.06
"""Least part of all that two problems say which candidates share."""
_LONGER = 1.5
"""A text that contains another is longer by this factor; else the two say the same."""
_ALIKE = 0.85
"""Templates are nearly equal that share this part of words and of runs."""
_SAME_NUMBERS = 0.4
"""Two problems have the same numbers that share this part of them: written in words or digits, some differ."""
_BLOCK = 1024
"""Training problems whose neighbours are looked up at a time."""


@dataclass(frozen=True)
class Match:
    """A training problem and an evaluation problem that may be the same."""

    row: str
    """Which training problem: its number."""
    evaluation_set: str
    """Name of the evaluation set."""
    problem: str
    """Id of the evaluation problem."""
    kind: Kind | None
    """Why it is contamination; ``None``: a candidate that is not confirmed."""
    reason: str
    """Why it is not confirmed; else empty."""
    neighbour: bool
    """Whether it was found among the whitened neighbours."""
    lexical: bool
    """Whether it was found by its words."""
    cosine: float | None
    """Of the whitened vectors; ``None`` without vectors."""
    shared: int
    """Runs of words that both have."""
    overlap: float
    """How sure it is that one is the other in other words, 0 to 1."""

    @property
    def strength(self) -> tuple[int, float]:
        """Larger is stronger; a candidate that is not confirmed comes last."""
        return (len(KINDS) - KINDS.index(self.kind) if self.kind else 0, self.overlap)


def statements_of(sets: Sequence[EvaluationSet]) -> list[str]:
    """Return the statements of all sets, in the order in which ``Detector`` wants their vectors."""
    return [statement for one in sets for statement in one.statements]


def vocabulary_of(sets: Sequence[EvaluationSet], config: ContaminationConfig) -> Rarity:
    """Return the counters of what the evaluation sets say, all at 0: ``count`` the training pool with them."""
    forms = (form_of(statement, config.ngram) for statement in statements_of(sets))
    return Rarity((key for form in forms for key in keys(form)), config.ngram)


class Detector:
    """Judges training problems by all evaluation sets. Can be pickled when its index can."""

    def __init__(
        self,
        sets: Sequence[EvaluationSet],
        rarity: Rarity,
        config: ContaminationConfig,
        index: Index | None = None,
        threshold: float = 1.0,
    ) -> None:
        """``rarity``: counted over the training pool. ``index``: whitened vectors of ``statements_of(sets)``, by a map
        that was fitted on training problems alone; ``threshold``: cosine from which neighbours are candidates.
        """
        self.config = config
        self.names = [(one.name, name) for one in sets for name in one.ids]
        if index is not None and len(index) != len(self.names):
            raise ValueError(f"{len(index)} vectors for {len(self.names)} evaluation problems: one for each, in order")
        self.index, self.threshold = index, threshold
        self.weights = rarity.weights()
        self.forms = [form_of(statement, config.ngram) for statement in statements_of(sets)]
        self.whole = [weight_of(form, self.weights) for form in self.forms]
        self.masses = [_mass(whole) for whole in self.whole]
        self.equal: dict[str, list[int]] = defaultdict(list)
        """Canonical text, or template -> problems that have it."""
        self.postings: dict[str, list[int]] = defaultdict(list)
        for position, form in enumerate(self.forms):
            for text in {form.canonical, form.plain, form.template}:
                _add(self.equal[text], position)
            for key in keys(form):
                if self.weights[key] >= _TELLING or rarity.counts[key] <= _FEW:
                    _add(self.postings[key], position)

    def judge(self, row: str, statement: str, neighbours: Sequence[tuple[int, float]] = ()) -> list[Match]:
        """Return what the training problem ``row`` may be, the strongest first.

        ``neighbours``: positions and cosines of evaluation problems; those below the threshold are no candidates by
        themselves, but what is known of them counts where words lead to them.
        """
        form = form_of(statement, self.config.ngram)
        whole = weight_of(form, self.weights)
        cosines = dict(neighbours)
        lexical = self._lexical(form, whole)
        near = {position for position, cosine in cosines.items() if cosine >= self.threshold}
        found = []
        for position in sorted(lexical | near):
            cosine = cosines.get(position)
            shares = likeness(form, whole, self.forms[position], self.whole[position], self.weights)
            sure = self._sure(shares, cosine)
            kind, reason = self._verdict(form, self.forms[position], shares, sure)
            found.append(
                Match(
                    row, *self.names[position], kind, reason, position in near, position in lexical, cosine,
                    shares.shared, sure,
                )
            )  # fmt: skip
        return sorted(found, key=lambda match: match.strength, reverse=True)

    def _lexical(self, form: Form, whole: Weight) -> set[int]:
        """Return positions of the evaluation problems that share most of what is telling."""
        scores: dict[int, float] = defaultdict(float)
        for key in keys(form):
            if places := self.postings.get(key):
                weight = self.weights[key] / 3 if " " in key else self.weights[key]
                for position in places:
                    scores[position] += weight
        total, masses, inside = _mass(whole), self.masses, self.config.contained / 2
        best: list[tuple[float, int]] = []
        for position, score in scores.items():  # a hundred per row: no calls
            other = masses[position]
            if score >= _LIKELY * (union := total + other - score):
                best.append((score / union, position))
            elif score >= inside * (smaller := total if total < other else other):
                # The shorter of the two stands in the other, perhaps.
                best.append((score / smaller * _LIKELY, position))
        found = {position for _, position in heapq.nlargest(self.config.candidates, best)}
        return found.union(*(self.equal.get(text, ()) for text in (form.canonical, form.plain, form.template)))

    def _sure(self, shares: Likeness, cosine: float | None) -> float:
        """Return how sure it is that two problems say the same, 0 to 1: a logistic regression on planted problems
        (``python -m benchmarks.contamination``), its weights rounded. Vectors only add to it: without them nothing is
        taken away.
        """
        numbers = shares.numbers if shares.counted or shares.others else (shares.words + shares.runs) / 2
        score = 2 * (shares.words + shares.runs) + 3 * math.log1p(shares.mass + shares.counted) + 9 * numbers - 13
        if cosine is not None and self.threshold < 1:
            score += 3 * max(0.0, cosine - self.threshold) / (1 - self.threshold)
        return 1 / (1 + math.exp(-score))

    def _verdict(self, one: Form, other: Form, shares: Likeness, sure: float) -> tuple[Kind | None, str]:
        """Return the kind of contamination, or ``None`` and why it is none."""
        enough = shares.mass >= self.config.mass
        if one.canonical == other.canonical or (enough and one.plain == other.plain):
            return "same", ""
        longer, shorter = max(one.length, other.length), min(one.length, other.length)
        if enough and longer >= _LONGER * shorter and shares.inside >= self.config.contained:
            return "contains", ""
        same_numbers = shares.numbers >= _SAME_NUMBERS or not (shares.counted or shares.others)
        if same_numbers and sure >= self.config.overlap and shares.mass + shares.counted >= self.config.mass / 2:
            return "reworded", ""
        alike = one.template == other.template or min(shares.words, shares.runs) >= _ALIKE
        if enough and alike:
            return "renumbered", ""
        if not alike and not same_numbers and sure >= self.config.overlap:
            return None, "much alike, with other numbers, and not of one template"
        if alike or sure >= self.config.overlap:
            return None, "too short or too common to tell: only the same text would count"
        return None, "other words" if same_numbers else "other words and other numbers"


def _add(positions: list[int], position: int) -> None:
    if len(positions) < _POSTINGS and position not in positions:
        positions.append(position)


def _mass(whole: Weight) -> float:
    return whole.words + whole.numbers + whole.runs / 3


def find(
    detector: Detector, rows: Iterable[tuple[str, str]], vectors: Iterable[np.ndarray] | None = None
) -> Iterator[Match]:
    """Yield candidates of the training problems ``rows`` (id and statement), confirmed and not, row by row and the
    strongest first.

    ``vectors``: theirs [k], whitened as those of the detector's index; null: n-grams alone. Rows are streamed.
    Raises ``ValueError`` when there are fewer vectors than rows.
    """
    stream, rest = iter(rows), None if vectors is None else iter(vectors)
    while block := list(islice(stream, _BLOCK)):
        near: list[list[tuple[int, float]]] = [[] for _ in block]
        if rest is not None and detector.index is not None:
            near = neighbours(detector.index, list(islice(rest, len(block))), detector.config.neighbours)
        for (row, statement), found in zip(block, near, strict=True):
            yield from detector.judge(row, statement, found)


def neighbours(index: Index, vectors: Sequence[np.ndarray], n: int) -> list[list[tuple[int, float]]]:
    """Return the ``n`` nearest evaluation problems of each vector: position and cosine, nearest first."""
    import numpy as np

    if not len(vectors):
        return []
    cosines, positions = index.search(np.stack(vectors), n)
    return [
        [(int(position), float(cosine)) for position, cosine in zip(*pair, strict=True) if position >= 0]
        for pair in zip(positions, cosines, strict=True)
    ]


@dataclass(frozen=True)
class Pairs:
    """What was found in a part of the pool: all that is confirmed, and of the rest the most alike."""

    confirmed: list[Match]
    others: list[Match]
    """At most ``SHOWN``, the most alike first."""
    counts: Counter[str]
    """Candidates by evaluation set, those that are not here included."""

    def merge(self, more: Pairs) -> Pairs:
        """Return what two parts have together."""
        others = heapq.nlargest(SHOWN, [*self.others, *more.others], key=lambda match: match.overlap)
        return Pairs([*self.confirmed, *more.confirmed], others, self.counts + more.counts)


def pairs_of(matches: Iterable[Match]) -> Pairs:
    """Return the matches of a part of the pool."""
    every = list(matches)
    others = heapq.nlargest(SHOWN, (one for one in every if not one.kind), key=lambda match: match.overlap)
    counts = Counter(one.evaluation_set for one in every)
    return Pairs([one for one in every if one.kind], others, counts)


def write_matches(path: Path, matches: Iterable[Match], ids: Mapping[str, str]) -> None:
    """Write pairs as JSON Lines, each with its row's id in the set and in ``fates.jsonl``, which people know it by.
    Raises ``OSError``.
    """
    with replacing(path) as file:
        for match in matches:
            file.write(dumps({"id": ids[match.row], **asdict(match)}, ensure_ascii=False) + "\n")


def read_matches(path: Path) -> Iterator[Match]:
    """Yield what ``write_matches`` wrote."""
    for _, row in read_lines(path):
        yield Match(**{name: value for name, value in row.items() if name != "id"})


def confirmed(matches: Iterable[Match]) -> dict[str, Match]:
    """Return training problem -> its strongest evidence, of those that have any: what is to be dropped."""
    found: dict[str, Match] = {}
    for match in matches:
        if match.kind and (match.row not in found or match.strength > found[match.row].strength):
            found[match.row] = match
    return found
