"""A run directory written by k15's own writers from invented rollouts, for the tests of log, store and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rewards.score import Score
from rewards.stats import bootstrap_ci, mean_ci
from rl.record.log import Evaluation, MetricsLog, write_evaluation
from rl.record.measure import of_rollouts
from rl.record.metrics import Row
from rl.record.rollout_store import to_table, write_rollouts
from rl.rewarding import ScoredGroup, reward_group
from rollout.types import Group, Problem, Prompt, Rollout, Segment, StopReason

HOSTILE = (
    "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"> <!--<script> "
    "\x1b[31mred\x1b[0m \x07 \u202egnp.exe\u202c \u2066x\u2069 \u2028 zero\u200bwidth ${x} $data {{x}} "
    "שלום مرحبا \ud800"
)


def make_group(iteration: int, index: int, rng: np.random.Generator, skill: float, k: int = 4) -> Group:
    """A group whose rollouts are right with probability ``skill``; about a third of them span versions."""
    a, b, c = (int(v) for v in rng.integers(10, 99, size=3))
    name, question = f"add-{iteration}-{index}", f"What is {a} + {b} - {c}?"
    problem = Problem.ask(name, question, str(a + b - c), "arithmetic", "arithmetic", 3.0)
    rollouts = tuple(make_rollout(f"{iteration}.{index}/{j}", iteration, rng, skill, (a, b, c)) for j in range(k))
    return Group(f"{iteration}.{index}", problem, rollouts, born=max(0, iteration - 2))


def make_rollout(
    name: str, version: int, rng: np.random.Generator, skill: float, numbers: tuple[int, int, int]
) -> Rollout:
    """One finished rollout; some are cut, repeat themselves, are given up, or cannot be graded."""
    a, b, c = numbers
    right = bool(rng.random() < skill)
    shown = a + b - c if right else a + b - c + int(rng.integers(1, 10))
    text = f"Plan: add, then take away.\n{a} + {b} = {a + b}\n{a + b} - {c} = {shown}\n"
    if rng.random() < 0.4:
        text += f"Wait, check: {shown} + {c} = {shown + c}. {'Yes.' if right else 'Hm, close enough.'}\n"
    text += f"</think>Answer: {shown}"
    stop, score = StopReason.EOS, Score.right(str(shown), answer=1.0, form=1.0)
    fate = rng.random()
    if fate < 0.04:
        text, stop, score = text[:40] * 3, StopReason.LENGTH, Score.wrong("no closing </think>", answer=0.0, form=0.0)
    elif fate < 0.06:
        text, stop, score = "again and " * 12, StopReason.REPETITION, Score.wrong("no closing </think>", answer=0.0)
    elif fate < 0.065:
        score = Score.ungradable("grader timed out after 5 s")
    elif not right:
        score = Score.wrong("another number", str(shown), answer=0.0, form=1.0)
    count = int(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1])) if version else 1
    ids = tuple(ord(ch) % 128 for ch in text)
    cuts = [0, *sorted(int(v) for v in rng.choice(np.arange(1, len(ids)), size=count - 1, replace=False)), len(ids)]
    first = max(0, version - count + 1)
    segments = tuple(
        Segment(first + i, ids[lo:hi], tuple(float(v) for v in -rng.exponential(0.3, size=hi - lo)))
        for i, (lo, hi) in enumerate(pairwise(cuts))
    )
    if version - count + 1 < 0:
        segments = (Segment(version, ids, tuple(-0.1 for _ in ids)),)
    return Rollout(name, Prompt((1, 2, 3)), segments, stop, score)


def graded(prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Prompts that end in token 3 begin the thinking."""
    return ("<think>" if prompt[-1:] == (3,) else "") + decode(ids)


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(token) for token in ids)


def score_group(group: Group, weight: float = 0.2) -> ScoredGroup:
    return reward_group(group, [r.score or Score.ungradable("aborted") for r in group.rollouts], weight, 0.0)


def make_advantages(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Reward minus the group's mean, as the mean baseline has it."""
    found = {}
    for item in scored:
        rewards = {r.id: x for r, x in zip(item.group.rollouts, item.rewards, strict=True) if x is not None}
        found |= {name: x - sum(rewards.values()) / len(rewards) for name, x in rewards.items()}
    return found


def make_run(run_dir: Path, iterations: int = 12, groups: int = 6, seed: int = 0, finished: bool = True) -> Path:
    """A whole run; ``finished=False`` leaves out the last evaluation and the summary."""
    rng = np.random.default_rng(seed)
    log = MetricsLog(run_dir)
    (run_dir / "config.yaml").write_text(
        f"recipe: quickstart\nseed: {seed}\niterations: {iterations}\n"
        "model:\n  base:\n    kind: scratch\n    layers: 4\n    width: 192\n"
    )
    (run_dir / "run.json").write_text(
        json.dumps(
            {
                "recipe": "quickstart",
                "git_revision": "3f9d1c07ab52e6d1",
                "seed": seed,
                "started": "2026-01-02 10:00:00",
                "versions": {"torch": "2.13.0", "vllm": "0.32.0"},
            }
        )
    )
    evaluate(run_dir, "before", 0, 0.2, rng)
    for i in range(iterations):
        skill = 0.2 + 0.68 * (1 - np.exp(-3.2 * i / iterations))
        weight = 0.2 if i > 0.25 * iterations else 0.0
        scored = [score_group(make_group(i, j, rng, skill), weight) for j in range(groups)]
        write_rollouts(run_dir, i, to_table(i, scored, make_advantages(scored), weight, graded))
        log.write(i, make_metrics(i, iterations, scored, weight, rng))
        if (i + 1) % 10 == 0 and i + 1 < iterations:
            evaluate(run_dir, f"it{i + 1:04d}", i + 1, skill, rng, 64)
    log.close()
    if finished:
        evaluate(run_dir, "after", iterations, 0.86, rng)
        (run_dir / "summary.json").write_text("{}")
    return run_dir


def evaluate(run_dir: Path, name: str, iteration: int, skill: float, rng: np.random.Generator, n: int = 256) -> Path:
    rates = rng.beta(6 * skill, 6 * (1 - skill), size=(n, 1))
    accuracy = mean_ci((rng.random((n, 4)) < rates).astype(float).tolist())
    greedy = mean_ci((rng.random((n, 1)) < skill).astype(float).tolist()) if name in ("before", "after") else None
    tokens = bootstrap_ci((96 - 30 * skill + 20 * rng.standard_normal((n, 4))).tolist())
    return write_evaluation(run_dir, Evaluation(name, iteration, accuracy, tokens, 4, truncated=0.02, greedy=greedy))


def make_metrics(
    i: int, iterations: int, scored: Sequence[ScoredGroup], weight: float, rng: np.random.Generator
) -> Row:
    def noise(scale: float = 0.1) -> float:
        return float(np.exp(scale * rng.standard_normal()))

    part = i / max(1, iterations)
    tokens = sum(r.length for item in scored for r in item.group.rollouts)
    phases = {"generate": 2.1 * noise(), "score": 0.1, "train": 1.6 * noise(), "publish": 0.08, "checkpoint": 0.2}
    return {
        "version": i,
        **of_rollouts(i, scored, make_advantages(scored), weight),
        "rollouts/unfinished": int(6 + 4 * noise()),
        "rollouts/resumed": int(5 + 4 * noise()) if i else 0,
        "tokens/sampled": tokens,
        "tokens/trained": tokens - 17,
        "sequences/trained": 20,
        "sequences/masked": int(2 * noise(0.5)),
        "loss": 0.02 * float(rng.standard_normal()),
        "loss/first": 0.02 * float(rng.standard_normal()),
        "loss/last": 0.02 * float(rng.standard_normal()),
        "saturated": 0.05 * noise(0.5),
        "logratio/mean": 0.02 * noise(0.5),
        "logratio/std": 0.3 * noise(0.2),
        "logratio/max": 1.4 * noise(0.3),
        "logratio/per_token": 0.006,
        "gap/mean": 3e-7 * noise(),
        "gap/max": 4e-6 * noise(0.4),
        "probe/max_gap": 2e-6 * noise(0.4),
        "entropy": 0.5 * float(np.exp(-2 * part)) * noise(0.05) + 0.08,
        "grad_norm": 0.8 * noise(0.3),
        "update_rms/muon": 0.2 * noise(0.02),
        "update_rms/adamw": 0.24 * noise(0.1),
        "lr": 3e-4,
        "engines/alive": 2,
        "engines/failures": i // 8,
        **{f"time/{phase}": spent for phase, spent in phases.items()},
        "time/total": sum(phases.values()),
        "throughput/sampled": 4100 * noise(),
        "throughput/trained": 9800 * noise(),
        "memory/rss": 1_200_000_000,
    }
