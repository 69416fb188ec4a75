"""A whole run: set up, warm up, evaluate, RL, evaluate, export, report. Resumes whatever the directory holds."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from evals.evaluate import Result, Watch, asks_of, evaluate, result_of
from evals.pooled import PoolResponder
from evals.store import write_samples
from recipes.finish import Outcome, complete, conclude, finished, model_writer, rehearse, table
from recipes.launching import Machines, first_probe, launch, scorable
from recipes.setup import Setup, prepare
from rl import checkpoint, loop
from rl.checkpoint import CheckpointError, RunState
from rl.config import RunConfig, ScratchModel
from rl.journal import Journal
from rl.launch import LaunchError, LearnerDead, check_run_dir
from rl.learner import NonFiniteGradients
from rl.live import LiveView
from rl.log import Evaluation, LogError, MetricsLog, find_evaluation, replace_file, write_evaluation
from rl.report.data import ReportError
from rl.rewarding import Rewarder, ScoredGroup
from rl.rollout_store import StoreError, drop_rollouts_from, to_table, write_rollouts
from rl.run_dir import RunDir, RunDirError
from rl.sampling import build_sampler
from rl.sinks import SinkError
from rl.stop import Interrupted, Stopper
from rl.warmup import warm_up
from rollout.engine import EngineError, Sampling
from rollout.export import ExportError

EXPECTED = (
    RunDirError,
    CheckpointError,
    LaunchError,
    LearnerDead,
    NonFiniteGradients,
    EngineError,
    ExportError,
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
    setup = prepare(config)
    resumed = directory.open(config, setup.fingerprint)
    if resumed and (summary := finished(directory, config)):
        complete(setup, directory, summary, stopper)
        print(f"{directory.root}: finished already; report: {directory.report}")
        return 0
    with ExitStack() as stack:
        session = Session(setup, directory, stopper, stack)
        session.rehearse()
        session.warm_up()
        state = session.restore()
        if state.iteration == 0:
            session.measure("before", 0, full=True)
        state = loop.train(config, state, session.parts())
        session.publish(config.iterations)
        after = session.measure("after", config.iterations, full=True)
        session.finish(state, after)
    return 0


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
        began = time.monotonic()
        with self.stopper.interruptible():
            self.machines: Machines = launch(self.setup, directory, self.stack, self.stopper.claim)
        self._spend("start", began)
        self.write_model = model_writer(self.machines.policy, self.setup)
        rewarder = Rewarder(config.reward, self.setup.decode, self.setup.verify)
        self.stack.callback(rewarder.close)
        self.rewarder = rewarder
        self.sampler = build_sampler(
            config.sampling, self.setup.train, config.rollout.groups, config.seed, config.problems.train_size
        )
        self.journal = Journal(directory.journal)
        self.stack.callback(self.journal.close)
        self.published = -1
        self.max_gap = 0.0
        """Largest gap of the probes outside of the iterations, in nats."""
        self.recent: list[list[int]] = []

    def _spend(self, phase: str, began: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began

    def rehearse(self) -> None:
        """The end of the run, tried before anything is spent."""
        began = time.monotonic()
        with self.stopper.interruptible():
            rehearse(self.directory, self.setup, self.write_model)
        self._spend("start", began)

    def warm_up(self) -> None:
        """Supervised warm-up, unless the directory holds its result."""
        config, target = self.setup.config, self.directory.warmup
        if config.warmup is None or ((target / "model.safetensors").exists() and (target / "warmup.json").exists()):
            return
        began = time.monotonic()
        losses: list[tuple[int, float]] = []
        report = warm_up(
            config.warmup.stages,
            self.setup.demonstrations(),
            self.machines.policy,
            self.directory.root / "warmup-checkpoints",
            self.watch,
            self.stopper,
            config.seed,
            lambda step, loss: losses.append((step, loss)),
        )
        self.write_model(target)
        self._spend("warmup", began)
        row = {"steps": report.steps, "tokens": report.tokens, "seconds": self.seconds["warmup"], "losses": losses}
        replace_file(target / "warmup.json", json.dumps(row).encode())

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
        return scorable(self.recent, self.setup.config.engine.max_model_len) or first_probe(self.setup)

    def publish(self, version: int) -> None:
        """Current weights into every engine, once per version."""
        if self.published != version:
            report = loop.publish(self.machines.policy, self.machines.pool, version, self.probe())
            self.max_gap = max(self.max_gap, report.max_gap)
            self.published = version

    def measure(self, name: str, iteration: int, full: bool) -> Evaluation:
        """Held-out evaluation under ``name``; one that an earlier process finished is read back."""
        if known := find_evaluation(self.directory.root, name, iteration):
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
            self.setup.decode,
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
        table = to_table(iteration, scored, advantages, weight, self.setup.decode)
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
        """Summary, report, model, and a short table on the terminal; then what of them failed is raised."""
        before = self.measure("before", 0, full=True)
        outcome = Outcome(state, before, after, self.seconds, self.max_gap)
        ending = conclude(self.directory, self.setup.config, outcome, self.write_model)
        self.watch.close()
        print(table(ending.summary))
        for failure in ending.failures:
            raise failure


def describe(config: RunConfig) -> str:
    """The policy in a few words."""
    base = config.model.base
    if isinstance(base, ScratchModel):
        return f"Llama from scratch, {base.layers} layers of {base.width}"
    return base.path
