"""What an engine keeps until it is polled."""

from __future__ import annotations

import asyncio

from rollout.engine import Delta
from rollout.engines.mailbox import Mailbox
from rollout.types import StopReason


def test_pieces_of_one_version_are_joined_and_those_of_two_are_not() -> None:
    async def work() -> tuple[list[Delta], list[Delta]]:
        mail = Mailbox()
        for key in "ab":
            mail.open(key)
        mail.put("a", [1, 2], [-0.1, -0.2], 3)
        mail.put("b", [9], [-0.9], 3)
        mail.put("a", [3], [-0.3], 3)
        mail.put("a", [4], [-0.4], 4)
        mail.end("a", 5, StopReason.EOS)
        first = await mail.take(0)
        mail.end("b", 5, error="aborted")
        return first, await mail.take(0)

    first, second = asyncio.run(work())
    assert first == [
        Delta("a", [1, 2, 3], [-0.1, -0.2, -0.3], 3),
        Delta("a", [4], [-0.4], 4, done=True, stop=StopReason.EOS),
        Delta("b", [9], [-0.9], 3),
    ]
    assert second == [Delta("b", [], [], 5, done=True, error="aborted")]


def test_a_version_that_returns_is_a_piece_of_its_own() -> None:
    """Order is what tells which token came first."""

    async def work() -> list[Delta]:
        mail = Mailbox()
        mail.open("a")
        for token, version in enumerate((1, 2, 1)):
            mail.put("a", [token], [-1.0], version)
        return await mail.take(0)

    assert [(delta.version, delta.token_ids.tolist()) for delta in asyncio.run(work())] == [
        (1, [0]),
        (2, [1]),
        (1, [2]),
    ]
