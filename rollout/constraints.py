"""What a response may consist of, where that is known beforehand: a seam of both engines. Plain data, no torch.

A constraint forbids tokens at each step; the rest is renormalised, and log-probs are reported under that (behaviour-
policy rule). So what is drawn under one is no rollout to train on by the full distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rollout.copying.spans import CopyBetween
from rollout.types import TokenIds


class ConstraintError(ValueError):
    """A constraint that no response, or more than one reading, could satisfy; one line."""


class Constraint(Protocol):
    """Forbids tokens. A dataclass of plain data, named in ``KINDS``."""

    def allowed(self, drawn: Sequence[int], /) -> TokenIds | None:
        """Return the tokens that may follow those drawn so far; ``None``: any."""


@dataclass(frozen=True)
class OneOf:
    """The response is one of these texts, each with its end token: restricted decoding over label strings.

    The end token tells a label from another that it begins.
    """

    labels: tuple[tuple[int, ...], ...]
    """Tokens of each text; the last of each is an end token."""

    def __post_init__(self) -> None:
        if not self.labels or any(len(label) < 2 for label in self.labels):
            raise ConstraintError("a label is empty, or none is given")
        if len(set(self.labels)) < len(self.labels):
            raise ConstraintError("two labels have the same tokens")

    @cached_property
    def _next(self) -> dict[tuple[int, ...], TokenIds]:
        found: dict[tuple[int, ...], list[int]] = {}
        for label in self.labels:
            for at, token in enumerate(label):
                known = found.setdefault(label[:at], [])
                if token not in known:
                    known.append(token)
        return {begin: np.array(sorted(tokens), np.int32) for begin, tokens in found.items()}

    def allowed(self, drawn: Sequence[int]) -> TokenIds | None:
        """See ``Constraint``. Raises ``ConstraintError`` behind tokens that begin none of the labels."""
        begin = tuple(int(token) for token in drawn)
        if begin not in self._next:
            raise ConstraintError(f"tokens {list(begin)[:8]} begin none of the labels")
        return self._next[begin]


KINDS: dict[str, type[Any]] = {"one_of": OneOf, "copy_between": CopyBetween}
"""Constraints by the name under which they cross process borders."""


def packed(constraint: Constraint) -> list[Any]:
    """Return a constraint as plain data: its name and its fields."""
    name = next(name for name, kind in KINDS.items() if kind is type(constraint))
    return [name, {each.name: getattr(constraint, each.name) for each in fields(constraint)}]  # type: ignore[arg-type]


def unpacked(plain: Sequence[Any]) -> Constraint:
    """Return the constraint that ``packed`` was given."""
    name, values = plain
    constraint: Constraint = KINDS[name](**{key: _tuples(value) for key, value in values.items()})
    return constraint


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value
