"""An engine of plain tests: started, worked with, closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from factories import joined

from rollout.engine import Delta, Engine, Request


def run(engine: Engine, work: Callable[[Engine], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def finish(engine: Engine, requests: Sequence[Request]) -> dict[str, Delta]:
    """Submit and poll to the end; the pieces of each request joined."""
    await engine.submit(requests)
    found: dict[str, Delta] = {}
    while sum(delta.done for delta in found.values()) < len(requests):
        for delta in await engine.poll(1.0):
            before = found.get(delta.key, replace(delta, token_ids=(), logprobs=(), pointers=()))
            found[delta.key] = joined(before, delta)
    return found
