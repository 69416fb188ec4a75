"""``k15 evidence``: the trials of findings, then verdicts, page and documentation."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from recipes.evidence import FINDINGS
from recipes.evidence.bench.finding import Bench, Finding, Judgement, Results
from recipes.evidence.bench.page import Entry, columns, ruling_of, table, write_docs, write_page
from recipes.evidence.bench.trial import Trial
from recipes.evidence.bench.work import WorkerKilled, carry_out, cpu
from recipes.run.workspace import WorkspaceError
from rl.state.run_dir import git_revision
from rl.stop import Interrupted, Stopper
from rollout.lock import locked
from rollout.progress import Progress, progress

PAGE = "evidence.html"


def load(name: str) -> Finding:
    """Return a finding."""
    return cast(Finding, importlib.import_module(FINDINGS[name]))


def run(names: Sequence[str], bench: Bench, jobs: int, docs: Path | None) -> int:
    """Do what is left of the findings, in this order; print the verdicts and write the page (and ``docs``).

    Returns 0, 1 when some trials could not be carried out, or 128 + signal. Raises ``WorkspaceError`` for a folder that
    another process works in.
    """
    with Stopper() as stopper, locked(bench.root, WorkspaceError, "--out"):
        try:
            with progress() as watch:
                failures = _trials([load(name) for name in names], bench, jobs, watch, stopper)
        except Interrupted:
            print(f"k15: stopped; the same command goes on in {bench.root}", file=sys.stderr)
            return 128 + (stopper.signal or signal.SIGTERM)
        except WorkerKilled as error:
            print(f"k15: {error}", file=sys.stderr)
            return 1
        publish(names, bench, docs)
    for key, why in failures.items():
        print(
            f"k15: trial {key} could not be done: {why}; see {bench.root / 'trials' / key / 'log.txt'}", file=sys.stderr
        )
    return 1 if failures else 0


def _trials(
    findings: Sequence[Finding], bench: Bench, jobs: int, watch: Progress, stopper: Stopper
) -> Mapping[str, str]:
    """Carry the trials of findings out, those of the first one first; return why some could not be."""

    def ask() -> Sequence[Trial]:
        return [trial for finding in findings for trials in finding.arms(bench).values() for trial in trials]

    total = done = -1

    def told(running: Sequence[Trial]) -> None:
        nonlocal total, done
        every = _all(ask())
        now = sum(bench.outcome(trial) is not None for trial in every)
        if len(every) != total:  # tuning is done, and tells what comes next
            total, done = len(every), now
            watch.stage("trials", total, earlier=done)
            watch.advance(done)
        watch.advance(now - done)
        done = now
        watch.say(f"{len(running)} at work")

    return carry_out(ask, bench.root, jobs, told, stopper)


def _all(trials: Sequence[Trial]) -> list[Trial]:
    """Return trials and those that they start from, each once."""
    return list({part.key: part for trial in trials for part in trial.chain}.values())


def entry(name: str, bench: Bench) -> Entry:
    """Return a finding with its verdict, as far as its trials are done."""
    finding = load(name)
    arms = finding.arms(bench)
    every = _all([trial for trials in arms.values() for trial in trials])
    outcomes = {trial.key: bench.outcome(trial) for trial in every}
    left = sum(outcome is None for outcome in outcomes.values())
    minutes = sum(outcome.seconds for outcome in outcomes.values() if outcome is not None) / 60
    if left or not arms:
        judgement = Judgement("cannot tell", "Not all of its trials are done.")
        return Entry(name, finding, judgement, len(every), minutes, max(left, 1))
    done = {arm: [cast(Any, outcomes[trial.key]) for trial in trials] for arm, trials in arms.items()}
    results = Results(done, bench)
    return Entry(name, finding, finding.judge(results), len(every), minutes, 0, tuple(results.failed))


def publish(names: Sequence[str], bench: Bench, docs: Path | None) -> None:
    """Print the verdicts of ``names``, and write the page of all findings that have trials here."""
    entries = {name: entry(name, bench) for name in FINDINGS}
    begun = [one for name, one in entries.items() if name in names or one.minutes]
    facts = [
        ("command", "`k15 evidence --all`"),
        ("seeds", ", ".join(map(str, bench.seeds))),
        ("processor", cpu()),
        ("revision", git_revision(Path(__file__).parent) or "unknown"),
        ("date", datetime.now(UTC).strftime("%Y-%m-%d")),
    ]
    write_page(bench.root / PAGE, begun, facts)
    print(table([entries[name] for name in names]))
    for name in names:
        if not entries[name].left:
            print(f"{name}: {entries[name].judgement.ruling}. {entries[name].judgement.text}")
    print(bench.root / PAGE)
    if docs is not None:
        print(write_docs(docs, list(entries.values()), facts))


def listing(bench: Bench) -> str:
    """Return all findings with what they say, and, where there are trials, what has come of them so far."""
    begun = (bench.root / "trials").exists()
    rows = []
    for name in FINDINGS:
        one = entry(name, bench) if begun else None
        told = [ruling_of(one), f"{one.minutes:.0f} min" if one.minutes else ""] if one else []
        finding = one.finding if one else load(name)
        rows.append([name, *told, finding.PAPER, finding.TITLE])
    return columns(rows, right=(2,) if begun else ())
