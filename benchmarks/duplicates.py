"""Time and memory of the search for duplicates (``recipes.curate``) on variations of real problems.

    K15_DATA=data python -m benchmarks.duplicates --rows 50000 --words 150

Rows are the problems of ``FILES``, and where these are too few copies of them: a tenth to the letter, a third with
other names, the rest with other numbers. ``--words`` joins problems until they have so many words. ``--lsh`` also fills
``datasketch.MinHashLSH`` with the same signatures, to compare memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import time
from pathlib import Path

import numpy as np

from recipes.curate.duplicates import Drop, exact, near, stricter
from recipes.curate.prints import Prints, concatenated, prints
from recipes.curate.stars import bands
from recipes.curate.templates import templates
from recipes.curate.text import words

FILES = ("gsm8k_train", "math_train", "math_test_rest", "gsm8k_test", "asdiv", "mawps", "svamp", "aime_1983_2023")
PEOPLE = ("Aiko", "Bjorn", "Chidi", "Dolores", "Emeka", "Farida", "Gustavo", "Hana", "Ines", "Jamal")
SHARD = 10_000
LEAST = 0.6


def varied(problem: str, answer: str, seed: random.Random) -> tuple[str, str]:
    """Return a copy of a problem: the same, with other names, or with other numbers and another answer."""
    kind = seed.random()
    if kind < 0.1:
        return problem, answer
    if kind < 0.4:
        return re.sub(r"\b[A-Z][a-z]{2,}(?= (?:has|had|is|was|and|wants|bought))", seed.choice(PEOPLE), problem), answer
    return re.sub(r"\d+", lambda _: str(seed.randrange(2, 999)), problem), str(seed.randrange(10_000))


def made(folder: Path, rows: int, least_words: int) -> tuple[list[str], list[str]]:
    """Return statements and answers."""
    seed = random.Random(0)
    real = [json.loads(line) for name in FILES for line in (folder / f"{name}.jsonl").open(encoding="utf-8")]
    statements, answers = [], []
    for at in range(rows):
        row = real[at % len(real)]
        statement, answer = (row["problem"], row["answer"])
        more = at % len(real)
        while len(words(statement)) < least_words:
            more += 1
            statement += " " + real[more % len(real)]["problem"]
        if at >= len(real):
            statement, answer = varied(statement, answer, seed)
        statements.append(statement)
        answers.append(answer)
    return statements, answers


def megabytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def left(rows: np.ndarray, drops: list[Drop]) -> np.ndarray:
    return np.setdiff1d(rows, np.array([drop.row for drop in drops], np.int64))


def filled(kept: Prints) -> None:
    """Put signatures into ``datasketch.MinHashLSH``."""
    from datasketch import MinHash, MinHashLSH

    seeds = MinHash(kept.signatures.shape[1]).permutations
    index = MinHashLSH(threshold=LEAST, num_perm=kept.signatures.shape[1], weights=(0.02, 0.98))
    for row, signature in enumerate(kept.signatures):
        index.insert(row, MinHash(hashvalues=signature, permutations=seeds, scheme="affine32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--words", type=int, default=0)
    parser.add_argument("--lsh", action="store_true")
    asked = parser.parse_args()
    statements, answers = made(Path(os.environ["K15_DATA"]), asked.rows, asked.words)
    print(
        f"{asked.rows} rows of {np.mean([len(words(text)) for text in statements[:2000]]):.0f} words, {megabytes()} MB"
    )

    def timed(name: str, started: float, found: int) -> float:
        now = time.process_time()
        took = now - started
        print(f"{name:12} {took:8.2f} s {took / asked.rows * 1e6:8.1f} us/row {found:7} {megabytes()} MB")
        return time.process_time()

    clock = time.process_time()
    shards = [
        prints(statements[start : start + SHARD], ngram=3, permutations=128) for start in range(0, asked.rows, SHARD)
    ]
    kept = concatenated(shards)
    clock = timed("signatures", clock, asked.rows)
    rows = np.arange(asked.rows)
    drops = exact(kept, statements, answers, rows)
    clock, rows = timed("exact", clock, len(drops)), left(rows, drops)
    drops = near(kept, statements, answers, rows, least=LEAST, ngram=3)
    clock, rows = timed("near", clock, len(drops)), left(rows, drops)
    found = templates(kept, statements, answers, rows, cap=4, least=stricter(LEAST), ngram=3, seed=0)
    clock = timed("templates", clock, len(found.drops))
    for _ in bands(kept.signatures, LEAST):
        pass
    clock = timed("bands alone", clock, 0)
    if asked.lsh:
        filled(kept)
        timed("MinHashLSH", clock, 0)


if __name__ == "__main__":
    main()
