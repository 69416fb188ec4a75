"""From a response to the token ids that a reward model reads, in training and in use alike (invariant 10)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rewards.models.template import fill, shown
from rollout.plain import one_line
from rollout.reward_models.card import Card
from rollout.reward_models.labelled import LONGEST
from rollout.reward_models.opinion import NO_ANSWER
from rollout.types import TokenIds

Fault = Literal["no_answer", "too_long", "unencodable"]


class Unreadable(ValueError):
    """A text that the model cannot read; ``kind`` is what counts are kept by."""

    def __init__(self, kind: Fault, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class MisfitError(ValueError):
    """A tokenizer that does not belong to its model; one line."""


@dataclass(frozen=True)
class Reader:
    """A card, and the tokenizer of its model."""

    card: Card
    tokenizer: Any
    vocabulary: int
    """Rows of the model's embedding."""
    limit: int
    """Most tokens of an input."""

    def read(self, question: str, reference: str, response: str) -> TokenIds:
        """Return the ids [n] of a response as the model reads it. Raises ``Unreadable``.

        Special tokens that stand in the text are spelt out: a response cannot write them. Padding at the end is left
        out, since whoever reads a padded batch takes the last token that is none.
        """
        seen = shown(response, self.card.sees)
        if self.card.sees == "answer" and not seen:
            raise Unreadable("no_answer", NO_ANSWER)
        if len(seen) > LONGEST:  # before a tokenizer spends its time on it
            raise Unreadable("too_long", f"{len(seen)} characters, and {LONGEST} are read at most")
        text = fill(self.card.template, question, reference, seen)
        try:
            found = self.tokenizer(text, split_special_tokens=True, return_special_tokens_mask=True)
        except (TypeError, ValueError) as error:  # of a lone surrogate, say
            raise Unreadable("unencodable", f"its tokenizer refuses the text: {one_line(str(error), 100)}") from error
        ids, added = (np.asarray(found[name], np.int32) for name in ("input_ids", "special_tokens_mask"))
        # Of some (OPT) the unknown token is also what the tokenizer puts before each text.
        if ((ids == self.tokenizer.unk_token_id) & (added == 0)).any():
            raise Unreadable("unencodable", f"its tokenizer lacks {self._lacking(text)}")
        if self.tokenizer.pad_token_id is not None:
            kept = np.flatnonzero(ids != self.tokenizer.pad_token_id)
            ids = ids[: kept[-1] + 1] if len(kept) else ids[:0]
        if not len(ids):
            raise Unreadable("unencodable", "nothing is left of the text")
        if len(ids) > self.limit:
            raise Unreadable("too_long", f"{len(ids)} tokens, and it reads {self.limit}")
        return ids

    def _lacking(self, text: str) -> str:
        """Return the first part of ``text`` that became unknown, as a message shows it."""
        if not self.tokenizer.is_fast:  # those in Python tell no offsets
            return "a part of the text"
        coded = self.tokenizer(text, split_special_tokens=True, return_offsets_mapping=True)
        places = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        unknown = (place for token, place in places if token == self.tokenizer.unk_token_id and place[0] < place[1])
        start, end = next(unknown, (0, len(text)))
        return repr(one_line(text[start:end], 40) or text[start:end])


def check_fits(tokenizer: Any, vocabulary: int, digest: str, where: str) -> None:
    """Raises ``MisfitError`` for a tokenizer whose ids the model has no embedding for, or that is not the card's.

    ``digest``: ``vocabulary_digest`` of the one that the model was trained with; empty: unknown.
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise MisfitError(
            f"{where}: the tokenizer has ids up to {highest}, and the model embeds {vocabulary}: it is another "
            "model's; put the tokenizer that the model was trained with beside it"
        )
    if digest and vocabulary_digest(tokenizer) != digest:
        raise MisfitError(
            f"{where}: the tokenizer is not the one that the model was trained with (the card has {digest}); put that "
            "one beside it"
        )


def vocabulary_digest(tokenizer: Any) -> str:
    """Return a short SHA-256 of a tokenizer's words and their ids."""
    words = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
