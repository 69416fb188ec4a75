"""Key-value retrieval over windows, NBCE's basic claim in miniature: ``python -m benchmarks.kv_retrieval``.

A tiny Llama with a window of 64 tokens learns, through the product's learner, to answer ``key -> value`` from four
pairs in its context. Then it is asked about twelve pairs: in three windows (NBCE with each pooling, parallel context
windows, one answer of each window and the surest of them) and cut to one window. ``in window`` is what it can do: the
one window that holds the key. ``voted``: share of tokens for which k* is that window.

Two ways of learning, since entropy is all that a window without the key has to say of itself: ``with absent keys``, a
quarter of the examples ask for a key that is not there (its value is drawn anew each time: nothing to be known), and
``always there``.

One JSON line per way and seed, then one per way over the seeds. Finished models are kept and not trained again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import CACHE, emit, environment, say
from evals.stats import mean_ci
from rl.config import RunConfig
from rollout.config import EngineConfig
from rollout.engine import Delta, Request, Sampling
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.types import Prompt

WINDOW = 64
PAIRS, WINDOWS = 4, 3
BEGIN, IS, NEXT, ASK, END = range(5)
SYMBOLS = 40
"""Of which keys have two and values three."""
KEY, VALUE = 2, 3
FIRST = END + 1
VOCABULARY = FIRST + SYMBOLS
ARMS = ("entropy", "mean", "exact", "parallel", "surest", "truncated", "in window")


@dataclass(frozen=True)
class Example:
    """Pairs and a question about one key."""

    windows: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    holds: int
    """The window with the key, from 0; -1: none."""


def draw(source: random.Random, windows: int, absent: float) -> Example:
    """Draw an example; with probability ``absent`` its key is in no window."""
    symbols = range(FIRST, VOCABULARY)
    keys: set[tuple[int, ...]] = set()
    while len(keys) < windows * PAIRS + 1:
        keys.add(tuple(source.choices(symbols, k=KEY)))
    known = source.sample(sorted(keys), windows * PAIRS + 1)
    values = [tuple(source.choices(symbols, k=VALUE)) for _ in known]
    asked = windows * PAIRS if source.random() < absent else source.randrange(windows * PAIRS)
    pairs = [(*key, IS, *value, NEXT) for key, value in zip(known, values, strict=True)]
    held = [(BEGIN, *(token for pair in pairs[k * PAIRS : (k + 1) * PAIRS] for token in pair)) for k in range(windows)]
    holds = asked // PAIRS if asked < windows * PAIRS else -1
    return Example(tuple(held), (ASK, *known[asked], IS), (*values[asked], END), holds)


def trained(folder: Path, seed: int, absent: float, steps: int) -> Path:
    """Train a model, unless it is there."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rl.learner.batch import pack_demonstrations
    from rl.learner.learner import Learner
    from rl.learner.spec import LearnerSpec
    from rl.objectives.cross_entropy import CrossEntropy
    from rl.warmup import learning_rate

    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(seed)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    start = folder.with_name(folder.name + "-start")
    LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=WINDOW, tie_word_embeddings=True, **sizes)
    ).save_pretrained(start)
    run = RunConfig.model_validate(
        {
            "seed": seed,
            "model": {"threads": 1},
            "engine": {"max_model_len": WINDOW},
            "rollout": {"max_tokens": 8, "segment_tokens": 8},
        }
    )
    learner = Learner(LearnerSpec.of(run), start)
    source = random.Random(seed)
    for step in range(steps):
        pairs = []
        for _ in range(64):
            one = draw(source, 1, absent)
            # A tenth without evidence: row 0 of the merge must know what an empty context is like.
            head = one.windows[0] if source.random() >= 0.1 else (BEGIN,)
            pairs.append((np.array([*head, *one.question], np.int32), np.array(one.answer, np.int32)))
        loss = learner.step(pack_demonstrations(pairs), CrossEntropy(), learning_rate(step, steps, 3e-3)).loss
        if step % 200 == 199:
            say(f"seed {seed}, absent {absent}: step {step + 1}, loss {loss:.3f}")
    learner.model.save_pretrained(folder)
    return folder


async def answered(path: Path, requests: Sequence[Request]) -> dict[str, Delta]:
    """Return all of each response."""
    from rollout.engines.hf import HfEngine

    engine = HfEngine(str(path), EngineConfig(kind="hf", max_model_len=WINDOW, max_concurrency=64))
    await engine.start()
    found: dict[str, list[Delta]] = {}
    await engine.submit(requests)
    while sum(parts[-1].done for parts in found.values()) < len(requests):
        for delta in await engine.poll(1.0):
            found.setdefault(delta.key, []).append(delta)
    await engine.close()
    return {
        key: Delta(
            key,
            np.concatenate([part.token_ids for part in parts]),
            np.concatenate([part.logprobs for part in parts]),
            0,
            error=parts[-1].error,
            pointers=np.concatenate([part.pointers for part in parts]),
        )
        for key, parts in found.items()
    }


def requests_of(number: int, example: Example) -> list[Request]:
    """Return the requests of all arms for one example."""
    sampling = Sampling(temperature=0.0, stop_token_ids=(END,))
    rows = tuple(Prompt([*window, *example.question]) for window in example.windows)
    empty = Prompt([BEGIN, *example.question])

    def request(arm: str, prompt: Prompt, evidence: Evidence | None = None) -> Request:
        return Request(f"{number} {arm}", prompt, VALUE + 1, sampling, evidence=evidence)

    merged = [request(pooling, empty, Evidence(rows, MergingConfig(pooling=pooling))) for pooling in ARMS[:3]]
    single = [request(f"window {k}", row) for k, row in enumerate(rows)]
    return [*merged, request("parallel", empty, Evidence(rows, "parallel")), *single]


def measured(path: Path, problems: int) -> dict[str, Any]:
    """Return accuracy of each arm, per problem."""
    source = random.Random(10**6)
    examples = [draw(source, WINDOWS, 0.0) for _ in range(problems)]
    requests = [request for number, one in enumerate(examples) for request in requests_of(number, one)]
    found = asyncio.run(answered(path, requests))
    if failed := next((delta.error for delta in found.values() if delta.error), ""):
        raise SystemExit(failed)
    right: dict[str, list[bool]] = {arm: [] for arm in ARMS}
    voted: list[float] = []
    for number, one in enumerate(examples):

        def is_right(name: str, number: int = number, one: Example = one) -> bool:
            return tuple(found[f"{number} {name}"].token_ids.tolist()) == one.answer

        for arm in ARMS[:4]:
            right[arm].append(is_right(arm))
        surest = max(range(WINDOWS), key=lambda k: found[f"{number} window {k}"].logprobs.mean())
        right["surest"].append(is_right(f"window {surest}"))
        right["truncated"].append(is_right("window 0"))
        right["in window"].append(is_right(f"window {one.holds}"))
        pointers = found[f"{number} entropy"].pointers
        voted.append(float((pointers[:VALUE] == one.holds + 1).mean()))
    accuracy = {arm: float(np.mean(values)) for arm, values in right.items()}
    return {"accuracy": accuracy, "voted": float(np.mean(voted)), "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="seeds of weights and examples (0,1,2)")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps of 64 examples (1500)")
    parser.add_argument("--problems", type=int, default=300, help="questions about twelve pairs (300)")
    parser.add_argument("--out", type=Path, default=CACHE / "kv_retrieval", help="folder of the models")
    given = parser.parse_args()
    emit({"environment": environment()})
    for way, absent in (("with absent keys", 0.25), ("always there", 0.0)):
        rows = []
        for seed in map(int, given.seeds.split(",")):
            folder = given.out / f"{way.replace(' ', '-')}-{given.steps}-{seed}"
            row = measured(trained(folder, seed, absent, given.steps), given.problems)
            rows.append(row)
            emit({"trained": way, "seed": seed, **row})
        accuracy = {arm: mean_ci([[row["accuracy"][arm]] for row in rows]) for arm in ARMS}
        emit(
            {
                "trained": way,
                "seeds": len(rows),
                "accuracy": {
                    arm: [round(one.mean, 4), *(round(v, 4) for v in one.ci95)] for arm, one in accuracy.items()
                },
                "voted": round(float(np.mean([row["voted"] for row in rows])), 4),
            }
        )


if __name__ == "__main__":
    main()
