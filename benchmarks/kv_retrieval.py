"""Key-value retrieval over windows, NBCE's basic claim in miniature: ``python -m benchmarks.kv_retrieval``.

A tiny Llama with a window of some 64 tokens learns, through the product's learner, to answer ``key -> value`` from four
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
from rewards.stats import bootstrap_ci, mean_ci
from rl.config import RunConfig
from rollout.config import EngineConfig
from rollout.engine import Delta, Request, Sampling
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.types import Prompt

WINDOW = 72
"""Four pairs with what stands between them, and a question; in training three more, each behind its answer."""
PAIRS, WINDOWS = 4, 3
BEGIN, ASK, END = range(3)
KEYS, VALUES, FILLERS = range(3, 43), range(43, 83), range(83, 103)
VALUE = 2
"""Tokens of a value. A key has one, and behind a pair stand 5 to 10 that mean nothing: twelve pairs fill three
windows."""
VOCABULARY = FILLERS.stop
LR = 1e-2
WAYS = {"with absent keys": 0.25, "always there": 0.0}
"""Ways of learning, and their share of questions about a key that is not there."""
ARMS = ("entropy", "mean", "exact", "parallel", "surest", "truncated", "in window")


Pair = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Example:
    """Pairs in windows, and a question about one key."""

    windows: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    holds: int
    """The window with the key, from 0."""


def pairs_of(source: random.Random, count: int) -> list[Pair]:
    """Draw keys, all different, with their values."""
    return [(key, tuple(source.choices(VALUES, k=VALUE))) for key in source.sample(KEYS, count)]


def window_of(source: random.Random, pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Return the context that holds these pairs."""
    parts = [(key, *value, *source.choices(FILLERS, k=source.randint(5, 10))) for key, value in pairs]
    return (BEGIN, *(token for part in parts for token in part))


def draw(source: random.Random) -> Example:
    """Draw what is asked at the end: one of twelve keys."""
    pairs = pairs_of(source, WINDOWS * PAIRS)
    asked = source.randrange(len(pairs))
    held = [window_of(source, pairs[k * PAIRS : (k + 1) * PAIRS]) for k in range(WINDOWS)]
    key, value = pairs[asked]
    return Example(tuple(held), (ASK, key), (*value, END), asked // PAIRS)


def lesson(source: random.Random, absent: float) -> tuple[list[int], list[int]]:
    """Draw a demonstration: a window, and a question about each of its keys, one after the other.

    With probability ``absent`` a question is about a key that is not there. A tenth have an empty window: row 0 of the
    merge must know what that is like.
    """
    pairs = pairs_of(source, 2 * PAIRS)
    there, others = pairs[:PAIRS], pairs[PAIRS:]
    head = window_of(source, there) if source.random() >= 0.1 else (BEGIN,)
    asked = [others[n] if source.random() < absent else pair for n, pair in enumerate(source.sample(there, PAIRS))]
    text = [token for key, value in asked for token in (ASK, key, *value, END)]
    return [*head, *text[:2]], text[2:]


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
            prompt, response = lesson(source, absent)
            pairs.append((np.array(prompt, np.int32), np.array(response, np.int32)))
        loss = learner.step(pack_demonstrations(pairs), CrossEntropy(), learning_rate(step, steps, LR)).loss
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


def measured(path: Path, problems: int) -> tuple[dict[str, list[bool]], float]:
    """Return for each arm which problems it got right, and how often the vote was for the window with the key."""
    source = random.Random(10**6)
    examples = [draw(source) for _ in range(problems)]
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
    return right, float(np.mean(voted))


def summary(runs: Sequence[tuple[dict[str, list[bool]], float]]) -> dict[str, Any]:
    """Return accuracies over problems and seeds, with intervals over problems, and those of differences."""

    def estimate(arm: str, less: str = "") -> list[float]:
        by_problem = [[float(right[arm][n]) for right, _ in runs] for n in range(len(runs[0][0][arm]))]
        if not less:
            one = mean_ci(by_problem)
        else:
            other = [[float(right[less][n]) for right, _ in runs] for n in range(len(by_problem))]
            one = bootstrap_ci([[sum(a) / len(a) - sum(b) / len(b)] for a, b in zip(by_problem, other, strict=True)])
        return [round(value, 4) for value in (one.mean, one.low, one.high)]

    return {
        "accuracy": {arm: estimate(arm) for arm in ARMS},
        "entropy less in window": estimate("entropy", "in window"),
        "voted": round(float(np.mean([voted for _, voted in runs])), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="seeds of weights and examples (0,1,2)")
    parser.add_argument("--steps", type=int, default=700, help="optimiser steps of 64 examples (700)")
    parser.add_argument("--problems", type=int, default=300, help="questions about twelve pairs (300)")
    parser.add_argument("--ways", default=",".join(WAYS), help="ways of learning (both)")
    parser.add_argument("--out", type=Path, default=CACHE / "kv_retrieval", help="folder of the models")
    given = parser.parse_args()
    emit({"environment": environment()})
    for way in given.ways.split(","):
        absent = WAYS[way]
        runs = []
        for seed in map(int, given.seeds.split(",")):
            folder = given.out / f"{way.replace(' ', '-')}-{given.steps}-{seed}"
            runs.append(measured(trained(folder, seed, absent, given.steps), given.problems))
            emit({"trained": way, "seed": seed, **summary(runs[-1:])})
        emit({"trained": way, "seeds": len(runs), "problems": given.problems, **summary(runs)})


if __name__ == "__main__":
    main()
