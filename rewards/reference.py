"""The reference that a response is judged against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reference:
    """The problem's side of a verdict."""

    answer: str
    """Reference answer in the verifier's own notation."""
    problem: str = ""
    """The statement; the code verifier completes it and reads the tolerance that it allows."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the problem, e.g. its tests; plain JSON values."""
