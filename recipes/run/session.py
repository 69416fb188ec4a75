"""A whole run: set up, warm up, evaluate, RL, evaluate, export, report. Resumes whatever the directory holds."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from recipes.run.data import Data, warmed
from recipes.run.deaths import Deaths, death_behind
from recipes.run.failures import EXPECTED, located
from recipes.run.finish import Outcome, complete, conclude, finished, judgement, model_writer, rehearse, table
from recipes.run.heldout import Heldout
from recipes.run.launching import Launcher, Machines, launch, starting_model
from recipes.run.own_responses import OwnResponses
from recipes.run.probe import first_probe, scorable
from recipes.run.promise import exit_code
from recipes.run.setup import Setup, prepare
from recipes.run.warming import Warming
from rl.actors import LearnerDead
from rl.audit import audit_of
from rl.config import RunConfig
from rl.elastic import Elastic
from rl.iteration import publish
from rl.launch import check_run_dir
from rl.learner.config import ScratchModel
from rl.learner.spec import LearnerSpec
from rl.loops import loop_of
from rl.objectives.build import build
from rl.objectives.protocol import Objective
from rl.parts import Parts
from rl.record.health import Course, findings, halted
from rl.record.live import LiveView
from rl.record.log import Evaluation, MetricsLog, find_evaluation, read_metrics, write_evaluation
from rl.record.metrics import Row
from rl.record.rollout_store import drop_rollouts_from, to_table, write_rollouts
from rl.reward_models import Site
from rl.rewarding import Rewarder, ScoredGroup, build_grader, evaluating
from rl.state import checkpoint
from rl.state.checkpoint import RunState
from rl.state.journal import Journal
from rl.state.run_dir import RunDir
from rl.stop import Halted, Interrupted, Stopper
from rollout import timeline
from rollout.engine import CopyGone
from rollout.files import replace_file
from rollout.grading import Answered, Grading, Through
from rollout.progress import console_on, waiting
from rollout.strict_json import dumps
from rollout.timeline import DRIVER, SAVER, recording, spanned
from rollout.types import StopReason


def run(config: RunConfig, run_dir: Path, launcher: Launcher = launch) -> int:
    """Train into ``run_dir``, resuming what is there. ``launcher``: where learner and engines come from.

    Returns the exit code: 0, 1, 128 + signal, or ``promise.BROKEN`` when the run is complete and its recipe promised
    more.
    """
    disable_progress_bar()  # loading bars of transformers would tear the live view
    with Stopper() as stopper:
        try:
            directory = RunDir(run_dir.resolve())
            check_run_dir(directory.root)
            with directory.lock():
                return train(config, directory, stopper, launcher)
        except Interrupted:
            if stopper.why is not None and stopper.signal is None:  # cut short by its own end, not by anybody's signal
                print(f"k15: {stopper.why}", file=sys.stderr)
                return 1
            print(f"k15: stopped; the same command resumes {run_dir}", file=sys.stderr)
            return 128 + (stopper.signal or signal.SIGTERM)
        except EXPECTED as error:
            print(f"k15: {located(error, run_dir)}", file=sys.stderr)
            return 1


def train(config: RunConfig, directory: RunDir, stopper: Stopper, launcher: Launcher = launch) -> int:
    """Do all that ``directory`` does not hold yet; whoever calls has it locked. Returns the exit code.

    Raises ``recipes.run.failures.EXPECTED``, and ``Interrupted`` on a stop signal.
    """
    with waiting("reading problems", console_on("stdout")):
        setup = prepare(config, directory.began_with(config))
        data = Data.of(setup, directory)
    objective = build(config.learner.objective, config.rollout.max_tokens)
    resumed = directory.open(config, setup.fingerprint, setup.judged_on, setup.user_code)
    if resumed and (summary := finished(directory, config)):
        with waiting("writing what is missing", console_on("stdout")):
            complete(setup, directory, summary, stopper)
        lines = [f"{directory.root}: finished already; report: {directory.report}", *judgement(summary)]
        print("\n".join(lines))
        return exit_code(summary)
    if why := halted(Course.so_far(config, read_metrics(directory.root))):
        raise Halted(f"{directory.root}: {why}")
    with ExitStack() as stack:
        return Session(setup, data, objective, directory, stopper, stack, launcher).outlive()


@dataclass
class Session:
    """The work of one process on a run; everything it opens is closed by ``stack``, last first."""

    setup: Setup
    data: Data
    objective: Objective
    directory: RunDir
    stopper: Stopper
    stack: ExitStack
    launcher: Launcher
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
        self.stack.enter_context(recording(directory.timeline, self.watch.warn))
        self.log = MetricsLog(directory.root, config.log.sinks, config.log.project, config.model_dump(mode="json"))
        self.stack.callback(self.log.close)
        for note in self.data.notes:
            self.watch.warn(note)
        self.sampler = self.data.sampler
        self.sampler_at_start = self.sampler.state_dict()
        began = time.monotonic()
        self.watch.stage("starting learner and engines" if config.ray.in_process else "starting Ray and engines")
        with self.stopper.interruptible():
            self.machines: Machines = self.launcher(self.setup, directory, self.stack, self.stopper.claim)
        self.write_model = model_writer(self.machines.policy, self.setup)
        with self.stopper.interruptible():  # a judge's engines take as long to start as the policy's
            grader = build_grader(config.reward, Site.of(config))
        self.grading = self.stack.enter_context(Grading(grader))
        self._spend("start", began)
        if config.engine.most is not None and self.machines.ask is not None:  # after a judge has its place
            pool, most = self.machines.pool, config.engine.most
            self.stack.enter_context(Elastic(pool, most, self.machines.ask, self.watch.warn))
        audit = audit_of(self.grading, self.watch.warn)
        self.rewarder = Rewarder(config.reward, self.setup.transcript.graded, self.grading, audit)
        self.episodes = self.setup.episodes(lambda: Through(self.grading))
        if self.episodes is not None:
            self.stack.callback(self.episodes.close)
        judges = self.grading.beside(evaluating(grader))
        self.heldout = Heldout(self.setup, self.machines.pool, judges, self.episodes, directory.evals, self.watch)
        self.journal = Journal(directory.journal)
        self.stack.callback(self.journal.close)
        self.published = -1
        self.max_gap = 0.0
        """Largest gap of the probes outside of the iterations, in nats."""
        self.recent: list[list[int]] = []
        self.before: Evaluation | None = None
        self.rows: list[Row] = []
        """Iterations done, as in ``metrics.jsonl``."""
        self.told: set[str] = set()
        """Codes of the findings that this process has shown."""
        self.rehearsed = False
        self.deaths = Deaths(config.learner.ranks.max_restarts)

    def _spend(self, phase: str, began: float) -> None:
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - began
        timeline.add(DRIVER, phase, began, now)

    def outlive(self) -> int:
        """Do all that the directory does not hold yet, through deaths of the learner, and return the exit code.

        Raises ``LearnerDead`` when starting it again ``learner.ranks.max_restarts`` times in a row has not helped.
        """
        while True:
            try:
                return self.run()
            except LearnerDead as death:
                self.revive(death)
            except CopyGone as gone:
                self.revive(death_behind(gone, self.machines.policy))

    def run(self) -> int:
        """Do all that the directory does not hold yet, and return the exit code. Raises ``LearnerDead``, after which it
        can be called again once there is another learner.
        """
        config = self.setup.config
        self.rehearse()
        self.warm_up()
        state = self.restore()
        self.before = self.measure("before", 0, full=True)  # on record already unless RL is still to begin
        self.inspect()
        state = loop_of(config)(config, state, self.parts())
        self.publish(config.iterations)
        after = self.measure("after", config.iterations, full=True)
        return self.finish(state, after)

    def revive(self, death: LearnerDead) -> None:
        """Start a learner in the place of the dead one; engines, journal and all that is on disk stay.

        Raises the last death when too many came in a row.
        """
        config, path = self.setup.config, starting_model(self.setup, self.directory)
        self.machines.pool.withdraw()
        while True:
            self.deaths.note(death, len(self.rows))
            self.watch.warn(f"{death}; starting it again here")
            self.watch.stage("starting the learner again")
            began = time.monotonic()
            try:
                with self.stopper.interruptible():
                    self.machines.policy.replace(LearnerSpec.of(config), path)
            except LearnerDead as again:
                death = again
                continue
            finally:
                self._spend("start", began)
            self.published = -1
            self.recent = []
            self.rewarder.forget()
            return

    def rehearse(self) -> None:
        """Try the end of the run before anything is spent, once."""
        if self.rehearsed:
            return
        self.watch.stage("trying how the run ends")
        began = time.monotonic()
        with self.stopper.interruptible():
            rehearse(self.directory, self.setup, self.write_model)
            self._try_reward()
        self.rehearsed = True
        self._spend("start", began)

    def _try_reward(self) -> None:
        """Try a user's own reward on an empty response, and tell when it fails, which may be right."""
        if self.setup.config.reward.function is None:
            return
        (score,) = self.grading.submit(lambda: [Answered(self.setup.heldout[0], "", StopReason.EOS)]).result()
        if not score.gradable:
            self.watch.warn(f"the reward was tried on an empty response: {score.reason}")
        self.rewarder.forget()

    def warm_up(self) -> None:
        """Supervised warm-up, unless the directory holds its result."""
        config, target = self.setup.config, self.directory.warmup
        if config.warmup is None or warmed(config, self.directory):
            return
        self.compare_engines()
        began = time.monotonic()
        policy, pool, root = self.machines.policy, self.machines.pool, self.directory.root
        own = OwnResponses(self.setup, pool, self.grading, root / "warmup-responses", self.watch)
        row = Warming(own, self.data.demonstrations, policy, self.publish_passing, root, self.watch, self.stopper).run()
        self.watch.stage("export")
        self.write_model(target)
        self._spend("warmup", began)
        replace_file(target / "warmup.json", dumps({**row, "seconds": self.seconds["warmup"]}).encode())

    def compare_engines(self) -> None:
        """Compare engines and learner on the same weights, before anything is spent on them. Raises ``ParityError``."""
        began = time.monotonic()
        with self.stopper.interruptible():
            self.publish_passing()
        self._spend("start", began)

    def publish_passing(self) -> None:
        """Publish weights of the warm-up, which it will change again."""
        self.published = -1
        self.publish(0)
        self.published = -1

    def restore(self) -> RunState:
        """Return the state of the newest checkpoint that verifies, or of the start of RL."""
        found = checkpoint.latest(self.directory.checkpoints, self.watch.warn)
        state = RunState(0, sampler=self.sampler_at_start)
        if found is not None:
            state, learner = found
            self.machines.policy.load(learner)
        self.sampler.load_state_dict(state.sampler)
        self.log.truncate(state.iteration)
        drop_rollouts_from(self.directory.root, state.iteration)
        self.rows = [*read_metrics(self.directory.root)]
        return state

    def probe(self) -> list[list[int]]:
        """Return the sequences for the parity probe: the newest finished rollouts, at first those of
        ``first_probe``.
        """
        return scorable(self.recent, self.setup.config.engine.max_model_len) or first_probe(self.setup)

    def publish(self, version: int) -> None:
        """Publish the current weights to every engine, once per version."""
        if self.published != version:
            self.watch.stage("publish weights")
            report = publish(self.machines.policy, self.machines.pool, version, self.probe())
            self.max_gap = max(self.max_gap, report.max_gap)
            self.published = version

    def measure(self, name: str, iteration: int, full: bool) -> Evaluation:
        """Held-out evaluation under ``name``; one that an earlier process finished is read back."""
        if known := find_evaluation(self.directory.root, name, iteration):
            return known
        began = time.monotonic()
        with self.stopper.interruptible():
            self.publish(iteration)
            evaluation = self.heldout.evaluate(name, iteration, full)
        write_evaluation(self.directory.root, evaluation)
        accuracy = evaluation.accuracy
        self.watch.evaluation(name, accuracy.mean, accuracy.low, accuracy.high)
        if full:
            self._spend("eval", began)
        return evaluation

    @spanned(SAVER, "store")
    def store(self, iteration: int, scored: Sequence[ScoredGroup], advantages: Mapping[str, float]) -> None:
        """Write an iteration's rollouts as Parquet; some of them become the next parity probe."""
        weight = self.rewarder.length_weight(iteration)
        table = to_table(iteration, scored, advantages, weight, self.setup.transcript.graded)
        write_rollouts(self.directory.root, iteration, table)
        rollouts = [rollout for item in scored for rollout in item.group.rollouts if rollout.length]
        if rollouts:
            chosen = rollouts[: self.setup.config.rollout.parity_probes]
            self.recent = [rollout.prompt.followed_by(rollout.token_ids).token_ids.tolist() for rollout in chosen]

    def inspect(self, row: Row | None = None) -> None:
        """Show the signs that the run cannot work, each once; after one more iteration, if one is given."""
        if row:
            self.rows.append(row)
        course = Course.so_far(self.setup.config, self.rows, self.before)
        for finding in findings(course):
            if finding.code not in self.told:
                self.told.add(finding.code)
                self.watch.finding(finding)
        if why := halted(course):
            self.stopper.halt(Halted(f"{self.directory.root}: {why}"))

    def parts(self) -> Parts:
        """Return the parts that the loop works with."""

        def evaluate_at(iteration: int) -> Evaluation:
            self.published = iteration
            return self.measure(f"it{iteration:04d}", iteration, full=False)

        return Parts(
            policy=self.machines.policy,
            pool=self.machines.pool,
            sampler=self.sampler,
            rewarder=self.rewarder,
            objective=self.objective,
            render=self.setup.render,
            episodes=self.episodes,
            probe=self.probe,
            evaluate=evaluate_at,
            journal=self.journal,
            log=self.log,
            store=self.store,
            inspect=self.inspect,
            watch=self.watch,
            stopper=self.stopper,
            checkpoints=self.directory.checkpoints,
        )

    def finish(self, state: RunState, after: Evaluation) -> int:
        """Write summary, report and model, and print a short table; then raise what of them failed.

        Returns the exit code. Raises ``LearnerDead`` before the table is printed.
        """
        before = self.measure("before", 0, full=True)
        self.watch.stage("writing report and model")
        outcome = Outcome(state, before, after, self.seconds, self.max_gap, self.rows)
        ending = conclude(self.directory, self.setup.config, outcome, self.write_model)
        for death in (failure for failure in ending.failures if isinstance(failure, LearnerDead)):
            raise death  # another learner may export the model
        self.watch.close()
        print(table(ending.summary))
        for failure in ending.failures:
            raise failure
        return exit_code(ending.summary)


def describe(config: RunConfig) -> str:
    """Return the policy in a few words."""
    base = config.model.base
    if isinstance(base, ScratchModel):
        return f"Llama from scratch, {base.layers} layers of {base.width}"
    return base.path
