"""Problems that say the same in other words, found by their embeddings and confirmed by what they have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recipes.curate.duplicates import Drop, Rows, Texts, same_answers, shared, stricter, tellings
from recipes.curate.prints import Prints
from recipes.curate.text import jaccard
from rollout.embedding.neighbours import Index

REWORDED = "near duplicate by embedding"


def by_embedding(
    prints: Prints,
    vectors: NDArray[np.float32],
    statements: Texts,
    answers: Texts,
    rows: Rows,
    *,
    cosine: float,
    neighbours: int,
    confirmed: float,
    ngram: int,
) -> list[Drop]:
    """Return the rows that say what an earlier one says in other words: their ``vectors`` [len(rows), k] (normalised)
    have at least that cosine, ``confirmed`` of the shorter one's n-grams stand in the other, and numbers and answer are
    the same. Of texts without numbers the Jaccard similarity is ``stricter(confirmed)``.

    Of each row ``neighbours`` are looked at.
    """
    telling = tellings(statements, ngram)
    later, earlier = pairs(vectors, neighbours, cosine)
    same = prints.numbers[rows[later]] == prints.numbers[rows[earlier]]
    gone = np.zeros(len(rows), bool)
    drops: list[Drop] = []
    for at, other in zip(later[same].tolist(), earlier[same].tolist(), strict=True):
        if gone[at] or gone[other]:
            continue
        row, like = int(rows[at]), int(rows[other])
        one, two = telling(row), telling(like)
        share = shared(one.ngrams, two.ngrams)
        enough = share >= confirmed if one.numbers else jaccard(one.ngrams, two.ngrams) >= stricter(confirmed)
        if enough and one.numbers == two.numbers and same_answers(answers, row, like):
            gone[at] = True
            near = float(vectors[at] @ vectors[other])
            drops.append(
                Drop(row, REWORDED, f"cosine {near:.2f}, {share:.0%} of the n-grams, same numbers and answer", like)
            )
    return drops


def pairs(vectors: NDArray[np.float32], neighbours: int, cosine: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (later, earlier) rows of which one is among the nearest of the other, and near enough: by later row, and
    then the earliest first.
    """
    cosines, ids = Index(vectors).search(vectors, neighbours + 1)
    rows = np.repeat(np.arange(len(vectors)), ids.shape[1])
    near = (cosines.ravel() >= cosine) & (ids.ravel() >= 0) & (ids.ravel() != rows)
    rows, others = rows[near], ids.ravel()[near]
    found = np.unique(np.maximum(rows, others) * len(vectors) + np.minimum(rows, others))
    return found // len(vectors), found % len(vectors)
