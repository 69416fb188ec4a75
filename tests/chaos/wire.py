"""Calls and answers between a run and its engines and learners: pickles on a socket, each behind its size."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.strikes import Fault

HEAD = struct.Struct("!Q")


@dataclass(frozen=True)
class Call:
    """A call on its way, perhaps with what its receiver is to suffer in it."""

    method: str
    args: tuple[Any, ...]
    number: int = 0
    fault: Fault | None = None
    done: bool = False
    """Suffer it when the work is done, before the answer is sent."""
    version: int | None = None
    """Suffer it only if the answer has tokens of this version."""
    part: bool = False
    """Answer with the first token of each request, and suffer it then."""


@dataclass(frozen=True)
class Answer:
    """What came of a call."""

    number: int
    good: bool
    value: Any
    """What it returned, or raised."""
    struck: bool = False
    """Whether the fault came; the sender lives on."""


def pack(message: object) -> bytes:
    """Return a message as it is sent."""
    data = pickle.dumps(message)
    return HEAD.pack(len(data)) + data


def unpack(read: Callable[[int], bytes]) -> Any:
    """Return the next message; ``read(n)`` gives n bytes, fewer at the end. Raises ``EOFError``."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = read(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    (size,) = HEAD.unpack(exactly(HEAD.size))
    return pickle.loads(exactly(size))
