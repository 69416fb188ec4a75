"""Which architectures train: two iterations of each on an engine, with parity, resume, export and reload.

    python -m benchmarks.zoo --engine vllm

judges every model of ``benchmarks.zoo_models`` and says where the verdict is not the one that ``docs/models.md`` gives.
``--page`` writes that page, which is made of the same list.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.zoo_models import MODELS, PAGE, VOCABULARY, WINDOW, Model, page, save
from rl.config import RunConfig
from rl.learner.host import LearnerHost
from rl.learner.spec import LearnerSpec, Receivers
from rollout.engine import EngineError
from rollout.engines.actor import build_engine
from rollout.pool.pool import Pool
from rollout.types import Group, Problem, Prompt, Rollout

CONTEXT = 96
"""Tokens of the longest sequence: four windows."""
PROMPT = tuple(range(3, 3 + WINDOW + 8))
"""A prompt beyond the window already, so that every token drawn depends on it."""


def config_of(path: Path, kind: str) -> RunConfig:
    """A run of two updates an iteration, with responses that end beyond the window."""
    return RunConfig.model_validate(
        {
            "model": {"base": {"kind": "pretrained", "path": str(path)}, "threads": 1},
            "engine": {
                "kind": kind,
                "max_model_len": CONTEXT,
                "max_concurrency": 8,
                "kv_cache_gib": 0.1,
                "threads": 1,
            },
            "rollout": {"groups": 2, "k": 4, "segment_tokens": 16, "max_tokens": 32, "repetition": None},
            "learner": {"updates": 2, "micro_batch_tokens": 200, "optimizer": {"lr": 3e-3}},
        }
    )


def learner_of(config: RunConfig, path: Path) -> LearnerHost:
    """In this process."""
    return LearnerHost(LearnerSpec.of(config), path, Receivers.of(config, "local"))


class Refused(RuntimeError):
    """The engine cannot serve the model, or computes something else, before anything is spent."""


class Session:
    """A learner and one engine in this process, and rollouts between them."""

    def __init__(self, path: Path, kind: str) -> None:
        self.config = config_of(path, kind)
        self.host = learner_of(self.config, path)
        engine, attention = self.config.engine, self.config.model.attention
        self.pool = Pool(
            lambda _: build_engine(str(path), engine, 0, attention), engine, self.config.rollout, (2,), seed=1
        )
        self.gap = 0.0
        """Largest |engine - learner| log-prob so far, in nats."""

    def publish(self, version: int, probe: Sequence[Sequence[int]]) -> None:
        """Raises ``ParityError`` when engine and learner disagree."""
        report = self.pool.publish(self.host.publish(version), probe, self.host.score(probe))
        self.gap = max(self.gap, report.max_gap)

    def iterate(self, version: int, groups: list[Group]) -> list[Group]:
        """Sample a segment of every rollout and train on it; rewards are made up, and differ within a group."""
        grown = self.pool.extend(groups, version)
        stats = self.host.train(grown, [[1.0, -1.0, 0.5, -0.5] for _ in grown], version)
        self.gap = max(self.gap, stats.metrics["gap/max"])
        return grown


@contextmanager
def session(path: Path, kind: str) -> Iterator[Session]:
    """Closes the engine at the end."""
    opened = Session(path, kind)
    try:
        yield opened
    finally:
        opened.pool.close()


def new_groups() -> list[Group]:
    """Two problems with four empty rollouts each."""
    problem = Problem.ask("p", "?", "1", "exact")
    prompts = (PROMPT, tuple(reversed(PROMPT)))
    return [
        Group(f"g{i}", problem, tuple(Rollout(f"g{i}/{j}", Prompt(prompt)) for j in range(4)), 0)
        for i, prompt in enumerate(prompts)
    ]


def train(path: Path, kind: str, scratch: Path) -> float:
    """Two iterations on the model at ``path``; returns the largest engine-learner gap in nats.

    Raises ``PolicyError`` or ``Refused`` when learner or engine refuse the model at the start, ``ParityError`` when
    they part later, and ``AssertionError`` when a checkpoint or the exported model is not what was trained.
    """
    with session(path, kind) as run:
        probe = [list(range(3, VOCABULARY)), list(PROMPT)]
        try:
            run.publish(0, probe)
        except EngineError as error:
            raise Refused(f"{kind} engine: {error}") from error
        groups = run.iterate(0, new_groups())
        run.publish(1, probe)
        groups = run.iterate(1, groups)
        probe = [
            rollout.prompt.followed_by(rollout.token_ids).token_ids.tolist()
            for group in groups
            for rollout in group.rollouts
        ]
        run.publish(2, probe)
        assert all(rollout.length for group in groups for rollout in group.rollouts)
        scores = run.host.score(probe)
        for name in ("checkpoint", "export"):
            (scratch / name).mkdir()
        run.host.save(scratch / "checkpoint")
        run.host.saved()
        run.host.export(scratch / "export")
        gap, config = run.gap, run.config
    resumed = learner_of(config, path)
    resumed.load(scratch / "checkpoint")
    assert resumed.score(probe) == scores, "a resumed learner computes something else"
    reloaded = learner_of(config, scratch / "export")
    assert reloaded.score(probe) == scores, "the exported model computes something else"
    return gap


def judge(model: Model, kind: str) -> tuple[str, str]:
    """(verdict, detail): ``trains``, ``refused`` or ``fails``, and the gap or the reason."""
    from rl.learner.policy import PolicyError

    with tempfile.TemporaryDirectory() as folder:
        path = save(model, Path(folder) / "model")
        try:
            gap = train(path, kind, Path(folder))
        except (PolicyError, Refused) as refusal:
            return "refused", str(refusal)
        except (EngineError, AssertionError, RuntimeError, ValueError) as failure:
            return "fails", f"{type(failure).__name__}: {failure}"
    return "trains", f"{gap:.1e} nats"


def main() -> int:
    """0 when every verdict is the documented one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models, as docs/models.md calls them; all without")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE} and judge nothing")
    given = parser.parse_args()
    if given.page:
        PAGE.write_text(page())
        return 0
    torch.set_num_threads(1)
    surprises = 0
    for model in MODELS:
        if given.names and model.name not in given.names:
            continue
        began = time.process_time()
        verdict, detail = judge(model, given.engine)
        expected = model.verdict(given.engine)
        surprises += verdict != expected
        mark = "" if verdict == expected else f"  (documented: {expected})"
        print(f"{model.name:<16}{verdict:<9}{time.process_time() - began:5.1f} s  {detail}{mark}", flush=True)
    return min(surprises, 1)


if __name__ == "__main__":
    sys.exit(main())
