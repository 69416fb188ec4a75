"""The end of a run: summary, report, the exported model with its card, and a short table on the terminal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from evals.compare import change
from evals.evaluate import Answer, Response
from evals.report.run.build import build_report
from evals.report.run.data import ReportError
from evals.stats import Paired
from evals.store import write_samples
from recipes.run import promise
from recipes.run.judge_card import card_of
from recipes.run.launching import Site, starting_model
from recipes.run.model_card import card
from recipes.run.setup import Setup
from rewards.score import Score
from rewards.stats import Estimate
from rl.actors import LearnerDead
from rl.config import RunConfig
from rl.record.finding import Finding
from rl.record.health import Course, alarms, findings
from rl.record.log import Evaluation, MetricsLog, find_evaluation, write_evaluation
from rl.record.metrics import Row
from rl.state import checkpoint
from rl.state.checkpoint import CheckpointError, RunState
from rl.state.disk import writing
from rl.state.run_dir import RunDir, RunDirError
from rl.stop import Stopper
from rollout.files import replace_file, replacing_folder
from rollout.models.endings import declare_end
from rollout.models.export import ExportError, save_tokenizer
from rollout.reward_models.card import write_card
from rollout.strict_json import dumps

UNFINISHED = (ExportError, LearnerDead, OSError, ReportError)
"""Failures of one part of the end after which the other parts are still written."""


class Exporter(Protocol):
    """The part of the learner that the end of a run uses."""

    def export(self, folder: Path, dtype: str) -> None:
        """Write Hugging Face model files into ``folder``."""


class WriteModel(Protocol):
    """Writes a model as it stands, with its tokenizer."""

    def __call__(self, target: Path, dtype: str = "float32", readme: str = "") -> None:
        """Write it into the directory ``target``, replacing what that holds. Raises ``ExportError`` or ``OSError``."""


@dataclass(frozen=True)
class Outcome:
    """The results of a run."""

    state: RunState
    """State after the last iteration."""
    before: Evaluation
    """Held-out evaluation of the weights that RL started from."""
    after: Evaluation
    """Held-out evaluation of the last weights."""
    seconds: Mapping[str, float]
    """Wall time outside of the iterations, by phase."""
    max_gap: float
    """Largest gap of the parity probes outside of the iterations, in nats."""
    rows: Sequence[Row]
    """The iterations, as in ``metrics.jsonl``."""


@dataclass(frozen=True)
class Ending:
    """The parts of a run's end that were written, and those that failed."""

    summary: dict[str, Any]
    """The summary, as written."""
    failures: tuple[Exception, ...]
    """Errors of report and model; neither keeps the other or the summary from being written."""


def finished(directory: RunDir, config: RunConfig) -> dict[str, Any] | None:
    """Return the summary of a run of this many iterations under this promise, if the directory holds one.

    Raises ``RunDirError`` for a file that is no summary.
    """
    if not directory.summary.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(directory.summary.read_bytes())
        done, _ = summary["iterations"], summary["model_path"]
        judged = promise.is_judged(summary, config.promise)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirError(
            f"{directory.summary}: not what k15 wrote ({type(error).__name__}: {error}); remove it, and the same "
            "command writes it again"
        ) from error
    return summary if done == config.iterations and judged else None


def conclude(directory: RunDir, config: RunConfig, outcome: Outcome, write_model: WriteModel) -> Ending:
    """Write summary, report, and the model with its card, in this order; after a failure the rest goes on."""
    summary = summarise(directory, config, outcome)
    _write_summary(directory, summary)
    failures: list[Exception] = []
    directory.report.unlink(missing_ok=True)  # of an earlier state of the run; a missing one is made up for
    try:
        build_report(directory.root)
    except UNFINISHED as error:
        failures.append(error)
    try:
        summary = deliver(directory, config, summary, write_model)
    except UNFINISHED as error:
        failures.append(error)
    return Ending(summary, tuple(failures))


def complete(setup: Setup, directory: RunDir, summary: dict[str, Any], stopper: Stopper) -> None:
    """Write what is missing at the end of a run because an earlier process failed to: its report, its model."""
    try:
        if not directory.report.exists():
            build_report(directory.root)
    finally:  # neither costs the other
        if summary["model_path"] is None or not directory.model.exists():
            _export_again(setup, directory, summary, stopper)


def _export_again(setup: Setup, directory: RunDir, summary: dict[str, Any], stopper: Stopper) -> None:
    """Export the last checkpoint, with a learner and no engines."""
    config = setup.config
    found = checkpoint.latest(directory.checkpoints, lambda text: print(f"k15: {text}", file=sys.stderr))
    if config.iterations and (found is None or found[0].iteration != config.iterations):
        raise CheckpointError(
            f"{directory.checkpoints}: the checkpoint of iteration {config.iterations}, which model/ would be exported "
            f"from, is gone; remove {directory.summary} to run the iterations since the last one again"
        )
    with ExitStack() as stack:
        with stopper.interruptible():
            policy = Site(config, stack, stopper.claim).learner(config, starting_model(setup, directory))
        if found is not None:
            policy.load(found[1])
        deliver(directory, config, summary, model_writer(policy, setup))


def deliver(directory: RunDir, config: RunConfig, summary: dict[str, Any], write_model: WriteModel) -> dict[str, Any]:
    """Write the trained model with its card into ``model/``, and return the summary, which names it from then on.

    Another run's end, with fewer iterations, is removed first: what ``model/`` holds is always what the summary tells.
    """
    shutil.rmtree(directory.model, ignore_errors=True)
    before, after = (find_evaluation(directory.root, *at) for at in (("before", 0), ("after", config.iterations)))
    if before is None or after is None:
        raise ExportError(f"{directory.evals}: before.json or after.json, which the model card tells of, is gone")
    write_model(directory.model, config.model.export_dtype, card(directory, config, before, after))
    summary = {**summary, "model_path": str(directory.model)}
    _write_summary(directory, summary)
    return summary


def rehearse(directory: RunDir, setup: Setup, write_model: WriteModel) -> None:
    """Try everything that ends a run on the model as it is and on invented results, before anything is spent.

    Raises what would have failed at the end.
    """
    trial = RunDir(directory.root / ".rehearsal")
    shutil.rmtree(trial.root, ignore_errors=True)
    trial.evals.mkdir(parents=True)
    try:
        for path in (directory.config, directory.info):
            shutil.copy(path, trial.root)
        log = MetricsLog(trial.root)
        log.write(0, {})
        log.close()
        problem = setup.heldout[0]
        answers = [Answer(problem, 0, Response(problem.answer, None, None), Score.wrong("rehearsal"))]
        nothing = Estimate(0.0, 0.0, 0.0, 1)
        before = Evaluation("before", 0, nothing, nothing, 1)
        after = Evaluation("after", setup.config.iterations, nothing, nothing, 1)
        for evaluation in (before, after):
            write_evaluation(trial.root, evaluation)
            write_samples(trial.evals / f"{evaluation.name}.parquet", [("heldout", answers)])
        outcome = Outcome(RunState(setup.config.iterations), before, after, {}, 0.0, ())
        for failure in conclude(trial, setup.config, outcome, write_model).failures:
            raise failure
    finally:
        shutil.rmtree(trial.root, ignore_errors=True)


def model_writer(policy: Exporter, setup: Setup) -> WriteModel:
    """Return what writes ``policy`` and its tokenizer as a directory of Hugging Face files, which appears when
    whole.
    """

    def write(target: Path, dtype: str = "float32", readme: str = "") -> None:
        try:
            with replacing_folder(target) as aside:
                policy.export(aside, dtype)
                with writing(aside):
                    save_tokenizer(setup.tokenizer, aside, setup.source)
                    declare_end(aside, setup.end)
                    if judge := card_of(setup.config):
                        write_card(aside, judge)
                    if readme:
                        (aside / "README.md").write_text(readme)
        except (OSError, LearnerDead):
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ExportError(
                f"{target} cannot be written: {reason}; once that is mended the same command goes on"
            ) from error

    return write


def _write_summary(directory: RunDir, summary: Mapping[str, Any]) -> None:
    replace_file(directory.summary, (dumps(summary, indent=1) + "\n").encode())


def summarise(directory: RunDir, config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """Return the contents of ``summary.json``, before the model is exported."""
    state, before, after = outcome.state, outcome.before, outcome.after

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
    void = promise.voids(config)
    found = told(config, outcome, paired, judge_promise=not void)
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "accuracy_before": accuracy(before),
        "accuracy_after": accuracy(after),
        "reward_before": _interval(before.reward),
        "reward_after": _interval(after.reward),
        "goes_by_reward": before.goes_by_reward or after.goes_by_reward,
        "accuracy_change": paired
        and {"mean": paired.difference, "ci95": [paired.low, paired.high], "p": paired.p, "n": paired.problems},
        "findings": [asdict(finding) for finding in found],
        "promise": promise.entry(config, void, any(finding.code == "promise-broken" for finding in found)),
        "mean_tokens_before": before.tokens.mean,
        "mean_tokens_after": after.tokens.mean,
        "iterations": state.iteration,
        "rollouts": state.totals.rollouts,
        "partial_rollouts_resumed": state.totals.resumed,
        "tokens_generated": state.totals.tokens,
        "wall_seconds": {**outcome.seconds, **{f"rl_{phase}": spent for phase, spent in state.totals.seconds.items()}},
        "max_logprob_gap": max(state.totals.max_gap, outcome.max_gap),
        "model_path": None,
        "report_path": str(directory.report),
    }


def _interval(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"mean": estimate.mean, "ci95": [estimate.low, estimate.high]}


def told(config: RunConfig, outcome: Outcome, paired: Paired | None, judge_promise: bool) -> list[Finding]:
    """Return the findings that a person should know of the run."""
    course = Course(
        iterations=config.iterations,
        k=config.rollout.k,
        rows=outcome.rows,
        before=outcome.before,
        after=outcome.after,
        change=Estimate(paired.difference, paired.low, paired.high, paired.problems) if paired else None,
        promise=config.promise if judge_promise else None,
        **alarms(config),
    )
    return findings(course)


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary for the terminal."""

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
    if summary.get("goes_by_reward"):
        moved.append(f"reward   before {_shown(summary['reward_before'])}, after {_shown(summary['reward_after'])}")
    return "\n".join(
        [
            f"{'':<8}{'accuracy':>10}   {'95 % interval':<14}{'greedy':>10}{'tokens':>10}",
            line("before", "accuracy_before", "mean_tokens_before"),
            line("after", "accuracy_after", "mean_tokens_after"),
            *moved,
            *judgement(summary),
            f"{summary['iterations']} iterations, {summary['rollouts']} rollouts "
            f"({summary['partial_rollouts_resumed']} over several weight versions), "
            f"{summary['tokens_generated']} tokens",
            f"largest engine-learner log-prob gap {summary['max_logprob_gap']:.1e} nats",
            f"model {summary['model_path'] or 'not exported: the same command tries again'}",
            f"report {summary['report_path']}",
        ]
    )


def _shown(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    low, high = estimate["ci95"]
    return f"{estimate['mean']:.3f} [{low:.3f}, {high:.3f}]"


def judgement(summary: Mapping[str, Any]) -> list[str]:
    """Return the recipe's promise and the findings, a line each."""
    lines = []
    if promised := summary.get("promise"):
        if promised["void"]:
            lines.append(f"the recipe's promise ({promised['words']}) is not judged: {', '.join(promised['void'])}")
        elif promised["kept"]:
            lines.append(f"the recipe's promise is kept: {promised['words']}")
    return lines + [f"attention: {finding['message']}; {finding['advice']}" for finding in summary.get("findings", ())]
