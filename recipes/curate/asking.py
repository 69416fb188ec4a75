"""Problems asked of a model: through the rollout pool that training uses, judged by their own verifiers, on record.

    problems -> chunks -> prompts -> engines -> record -> verifier -> record -> one outcome per problem

One path for the guess filter, difficulty and warm-up sets; a million problems never stand in memory with their
responses. A process killed at any point loses at most the responses that were being drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from evals.evaluate import Answer, Ask, Done, Response, Watch, evaluate
from evals.journal import opened
from evals.offline import GRADERS
from evals.pooled import PoolResponder
from evals.prompting import Thinking
from evals.view import EvalView
from recipes.commands.eval_models import STALL_S, LocalModel
from recipes.curate.chunks import Chunk, Reduction, chunk_size
from rl.config import RayConfig
from rollout.config import EngineConfig
from rollout.engine import Sampling
from rollout.grading import Grader, Grading, VerifierGrader
from rollout.models.framing import Framing
from rollout.models.prompts import Transcript, render_chat
from rollout.models.templates import PromptError, check_template, heeds
from rollout.problems.fit import Limits
from rollout.problems.source import ProblemList
from rollout.seeds import seed_of
from rollout.types import Problem, Prompt

if TYPE_CHECKING:
    from rollout.pool.pool import Pool

T = TypeVar("T")
Opener = Callable[[LocalModel, EngineConfig, RayConfig, int, ExitStack], "Pool"]
"""``(model, engine, ray, seed, stack)`` -> engines that serve the model, which ``stack`` closes."""

BOX = "\\boxed"
BOXED = frozenset({"math", "gsm8k"})
"""Verifiers that read an answer out of a box."""
CHUNK = 4096
"""Problems whose prompts, requests and responses are in memory at a time."""
ROUNDS = 32
"""A chunk fills all places of all engines at least this often: at its end they fall empty one by one, until the longest
response is there. Of one engine with 256 places that costs 2 % of its places' time, of many engines up to 8 %."""
PROMPT_ROOM = 1024
"""Tokens of the context for prompts, beside the longest response."""
PROBE = "What is 2 + 2?"


@dataclass(frozen=True)
class Question:
    """How a stage asks problems."""

    stage: str
    """Its name: in seeds, in the record and for people."""
    samples: int
    """Responses per problem."""
    temperature: float
    max_tokens: int
    """Longest response, without ``prefix``."""
    prompt: str
    """The user's turn, with ``{problem}`` in it."""
    system: str = ""
    """System message; empty: the template's own, if it has one."""
    thinking: Thinking = "default"
    """``off``: the template's switch for thinking is off, if it has one, and thinking that it begins is ended."""
    prefix: str = ""
    """Written in front of the responses to problems whose verifier reads a box."""

    def put(self, problem: Problem) -> str:
        """Return the user's turn: the problem as it stands where ``prompt`` speaks of a box and the verifier reads
        none.
        """
        if BOX in self.prompt and problem.verifier not in BOXED:
            return problem.prompt
        return self.prompt.replace("{problem}", problem.prompt)

    @property
    def sampling(self) -> Sampling:
        """The distribution, but for the end tokens."""
        return Sampling(temperature=self.temperature)


@dataclass(frozen=True)
class Voice:
    """A question as one model is asked it. Raises ``PromptError`` when its template cannot ask anything."""

    question: Question
    model: LocalModel

    @cached_property
    def framing(self) -> Framing:
        """System message and arguments of the template: a run's own ones, and the switch for thinking."""
        plain = Framing(system=self.question.system, arguments=self.model.framing.arguments)
        if self.question.thinking == "default":
            return plain
        switched = replace(plain, arguments={**plain.arguments, "enable_thinking": self.question.thinking == "on"})
        chat = switched.messages(_probe())
        knows = heeds(self.model.tokenizer, chat, switched.arguments, "enable_thinking")
        return switched if knows else plain

    @cached_property
    def transcript(self) -> Transcript:
        """From tokens to graded text."""
        return Transcript(self.model.tokenizer, self.model.end, self.question.system, self.framing.arguments)

    @cached_property
    def opening(self) -> str:
        """The thinking that the template begins; empty when it begins none."""
        chat = self.framing.messages(_probe())
        check_template(self.model.tokenizer, chat, self.framing.arguments)
        return self.transcript.opening(render_chat(self.model.tokenizer, chat, **self.framing.arguments).token_ids)

    def written(self, problem: Problem) -> str:
        """Return what is written in front of the problem's responses."""
        ends = f"{_closing(self.opening)}\n\n" if self.opening and self.question.thinking == "off" else ""
        return ends + (self.question.prefix if problem.verifier in BOXED else "")

    def prompt(self, problem: Problem) -> Prompt:
        """Return the tokens that are continued. Raises ``PromptError`` for a problem that cannot be asked."""
        tokenizer, framing = self.model.tokenizer, self.framing
        chat = framing.messages(problem, self.question.put(problem))
        asked = render_chat(tokenizer, chat, **framing.arguments)
        written = tokenizer(self.written(problem), add_special_tokens=False)["input_ids"]
        return asked.followed_by(np.array(written, np.int32)) if written else asked


def _probe() -> Problem:
    return Problem.ask("probe", PROBE)


def _closing(opening: str) -> str:
    """Return the tag that ends what ``opening`` begins: ``</think>`` for ``<think>``."""
    tag = opening.strip()
    name = tag[1:-1].split()[0] if tag[1:-1].split() else ""
    return f"{tag[0]}/{name}{tag[-1]}"


@dataclass(frozen=True)
class Origin:
    """The set of which problems are a part."""

    numbers: Mapping[str, int]
    """Problem id -> its number in the set."""
    fingerprint: str
    """Changes when any problem of the set does."""


def split(problems: Sequence[Problem], size: int, origin: Origin | None) -> dict[int, list[Problem]]:
    """Return the problems by chunk: ``size`` of them each, or of the numbers of their origin."""
    parts: dict[int, list[Problem]] = {}
    for index, problem in enumerate(problems):
        parts.setdefault((index if origin is None else origin.numbers[problem.id]) // size, []).append(problem)
    return parts


@dataclass(frozen=True)
class Asked:
    """Some problems' answers."""

    answers: list[Answer]
    """By problem, in the order of samples."""
    refused: Mapping[str, str]
    """Problem id -> why it could not be asked: its prompt does not fit, or cannot be rendered."""


def open_engines(model: LocalModel, engine: EngineConfig, ray: RayConfig, seed: int, stack: ExitStack) -> Pool:
    """Return engines with the model, once one of them serves. Raises ``LaunchError``, ``AllEnginesDead``."""
    from rl.alone import open_pool

    pool = open_pool(model.path, engine, ray, model.end, seed, engine.count, stack)
    pool.score([[0, 0]])
    return pool


class Asker:
    """Asks a model; use as a context manager. Engines start with the first response that is not on record, and serve
    all stages.
    """

    def __init__(
        self,
        name: str,
        engine: EngineConfig,
        ray: RayConfig,
        seed: int,
        longest: int,
        opener: Opener = open_engines,
    ) -> None:
        """``name``: a run directory, a model directory, a hub name or ``package:NAME``. ``longest``: the longest
        response of any stage, in tokens; the engines' context is made to hold it, as far as the model's goes.

        Raises ``EvalError`` when there is no such model.
        """
        self.model = LocalModel.find(name)
        self.seed = seed
        context = min(self.model.context, max(engine.max_model_len, longest + PROMPT_ROOM))
        changes = {"max_model_len": context, "stall_timeout_s": max(engine.stall_timeout_s, STALL_S)}
        self.engine = EngineConfig.model_validate({**engine.model_dump(), **changes})
        here = self.engine.kind == "hf" and ray.address is None
        self.ray = ray.model_copy(update={"in_process": ray.in_process or here})
        self._opener = opener
        self._pool: Pool | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool = None
        self._stack.close()

    @property
    def context(self) -> int:
        """Tokens of prompt and response together."""
        return self.engine.max_model_len

    def engines(self) -> Pool:
        """Return the engines, which are started if need be."""
        if self._pool is None:
            self._pool = self._opener(self.model, self.engine, self.ray, self.seed, self._stack)
        return self._pool

    def each(
        self,
        question: Question,
        problems: Sequence[Problem],
        folder: Path,
        reduction: Reduction[T],
        grader: Grader | None = None,
        origin: Origin | None = None,
    ) -> list[T]:
        """Return one outcome per problem, in order, chunk by chunk; all of it is on record in ``folder``.

        ``origin``: of which set these are a part, their numbers ascending. When another part of it is asked later, what
        is on record counts; without one the record is of these problems alone.

        The engines run empty at the end of each chunk, which is long enough for that to cost little (``ROUNDS``).
        ``grader``: in place of the problems' own verifiers; it is closed. Raises ``JournalError`` when
        ``folder`` holds answers under other settings, ``ProblemError`` for ids that come twice, ``PromptError`` when
        the model has no template.
        """
        with ExitStack() as stack:
            grading = stack.enter_context(Grading(grader or VerifierGrader(threads=GRADERS)))
            if not problems:
                return []
            size = chunk_size(folder, lambda: self._chunk_size(question, len(problems)))
            parts = list(split(problems, size, origin).values())
            by = {**reduction.by, "samples": question.samples, "context": self.context}
            chunks = [
                Chunk(folder / f"{number:06d}", self._settings(question, part, origin), by)
                for number, part in split(problems, size, origin).items()
            ]
            known = [chunk.finished(reduction.kind, part) for chunk, part in zip(chunks, parts, strict=True)]
            if any(one is None for one in known):
                n = question.samples
                earlier = sum(
                    chunk.on_record(part, n) if one is None else len(part) * n
                    for chunk, part, one in zip(chunks, parts, known, strict=True)
                )
                view = stack.enter_context(EvalView(question.stage, len(problems) * n, earlier))
                view.passed(sum(len(one) * n for one in known if one is not None))
            found: list[T] = []
            for chunk, part, one in zip(chunks, parts, known, strict=True):
                found += self._outcomes(question, part, chunk, reduction, grading, view) if one is None else one
            return found

    def ask(
        self, question: Question, problems: Sequence[Problem], chunk: Chunk, grading: Grading, view: EvalView
    ) -> Asked:
        """Return the graded answers to some problems, all in memory, on record in the folder of ``chunk``."""
        voice = Voice(question, self.model)
        prompts, refused = self._prompts(voice, problems)
        view.passed(len(refused) * question.samples)
        asks = [
            Ask(problem, sample, seed_of(self.seed, question.stage, problem.id, sample))
            for problem in problems
            if problem.id in prompts
            for sample in range(question.samples)
        ]
        responder = _Responder(self, voice, prompts, view)
        watch = Watch(view.watch.on_response, view.watch.on_answer)
        with opened(chunk.folder, chunk.settings) as record:
            return Asked(evaluate(responder, asks, grading, record, watch), refused)

    def _outcomes(
        self,
        question: Question,
        problems: Sequence[Problem],
        chunk: Chunk,
        reduction: Reduction[T],
        grading: Grading,
        view: EvalView,
    ) -> list[T]:
        asked = self.ask(question, problems, chunk, grading, view)
        groups: dict[str, list[Answer]] = {}
        for answer in asked.answers:
            groups.setdefault(answer.problem.id, []).append(answer)
        outcomes = [
            reduction.of(problem, groups.get(problem.id, []), asked.refused.get(problem.id, "")) for problem in problems
        ]
        chunk.finish(reduction.kind, outcomes)
        return outcomes

    def _prompts(self, voice: Voice, problems: Sequence[Problem]) -> tuple[dict[str, Prompt], dict[str, str]]:
        """Return the prompts by problem, and why other problems cannot be asked."""
        _ = voice.opening  # raises where the template can ask nothing
        room = voice.question.max_tokens
        limits = Limits(self.context, room, self.model.vocabulary, self.model.path)
        prompts: dict[str, Prompt] = {}
        refused: dict[str, str] = {}
        for problem in problems:
            try:
                prompt = voice.prompt(problem)
                limits.check_vocabulary(prompt.token_ids, "the prompt")
            except PromptError as error:
                refused[problem.id] = str(error)
                continue
            if len(prompt) > limits.prompt:
                refused[problem.id] = (
                    f"the prompt has {len(prompt)} tokens; the context of {self.context} leaves "
                    f"{max(0, limits.prompt)} beside a response of {room}"
                )
            else:
                prompts[problem.id] = prompt
        return prompts, refused

    def _chunk_size(self, question: Question, problems: int) -> int:
        """Return ``CHUNK``, or more where many engines would often run empty."""
        if problems <= CHUNK:
            return CHUNK
        seats = len(self.engines().members) * self.engine.max_concurrency
        return max(CHUNK, math.ceil(ROUNDS * seats / question.samples))

    def _settings(self, question: Question, problems: Sequence[Problem], origin: Origin | None) -> dict[str, Any]:
        """Return what responses depend on; of one that changes the record is not continued."""
        fingerprint = ProblemList(problems, f"the problems of the stage {question.stage}").fingerprint
        return {
            "stage": question.stage,
            "model": self.model.fingerprint,
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
            "seed": self.seed,
            "system": question.system,
            "prompt": question.prompt,
            "thinking": question.thinking,
            "prefix": question.prefix,
            "problems": fingerprint if origin is None else origin.fingerprint,
        }


@dataclass(frozen=True)
class _Responder:
    """Starts engines only if something is left to ask."""

    asker: Asker
    voice: Voice
    prompts: Mapping[str, Prompt]
    view: EvalView

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Token ids are not kept: nothing here learns from them, and they are most of a record."""
        if not asks:
            return
        self.view.say("waiting for engines")
        question, asker = self.voice.question, self.asker

        def whole(ask: Ask, response: Response) -> None:
            text = self.voice.written(ask.problem) + response.text
            done(ask, replace(response, text=text, token_ids=()))

        PoolResponder(
            asker.engines(),
            lambda problem: self.prompts[problem.id],
            self.voice.transcript.graded,
            replace(question.sampling, stop_token_ids=asker.model.end),
            question.max_tokens,
            asker.context,
        ).respond(asks, whole)
