"""What a run needs before any engine starts: problems, tokenizer, prompts, verifiers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rewards.reference import Reference
from rewards.score import Score
from rewards.verify import get_verifier
from rl.config import RunConfig, ScratchModel, WarmupStage
from rl.warmup import Pair
from rollout.problems.config import ArithmeticSource, CountdownSource, with_mixture
from rollout.problems.jsonl import read_rows
from rollout.problems.source import (
    ProblemError,
    ProblemSource,
    Procedural,
    build_generator,
    build_source,
    check_disjoint,
)
from rollout.prompts import decode, end_tokens, render_within
from rollout.seeds import seed_of
from rollout.types import Problem


@dataclass(frozen=True)
class Setup:
    """The fixed surroundings of a run."""

    config: RunConfig
    train: ProblemSource
    heldout: tuple[Problem, ...]
    fingerprint: str
    """SHA-256 over training and held-out problems."""
    tokenizer: Any
    end: tuple[int, ...]
    """Tokens that end a response."""

    @property
    def source(self) -> Path | None:
        """Directory of the base model's files, whose tokenizer goes along with exports; none for one from scratch."""
        from rollout.pretrained import files_of, resolve_model

        base = self.config.model.base
        return None if isinstance(base, ScratchModel) else files_of(resolve_model(base.path))

    def render(self, problem: Problem) -> tuple[int, ...]:
        """Prompt tokens of a problem. Raises ``PromptError`` when they do not fit the context."""
        problems = self.config.problems
        limit = self.config.engine.max_model_len - 1
        return render_within(self.tokenizer, problem, problems.instruction, problems.system, limit)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Response text without the end token."""
        return decode(self.tokenizer, token_ids, self.end)

    def verify(self, problem: Problem, response: str) -> Score:
        """The problem's own verifier on a response."""
        reference = Reference(problem.answer, problem.prompt, problem.extra)
        return get_verifier(problem.verifier, self.config.reward.grader_timeout_s)(response, reference)

    def demonstrations(self) -> list[list[Pair]]:
        """Warm-up examples of each stage as tokens [A.3]: from the task's generator, a file, or training problems."""
        if self.config.warmup is None:
            return []
        found: list[list[Pair]] = []
        drawn = 0
        for stage in self.config.warmup.stages:
            if stage.path is not None:
                found.append(self._read_demonstrations(Path(stage.path), stage.examples))
            elif stage.response is not None:
                problems = distinct(self.train, min(stage.examples, self.train.size or stage.examples))
                found.append([self._pair(self.render(each), fill_in(stage.response, each)) for each in problems])
            else:
                found.append(self._draw_demonstrations(stage, drawn))
                drawn += stage.examples
        return found

    def _draw_demonstrations(self, stage: WarmupStage, first: int) -> list[Pair]:
        source = self.config.problems.train
        if not isinstance(source, ArithmeticSource | CountdownSource):
            raise ProblemError("warmup needs warmup.path or warmup.response unless problems.train is procedural")
        generator = build_generator(with_mixture(source, stage.mixture))
        pairs: list[Pair] = []
        for index in range(first, first + stage.examples):
            problem = self.train[index]
            rng = Random(seed_of(self.config.seed, "demonstration", index))
            pairs.append(self._pair(self.render(problem), generator.demonstration(problem, rng)))
        return pairs

    def _read_demonstrations(self, path: Path, limit: int) -> list[Pair]:
        pairs: list[Pair] = []
        for number, row in read_rows(path):
            if len(pairs) == limit:
                break
            for key in ("problem", "response"):
                if not isinstance(row.get(key), str) or not row[key]:
                    raise ProblemError(f"{path}:{number}: {key!r} is missing or empty")
            problem = Problem(f"{path.name}:{number}", row["problem"], "-", "exact")
            pairs.append(self._pair(self.render(problem), row["response"]))
        return pairs

    def _pair(self, prompt: tuple[int, ...], response: str) -> Pair:
        tokens = self.tokenizer(response, add_special_tokens=False)["input_ids"]
        return prompt, (*tokens, self.end[0])


def fill_in(template: str, problem: Problem) -> str:
    """``template`` with each ``{field}`` replaced by that field of the problem's row, written as text.

    Raises ``ProblemError`` when the problem has no such field. Other braces stay: ``boxed{{answer}}`` becomes
    ``boxed{42}``.
    """
    fields = {"problem": problem.prompt, "answer": problem.answer, **problem.extra}

    def value(match: re.Match[str]) -> str:
        found = fields.get(match.group(1))
        if found is None:
            raise ProblemError(f"problem {problem.id!r} has no {match.group(1)!r}, which warmup.response asks for")
        return str(found)

    return re.sub(r"\{([A-Za-z_]\w*)\}", value, template)


def prepare(config: RunConfig) -> Setup:
    """Problems and tokenizer. Raises ``ProblemError``, ``PromptError``, ``ModelPathError``, ``PolicyError``."""
    train = build_source(config.problems.train, "train")
    held_out = build_source(config.problems.heldout, "heldout")
    check_disjoint(train, held_out)
    size = config.problems.heldout_size
    if held_out.size is not None and held_out.size < size:
        raise ProblemError(f"problems.heldout has {held_out.size} problems, fewer than problems.heldout_size {size}")
    problems = distinct(held_out, size)
    digest = hashlib.sha256(f"{train.fingerprint}/{held_out.fingerprint}".encode()).hexdigest()
    tokenizer, end = load_tokenizer(config, train)
    setup = Setup(config, train, problems, digest, tokenizer, end)
    setup.render(problems[0])
    return setup


def distinct(source: ProblemSource, size: int) -> tuple[Problem, ...]:
    """The first ``size`` different problems: procedural sources may draw a text twice."""
    found: dict[str, Problem] = {}
    limit = source.size if source.size is not None else 20 * size
    for index in range(limit):
        problem = source[index]
        found.setdefault(problem.id, problem)
        if len(found) == size:
            return tuple(found.values())
    raise ProblemError(f"only {len(found)} different held-out problems found, problems.heldout_size asks for {size}")


def load_tokenizer(config: RunConfig, train: ProblemSource) -> tuple[Any, tuple[int, ...]]:
    """The policy's tokenizer and the tokens that end its responses."""
    from rl.policy import check_tokenizer

    base = config.model.base
    if isinstance(base, ScratchModel):
        from rollout.tokenizer import build_tokenizer

        if not isinstance(train, Procedural):
            raise ProblemError("a scratch model takes its vocabulary from a procedural problems.train source")
        tokenizer = build_tokenizer(train.generator.alphabet, base.context)
        return tokenizer, end_tokens(tokenizer)
    from transformers import AutoTokenizer

    from rollout.pretrained import generation_end, resolve_model

    path = resolve_model(base.path)
    loaded = AutoTokenizer.from_pretrained(path)
    check_tokenizer(loaded, base.path)
    return loaded, end_tokens(loaded, generation_end(path))
