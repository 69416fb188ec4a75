"""Recall and precision of decontamination on planted problems.

    K15_DATA=data python -m benchmarks.contamination > contamination.jsonl

Problems of held-out sets are put into a pool of training problems: word for word, with other numbers, in other words
by a table, and in other words by hand. Weights and thresholds were set on one half of them (by a hash of the id), the
other half is reported; which features to use was seen on both, so that of rewordings by hand only the fresh ones are
held out. The pool's own problems that are flagged were read one by one: ``tests/data/overlaps.jsonl``.
Arms: both ways to candidates, the whitened neighbours alone, n-grams alone. ``candidates`` compares raw and whitened
cosines at equal numbers of candidates. ``--encoder static`` takes seconds, ``sentence`` minutes the first time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import emit, environment, say
from benchmarks.contamination.rows import Planted, by_hand, planted_of, pool_of, sets_of, vectors_of, verdicts
from recipes.curate.config import ContaminationConfig
from recipes.curate.contamination import Detector, Match, confirmed, find, statements_of, vocabulary_of
from recipes.curate.evaluation_sets import EvaluationSet
from rollout.embedding.config import EncoderConfig, WhiteningConfig
from rollout.embedding.neighbours import Index
from rollout.embedding.null import null_of
from rollout.embedding.whitening import fit

ARMS = ("both", "neighbours", "n-grams")


def of_arm(matches: Iterable[Match], arm: str) -> list[Match]:
    """Return what this way to candidates would have found."""
    return [one for one in matches if arm == "both" or (one.neighbour if arm == "neighbours" else one.lexical)]


def recall(planted: Sequence[Planted], matches: Sequence[Match], arm: str, facts: dict[str, object]) -> None:
    """Emit, per level and set, which part of the planted problems is confirmed to be what it is."""
    right = {one.row: one for one in reversed(matches) if one.kind and one.row.endswith(f"-{one.problem}")}
    looked = {one.row for one in matches if one.row.endswith(f"-{one.problem}")}
    for level in dict.fromkeys(one.level for one in planted):
        of_level = [one for one in planted if one.level == level]
        for name in ("all", *dict.fromkeys(one.evaluation_set for one in of_level)):
            some = [one for one in of_level if name in ("all", one.evaluation_set)]
            halves = {"reported": [one for one in some if one.reported]}
            if name == "all":
                halves["tuned"] = [one for one in some if not one.reported]
            for half, rows in halves.items():
                if rows:
                    emit({
                        "row": "recall", **facts, "arm": arm, "level": level, "set": name, "half": half,
                        "planted": len(rows),
                        "candidates": round(sum(one.row in looked for one in rows) / len(rows), 4),
                        "recall": round(sum(one.row in right for one in rows) / len(rows), 4),
                        "kinds": dict(Counter(right[one.row].kind for one in rows if one.row in right)),
                    })  # fmt: skip


def precision(matches: Sequence[Match], arm: str, facts: dict[str, object]) -> None:
    """Emit how many flagged rows are none: of the planted ones and the pool's, and of the pool's alone."""
    dropped, read = confirmed(matches), verdicts()
    own = [one for row, one in dropped.items() if not row.startswith("planted-")]
    # A text that is equal needs no reading.
    found = Counter("same" if one.kind == "same" else read.get((one.row, one.problem), "unread") for one in own)
    wrong, flagged = found["another"] + found["unread"], len(dropped)
    emit({
        "row": "precision", **facts, "arm": arm, "flagged": flagged, "of_the_pool": len(own), "read": dict(found),
        "precision": round(1 - wrong / max(flagged, 1), 4),
        "variants_count_as_wrong": round(1 - (wrong + found["variant"]) / max(flagged, 1), 4),
        "unread": sorted(f"{one.row} {one.problem}" for one in own if found["unread"] and one.kind != "same"
                         and (one.row, one.problem) not in read),
    })  # fmt: skip


def ranked(rows: np.ndarray, index: Index, targets: np.ndarray, counts: Sequence[int]) -> dict[str, float]:
    """Return, for numbers of candidates, which part of the targets (position, or -1 for a clean row) is among them:
    the pairs of a row and one of its five nearest that have the highest cosines.
    """
    cosines, positions = index.search(rows, 5)
    order = np.argsort(-cosines.ravel(), kind="stable")
    hit = (positions == targets[:, None]).ravel()[order] & (np.repeat(targets, positions.shape[1])[order] >= 0)
    return {str(count): round(float(hit[:count].sum() / (targets >= 0).sum()), 4) for count in counts}


def one_seed(
    seed: int, sets: Sequence[EvaluationSet], pool: list[tuple[str, str]], encoder: EncoderConfig, quantile: float
) -> None:
    planted = [*planted_of(sets, seed), *by_hand(sets)]
    rows = [*pool, *((one.row, one.statement) for one in planted)]
    statements = statements_of(sets)
    raw = vectors_of([*(text for _, text in rows), *statements], encoder)
    whitener = fit(raw[: len(rows)], WhiteningConfig())
    white = whitener.transform(raw)
    index = Index(white[len(rows) :])
    null = null_of(white[: len(pool)], seed)
    config = ContaminationConfig(quantile=quantile)
    threshold = null.threshold(config.quantile)
    facts: dict[str, object] = {"seed": seed, "encoder": encoder.kind, "threshold": round(threshold, 4)}
    rarity = vocabulary_of(sets, config)
    clock = time.process_time()
    rarity.count(text for _, text in rows)
    counted = time.process_time() - clock
    place = {name: position for position, name in enumerate(name for one in sets for name in one.ids)}
    for arm in ARMS:
        with_vectors = arm != "n-grams"
        detector = Detector(sets, rarity, config, index if with_vectors else None, threshold if with_vectors else 1.0)
        clock = time.process_time()
        matches = of_arm(find(detector, rows, white[: len(rows)] if with_vectors else None), arm)
        found = time.process_time() - clock
        recall(planted, matches, arm, facts)
        precision(matches, arm, facts)
        emit({
            "row": "time", **facts, "arm": arm, "rows": len(rows), "evaluation": len(statements),
            "candidates": len(matches), "count_us_per_row": round(1e6 * counted / len(rows)),
            "find_us_per_row": round(1e6 * found / len(rows)),
        })  # fmt: skip
    counts = (len(planted), 2 * len(planted), 4 * len(planted))
    targets = np.array([-1] * len(pool) + [place[one.problem] for one in planted])
    units = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9)
    for level in ("reworded", "by hand", "by hand, fresh"):
        chosen = np.array([True] * len(pool) + [one.level == level for one in planted])
        for name, vectors in (("raw", units), ("whitened", white)):
            near = ranked(vectors[: len(rows)][chosen], Index(vectors[len(rows) :]), targets[chosen], counts)
            emit({"row": "candidates", **facts, "level": level, "vectors": name, "recall_by_candidates": near})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder", choices=("sentence", "static"), default="sentence")
    parser.add_argument("--quantile", type=float, default=ContaminationConfig().quantile)
    arguments = parser.parse_args()
    if not (folder := os.environ.get("K15_DATA")):
        raise SystemExit("K15_DATA: name the folder of the data files")
    sets, pool = sets_of(Path(folder)), pool_of(Path(folder))
    emit({"row": "environment", **environment()})
    for seed in range(arguments.seeds):
        say(f"seed {seed}")
        one_seed(seed, sets, pool, EncoderConfig(kind=arguments.encoder), arguments.quantile)


if __name__ == "__main__":
    main()
