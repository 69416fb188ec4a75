"""Long-CoT demonstrations from a model's own right responses [2501.12599 §2.2]: a small set of verified reasoning that
shows planning, evaluation, reflection and exploration, called for by the prompt and written down without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evals.evaluate import Answer
from recipes.curate.asking import BOX, BOXED, Asker, Origin, Question, Voice
from recipes.curate.behaviours import Behaviour, shown
from recipes.curate.chunks import Reduction
from recipes.curate.config import WarmupSetConfig
from recipes.curate.text import ngrams, words
from rollout.files import replacing
from rollout.plain import one_line
from rollout.strict_json import dumps
from rollout.types import Message, Problem, StopReason

STAGE = "warm-up"
QUOTED_WORDS = 6
"""So many words of the eliciting prompt in a row are a quotation of it."""

NOT_ASKED = "not asked, since the prompt does not fit the context or cannot be rendered"


class WarmupError(ValueError):
    """No demonstration came of it; one line with the commonest reason."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response that is kept."""

    response: str
    """As the model wrote it, thinking tags included; without the thinking that the template itself begins."""
    behaviours: tuple[Behaviour, ...]
    tokens: int
    """With the end token."""
    sample: int


@dataclass(frozen=True, slots=True)
class Sifted:
    """What came of the responses to one problem."""

    id: str
    kept: tuple[Kept, ...] = ()
    responses: int = 0
    right: int = 0
    """Right and complete."""
    reasons: tuple[tuple[str, int], ...] = ()
    """Why how many others were left out."""


@dataclass(frozen=True)
class Demonstration:
    """A problem with a response to learn."""

    problem: Problem
    kept: Kept

    def row(self) -> dict[str, Any]:
        """Return the row for a file that ``warmup.path`` takes (``rollout.problems.rows.demonstration_of``)."""
        problem, kept = self.problem, self.kept
        asked: dict[str, Any] = {"problem": problem.prompt}
        if len(problem.messages) > 1:
            asked = {"messages": [_plain(message) for message in problem.messages]}
        return {
            "id": f"{problem.id}#{kept.sample}",
            **asked,
            "response": kept.response,
            "behaviours": list(kept.behaviours),
            "tokens": kept.tokens,
            "source": problem.source,
            "answer": problem.answer,
        }


def _plain(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


@dataclass(frozen=True)
class WarmupSet:
    """The demonstrations, and what came of all responses."""

    demonstrations: tuple[Demonstration, ...]
    """In the order of the problems."""
    sifted: tuple[Sifted, ...]
    """One per problem, in their order."""

    @property
    def told(self) -> str:
        """One line."""
        responses, right = sum(one.responses for one in self.sifted), sum(one.right for one in self.sifted)
        with_one = sum(bool(one.kept) for one in self.sifted)
        left = "; ".join(f"{count} {reason}" for reason, count in reasons(self.sifted))
        return (
            f"{responses} responses to {len(self.sifted)} problems, {right} right and complete: "
            f"{len(self.demonstrations)} kept, of {with_one} problems" + (f" (left out: {left})" if left else "")
        )


def gather(
    asker: Asker, problems: Sequence[Problem], config: WarmupSetConfig, folder: Path, origin: Origin | None = None
) -> WarmupSet:
    """Draw responses, on record in ``folder``, and return those worth learning.

    ``origin`` as of ``Asker.each``. Raises ``WarmupError`` when there is none, and as that does.
    """
    asked = question(config)
    voice = Voice(asked, asker.model)
    writing = Writing(config.prompt, voice.opening, tuple(asker.model.tokenizer.all_special_tokens))
    by = {"kept": config.kept, "behaviours": config.behaviours}
    reduction = Reduction(Sifted, partial(sift, config, writing), by)
    sifted = asker.each(asked, problems, folder, reduction, origin=origin)
    found = tuple(
        Demonstration(problem, kept) for problem, one in zip(problems, sifted, strict=True) for kept in one.kept
    )
    if not found:
        told = reasons(sifted)
        most = f"most were left out because: {told[0][0]} ({told[0][1]})" if told else "there was none"
        raise WarmupError(
            f"none of {sum(one.responses for one in sifted)} responses to {len(problems)} problems makes a "
            f"demonstration; {most}; take another model, easier problems, or other keys of warmup"
        )
    return WarmupSet(found, tuple(sifted))


def question(config: WarmupSetConfig) -> Question:
    """Return how problems are asked."""
    return Question(
        stage=STAGE,
        samples=config.samples,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        prompt=config.prompt,
        system=config.system,
    )


def write(path: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write a JSON Lines file that ``k15 train --warmup.path`` takes. Raises ``OSError``."""
    with replacing(path) as file:
        for one in demonstrations:
            file.write(dumps(one.row()) + "\n")


def reasons(sifted: Sequence[Sifted]) -> list[tuple[str, int]]:
    """Return why responses were left out and how many, the commonest first."""
    counts: Counter[str] = Counter()
    for one in sifted:
        counts.update(dict(one.reasons))
    return counts.most_common()


@dataclass(frozen=True)
class Writing:
    """What tells whether a response can be learnt without the prompt that called for it."""

    prompt: str
    """The eliciting prompt, with ``{problem}``."""
    opening: str = ""
    """The thinking that the template begins, which the training prompt has too."""
    specials: tuple[str, ...] = ()
    """Special tokens as text: encoded again they would be the tokens themselves."""

    @property
    def eliciting(self) -> str:
        """The eliciting prompt without the problem."""
        return self.prompt.replace("{problem}", "\n")

    def unfit(self, response: str, problem: Problem) -> str:
        """Return why a response is none to learn from, though it is right; empty when it is one."""
        if any(token in response for token in self.specials) or "\ufffd" in response:
            return "not the same tokens as text"
        if BOX in self.prompt and problem.verifier in BOXED and BOX not in response:
            return "its answer is not in a box, so it may be right by chance"
        quoted = ngrams(words(self.eliciting), QUOTED_WORDS) & ngrams(words(response), QUOTED_WORDS)
        return "it quotes the prompt that called for it" if quoted else ""


def sift(
    config: WarmupSetConfig, writing: Writing, problem: Problem, answers: Sequence[Answer], refused: str = ""
) -> Sifted:
    """Return the responses to one problem that are kept: right, complete, of enough behaviours, different; those with
    the most behaviours first, then the shortest. ``refused``: why the problem was not asked.
    """
    if refused:
        return Sifted(problem.id, reasons=((NOT_ASKED, config.samples),))
    prompt = f"{problem.prompt}\n{writing.eliciting}"
    good: dict[str, Kept] = {}
    left: Counter[str] = Counter()
    right = 0
    for answer in answers:
        response = answer.response.text.removeprefix(writing.opening)
        why = _not_right(answer)
        right += not why
        why = why or writing.unfit(response, problem)
        behaviours = () if why else shown(response, prompt)
        if not why and len(behaviours) < config.behaviours:
            why = f"fewer than {config.behaviours} behaviours"
        if not why and response.strip() in good:
            why = "the same as another"
        if why:
            left[why] += 1
        else:
            good[response.strip()] = Kept(response, behaviours, answer.response.tokens or 0, answer.sample)
    best = sorted(good.values(), key=lambda one: (-len(one.behaviours), one.tokens, one.sample))
    if best[config.kept :]:
        left["others of the problem are better"] += len(best) - config.kept
    return Sifted(problem.id, tuple(best[: config.kept]), len(answers), right, tuple(left.most_common()))


def _not_right(answer: Answer) -> str:
    """Return why a response is not right and complete; empty when it is."""
    if not answer.score.gradable:
        return f"could not be judged: {one_line(answer.score.reason, 80)}"
    if answer.response.stop is StopReason.LENGTH:
        return "cut at warmup.max_tokens"
    if not answer.score.correct:
        return "wrong"
    return "" if answer.response.stop is StopReason.EOS else "not ended by the model"
