"""``k15 shorten``: the stages in order, each skipped when its folder says that it is finished.

long -> samples -> rejection, dpo        short + long -> merge -> samples -> merge_rejection
a run's checkpoints -> base -> rl        then all of them, and the long model, on the same held-out problems

OUT/
  long/ short/                      judged as they are
  samples-long/ samples-merge/      responses to training problems: record, samples.parquet
  merge/ rejection/ merge_rejection/ dpo/ rl/     stage.json, model/, and what the stage needs to go on
  judged/NAME/                      held-out responses of each variant: record, samples.parquet
  results.json, report.html, efficiency.png
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.evaluate import Answer
from recipes.run.setup import Setup, prepare
from recipes.run.workspace import Workspace, WorkspaceError
from recipes.shorten.answering import OnDemand, Questions, answer_all
from recipes.shorten.config import ShortenConfig
from recipes.shorten.dpo import TokenPair, optimise
from recipes.shorten.judging import judged, report
from recipes.shorten.merge import MergeError, merge
from recipes.shorten.results import TITLES, Method
from recipes.shorten.second_phase import Chooser, second_phase
from recipes.shorten.selection import is_correct, length, preferences, shortest
from recipes.shorten.training import Start, fine_tune, on_model
from recipes.shorten.workers import Workers
from rl.config import RunConfig
from rl.launch import LaunchError, check_run_dir
from rl.stop import Interrupted, Stopper
from rl.warmup import Pair
from rollout.progress import waiting
from rollout.types import Problem

NEEDS_SAMPLES = {"rejection": "long", "dpo": "long", "merge_rejection": "merge"}
"""The model whose responses a method chooses from."""


class NothingToLearn(ValueError):
    """A method finds nothing to learn in the sampled responses; one line."""


@dataclass(frozen=True)
class Order:
    """The arguments of the command."""

    long: Path
    """The long-CoT model, a Hugging Face directory."""
    short: Path | None
    """The short-CoT model, for merging."""
    run_dir: Path | None
    """The run that ``long`` comes from; its checkpoints can be the base of RL."""
    original: RunConfig | None
    """That run's configuration."""
    methods: tuple[Method, ...]
    config: ShortenConfig
    out: Path


class Shortening:
    """The work of one process in one output folder."""

    def __init__(self, order: Order, workers: Workers, stopper: Stopper) -> None:
        self.order, self.config, self.workers, self.stopper = order, order.config, workers, stopper
        self.space = Workspace(order.out)
        self.setup: Setup = prepare(on_model(self.config.run, order.long))
        self._identity = {
            "long": _fingerprint(order.long),
            "problems": self.setup.fingerprint,
            "run": self.config.run.model_dump(mode="json"),
        }

    def run(self) -> int:
        """Run all stages, judge, write the report, and return the exit code."""
        for method in self.order.methods:
            if self.space.note(method) is None:
                say(f"{TITLES[method]}: begins")
                code = getattr(self, f"_{method}")()
                if code:
                    return int(code)
            say(f"{TITLES[method]}: {self.space.note(method)}")
        variants = {"long": self.order.long}
        if self.order.short is not None:
            variants["short"] = self.order.short
        variants |= {name: self._model(name) for name in TITLES if self.space.note(name) is not None}
        answers = {name: self._judge(name, model) for name, model in variants.items()}
        notes = {name: self.space.note(name) or "as it is" for name in variants}
        found = judged(variants, answers, notes, self.config.judge.samples)
        print(report(self.order.out, found, answers, self._facts()))
        return 0

    def _model(self, name: str) -> Path:
        """Return the model directory of a stage; RL's is in its run directory."""
        return self.space.folder(name) / ("run/model" if name == "rl" else "model")

    def _begin(self, name: str, keys: Any = None, **inputs: Any) -> Path:
        chosen = {} if keys is None else {name: keys.model_dump(mode="json")}
        return self.space.begin(name, {**self._identity, **chosen, **inputs})

    def _start(self, model: Path, folder: Path) -> Start:
        return Start(self.setup, model, folder, self.stopper, self.workers)

    def _merge(self) -> int:
        keys = self.config.merge
        assert self.order.short is not None
        folder = self._begin("merge", keys, short=_fingerprint(self.order.short))
        if not (folder / "model").exists():
            base = self._merge_base()
            with waiting("merging long and short"):
                merge(self.order.long, self.order.short, folder / "model", keys.weight, keys.method, base)
        self.space.finish(
            "merge", f"{keys.method}, {1 - keys.weight:g} x long + {keys.weight:g} x short ({self.order.short})"
        )
        return 0

    def _merge_base(self) -> Path | None:
        """Return the model that both come from, the run's start, for mergekit's methods on differences."""
        return self.order.run_dir / "initial" if self.order.run_dir else None

    def _rejection(self) -> int:
        return self._fine_tuned("rejection", self.order.long)

    def _merge_rejection(self) -> int:
        if self.space.note("merge") is None:
            self._merge()
        return self._fine_tuned("merge_rejection", self._model("merge"))

    def _fine_tuned(self, name: str, model: Path) -> int:
        keys = self.config.rejection
        folder = self._begin(name, keys, sample=self.config.sample.model_dump(mode="json"), start=_fingerprint(model))
        answers = self._samples(NEEDS_SAMPLES[name], model)
        chosen = shortest(answers)
        if not chosen:
            raise NothingToLearn(no_correct(answers, name))
        pairs: list[Pair] = [
            (self.setup.render(a.problem).token_ids, np.array(a.response.token_ids, np.int32)) for a in chosen
        ]
        fine_tune(self._start(model, folder), pairs, keys)
        mean = sum(length(a) for a in chosen) / len(chosen)
        asked = len({a.problem.id for a in answers})
        self.space.finish(
            name,
            f"fine-tuned on the shortest correct of {self.config.sample.n} responses to {len(chosen)} of {asked} "
            f"problems: {mean:.0f} tokens, all {_mean_length(answers):.0f}",
        )
        return 0

    def _dpo(self) -> int:
        keys = self.config.dpo
        folder = self._begin("dpo", keys, sample=self.config.sample.model_dump(mode="json"))
        answers = self._samples("long", self.order.long)
        pairs = preferences(answers, keys.longer, keys.pairs_per_problem)
        if not pairs:
            detail = no_correct(answers, "dpo") if not shortest(answers) else no_pairs(answers, keys.longer)
            raise NothingToLearn(detail)
        rows: list[TokenPair] = [
            (
                tuple(self.setup.render(p.chosen.problem).token_ids.tolist()),
                p.chosen.response.token_ids,
                p.rejected.response.token_ids,
            )
            for p in pairs
        ]
        steps = optimise(self._start(self.order.long, folder), rows, keys)
        wrong = sum(not is_correct(pair.rejected) for pair in pairs)
        problems = len({pair.chosen.problem.id for pair in pairs})
        self.space.finish(
            "dpo",
            f"{len(pairs)} pairs of {problems} problems ({wrong} rejected as wrong and longer, "
            f"{len(pairs) - wrong} as correct and at least {keys.longer:g} times as long), {steps} steps",
        )
        return 0

    def _rl(self) -> int:
        keys = self.config.rl
        folder = self._begin("rl", keys)
        base, why = self.order.long, "from the model as it is: it comes from no run with checkpoints"
        if self.order.run_dir is not None and self.order.original is not None:
            chooser = Chooser(self.order.run_dir, self.order.original, self.config, self.workers, self.stopper)
            base, why = chooser.choose(self._problems_for_selection(), folder)
        say(f"{TITLES['rl']}: {why}")
        from recipes.run.session import run

        code = run(second_phase(self.config, base), folder / "run", self.workers.launch)
        if code:
            return code
        self.space.finish(
            "rl",
            f"{why}; {keys.iterations} iterations with at most {self.config.cap} tokens, length reward "
            f"{keys.length.weight:g} from iteration {keys.length.start_iteration}",
        )
        return 0

    def _samples(self, name: str, model: Path) -> list[Answer]:
        """Return n responses of ``model`` to each of the training problems set apart for this."""
        keys = self.config.sample
        folder = self._begin(f"samples-{name}", keys, start=_fingerprint(model))
        title = f"{keys.n} responses of {name}"
        questions = Questions("train", title, self._problems_to_sample(), keys.n, keys.temperature)
        answers = self._answers(questions, model, folder)
        self.space.finish(folder.name, f"{len(answers)} responses")
        return answers

    def _judge(self, name: str, model: Path) -> list[Answer]:
        samples, temperature = self.config.judge.samples, self.config.run.eval.temperature
        folder = self.order.out / "judged" / name
        questions = Questions("heldout", f"judge {TITLES[name]}", self.setup.heldout, samples, temperature)
        return self._answers(questions, model, folder)

    def _answers(self, questions: Questions, model: Path, folder: Path) -> list[Answer]:
        asking = OnDemand(self.setup, model, questions.temperature, self.stopper, self.workers)
        return answer_all(self.setup, questions, asking, model, folder)

    def _problems_to_sample(self) -> tuple[Problem, ...]:
        return tuple(self.setup.train[index] for index in self.setup.usable(self.config.sample.problems))

    def _problems_for_selection(self) -> tuple[Problem, ...]:
        """Return training problems, as far as possible others than those that are sampled."""
        wanted, sampled = self.config.rl.selection_problems, len(self._problems_to_sample())
        return tuple(self.setup.train[index] for index in self.setup.usable(sampled + wanted)[-wanted:])

    def _facts(self) -> dict[str, str]:
        from recipes.commands.eval import facts

        run = self.config.run
        return {
            "long model": str(self.order.long),
            "short model": str(self.order.short or "-"),
            "held-out problems": f"{len(self.setup.heldout)}, {self.config.judge.samples} responses each",
            "sampling": f"temperature {run.eval.temperature:g}, {run.rollout.max_tokens} tokens, seed {run.seed}",
            **{key: str(value) for key, value in facts(f"{run.engine.kind} {run.engine.dtype}").items() if value},
        }


def shorten(order: Order) -> int:
    """Carry out ``order``, resuming what its folder holds. Returns 0, 1, or 128 + signal.

    Raises ``WorkspaceError``, ``MergeError`` and ``NothingToLearn`` for what has to be decided by a person.
    """
    from transformers.utils.logging import disable_progress_bar

    from recipes.run.failures import EXPECTED, located

    disable_progress_bar()  # loading bars of transformers would tear ours
    with Stopper() as stopper:
        try:
            return carry_out(order, stopper)
        except Interrupted:
            say(f"stopped; the same command goes on in {order.out}")
            return 128 + (stopper.signal or signal.SIGTERM)
        except (WorkspaceError, MergeError, NothingToLearn, LaunchError):
            raise
        except EXPECTED as error:
            print(f"k15: {located(error, order.out)}", file=sys.stderr)
            return 1


def carry_out(order: Order, stopper: Stopper) -> int:
    """Do what the folder does not hold yet; returns the exit code. Raises what ends it, ``Interrupted`` among that."""
    check_run_dir(order.out.resolve())
    with Workspace(order.out).lock(), Workers(stopper) as workers:
        return Shortening(order, workers, stopper).run()


def say(text: str) -> None:
    """Print one line to standard error."""
    print(f"k15: {text}", file=sys.stderr, flush=True)


def no_correct(answers: Sequence[Answer], method: str) -> str:
    """Return why nothing can be learned when no response is correct."""
    problems = len({answer.problem.id for answer in answers})
    cut = sum(answer.response.stop == "length" for answer in answers)
    return (
        f"{method}: none of the {len(answers)} responses to {problems} training problems is correct and complete "
        f"({cut} were cut at the cap): there is nothing to learn from; use easier problems, a better model, "
        "or a larger cap"
    )


def no_pairs(answers: Sequence[Answer], longer: float) -> str:
    """Return why DPO has no pairs although there are correct responses."""
    return (
        f"dpo: no pair among {len(answers)} responses: beside the shortest correct one there is neither a longer wrong "
        f"response nor a correct one {longer:g} times as long; sample more (sample.n), hotter (sample.temperature), or "
        "lower dpo.longer"
    )


def _mean_length(answers: Sequence[Answer]) -> float:
    return sum(length(answer) for answer in answers) / len(answers)


def _fingerprint(model: Path) -> str:
    from recipes.commands.eval_models import files_fingerprint

    return files_fingerprint(model) if model.is_dir() else hashlib.sha256(json.dumps(str(model)).encode()).hexdigest()
