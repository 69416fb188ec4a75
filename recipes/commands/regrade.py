"""``k15 grade RUN``: verdicts on the rollouts that a run has stored, by the path that training takes."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from evals.agreement import Verdicts, agreement, judged, of_score
from evals.report.agreement import Judgement, write_page
from recipes.commands.judging import Judges, own_site
from rewards.score import GRADER_TIMEOUT_S, Score
from rewards.verify import WHOLE
from rl.config import RunConfig
from rl.rewarding import build_rule
from rollout.grading import Answered, Grader, Grading, VerifierGrader, by_name
from rollout.models.pretrained import ModelPathError
from rollout.reward_models.card import CardError
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.load import digest as files_digest
from rollout.reward_models.load import find as find_model
from rollout.types import Message, Problem, StopReason
from rollout.user_code import UserCodeError, digest
from rollout.user_reward import GROUP

BATCH = 1024
"""Rollouts that are read ahead of the grader."""
AT_ONCE = 64
"""Rollouts that the grader is given together."""
COLUMNS = (
    "length",
    *("iteration", "rollout", "problem", "source", "difficulty", "prompt", "answer", "verifier", "opening", "response"),
    *("messages", "last_turn", "judged_by", "stop", "correct", "score", "reason", "extracted"),
)


class RegradeError(ValueError):
    """The rollouts cannot be graded; one line."""


@dataclass(frozen=True)
class Stored:
    """Files of rollouts, and the run that they come from."""

    files: tuple[Path, ...]
    config: RunConfig | None
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Problem id -> further fields, for graders that need them (tests of programs)."""
    info: Path | None = None
    """``run.json`` of the run."""
    judge: RewardModelConfig | None = None
    """A reward model of the command's, in place of the run's own."""

    @property
    def function(self) -> str | None:
        """The user's reward that graded the run; ``None``: the problems' verifiers did."""
        return self.config.reward.function if self.config else None

    @property
    def own(self) -> bool:
        """Whether more than the problems' verifiers grades the rollouts: the user's reward, or a reward model."""
        return self.function is not None or self.model is not None

    @property
    def model(self) -> RewardModelConfig | None:
        """The reward model that judges, if there is one."""
        return self.judge or (self.config.reward.model if self.config else None)

    def _rule(self, timeout_s: float, workers: int) -> Grader:
        if self.config is None or self.function is None:
            return VerifierGrader(partial(by_name, timeout_s=timeout_s), workers)
        try:
            return build_rule(self.config.reward)
        except UserCodeError as error:
            raise RegradeError(f"the run was graded by {self.function}: {error}; restore it") from error

    def grading(self, timeout_s: float, workers: int, stack: ExitStack) -> Grading:
        """Return the grader at work: the run's rule, and the reward model behind it. ``stack`` closes it.

        Raises ``RegradeError`` when the user's reward cannot be used, and ``JudgeError``.
        """
        rule = self._rule(timeout_s, workers)
        if self.model is None:
            return stack.enter_context(Grading(rule))
        stack.callback(rule.close)
        engine, ray = (self.config.engine, self.config.ray) if self.config else own_site()
        return Judges(self.model, engine, ray, stack).grading(rule)

    @property
    def verifier(self) -> str:
        """The verifier of files from before it was stored with them; empty when unknown."""
        if self.config is None:
            return ""
        source = self.config.problems.train
        return str(getattr(source, "verifier", source.kind))


def find(path: Path) -> Stored:
    """Find the rollouts of a run directory, of one of its files, or of a copy of such a file.

    Raises ``RegradeError`` when there are none, or the run's configuration cannot be read.
    """
    from rl.record.rollout_store import rollout_files

    if not path.exists():
        raise RegradeError(f"{path}: no such file or directory")
    root = path if path.is_dir() else path.parent.parent
    files = tuple(rollout_files(path)) if path.is_dir() else (path,)
    if not files:
        raise RegradeError(f"{path}: holds no rollouts (no rollouts/*.parquet); name the directory of a run")
    config = _config(root / "config.yaml")
    if config is None and path.is_dir():
        raise RegradeError(f"{path}: not a run directory (no config.yaml in it)")
    if config is None:
        return Stored(files, None)
    return Stored(files, config, _extras(config), root / "run.json")


def _config(file: Path) -> RunConfig | None:
    from rl.config_io import ConfigError, read_file, validate

    if not file.is_file():
        return None
    try:
        return validate(read_file(file))
    except ConfigError as error:
        raise RegradeError(f"{file}: {error.lines[0]}") from error


def _changed(stored: Stored) -> str:
    """Return a remark if the user's reward or the run's reward model has changed since the run began; else nothing."""
    if stored.config is None or stored.info is None or not stored.info.is_file():
        return ""
    began = json.loads(stored.info.read_bytes()).get("user_code", {})
    function, model = stored.function, stored.model if stored.judge is None else None
    digests: dict[str, Callable[[], str]] = {function: partial(digest, function, GROUP)} if function else {}
    if model is not None:
        digests[f"{stored.config.reward.MODEL}{model.path}"] = lambda: files_digest(find_model(model.path))
    then_and_now = {spec: {began.get(spec), _now(now)} - {None} for spec, now in digests.items()}
    changed = [spec for spec, known in then_and_now.items() if len(known) > 1]
    return "; ".join(f"{spec} has changed since the run began: these are its verdicts of today" for spec in changed)


def _now(digest_: Callable[[], str]) -> str | None:
    """Return a digest of today; ``None`` where there is none, which is said when it is loaded for grading."""
    try:
        return digest_()
    except (UserCodeError, ModelPathError, CardError):
        return None


def _extras(config: RunConfig) -> Mapping[str, Mapping[str, Any]]:
    from rollout.problems.build import build_source
    from rollout.problems.source import ProblemList

    if config.reward.function is None and getattr(config.problems.train, "verifier", "") not in WHOLE:
        return {}
    source = build_source(config.problems.train, "train")
    return {problem.id: problem.extra for problem in source} if isinstance(source, ProblemList) else {}


def as_graded(row: Mapping[str, Any], stored: Stored) -> Answered:
    """Return a rollout of the store as its grader saw it. Raises ``RegradeError`` when the store does not tell
    enough.
    """
    name = row["verifier"] or stored.verifier
    if not name and not stored.own:
        raise RegradeError(
            f"rollout {row['rollout']!r}: its file does not say how it is graded; name its run directory"
        )
    extra = stored.extras.get(row["problem"], {})
    if name in WHOLE and not extra and not stored.function:
        raise RegradeError(
            f"rollout {row['rollout']!r}: the verifier {name!r} needs the tests of problem {row['problem']!r}; name "
            "the run directory, with its problem file in place"
        )
    asked = row["messages"] or [{"role": "user", "content": row["prompt"]}]
    messages = tuple(Message(one["role"], one["content"]) for one in asked)
    problem = Problem(row["problem"], messages, row["answer"], name, row["source"], row["difficulty"], extra)
    turn = row["response"] if row["last_turn"] is None else row["last_turn"]
    return Answered(problem, row["opening"] + turn, StopReason(row["stop"]) if row["stop"] else None)


def told(row: Mapping[str, Any], score: Score) -> dict[str, Any]:
    """Return the verdict on one rollout, beside the one that was stored; where a reward model was asked, both verdicts
    behind it, too.
    """
    both = of_score(row["problem"], score)
    word = {True: "correct", False: "wrong", None: None}
    asked = (
        {}
        if both.model is None and not score.opinion
        else {"rule": word[both.rule], "model": both.probability, "opinion": score.opinion}
    )
    before = "ungradable" if row["correct"] is None else "correct" if row["correct"] else "wrong"
    return {
        **{key: row[key] for key in ("iteration", "rollout", "problem")},
        "verdict": score.verdict,
        "reward": score.reward,
        "extracted": score.extracted,
        "reason": score.reason,
        **asked,
        "stored": before,
        "stored_reward": row["score"],
    }


def graded(stored: Stored, grading: Grading) -> Iterator[tuple[dict[str, Any], Score]]:
    """Yield all rollouts, in the order of the store, with their scores by ``grading``."""
    from rl.record.rollout_store import read_rollouts

    for file in stored.files:
        for batch in read_rollouts(file, COLUMNS).to_batches(BATCH):
            rows = batch.to_pylist()
            answers = [as_graded(row, stored) for row in rows if row["judged_by"] != "environment"]
            parts = [answers[start : start + AT_ONCE] for start in range(0, len(answers), AT_ONCE)]
            futures = [grading.submit(partial(list, part)) for part in parts]
            scores = (score for future in futures for score in future.result())
            for row in rows:  # an environment's verdict came from what went on in it, and stays
                kept = Score(row["score"], bool(row["correct"]), {}, row["reason"], row["extracted"])
                yield row, kept if row["judged_by"] == "environment" else next(scores)


def run(
    path: Path,
    sink: TextIO,
    timeout_s: float | None,
    workers: int | None,
    judge: RewardModelConfig | None = None,
    page: Path | None = None,
) -> str:
    """Write one line per rollout to ``sink``; returns the summary.

    ``judge``: a reward model in place of the run's own; ``page``: where the page goes that shows how it compares with
    the rule. Raises ``RegradeError``, ``StoreError``, ``JudgeError`` and ``OSError``.
    """
    started = time.monotonic()
    stored = replace(find(path), judge=judge)
    limit = timeout_s or (stored.config.reward.grader_timeout_s if stored.config else GRADER_TIMEOUT_S)
    counts: Counter[str] = Counter()
    judgements: list[Judgement] = []
    verdicts: list[Verdicts] = []
    with ExitStack() as stack:
        grading = stored.grading(limit, workers or len(os.sched_getaffinity(0)), stack)
        for row, score in graded(stored, grading):
            line = told(row, score)
            counts[line["verdict"]] += 1
            counts["other"] += (line["verdict"], line["reward"]) != (line["stored"], line["stored_reward"])
            verdicts.append(of_score(row["problem"], score))
            if page is not None:
                judgements.append(judgement(row, score))
            print(json.dumps(line), file=sink)
    if not counts:
        raise RegradeError(f"{path}: holds no rollouts yet")
    parts = ", ".join(f"{counts[name]} {name}" for name in ("correct", "wrong", "ungradable"))
    total = sum(counts[name] for name in ("correct", "wrong", "ungradable"))
    same = "all as stored" if not counts["other"] else f"{counts['other']} other than stored"
    note = f"; {changed}" if (changed := _changed(stored)) else ""
    lines = [f"{total} rollouts: {parts}; {same} ({time.monotonic() - started:.1f} s){note}"]
    if judge is not None or judged(verdicts):
        lines += agreement(verdicts).lines
    if page is not None:
        facts = {"model": stored.model.path, "when": stored.model.when} if stored.model else {}
        write_page(page, str(path), facts, judgements)
        lines.append(f"page {page}")
    return "\n".join(lines)


def judgement(row: Mapping[str, Any], score: Score) -> Judgement:
    """Return a rollout for the page."""
    turn = row["response"] if row["last_turn"] is None else row["last_turn"]
    return Judgement(
        id=row["rollout"],
        verdicts=of_score(row["problem"], score),
        question=row["prompt"],
        reference=row["answer"],
        response=row["opening"] + turn,
        verdict=score.verdict,
        reason=score.reason,
        opinion=score.opinion,
        source=row["source"],
        difficulty=row["difficulty"],
        tokens=row["length"],
    )
