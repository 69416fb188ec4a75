"""How a run ends: summary, report, the exported model with its card, and a short table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evals.compare import change
from evals.stats import Paired
from recipes import promise
from recipes.model_card import write_card
from rewards.stats import Estimate
from rl.checkpoint import RunState
from rl.config import RunConfig
from rl.health import Course, Finding, Row, findings
from rl.log import Evaluation, replace_file
from rl.report.build import build_report
from rl.run_dir import RunDir


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    state: RunState
    """After the last iteration."""
    before: Evaluation
    """Held out, under the weights that RL started from."""
    after: Evaluation
    """Held out, under the last ones."""
    seconds: Mapping[str, float]
    """Wall time outside of the iterations, by phase."""
    max_gap: float
    """Largest gap of the parity probes outside of the iterations, in nats."""
    rows: Sequence[Row]
    """The iterations, as in ``metrics.jsonl``."""


def finished(directory: RunDir, config: RunConfig) -> bool:
    """True when the directory holds the summary of a run of this many iterations under this promise."""
    if not directory.summary.exists():
        return False
    summary = json.loads(directory.summary.read_text())
    return int(summary["iterations"]) == config.iterations and promise.is_judged(summary, config.promise)


def conclude(directory: RunDir, config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """Model card, summary and report of a run whose model is exported; returns the summary."""
    write_card(directory, config, outcome.before, outcome.after)
    summary = summarise(directory, config, outcome)
    replace_file(directory.summary, (json.dumps(summary, indent=1) + "\n").encode())
    build_report(directory.root)
    return summary


def summarise(directory: RunDir, config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """The contents of ``summary.json``."""
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
        "model_path": str(directory.model),
        "report_path": str(directory.report),
    }


def told(config: RunConfig, outcome: Outcome, paired: Paired | None, judge_promise: bool) -> list[Finding]:
    """What a person should know of the run."""
    course = Course(
        iterations=config.iterations,
        k=config.rollout.k,
        rows=outcome.rows,
        before=outcome.before,
        after=outcome.after,
        change=Estimate(paired.difference, paired.low, paired.high, paired.problems) if paired else None,
        promise=config.promise if judge_promise else None,
    )
    return findings(course)


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
            *judgement(summary),
            f"{summary['iterations']} iterations, {summary['rollouts']} rollouts "
            f"({summary['partial_rollouts_resumed']} over several weight versions), "
            f"{summary['tokens_generated']} tokens",
            f"largest engine-learner log-prob gap {summary['max_logprob_gap']:.1e} nats",
            f"model {summary['model_path']}",
            f"report {summary['report_path']}",
        ]
    )


def judgement(summary: Mapping[str, Any]) -> list[str]:
    """The recipe's promise, and what a person should know, a line each."""
    lines = []
    if promised := summary.get("promise"):
        if promised["void"]:
            lines.append(f"the recipe's promise ({promised['words']}) is not judged: {', '.join(promised['void'])}")
        elif promised["kept"]:
            lines.append(f"the recipe's promise is kept: {promised['words']}")
    return lines + [f"attention: {finding['message']}; {finding['advice']}" for finding in summary.get("findings", ())]
