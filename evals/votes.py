"""Counting of votes: answers that are equal count as one, however they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evals.evaluate import Answer
from evals.stats import Ballot
from rollout.types import StopReason

Same = Callable[[str, str], bool]
"""Whether two extracted answers are equal."""
SILENT = (StopReason.LENGTH, StopReason.ABORTED, StopReason.REPETITION)
"""Ends of responses that have no vote, whatever they say."""


def same_maths(one: str, other: str) -> bool:
    """Return whether two answers of maths problems are equal, by the rules of ``rewards.math.judge``, either of them as
    the reference.
    """
    from rewards.math.judge import judge

    return judge(one, other).correct or judge(other, one).correct


def same_text(one: str, other: str) -> bool:
    """Return whether two answers are equal up to white space."""
    return " ".join(one.split()) == " ".join(other.split())


def classes(texts: Sequence[str], same: Same) -> list[int | None]:
    """Return the class of each answer, numbered by first appearance; ``None`` for an empty one, which has no vote.

    Each answer is compared with the first of each class, so the classes depend on the order where equality is not
    transitive.
    """
    firsts: list[str] = []
    exact: dict[str, int] = {}
    found: list[int | None] = []
    for text in texts:
        key = " ".join(text.split())
        if not key:
            found.append(None)
            continue
        if key not in exact:
            match = next((i for i, first in enumerate(firsts) if same(first, text)), len(firsts))
            if match == len(firsts):
                firsts.append(text)
            exact[key] = match
        found.append(exact[key])
    return found


def ballot(answers: Sequence[Answer], same: Same) -> Ballot:
    """Return the votes of one problem's responses. Truncated and aborted ones abstain; a class is right when the
    verifier
    found one of its answers right.
    """
    texts = ["" if answer.response.stop in SILENT else answer.score.extracted for answer in answers]
    votes = classes(texts, same)
    right = {vote for vote, answer in zip(votes, answers, strict=True) if vote is not None and answer.score.correct}
    return Ballot(tuple(votes), frozenset(right))
