"""The pool, the evaluation sets, and what is planted of these in that."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.common import CACHE, ROOT, say
from benchmarks.contamination.planting import renumbered, reworded
from recipes.curate.evaluation_sets import EvaluationSet
from rollout.embedding.config import EncoderConfig
from rollout.embedding.encoders import load_encoder
from rollout.files import replace_file
from rollout.problems.jsonl import read_rows
from rollout.seeds import seed_of

HELD_OUT = (
    "aime2024", "aime2025", "aime_1983_2023", "amc2023", "math500", "gsm8k_test", "olympiadbench_oe_maths_en",
    "minerva_math",
)  # fmt: skip
POOL = ("gsm8k_train", "math_train", "asdiv", "svamp", "mawps")
LEVELS = ("verbatim", "renumbered", "reworded")
REWORDINGS = ROOT / "tests" / "data" / "rewordings.jsonl"
"""Written by hand: ``id`` of the problem, ``rewording``; those that are ``fresh`` were written after rules and weights
were settled."""
READ = ROOT / "tests" / "data" / "overlaps.jsonl"
"""Flagged pairs of pool and evaluation set, read one by one: ``row``, ``problem``, ``verdict``."""


@dataclass(frozen=True)
class Planted:
    """An evaluation problem that is put into the pool."""

    level: str
    evaluation_set: str
    problem: str
    """Id of the evaluation problem."""
    statement: str

    @property
    def row(self) -> str:
        return f"planted-{self.level}-{self.problem}"

    @property
    def reported(self) -> bool:
        """Whether it is of the half that is reported; the other half is what weights and thresholds were set on."""
        return self.level == "by hand, fresh" or seed_of("half", self.problem) % 2 == 1


def sets_of(folder: Path) -> list[EvaluationSet]:
    """Return the held-out sets."""
    found = []
    for name in HELD_OUT:
        rows = [row for _, row in read_rows(folder / f"{name}.jsonl")]
        ids, statements, answers = (tuple(str(row[key]) for row in rows) for key in ("id", "problem", "answer"))
        found.append(EvaluationSet(name, name, ids, statements, answers))
    return found


def pool_of(folder: Path) -> list[tuple[str, str]]:
    """Return id and statement of the clean pool's problems."""
    return [(row["id"], row["problem"]) for name in POOL for _, row in read_rows(folder / f"{name}.jsonl")]


def planted_of(sets: Sequence[EvaluationSet], seed: int) -> list[Planted]:
    """Return every problem at one level: over seeds 0 to 2 each comes once at each."""
    found = []
    for one in sets:
        for name, statement in zip(one.ids, one.statements, strict=True):
            level = LEVELS[(seed_of("level", name) + seed) % 3]
            random = Random(seed_of("plant", seed, name))
            change = {"renumbered": renumbered, "reworded": reworded}.get(level)
            found.append(Planted(level, one.name, name, change(statement, random) if change else statement))
    return found


def by_hand(sets: Sequence[EvaluationSet]) -> list[Planted]:
    """Return the rewordings written by hand, and those of them that nothing was set on."""
    home = {name: one.name for one in sets for name in one.ids}
    level = {False: "by hand", True: "by hand, fresh"}
    return [
        Planted(level[row.get("fresh", False)], home[row["id"]], row["id"], row["rewording"])
        for _, row in read_rows(REWORDINGS)
    ]


def verdicts() -> dict[tuple[str, str], str]:
    """Return (pool row, evaluation problem) -> what reading it found: ``same``, ``variant`` (the same setting or
    template with another question or other numbers) or ``another`` problem."""
    return {(row["row"], row["problem"]): row["verdict"] for _, row in read_rows(READ)}


def vectors_of(texts: Sequence[str], config: EncoderConfig) -> np.ndarray:
    """Return the encoder's vectors [n, d]; they are kept in ``runs/bench`` for the next time."""
    encoder = load_encoder(config)
    path = CACHE / f"contamination-{encoder.fingerprint[:16]}.npz"
    known: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))
    keys = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        say(f"encoding {len(missing)} texts")
        known |= dict(zip(missing, encoder.encode(list(missing.values())), strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.savez(data, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
        replace_file(path, data.getvalue())
    return np.stack([known[key] for key in keys])
