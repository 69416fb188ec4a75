"""A whole run: set up, warm up, evaluate, RL, evaluate, export, report. Resumes whatever the directory holds."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from evals.compare import change
from evals.evaluate import Result, Watch, asks_of, evaluate, result_of
from evals.pooled import PoolResponder
from evals.store import write_samples
from recipes.demonstrations import demonstrations
from recipes.launching import Machines, launch
from recipes.model_card import write_card
from recipes.setup import Setup, prepare
from rl import checkpoint, loop
from rl.checkpoint import CheckpointError, RunState
from rl.config import RunConfig, ScratchModel
from rl.disk import writing
from rl.journal import Journal
from rl.launch import LaunchError, LearnerDead, check_run_dir
from rl.learner import NonFiniteGradients
from rl.live import LiveView
from rl.log import Evaluation, LogError, MetricsLog, read_evaluations, replace_file, write_evaluation
from rl.report.build import build_report
from rl.report.data import ReportError
from rl.rewarding import Rewarder, ScoredGroup
from rl.rollout_store import StoreError, drop_rollouts_from, to_table, write_rollouts
from rl.run_dir import RunDir, RunDirError
from rl.sampling import build_sampler
from rl.sinks import SinkError
from rl.stop import Interrupted, Stopper
from rl.warmup import Pair, warm_up
from rollout.endings import declare_end
from rollout.engine import EngineError, Sampling

EXPECTED = (
    RunDirError,
    CheckpointError,
    LaunchError,
    LearnerDead,
    NonFiniteGradients,
    EngineError,
    LogError,
    StoreError,
    SinkError,
    ReportError,
    OSError,
    ValueError,
)
"""Failures whose message says what, where and what to do; anything else is a bug and keeps its traceback."""


def run(config: RunConfig, run_dir: Path) -> int:
    """Train into ``run_dir``, resuming what is there; returns the exit code (0, 1, or 128 + signal)."""
    disable_progress_bar()  # loading bars of transformers would tear the live view
    with Stopper() as stopper:
        try:
            directory = RunDir(run_dir.resolve())
            check_run_dir(directory.root)
            with directory.lock():
                return _run(config, directory, stopper)
        except Interrupted:
            print(f"k15: stopped; the same command resumes {run_dir}", file=sys.stderr)
            return 128 + (stopper.signal or signal.SIGTERM)
        except EXPECTED as error:
            print(f"k15: {located(error, run_dir)}", file=sys.stderr)
            return 1


def located(error: Exception, run_dir: Path) -> str:
    """The error's message; a failed write to an open file does not say where it was."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return f"{run_dir}: {error.strerror}; once that is mended the same command goes on"
    return str(error)


def _run(config: RunConfig, directory: RunDir, stopper: Stopper) -> int:
    setup = prepare(config, directory.began_with(config))
    resumed = directory.open(config, setup.fingerprint, setup.judged_on)
    if resumed and finished(directory, config):
        if not directory.report.exists():
            build_report(directory.root)
        print(f"{directory.root}: finished already; report: {directory.report}")
        return 0
    with ExitStack() as stack:
        session = Session(setup, directory, stopper, stack)
        session.warm_up()
        state = session.restore()
        if state.iteration == 0:
            session.measure("before", 0, full=True)
        state = loop.train(config, state, session.parts())
        session.publish(config.iterations)
        after = session.measure("after", config.iterations, full=True)
        session.finish(state, after)
    return 0


def finished(directory: RunDir, config: RunConfig) -> bool:
    """True when the directory holds the summary of a run of this many iterations."""
    if not directory.summary.exists():
        return False
    return int(json.loads(directory.summary.read_text())["iterations"]) == config.iterations


@dataclass
class Session:
    """One process's work on a run; everything it opens is closed by ``stack``, last first."""

    setup: Setup
    directory: RunDir
    stopper: Stopper
    stack: ExitStack
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of this process outside of the iterations, by phase."""

    def __post_init__(self) -> None:
        config, directory = self.setup.config, self.directory
        start = checkpoint.available(directory.checkpoints)
        self.watch = self.stack.enter_context(
            LiveView(
                directory.root.name,
                describe(config),
                config.iterations,
                int(start[-1].name) if start else 0,
                config.log.live,
            )
        )
        self.log = MetricsLog(directory.root, config.log.sinks, config.log.project, config.model_dump(mode="json"))
        self.stack.callback(self.log.close)
        for note in self.setup.notes:
            self.watch.warn(note)
        # Whatever is wrong with the data is found here, before anything is spent on engines.
        self.sampler = build_sampler(
            config.sampling, self.setup.train, config.rollout.groups, config.seed, config.problems.train_size,
            self.setup.screen.fits,
        )  # fmt: skip
        self.demonstrations: list[list[Pair]] = []
        if not self._warmed():
            self.demonstrations, notes = demonstrations(self.setup)
            for note in notes:
                self.watch.warn(note)
        began = time.monotonic()
        with self.stopper.interruptible():
            self.machines: Machines = launch(self.setup, directory, self.stack, self.stopper.claim)
        self._spend("start", began)
        rewarder = Rewarder(config.reward, self.setup.transcript.graded, self.setup.verify)
        self.stack.callback(rewarder.close)
        self.rewarder = rewarder
        self.journal = Journal(directory.journal)
        self.stack.callback(self.journal.close)
        self.published = -1
        self.max_gap = 0.0
        """Largest gap of the probes outside of the iterations, in nats."""
        self.recent: list[list[int]] = []

    def _spend(self, phase: str, began: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began

    def _warmed(self) -> bool:
        """Whether there is no warm-up to be done: none is wanted, or the directory holds its result."""
        target = self.directory.warmup
        return self.setup.config.warmup is None or (
            (target / "model.safetensors").exists() and (target / "warmup.json").exists()
        )

    def warm_up(self) -> None:
        """Supervised warm-up, unless the directory holds its result."""
        config, target = self.setup.config, self.directory.warmup
        if config.warmup is None or self._warmed():
            return
        began = time.monotonic()
        losses: list[tuple[int, float]] = []
        report = warm_up(
            config.warmup.stages,
            self.demonstrations,
            self.machines.policy,
            self.directory.root / "warmup-checkpoints",
            self.watch,
            self.stopper,
            config.seed,
            lambda step, loss: losses.append((step, loss)),
        )
        self.export(target)
        self._spend("warmup", began)
        row = {"steps": report.steps, "tokens": report.tokens, "seconds": self.seconds["warmup"], "losses": losses}
        replace_file(target / "warmup.json", json.dumps(row).encode())

    def export(self, folder: Path) -> None:
        """The policy and its tokenizer as Hugging Face files."""
        self.machines.policy.export(folder)
        with writing(folder):
            self.setup.tokenizer.save_pretrained(folder)
            declare_end(folder, self.setup.end)

    def restore(self) -> RunState:
        """The newest checkpoint that verifies, or the start of RL."""
        found = checkpoint.latest(self.directory.checkpoints, self.watch.warn)
        state = RunState(0, sampler=self.sampler.state_dict())
        if found is not None:
            state, learner = found
            self.machines.policy.load(learner)
            self.sampler.load_state_dict(state.sampler)
        self.log.truncate(state.iteration)
        drop_rollouts_from(self.directory.root, state.iteration)
        return state

    def probe(self) -> list[list[int]]:
        """Sequences for the parity probe: the newest finished rollouts, at first held-out prompts with answers."""
        config, encode = self.setup.config, self.setup.tokenizer
        first = [
            [*self.setup.render(problem), *encode(problem.answer, add_special_tokens=False)["input_ids"]]
            for problem in self.setup.heldout[: config.rollout.parity_probes]
        ]
        return scorable(self.recent or first, config.engine.max_model_len)

    def publish(self, version: int) -> None:
        """Current weights into every engine, once per version."""
        if self.published != version:
            report = loop.publish(self.machines.policy, self.machines.pool, version, self.probe())
            self.max_gap = max(self.max_gap, report.max_gap)
            self.published = version

    def measure(self, name: str, iteration: int, full: bool) -> Evaluation:
        """Held-out evaluation under ``name``; one that an earlier process finished is read back."""
        for known in read_evaluations(self.directory.root):
            if known.name == name and known.iteration == iteration:
                return known
        config = self.setup.config
        began = time.monotonic()
        with self.stopper.interruptible():
            self.publish(iteration)
            problems = self.setup.heldout if full else self.setup.heldout[: config.eval.interim_problems]
            result = self._evaluate(name, problems, config.eval.temperature, config.eval.samples)
            greedy = None
            if full and config.eval.greedy:
                greedy = self._evaluate(f"{name}-greedy", problems, 0.0, 1).accuracy
        evaluation = Evaluation(
            name=name,
            iteration=iteration,
            accuracy=result.accuracy,
            tokens=result.tokens,
            samples=result.samples,
            truncated=result.truncated,
            ungradable=result.ungradable,
            greedy=greedy,
        )
        write_evaluation(self.directory.root, evaluation)
        self.watch.evaluation(name, result.accuracy.mean, result.accuracy.low, result.accuracy.high)
        if full:
            self._spend("eval", began)
        return evaluation

    def _evaluate(self, name: str, problems: Sequence[Any], temperature: float, samples: int) -> Result:
        """Its answers go to ``eval/<name>.parquet``."""
        config = self.setup.config
        self.watch.stage("evaluate", len(problems) * samples)
        responder = PoolResponder(
            self.machines.pool,
            self.setup.render,
            self.setup.transcript.graded,
            Sampling(temperature=temperature, stop_token_ids=self.setup.end),
            config.rollout.max_tokens,
            config.engine.max_model_len,
        )
        asks = asks_of(problems, samples, config.seed)
        watch = Watch(on_response=lambda _: self.watch.advance(1))
        answers = evaluate(responder, asks, self.setup.verify, watch=watch)
        self.directory.evals.mkdir(exist_ok=True)
        write_samples(self.directory.evals / f"{name}.parquet", [("heldout", answers)])
        return result_of(answers, samples)

    def store(self, iteration: int, scored: Sequence[ScoredGroup], advantages: Mapping[str, float]) -> None:
        """An iteration's rollouts as Parquet; some of them become the next parity probe."""
        weight = self.rewarder.length_weight(iteration)
        table = to_table(iteration, scored, advantages, weight, self.setup.transcript.graded)
        write_rollouts(self.directory.root, iteration, table)
        rollouts = [rollout for item in scored for rollout in item.group.rollouts if rollout.length]
        if rollouts:
            chosen = rollouts[: self.setup.config.rollout.parity_probes]
            self.recent = [[*rollout.prompt_ids, *rollout.token_ids] for rollout in chosen]

    def parts(self) -> loop.Parts:
        """What the loop works with."""

        def evaluate_at(iteration: int) -> None:
            self.published = iteration
            self.measure(f"it{iteration:04d}", iteration, full=False)

        return loop.Parts(
            policy=self.machines.policy,
            pool=self.machines.pool,
            sampler=self.sampler,
            rewarder=self.rewarder,
            render=self.setup.render,
            probe=self.probe,
            evaluate=evaluate_at,
            journal=self.journal,
            log=self.log,
            store=self.store,
            watch=self.watch,
            stopper=self.stopper,
            checkpoints=self.directory.checkpoints,
        )

    def finish(self, state: RunState, after: Evaluation) -> None:
        """Export, summary, report, and a short table on the terminal."""
        directory, config = self.directory, self.setup.config
        self.export(directory.model)
        before = self.measure("before", 0, full=True)
        write_card(directory, config, before, after)
        summary = summarise(config, state, before, after, self.seconds, self.max_gap, directory)
        replace_file(directory.summary, (json.dumps(summary, indent=1) + "\n").encode())
        build_report(directory.root)
        self.watch.close()
        print(table(summary))


def scorable(sequences: Sequence[Sequence[int]], context: int) -> list[list[int]]:
    """``sequences`` cut to what an engine can score: vLLM wants room for one more token in the context."""
    return [list(sequence[: context - 1]) for sequence in sequences]


def describe(config: RunConfig) -> str:
    """The policy in a few words."""
    base = config.model.base
    if isinstance(base, ScratchModel):
        return f"Llama from scratch, {base.layers} layers of {base.width}"
    return base.path


def summarise(
    config: RunConfig,
    state: RunState,
    before: Evaluation,
    after: Evaluation,
    seconds: Mapping[str, float],
    max_gap: float,
    directory: RunDir,
) -> dict[str, Any]:
    """The contents of ``summary.json``."""

    def accuracy(evaluation: Evaluation) -> dict[str, Any]:
        estimate = evaluation.accuracy
        row = {
            "mean": estimate.mean,
            "ci95": [estimate.low, estimate.high],
            "n": estimate.n,
            "samples": evaluation.samples,
        }
        return row | {"greedy": evaluation.greedy and asdict(evaluation.greedy)}

    paired = change(directory.evals / "before.parquet", directory.evals / "after.parquet")
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "accuracy_before": accuracy(before),
        "accuracy_after": accuracy(after),
        "accuracy_change": paired
        and {"mean": paired.difference, "ci95": [paired.low, paired.high], "p": paired.p, "n": paired.problems},
        "mean_tokens_before": before.tokens.mean,
        "mean_tokens_after": after.tokens.mean,
        "iterations": state.iteration,
        "rollouts": state.totals.rollouts,
        "partial_rollouts_resumed": state.totals.resumed,
        "tokens_generated": state.totals.tokens,
        "wall_seconds": {**seconds, **{f"rl_{phase}": spent for phase, spent in state.totals.seconds.items()}},
        "max_logprob_gap": max(state.totals.max_gap, max_gap),
        "model_path": str(directory.model),
        "report_path": str(directory.report),
    }


def table(summary: Mapping[str, Any]) -> str:
    """The summary for the terminal."""

    def line(name: str, key: str, tokens: str) -> str:
        row = summary[key]
        low, high = row["ci95"]
        greedy = f"{row['greedy']['mean']:.3f}" if row["greedy"] else "-"
        return f"{name:<8}{row['mean']:>10.3f}   [{low:.3f}, {high:.3f}]{greedy:>10}{summary[tokens]:>10.1f}"

    moved = []
    if paired := summary["accuracy_change"]:
        low, high = paired["ci95"]
        interval = f"[{low:+.3f}, {high:+.3f}]"
        moved = [f"{'change':<8}{paired['mean']:>+10.3f}  {interval}   problem by problem, p = {paired['p']:.2g}"]
    return "\n".join(
        [
            f"{'':<8}{'accuracy':>10}   {'95 % interval':<14}{'greedy':>10}{'tokens':>10}",
            line("before", "accuracy_before", "mean_tokens_before"),
            line("after", "accuracy_after", "mean_tokens_after"),
            *moved,
            f"{summary['iterations']} iterations, {summary['rollouts']} rollouts "
            f"({summary['partial_rollouts_resumed']} over several weight versions), "
            f"{summary['tokens_generated']} tokens",
            f"largest engine-learner log-prob gap {summary['max_logprob_gap']:.1e} nats",
            f"model {summary['model_path']}",
            f"report {summary['report_path']}",
        ]
    )
