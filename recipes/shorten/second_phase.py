"""long2short RL: choose the checkpoint to start from, then train with the length reward and a smaller cap [A.10]."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from evals.evaluate import result_of
from recipes.launching import Machines, launch
from recipes.setup import Setup, prepare
from recipes.shorten.answering import Questions, answer_all, responder
from recipes.shorten.config import ShortenConfig
from recipes.shorten.selection import Candidate, best_base
from recipes.shorten.training import on_model
from rl import checkpoint, loop
from rl.config import RunConfig
from rl.disk import writing
from rl.run_dir import RunDir
from rl.stop import Stopper
from rollout.export import save_tokenizer
from rollout.files import replace_file
from rollout.types import Problem


def second_phase(config: ShortenConfig, base: Path) -> RunConfig:
    """The second phase's run: the first one's, but for what makes responses short. Another seed: other problems."""
    run, cap = on_model(config.run, base), config.cap
    optimizer = run.learner.optimizer
    if config.rl.lr is not None:
        optimizer = optimizer.model_copy(update={"lr": config.rl.lr})
    segment = min(run.rollout.segment_tokens, cap)
    changes = {
        "recipe": "long2short-rl",
        "seed": run.seed + 1,
        "iterations": config.rl.iterations,
        "rollout": run.rollout.model_copy(update={"max_tokens": cap, "segment_tokens": segment}),
        "learner": run.learner.model_copy(update={"optimizer": optimizer}),
        "reward": run.reward.model_copy(update={"length": config.rl.length}),
        "eval": run.eval.model_copy(update={"greedy": False}),
    }
    return RunConfig.model_validate(run.model_copy(update=changes).model_dump())


def explain(candidates: Sequence[Candidate], chosen: Candidate) -> str:
    """Why this checkpoint, in one line."""
    return (
        f"from {chosen.name}: {100 * chosen.accuracy.mean:.1f} % at {chosen.tokens.mean:.0f} tokens on "
        f"{chosen.accuracy.n} training problems, the most accuracy per token of {len(candidates)} checkpoints"
    )


class Chooser:
    """Asks each kept checkpoint of a run, with one pair of learner and engine for all of them."""

    def __init__(self, run_dir: Path, original: RunConfig, keys: ShortenConfig, stopper: Stopper) -> None:
        self.directory = RunDir(run_dir)
        self.setup: Setup = prepare(original)
        self.keys, self.stopper = keys, stopper

    def choose(self, problems: tuple[Problem, ...], folder: Path) -> tuple[Path, str]:
        """The best checkpoint as a Hugging Face directory below ``folder``, and why it is the best.

        Raises ``CheckpointError`` when the run holds checkpoints and none verifies.
        """
        chosen_file, base = folder / "selection.json", folder / "base"
        if chosen_file.exists():
            return base, str(json.loads(chosen_file.read_bytes())["why"])
        with ExitStack() as stack:
            with self.stopper.interruptible():
                machines = launch(self.setup, self.directory, stack, self.stopper.claim)
            paths = [path for path in checkpoint.available(self.directory.checkpoints) if not checkpoint.fault(path)]
            if not paths:
                checkpoint.latest(self.directory.checkpoints, lambda _: None)  # raises when there are corrupt ones
            candidates = [self._candidate(machines, path, problems, folder) for path in paths]
            chosen = best_base(candidates)
            machines.policy.load(paths[candidates.index(chosen)] / "learner")
            machines.policy.export(base)
            with writing(base):
                save_tokenizer(self.setup.tokenizer, base, self.setup.source)
        why = explain(candidates, chosen)
        rows = [{**asdict(candidate), "efficiency": candidate.efficiency} for candidate in candidates]
        replace_file(chosen_file, (json.dumps({"why": why, "candidates": rows}, indent=1) + "\n").encode())
        return base, why

    def _candidate(self, machines: Machines, path: Path, problems: tuple[Problem, ...], folder: Path) -> Candidate:
        iteration, samples = int(path.name), self.keys.rl.selection_samples
        setup, config = self.setup, self.setup.config
        machines.policy.load(path / "learner")
        probe = [[*setup.render(problem), *setup.end] for problem in problems[: config.rollout.parity_probes]]
        with self.stopper.interruptible():
            loop.publish(machines.policy, machines.pool, iteration, probe)
            name = f"iteration {iteration}"
            questions = Questions("selection", f"checkpoint {iteration}", problems, samples, config.eval.temperature)
            asking = responder(setup, machines.pool, config.eval.temperature)
            answers = answer_all(setup, questions, asking, path / "learner", folder / "selection" / path.name)
        result = result_of(answers, samples)
        return Candidate(name, iteration, result.accuracy, result.tokens)
