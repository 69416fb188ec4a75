"""Test cases for problems that have none, as in
[2501.12599 §2.3.5]: a generator's inputs, agreed on by known-good submissions.

1. A CYaRon generator, written by a model or a person, makes ``inputs`` different test inputs.
2. ``submissions`` ground-truth submissions, no two the same up to white space and comments, run on every input.
3. A case is valid when at least ``agree`` of them give the same output, which becomes the expected one. Outputs are
   compared as the judge does; a crash or a time-out agrees with nothing.
4. The generator is kept when at least ``min_valid`` cases are valid.
5. The problem is kept when at least ``min_passing`` submissions give the expected output on all valid cases.

All programs run in the sandbox. Everything drawn depends on the seed and the problem's id alone.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rewards.code.calls import Fair, Runner, script_job
from rewards.code.compare import Leeway, Tolerance, same_output
from rewards.code.judge import Built, Program, build, run_program
from rewards.code.languages import LANGUAGES
from rewards.code.packages import package_files
from rewards.code.problem import Allowance
from rewards.code.rules import DEFAULT, limits_of
from rewards.code.types import Limits, Outcome, SandboxFailure
from rewards.code.verdict import failure_of

GENERATING = Limits(cpu_s=10, wall_s=600)
"""What one run of a generator may use."""
MAX_TEXTS = 10_000
"""Inputs that one run may give."""


@dataclass(frozen=True)
class Yield:
    """The paper's numbers [2501.12599 §2.3.5] and what they leave open."""

    inputs: int = 50
    """Different test inputs wanted of a generator."""
    submissions: int = 10
    """Ground-truth submissions that are run; a problem with fewer different ones is left out."""
    agree: int = 7
    """Submissions with the same output that make a case valid."""
    min_valid: int = 40
    """Valid cases that a generator must yield."""
    min_passing: int = 9
    """Submissions that must be right on all valid cases."""
    seed: int = 0
    """Seeds the generator and the choice of submissions."""
    max_draws: int = 100
    """Runs of a generator at most, since inputs repeat; not published."""
    repeats: int = 2
    """First draws that are made twice: a generator that differs then does not heed its seed; not published."""
    max_input_bytes: int = 1 << 20
    """A longer input is left out; not published."""

    def __post_init__(self) -> None:
        if not 1 <= self.agree <= self.submissions or not 1 <= self.min_passing <= self.submissions:
            raise ValueError("agree and min_passing must lie in 1..submissions")
        if not 1 <= self.min_valid <= self.inputs <= self.max_draws:
            raise ValueError("1 <= min_valid <= inputs <= max_draws does not hold")
        if 2 * self.agree <= self.submissions:
            raise ValueError("agree must be more than half of submissions, or two outputs could both be agreed on")


class Stage(StrEnum):
    """The step that a problem reached; each but the last names the cause of failure."""

    SPECIAL_JUDGE = "special_judge"
    """Several outputs are right: agreement says nothing."""
    FEW_SUBMISSIONS = "few_submissions"
    GENERATOR = "generator"
    """No generator, or it failed, or does not heed its seed."""
    FEW_VALID = "few_valid"
    """Too few inputs, or too few on which submissions agree."""
    FEW_PASSING = "few_passing"
    SANDBOX = "sandbox"
    """The sandbox failed: nothing is known of the problem."""
    KEPT = "kept"


@dataclass(frozen=True)
class Source:
    """A problem before it has tests."""

    id: str
    generator: str | None
    """Source of a Python program that makes inputs."""
    submissions: Sequence[Program]
    """Known to be right."""
    special_judge: bool = False
    tolerance: Tolerance = None
    allowance: Allowance = field(default_factory=Allowance)


@dataclass(frozen=True)
class Made:
    """The tests of one problem, or why it has none."""

    id: str
    stage: Stage
    reason: str = ""
    submissions: int = 0
    """Different ones."""
    inputs: int = 0
    valid: int = 0
    passing: int = 0
    """Submissions that are right on all valid cases."""
    tests: tuple[tuple[str, str], ...] = ()
    """Input and expected output of each valid case; empty unless kept."""


def make_tests(source: Source, runner: Runner, rules: Yield, workers: int = 1) -> Made:
    """Tests for one problem; ``workers`` programs run at a time. Never raises for what programs or sandbox do."""
    if source.special_judge:
        return Made(source.id, Stage.SPECIAL_JUDGE, "several outputs are right")
    if source.generator is None:
        return Made(source.id, Stage.GENERATOR, "no generator")
    distinct = different(source.submissions)
    if len(distinct) < rules.submissions:
        reason = f"{len(distinct)} different submissions, fewer than {rules.submissions}"
        return Made(source.id, Stage.FEW_SUBMISSIONS, reason, len(distinct))
    chosen = random.Random(f"k15.make_tests/{rules.seed}/{source.id}").sample(distinct, rules.submissions)
    runner = Fair(runner)
    try:
        inputs = draw_inputs(source.generator, source.id, runner, rules)
        if isinstance(inputs, str):
            return Made(source.id, Stage.GENERATOR, inputs, len(distinct))
        if len(inputs) < rules.min_valid:
            reason = f"{len(inputs)} different inputs, fewer than {rules.min_valid}"
            return Made(source.id, Stage.FEW_VALID, reason, len(distinct), len(inputs))
        outputs = _outputs(source, chosen, inputs, runner, workers)
    except SandboxFailure as failure:
        return Made(source.id, Stage.SANDBOX, str(failure), len(distinct))
    made = agreed(outputs, rules, source.tolerance)
    return _selected(source.id, inputs, outputs, made, rules, len(distinct))


def different(submissions: Sequence[Program]) -> list[Program]:
    """Submissions without repeats, in order. Copies that differ in white space and comments alone are repeats: ten
    copies of one mistake would agree with each other.
    """
    kept: dict[tuple[str, str], Program] = {}
    for program in submissions:
        comment = r"#[^\n]*" if program.language in ("python", "bash") else r"//[^\n]*|/\*.*?\*/"
        bare = re.sub(r"\s+", "", re.sub(comment, "", program.code, flags=re.S))
        kept.setdefault((program.language, bare), program)
    return list(kept.values())


def draw_inputs(generator: str, name: str, runner: Runner, rules: Yield) -> list[str] | str:
    """Up to ``rules.inputs`` different inputs, or why the generator is no good. Raises ``SandboxFailure``."""
    found: dict[str, None] = {}
    for number in range(rules.max_draws):
        drawn = _draw(generator, name, number, runner, rules)
        if isinstance(drawn, str):
            return drawn
        if number < rules.repeats and _draw(generator, name, number, runner, rules) != drawn:
            return "the generator does not heed its seed: the same run twice gave different inputs"
        found |= dict.fromkeys(text for text in drawn if text.strip() and len(text.encode()) <= rules.max_input_bytes)
        if len(found) >= rules.inputs:
            break
    return list(found)[: rules.inputs]


def _draw(generator: str, name: str, number: int, runner: Runner, rules: Yield) -> list[str] | str:
    """Return the inputs of one run of a generator, or how it failed."""
    plan = {"seed": f"k15.make_tests/{rules.seed}/{name}/{number}", "number": number}
    packages = {**package_files("cyaron"), **package_files("xeger")}
    files = {**packages, "generator.py": generator.encode(errors="replace"), "plan.json": json.dumps(plan).encode()}
    outcome = runner.run(script_job("input_maker", files, GENERATING))
    texts = _texts(outcome.channel) if outcome.ok else None
    if texts is None:
        verdict, reason = failure_of(outcome)
        return f"the generator failed on draw {number}: {verdict}, {reason}"
    return texts


def _texts(channel: bytes) -> list[str] | None:
    """JSON texts, one a line; ``None`` for anything else, for a generator may write what it likes."""
    *lines, rest = channel.split(b"\n", MAX_TEXTS)
    if rest or not all(line.startswith(b'"') and line.endswith(b'"') for line in lines):
        return None
    try:
        found = [json.loads(line) for line in lines]  # nothing but a text is between quotes
    except ValueError:
        return None
    return [text.encode(errors="replace").decode() for text in found]


def _outputs(
    source: Source, chosen: Sequence[Program], inputs: Sequence[str], runner: Runner, workers: int
) -> list[list[bytes | None]]:
    """Return [input][submission] output, ``None`` where the submission failed. Raises ``SandboxFailure``."""
    limits = [limits_of(source.allowance, LANGUAGES[program.language], DEFAULT) for program in chosen]

    def one(built: Built | tuple[object, str], text: str, limit: Limits) -> bytes | None:
        if isinstance(built, tuple):
            return None
        outcome: Outcome = run_program(built, text.encode(), limit, runner)
        return outcome.stdout if outcome.ok else None

    with ThreadPoolExecutor(workers, thread_name_prefix="submission") as threads:
        ready = list(threads.map(lambda program: build(program.code, LANGUAGES[program.language], runner), chosen))
        jobs = [(built, text, limit) for text in inputs for built, limit in zip(ready, limits, strict=True)]
        flat = list(threads.map(lambda job: one(*job), jobs))
    return [flat[start : start + len(chosen)] for start in range(0, len(flat), len(chosen))]


def agreed(
    outputs: Sequence[Sequence[bytes | None]], rules: Yield, tolerance: Tolerance = None
) -> list[tuple[bytes, frozenset[int]] | None]:
    """For each input: the output that at least ``rules.agree`` submissions share, and which; ``None`` when none is."""
    result: list[tuple[bytes, frozenset[int]] | None] = []
    for row in outputs:
        classes: list[tuple[bytes, set[int]]] = []
        for who, output in enumerate(row):
            if output is None:
                continue
            same = next((found for found in classes if same_output(output, found[0], Leeway(tolerance))[0]), None)
            if same is None:
                classes.append((output, {who}))
            else:
                same[1].add(who)
        best = max(classes, key=lambda found: len(found[1]), default=None)
        valid = best is not None and len(best[1]) >= rules.agree
        result.append((best[0], frozenset(best[1])) if valid and best is not None else None)
    return result


def _selected(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[Sequence[bytes | None]],
    made: Sequence[tuple[bytes, frozenset[int]] | None],
    rules: Yield,
    submissions: int,
) -> Made:
    """Steps 4 and 5."""
    cases = [(text, case) for text, case in zip(inputs, made, strict=True) if case is not None]
    passing = sum(all(who in case[1] for _, case in cases) for who in range(len(outputs[0])))
    counts = Made(name, Stage.KEPT, "", submissions, len(inputs), len(cases), passing)
    if len(cases) < rules.min_valid:
        reason = f"submissions agree on {len(cases)} of {len(inputs)} inputs, fewer than {rules.min_valid}"
        return replace(counts, stage=Stage.FEW_VALID, reason=reason)
    if passing < rules.min_passing:
        reason = f"{passing} of {rules.submissions} submissions pass all cases, fewer than {rules.min_passing}"
        return replace(counts, stage=Stage.FEW_PASSING, reason=reason)
    tests = tuple((text, case[0].decode(errors="replace")) for text, case in cases)
    return replace(counts, tests=tests)


def summary(made: Sequence[Made]) -> dict[str, int]:
    """Return how many problems were left after each step, as the paper reports it [2501.12599 §2.3.5]."""
    lost: Callable[..., int] = lambda *stages: sum(one.stage in stages for one in made)  # noqa: E731
    counted = len(made) - lost(Stage.SANDBOX)
    judged = counted - lost(Stage.SPECIAL_JUDGE)
    usable = judged - lost(Stage.FEW_SUBMISSIONS)
    generators = usable - lost(Stage.GENERATOR, Stage.FEW_VALID)
    return {
        "problems": len(made),
        "without special judge": judged,
        "enough submissions": usable,
        "generator kept": generators,
        "kept": generators - lost(Stage.FEW_PASSING),
        "sandbox failed": lost(Stage.SANDBOX),
    }


PAPER: Mapping[str, int] = {"problems": 1000, "without special judge": 614, "generator kept": 463, "kept": 323}
"""The yield that the paper reports [2501.12599 §2.3.5]."""
