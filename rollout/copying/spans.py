"""Whole spans or nothing: which tokens may come next while a policy copies from a source [2109.12533].

``Span`` is the state of the paper's decoding, whose tags a head gives; ``CopyBetween`` is the form without a head:
the text between two markers is always a copy. Token ids and numpy: no model, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from rollout.copying.labels import SEAM, B, I, O
from rollout.types import Tokens

Ints = npt.NDArray[np.int64]
_NOWHERE: Ints = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Source:
    """A text that is copied from."""

    ids: Ints
    """[n] token ids; ``SEAM`` where no span may go across."""
    tokens: Ints
    """Those of its ids that are tokens, each once, ascending."""

    @classmethod
    def of(cls, ids: Tokens, stops: Sequence[int] = ()) -> Self:
        """Return a source. ``stops``: ids that end a response, which is never a copy: they part the source."""
        found = np.array(ids, np.int64).reshape(-1)
        found[np.isin(found, stops) | (found < 0)] = SEAM
        return cls(found, np.setdiff1d(found, [SEAM]))

    def behind(self, places: Ints) -> Ints:
        """Return those of the places of a source that have a token."""
        inside = places[places < len(self.ids)]
        return inside[self.ids[inside] != SEAM]


@dataclass(frozen=True, eq=False)
class Span:
    """What has been copied without a break."""

    length: int = 0
    """Number of its tokens; 0 outside of any."""
    next: Ints = field(default_factory=lambda: _NOWHERE)
    """Where in the source it may go on."""


OUTSIDE = Span()


@dataclass(frozen=True, eq=False)
class Choice:
    """What may be the next token."""

    tag: int
    """O, B or I: as asked for, or B where a span had to begin anew."""
    allowed: Ints | None = None
    """Ascending token ids; ``None``: any."""
    fell: bool = False
    """I was asked for, and nothing in the source continues the span: any of its tokens may begin another."""


def tag_of(probabilities: Sequence[float] | npt.NDArray[np.floating], span: Span) -> int:
    """Return the most probable of O, B and I; I only within a span."""
    ranked = np.array(probabilities, np.float64)
    if not span.length:
        ranked[I] = -np.inf
    return int(ranked.argmax())


def choose(source: Source, span: Span, tag: int) -> Choice:
    """Return what may come next under ``tag``: anything, any token of the source, or what makes the span one longer
    and still an n-gram of the source.

    Raises ``ValueError`` for I outside of any span. With an empty source everything is O.
    """
    if tag == I and not span.length:
        raise ValueError("I continues a span, and there is none; see tag_of")
    if tag == O or not len(source.tokens):
        return Choice(O)
    if tag == I and len(places := source.behind(span.next)):
        return Choice(I, np.unique(source.ids[places]))
    return Choice(B, source.tokens, fell=tag == I)


def follow(source: Source, span: Span, choice: Choice, token: int) -> Span:
    """Return the span behind ``token``, which was drawn under ``choice``."""
    if choice.tag == O:
        return OUTSIDE
    places = source.behind(span.next) if choice.tag == I else np.arange(len(source.ids))
    return Span(1 if choice.tag == B else span.length + 1, places[source.ids[places] == token] + 1)


@dataclass(frozen=True)
class CopyBetween:
    """What stands between two markers is one n-gram of the source. Plain data, and a pure function of what was drawn.

    Markers are token ids as the policy writes them; a marker that its tokenizer spells in two ways needs another, or
    one of special tokens. The first closing marker ends the copy, also where the source has the same tokens.
    """

    source: tuple[int, ...]
    """Token ids; negative ones part it."""
    opening: tuple[int, ...]
    """Token ids of the marker behind which a copy begins."""
    closing: tuple[int, ...]
    """Token ids of the marker that ends it."""
    least: int = 1
    """Fewest tokens of a copy; where the source has no such n-gram there is none, and the marker closes at once."""
    stops: tuple[int, ...] = ()
    """Ids that end a response: never part of a copy."""

    def __post_init__(self) -> None:
        for name in ("source", "opening", "closing", "stops"):  # lists, as they come off a wire
            object.__setattr__(self, name, tuple(int(token) for token in getattr(self, name)))
        if not self.opening or not self.closing or self.least < 1:
            raise ValueError(
                f"a copy between markers of {len(self.opening)} and {len(self.closing)} tokens, at least {self.least} "
                "long: each has to be 1 or more"
            )

    def allowed(self, drawn: Sequence[int] | Tokens) -> npt.NDArray[np.int32] | None:
        """Return the ascending ids that may follow the response tokens ``drawn``; ``None``: any."""
        tokens = np.asarray(drawn, np.int64)
        source, at = Source.of(np.array(self.source, np.int64), self.stops), 0
        while (begin := _end_of(tokens, self.opening, at)) >= 0:
            state: _Inside | None = self._opened(source)
            for at in range(begin, len(tokens)):
                assert state is not None
                state = self._after(source, state, int(tokens[at]))
                if state is None:
                    break
            else:
                assert state is not None
                return self._next(source, state).astype(np.int32)
            at += 1
        return None

    def _opened(self, source: Source) -> _Inside:
        """Return the state behind an opening marker: a copy may begin where ``least`` tokens follow."""
        places = np.arange(len(source.ids))
        for ahead in range(self.least):
            places = places[np.isin(places + ahead, source.behind(places + ahead))]
        return _Inside(places)

    def _closes(self, source: Source, state: _Inside) -> bool:
        """Return whether a closing marker may begin now."""
        copying = len(state.places) > 0
        stuck = not len(source.behind(state.places)) and not state.closing
        return (copying and state.length >= self.least) or stuck

    def _next(self, source: Source, state: _Inside) -> Ints:
        markers = [self.closing[done] for done in state.closing]
        markers += [self.closing[0]] if self._closes(source, state) else []
        return np.union1d(source.ids[source.behind(state.places)], np.array(markers, np.int64))

    def _after(self, source: Source, state: _Inside, token: int) -> _Inside | None:
        """Return the state behind ``token``, all readings of it at once; ``None``: the marker has closed."""
        progress = [*state.closing, *([0] if self._closes(source, state) else [])]
        closing = tuple({done + 1 for done in progress if self.closing[done] == token})
        if len(self.closing) in closing:
            return None
        places = source.behind(state.places)
        return _Inside(places[source.ids[places] == token] + 1, state.length + 1, closing)


@dataclass(frozen=True, eq=False)
class _Inside:
    """Between the markers."""

    places: Ints
    """Where in the source the copy may go on; empty: this is no copy, but the beginning of a closing marker."""
    length: int = 0
    closing: tuple[int, ...] = ()
    """Tokens of the closing marker that may have been drawn already."""


def _end_of(tokens: Ints, marker: tuple[int, ...], start: int) -> int:
    """Return where the first ``marker`` at or behind ``start`` ends; -1 without one."""
    room = len(tokens) - start - len(marker) + 1
    if room <= 0:
        return -1
    hits = np.ones(room, np.bool_)
    for offset, token in enumerate(marker):
        hits &= tokens[start + offset : start + offset + room] == token
    return start + int(hits.argmax()) + len(marker) if hits.any() else -1
