"""Answer fusion: the final answer of a problem, drawn once from all of its responses together (NBCE [2403.17552]).

Window k is the prompt and response k up to where its answer begins; row 0 is the prompt and the same words that
announce an answer, without any reasoning. Self-consistency at the level of logits: where a vote counts answers, this
asks of each next token what the chains of thought together make of it. Windows are the tokens that were drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from evals.evaluate import Answer, Ask, Done, Response
from evals.pooled import Generator
from evals.votes import SILENT
from rewards.opening import Opening, closed, opening
from rollout.engine import Request, Sampling
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.models.prompts import Transcript
from rollout.pool.board import Completion
from rollout.seeds import seed_of
from rollout.types import Problem, Prompt, StopReason, TokenIds

LONGEST = 64
"""Most tokens of a fused answer."""


@dataclass(frozen=True)
class Reasoned:
    """A response up to its answer."""

    tokens: TokenIds
    """Those before the answer."""
    cue: tuple[int, ...]
    """Those of them that would announce the answer of a response without reasoning."""
    closes: str
    """See ``rewards.opening.Opening``."""
    left: int
    """Tokens that it took from there to its end."""


@dataclass(frozen=True)
class Contexts:
    """What the answer to one problem is fused from."""

    problem: Problem
    bare: Prompt
    """Row 0: the prompt and the cue."""
    cue: tuple[int, ...]
    windows: tuple[Prompt, ...]
    closes: str
    left: int
    """Tokens that the answer may take."""

    @property
    def ask(self) -> Ask:
        """The request for the fused answer: it has the same key as long as it is fused from the same tokens."""
        rows = [self.bare, *self.windows]
        digest = blake2b(b"".join(len(row).to_bytes(4, "big") + row.token_ids.tobytes() for row in rows), digest_size=6)
        return Ask(self.problem, int.from_bytes(digest.digest(), "big"), seed_of("fused", self.problem.id))


@dataclass(frozen=True)
class Fusing:
    """How the answers of one benchmark are fused."""

    pool: Generator
    render: Callable[[Problem], Prompt]
    transcript: Transcript
    context: int
    """Most tokens of a window and its answer together."""
    merging: MergingConfig

    @property
    def name(self) -> str:
        """What its folder is called."""
        beta = "" if self.merging.beta is None else f"-beta{self.merging.beta:g}"
        return f"fused-{self.merging.pooling}{beta}"

    def contexts(self, group: Sequence[Answer]) -> Contexts | None:
        """Return what the answer to one problem is fused from: its responses that have one, as in maj@k; ``None``
        without any.
        """
        problem = group[0].problem
        prompt = self.render(problem)
        said = len(self.transcript.opening(prompt.token_ids))
        found = [
            one
            for answer in group
            if answer.response.stop not in SILENT
            and (one := reasoned(self.transcript, answer, said)) is not None
            and len(prompt) + len(one.tokens) < self.context
        ]
        if not found:
            return None
        (cue, _), *_ = Counter(one.cue for one in found).most_common(1)
        bare = prompt.followed_by(np.array(cue, np.int32))
        windows = tuple(prompt.followed_by(one.tokens) for one in found)
        left = min(LONGEST, max(one.left for one in found), self.context - max(map(len, (bare, *windows))))
        closes = next(one.closes for one in found if one.cue == cue)
        return Contexts(problem, bare, cue, windows, closes, left) if left > 0 else None


@dataclass(frozen=True)
class FusingResponder:
    """A ``Responder`` that draws one answer from several responses, greedily."""

    fusing: Fusing
    contexts: Sequence[Contexts]

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Raises ``AllEnginesDead``; an answer that failed too often is handed over aborted."""
        transcript = self.fusing.transcript
        sampling = Sampling(temperature=0.0, stop_token_ids=transcript.end)
        known = {one.ask.key: one for one in self.contexts}
        waiting = {f"{ask.problem.id}#{ask.sample}": ask for ask in asks}
        requests = []
        for key, ask in waiting.items():
            one = known[ask.key]
            evidence = Evidence(one.windows, self.fusing.merging)
            requests.append(Request(key, one.bare, one.left, sampling, ask.seed, evidence))

        def rest(completion: Completion) -> None:
            ask = waiting[completion.key]
            done(ask, _response(transcript, known[ask.key], completion))

        self.fusing.pool.generate(requests, on_rest=rest)


def _response(transcript: Transcript, context: Contexts, completion: Completion) -> Response:
    """Return a fused answer as the response that would have been it: the cue, and what was drawn.

    One that is not at its end when its room is used up stands as it is: there is no reasoning that could be cut off.
    """
    drawn = completion.token_ids
    ids = tuple(drawn.tolist())
    if completion.error:
        return Response("", StopReason.ABORTED, len(ids), ids, completion.error)
    head = context.bare.token_ids[: len(context.bare) - len(context.cue)]
    before = transcript.graded(head, np.array(context.cue, np.int32))
    whole = transcript.graded(head, np.concatenate([np.array(context.cue, np.int32), drawn]))
    text = before + closed(whole[len(before) :], context.closes)
    return Response(text, StopReason.EOS if completion.stop is StopReason.EOS else None, len(ids), ids)


def reasoned(transcript: Transcript, answer: Answer, said: int) -> Reasoned | None:
    """Return a response up to its answer; ``None`` for one without an answer, or without tokens.

    ``said``: characters of its text that stand in the prompt. Where the answer begins within a token, the response is
    cut before that token, and what of it comes before the answer is encoded anew, but for white space, which the answer
    may begin with.
    """
    response = answer.response
    at = opening(response.text, answer.problem.verifier, answer.score.extracted)
    if at is None or not response.token_ids:
        return None
    tokens = np.array(response.token_ids, np.int32)
    text = response.text[said:]

    def before(place: int) -> int:
        return tokens_before(transcript, tokens, text, max(0, place - said))

    cut = before(at.answer)
    missing = text[len(transcript.decode(tokens[:cut])) : at.answer - said]
    more = _encoded(transcript, missing)
    return Reasoned(
        np.concatenate([tokens[:cut], np.array(more, np.int32)]),
        (*_cue(tokens, at, before, said, cut), *more),
        at.closes,
        len(tokens) - cut + len(more),
    )


def _cue(tokens: TokenIds, at: Opening, before: Callable[[int], int], said: int, cut: int) -> tuple[int, ...]:
    """Return the tokens of the parts of the cue, each with the tokens that it begins and ends in."""
    found: list[int] = []
    reached = 0
    for index, (start, end) in enumerate(at.cue):
        if end <= said:  # the prompt has it
            continue
        first = max(reached, before(start))
        reached = cut if index == len(at.cue) - 1 else max(first, _up_to(before, end))
        found += tokens[first:reached].tolist()
    return tuple(found)


def _up_to(before: Callable[[int], int], end: int) -> int:
    """Return how many tokens hold the text up to ``end``, the one in which it ends included."""
    return before(end) if before(end) > before(end - 1) else before(end - 1) + 1


def _encoded(transcript: Transcript, text: str) -> list[int]:
    if not text.strip():
        return []
    found: list[int] = transcript.tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]
    return found


def tokens_before(transcript: Transcript, tokens: TokenIds, text: str, place: int) -> int:
    """Return how many first tokens of a response write no more than the first ``place`` characters of its text."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if len(transcript.decode(tokens[:middle])) <= place:
            low = middle
        else:
            high = middle - 1
    while low and not text[:place].startswith(transcript.decode(tokens[:low])):  # half a character
        low -= 1
    return low


def settings(merging: MergingConfig) -> dict[str, Any]:
    """Return what a record of fused answers must not mix."""
    return {"fused": {**merging.model_dump(mode="json"), "top_p": merging.nucleus}, "longest": LONGEST}
