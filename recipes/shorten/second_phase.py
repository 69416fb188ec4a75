"""long2short RL: choose the checkpoint to start from, then train with the length reward and a smaller cap
[2501.12599 §2.4].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evals.evaluate import result_of
from recipes.run.finish import model_writer
from recipes.run.launching import Machines, starting_model
from recipes.run.probe import first_probe
from recipes.run.setup import Setup, prepare
from recipes.shorten.answering import Questions, answer_all, responder
from recipes.shorten.config import ShortenConfig
from recipes.shorten.selection import Candidate, best_base
from recipes.shorten.training import on_model
from recipes.shorten.workers import Workers
from rl.config import RunConfig
from rl.iteration import publish
from rl.state import checkpoint
from rl.state.run_dir import RunDir
from rl.stop import Stopper
from rollout.files import replace_file
from rollout.progress import waiting
from rollout.strict_json import dumps
from rollout.types import Problem


def second_phase(config: ShortenConfig, base: Path) -> RunConfig:
    """Return the configuration of the second phase: the first one's, except for what makes responses short, and the
    seed.
    """
    run, cap = on_model(config.run, base), config.cap
    optimizer = run.learner.optimizer
    if config.rl.lr is not None:
        optimizer = optimizer.model_copy(update={"lr": config.rl.lr})
    segment = min(run.rollout.segment_tokens, cap)
    changes = {
        "recipe": "long2short-rl",
        "promise": None,  # was the first phase's
        "seed": run.seed + 1,
        "iterations": config.rl.iterations,
        "rollout": run.rollout.model_copy(update={"max_tokens": cap, "segment_tokens": segment}),
        "learner": run.learner.model_copy(update={"optimizer": optimizer}),
        "reward": run.reward.model_copy(update={"length": config.rl.length}),
        "eval": run.eval.model_copy(update={"greedy": False}),
    }
    return RunConfig.model_validate(run.model_copy(update=changes).model_dump())


def explain(candidates: Sequence[Candidate], chosen: Candidate) -> str:
    """Return in one line why this checkpoint was chosen."""
    return (
        f"from {chosen.name}: {100 * chosen.accuracy.mean:.1f} % at {chosen.tokens.mean:.0f} tokens on "
        f"{chosen.accuracy.n} training problems, the shortest of {len(candidates)} checkpoints of "
        "those that may have the most accuracy per token"
    )


class Chooser:
    """Chooses among the kept checkpoints of a run, by asking each of them."""

    def __init__(
        self, run_dir: Path, original: RunConfig, keys: ShortenConfig, workers: Workers, stopper: Stopper
    ) -> None:
        self.directory = RunDir(run_dir)
        # Checkpoints hold what the run trained (adapters, say), under its own settings; how it is computed is ours.
        ours = {"engine": keys.run.engine, "ray": keys.run.ray}
        self.setup: Setup = prepare(original.model_copy(update=ours))
        self.keys, self.workers, self.stopper = keys, workers, stopper

    def choose(self, problems: tuple[Problem, ...], folder: Path) -> tuple[Path, str]:
        """Return the best checkpoint, as a Hugging Face directory below ``folder``, and the reason.

        Raises ``CheckpointError`` when the run holds checkpoints and none verifies.
        """
        chosen_file, base = folder / "selection.json", folder / "base"
        if chosen_file.exists():
            return base, str(json.loads(chosen_file.read_bytes())["why"])
        paths = [path for path in checkpoint.available(self.directory.checkpoints) if not checkpoint.fault(path)]
        if not paths:
            checkpoint.latest(self.directory.checkpoints, lambda _: None)  # raises when there are corrupt ones
        with self.stopper.interruptible(), waiting("starting learner and engines"):
            start = starting_model(self.setup, self.directory)
            machines = self.workers.machines(self.setup.config, start, self.setup.end)
        candidates = [self._candidate(machines, path, problems, folder) for path in paths]
        chosen = best_base(candidates)
        machines.policy.load(paths[candidates.index(chosen)] / "learner")
        model_writer(machines.policy, self.setup)(base)
        why = explain(candidates, chosen)
        rows = [{**asdict(candidate), "efficiency": candidate.efficiency.mean} for candidate in candidates]
        replace_file(chosen_file, (dumps({"why": why, "candidates": rows}, indent=1) + "\n").encode())
        return base, why

    def _candidate(self, machines: Machines, path: Path, problems: tuple[Problem, ...], folder: Path) -> Candidate:
        iteration, samples = int(path.name), self.keys.rl.selection_samples
        setup, config = self.setup, self.setup.config
        machines.policy.load(path / "learner")
        with self.stopper.interruptible():
            publish(machines.policy, machines.pool, iteration, first_probe(setup))
            name = f"iteration {iteration}"
            questions = Questions("selection", f"checkpoint {iteration}", problems, samples, config.eval.temperature)
            asking = responder(setup, machines.pool, config.eval.temperature)
            answers = answer_all(setup, questions, asking, path / "learner", folder / "selection" / path.name)
        result = result_of(answers, samples)
        return Candidate(name, iteration, result.accuracy, result.tokens)
