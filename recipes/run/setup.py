"""The preparation of a run before any engine starts: problems, tokenizer, prompts, verifiers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.run.demonstrations import refuses
from recipes.run.judge_card import card_of
from rl.audit import read_verdicts
from rl.config import ProblemsConfig, RewardConfig, RunConfig
from rl.learner.config import ScratchModel
from rl.objectives.config import PythonObjectiveConfig
from rl.reward_models import Site, check_model
from rl.rewarding import build_rule
from rollout.environments.build import GROUP as ENVIRONMENTS
from rollout.environments.build import build_environment, check_turns
from rollout.environments.config import OwnEnvironment
from rollout.environments.episodes import Episodes
from rollout.evidence.asking import texts_of, windowed
from rollout.evidence.files import texts_digest
from rollout.evidence.windows import EvidenceError
from rollout.grading import Grader, VerifierGrader
from rollout.models.endings import end_tokens
from rollout.models.prompts import PromptError, Transcript, render_chat
from rollout.models.templates import check_template
from rollout.problems.build import build_source
from rollout.problems.fit import Limits, Screen
from rollout.problems.source import ProblemError, ProblemList, ProblemSource, Procedural, asked, check_disjoint
from rollout.reward_models.judge_prompts import JudgePrompts
from rollout.reward_models.load import digest as files_digest
from rollout.reward_models.load import find
from rollout.types import Problem, Prompt
from rollout.user_code import digest as digest_of
from rollout.user_reward import GROUP as REWARDS

OBJECTIVES = "k15.objectives"
"""Entry points that name objectives; ``rl.objectives.own``, which has the name too, loads torch."""


@dataclass(frozen=True)
class Setup:
    """The fixed surroundings of a run."""

    config: RunConfig
    train: ProblemSource
    """All training problems; ``screen`` knows which of them fit the context."""
    heldout: tuple[Problem, ...]
    fingerprint: str
    """SHA-256 over training and held-out problems."""
    transcript: Transcript
    """Reads what was asked and said."""
    limits: Limits
    screen: Screen
    notes: tuple[str, ...] = ()
    """One line each on data that was left out."""
    user_code: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the file behind each reward, environment and objective of the user's own."""

    @property
    def judged_on(self) -> str:
        """SHA-256 of the held-out problems in use."""
        return ProblemList(self.heldout, "held-out problems").fingerprint

    @property
    def tokenizer(self) -> Any:
        """The policy's."""
        return self.transcript.tokenizer

    @property
    def end(self) -> tuple[int, ...]:
        """Tokens that end a response; the first is what demonstrations teach."""
        return self.transcript.end

    @property
    def source(self) -> Path | None:
        """Directory of the base model's files, whose tokenizer goes along with exports; none for one from scratch."""
        from rollout.models.pretrained import files_of, resolve_model

        base = self.config.model.base
        return None if isinstance(base, ScratchModel) else files_of(resolve_model(base.path))

    def render(self, problem: Problem) -> Prompt:
        """Return the prompt of a problem."""
        return renderer(self.tokenizer, self.config)(problem)

    def episodes(self, grader: Callable[[], Grader]) -> Episodes | None:
        """Return the run's environment at work, to be closed; see ``open_episodes``."""
        return open_episodes(self.config, self.transcript, grader)

    def usable(self, wanted: int) -> list[int]:
        """Return the indices of the first ``wanted`` different training problems that fit, or of all there are.

        Raises ``ProblemError`` when none does.
        """
        found = distinct(self.screen, wanted)
        if not found:
            raise ProblemError(f"no training problem fits the context; {self.screen.note('training problems')}")
        return found


def open_episodes(config: RunConfig, transcript: Transcript, grader: Callable[[], Grader]) -> Episodes | None:
    """Return the environment of a run at work, to be closed; ``None`` without one. Raises ``UserCodeError``.

    ``grader`` makes that of an environment which asks one, and closes it; ``rollout.grading.Through`` is the run's.
    """
    if config.environment is None:
        return None
    environment = build_environment(config.environment, grader)
    return Episodes(environment, transcript, config.environment)


def renderer(tokenizer: Any, config: RunConfig) -> Callable[[Problem], Prompt]:
    """Return the function from a problem to its prompt, which has a window for each text of evidence that the problem
    brings, if the run has ``rollout.evidence``.

    Raises ``PromptError``, also for a problem whose evidence nobody would read: neither the policy nor a judge.
    """
    framing, model = config.problems.framing, config.reward.model
    judged = model is not None and model.evidence is not None

    def plain(problem: Problem) -> Prompt:
        return render_chat(tokenizer, framing.messages(problem), **framing.arguments)

    def render(problem: Problem) -> Prompt:
        try:
            if config.rollout.evidence is not None:
                return windowed(problem, plain)
            unread = texts_of(problem) and not judged
        except EvidenceError as error:
            raise PromptError(str(error)) from error
        if unread:
            raise PromptError(
                f"problem {problem.id!r} brings evidence, which only a run with rollout.evidence reads, or a judge "
                "with reward.model.evidence: set one of them, or leave the field out"
            )
        return plain(problem)

    return render


def prepare(config: RunConfig, began: ProblemsConfig | None = None) -> Setup:
    """Return the problems and tokenizer, with every problem checked that can be.

    ``began``: what a run that is resumed began with. Its problems keep their numbers, and those that ``config`` has no
    longer are left out. Raises ``ProblemError``, ``PromptError``, ``ModelPathError``, ``PolicyError``.
    """
    problems = config.problems
    began = began or problems
    code = user_code(config)
    train = build_source(began.train, "train")
    held_out = build_source(problems.heldout, "heldout")
    judges = held_out if began.heldout == problems.heldout else build_source(began.heldout, "heldout")
    left_out = frozenset[int]()
    if began.train != problems.train:
        left_out = gone(train, build_source(problems.train, "train"))
    check_disjoint(train, held_out)
    check_judged(config.reward, train, "problems.train")
    check_judged(config.reward, held_out, "problems.heldout")
    if config.reward.model is not None:
        check_model(config.reward.model, Site.of(config))
        if config.reward.model.labelled is not None:
            read_verdicts(Path(config.reward.model.labelled))
    tokenizer, vocabulary, model = load_tokenizer(config, train)
    framing = problems.framing
    end = end_tokens(tokenizer, model or None, vocabulary)
    transcript = Transcript(tokenizer, end, framing.system, framing.arguments)
    limits = Limits(config.engine.max_model_len, config.rollout.response_room, vocabulary, model or "the scratch model")
    check_template(tokenizer, framing.messages(train[0]), framing.arguments)
    if judge := card_of(config):  # what it could not be asked in use it should not be taught for hours
        JudgePrompts(tokenizer, judge, judge.max_tokens, vocabulary).check()
    if config.environment is not None:
        check_turns(config.environment, transcript)
        # What is wrong with code of the user's own is said now.
        if episodes := open_episodes(config, transcript, VerifierGrader):
            episodes.close()
    chosen, note = choose_heldout(config, held_out, tokenizer, limits)
    if not isinstance(held_out, ProblemList):
        check_disjoint(train, ProblemList(chosen, "problems.heldout"))
    screen = Screen(
        train,
        renderer(tokenizer, config),
        limits,
        refuses(problems.overlong, train.size is not None),
        left_out,
        frozenset(map(asked, chosen)) if train.size is None else frozenset(),
    )
    size = min(train.size or 0, problems.train_size or train.size or 0)
    screen.check(size)
    digest = hashlib.sha256(f"{train.fingerprint}/{judges.fingerprint}".encode()).hexdigest()
    notes = tuple(line for line in (screen.note("training problems"), note) if line)
    return Setup(config, train, chosen, digest, transcript, limits, screen, notes, code)


def user_code(config: RunConfig) -> dict[str, str]:
    """SHA-256 of each file of the user's own that verdicts and updates depend on. Raises ``UserCodeError``.

    Loaded once here, so that a reward that cannot be used costs nothing. Problems have a fingerprint of their own.
    """
    objective = config.learner.objective
    code = judging_code(config)
    if isinstance(objective, PythonObjectiveConfig):
        code[objective.path] = digest_of(objective.path, OBJECTIVES)
    return code


def judging_code(config: RunConfig) -> dict[str, str]:
    """The part of ``user_code`` that verdicts depend on: reward, reward model and environment.

    Nothing is opened but the user's function. Raises ``UserCodeError``, ``ModelPathError`` and ``CardError``.
    """
    reward, environment, model = config.reward.function, config.environment, config.reward.model
    used = {reward: REWARDS} if reward else {}
    if reward:
        build_rule(config.reward).close()
    if isinstance(environment, OwnEnvironment):
        used[environment.path] = ENVIRONMENTS
    code = {spec: digest_of(spec, group) for spec, group in used.items()}
    if model is not None:
        code[f"{RewardConfig.MODEL}{model.path}"] = files_digest(find(model.path))
        if model.evidence is not None:
            code["reward.model.evidence"] = texts_digest(model.evidence.files)
    return code


def check_judged(reward: RewardConfig, source: ProblemSource, name: str) -> None:
    """Raises ``ProblemError`` when nothing judges the source's first problem: it names no verifier."""
    if reward.function is None and reward.model is None and not source[0].verifier:
        raise ProblemError(
            f"{name}: problem {source[0].id!r} names no verifier, and the run has neither reward.function nor "
            "reward.model: set one of them, or the source's verifier"
        )


def gone(before: ProblemSource, after: ProblemSource) -> frozenset[int]:
    """Return the numbers of the problems of ``before`` that ``after`` lacks. Raises ``ProblemError`` when it has
    others.
    """
    if not isinstance(before, ProblemList) or not isinstance(after, ProblemList):
        raise ProblemError("problems.train: a run that is resumed keeps its source; only files can have rows left out")
    known, kept = {problem.id: problem for problem in before}, {problem.id for problem in after}
    added = [problem.id for problem in after if known.get(problem.id) != problem]
    if added:
        raise ProblemError(
            f"problems.train: {len(added)} problems would come in that the run began without (first: {added[0]!r}); a "
            "run that is resumed may only leave some out"
        )
    return frozenset(index for index, problem in enumerate(before) if problem.id not in kept)


def choose_heldout(
    config: RunConfig, source: ProblemSource, tokenizer: Any, limits: Limits
) -> tuple[tuple[Problem, ...], str]:
    """Return the held-out problems of a run, and a line on those that were left out.

    The first ``problems.heldout_size`` different ones; under ``problems.overlong`` ``drop``, of those that fit. Raises
    ``ProblemError`` when there are too few, ``PromptError`` for one that cannot be used.
    """
    problems = config.problems
    wanted = problems.heldout_size
    if source.size is not None and source.size < wanted:
        raise ProblemError(f"problems.heldout has {source.size} problems, fewer than problems.heldout_size {wanted}")
    refuse = refuses(problems.overlong, source.size is not None)
    screen = Screen(source, renderer(tokenizer, config), limits, refuse)
    found = distinct(screen, wanted)
    note = screen.note("held-out problems")
    if len(found) < wanted:
        raise ProblemError(
            f"only {len(found)} different held-out problems found, problems.heldout_size asks for {wanted}"
            + (note and f"; {note}")
        )
    return tuple(source[index] for index in found), note


def distinct(screen: Screen, wanted: int) -> list[int]:
    """Return the indices of the first ``wanted`` different problems that fit, or of all: procedural sources may
    draw a text twice.
    """
    size = screen.source.size
    found: dict[str, int] = {}
    for index in range(size if size is not None else 20 * wanted):
        if screen.fits(index):
            found.setdefault(screen.source[index].id, index)
        if len(found) == wanted:
            break
    return [*found.values()]


def load_tokenizer(config: RunConfig, train: ProblemSource) -> tuple[Any, int, str]:
    """Return the policy's tokenizer, the rows of its embedding, and where the model is (empty: made from scratch)."""
    from rl.learner.policy import check_tokenizer

    base = config.model.base
    if isinstance(base, ScratchModel):
        from rollout.models.tokenizer import build_tokenizer

        if not isinstance(train, Procedural):
            raise ProblemError("a scratch model takes its vocabulary from a procedural problems.train source")
        tokenizer = build_tokenizer(train.generator.alphabet, base.context)
        return tokenizer, len(tokenizer), ""
    from transformers import AutoConfig, AutoTokenizer

    from rollout.models.pretrained import check_weights, context_of, embedded, loading, resolve_model

    path = resolve_model(base.path)
    with loading(path):
        loaded = AutoTokenizer.from_pretrained(path)
        text = AutoConfig.from_pretrained(path).get_text_config()
    positions = None if getattr(text, "rope_parameters", None) else context_of(text)
    if positions is not None and config.engine.max_model_len > positions:
        raise PromptError(
            f"{base.path}: the model has {positions} positions and none beyond, engine.max_model_len asks for "
            f"{config.engine.max_model_len}; lower it, and rollout.max_tokens with it"
        )
    check_tokenizer(loaded, base.path)
    check_weights(path)
    return loaded, embedded(text, loaded), path
