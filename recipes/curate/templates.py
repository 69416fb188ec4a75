"""Problems that differ in their numbers: a few of each template are kept, spread over its answers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recipes.curate.duplicates import REMEMBERED, Drop, Rows, Texts
from recipes.curate.masks import masked
from recipes.curate.prints import Prints
from recipes.curate.stars import bands, estimated, stars
from recipes.curate.text import digest, jaccard, ngrams, template, words

TEMPLATE = "template"


@dataclass(frozen=True)
class Templates:
    """Which problems differ in their numbers only, or hardly in anything else."""

    cluster: NDArray[np.int32]
    """[len(rows)]: the first row of its cluster; a row without numbers, or like no other, is its own."""
    size: NDArray[np.int32]
    """[len(rows)]: rows of its cluster, those that go included."""
    drops: list[Drop]


def templates(
    prints: Prints,
    statements: Texts,
    answers: Texts,
    rows: Rows,
    *,
    cap: int | None,
    least: float,
    ngram: int,
    seed: int,
) -> Templates:
    """Return the clusters of ``rows``, and what goes of those with more than ``cap`` problems.

    A cluster are the rows of one template (``text.template`` of what ``masked`` returns, however short: "Compute # + #"
    is one), and of all templates whose n-grams have a Jaccard similarity of at least ``least`` with it. A text without
    a number has no template.
    """
    cluster = np.arange(len(rows))
    forms = prints.template[rows]
    numbered = np.flatnonzero(forms)
    _, firsts, form = np.unique(forms[numbered], return_index=True, return_inverse=True)
    heads = np.sort(numbered[firsts])
    leaders = heads[_leaders(prints, statements, rows[heads], least, ngram)]
    head_of = numbered[firsts][form]  # the first row of the same template
    cluster[numbered] = leaders[np.searchsorted(heads, head_of)]
    sizes = np.bincount(cluster, minlength=len(rows))[cluster]
    drops = [] if cap is None else _capped(prints, answers, rows, cluster, sizes, cap, seed)
    return Templates(rows[cluster].astype(np.int32), sizes.astype(np.int32), drops)


def _leaders(prints: Prints, statements: Texts, heads: Rows, least: float, ngram: int) -> NDArray[np.int64]:
    """Return for each of some rows with different templates which of them it is in a cluster with."""
    signatures = prints.signatures[heads]

    @lru_cache(maxsize=REMEMBERED)
    def grams(at: int) -> set[str]:
        text = str(statements[int(heads[at])])
        return ngrams(template(masked(text, words(text))), ngram)

    def alike(at: int, others: NDArray[np.int64]) -> int | None:
        likely = estimated(signatures, at, others, least).tolist()
        return next((other for other in likely if jaccard(grams(at), grams(other)) >= least), None)

    return stars(len(heads), bands(signatures, least), alike)


def _capped(
    prints: Prints,
    answers: Texts,
    rows: Rows,
    cluster: NDArray[np.int64],
    sizes: NDArray[np.int64],
    cap: int,
    seed: int,
) -> list[Drop]:
    """Return what goes of each cluster: the first row stays, so that what is kept has the same clusters, and of the
    others those at even distances in the order of their answers.
    """
    large = np.flatnonzero(sizes > cap)
    order = large[np.argsort(cluster[large], kind="stable")]
    drops: list[Drop] = []
    for members in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
        if not len(members):
            continue
        first, *others = members.tolist()
        others.sort(
            key=lambda at: (*_size(str(answers[int(rows[at])])), digest(f"{seed} {prints.canonical[rows[at]]}"))
        )
        offset = (digest(f"{seed} {prints.canonical[rows[first]]}") % 1000) / 1000
        kept = {others[int((place + offset) * len(others) / (cap - 1))] for place in range(cap - 1)}
        detail = f"{cap} of {len(members)} problems are kept"
        drops += [Drop(int(rows[at]), TEMPLATE, detail, int(rows[first])) for at in others if at not in kept]
    return sorted(drops, key=lambda drop: drop.row)


def _size(answer: str) -> tuple[int, float, str]:
    """Return what answers are sorted by: numbers by their value, others after them by length."""
    try:
        return 0, float(Fraction(answer.strip().strip("$").replace(",", ""))), ""
    except (ValueError, ZeroDivisionError, OverflowError):
        return 1, float(len(answer)), answer
