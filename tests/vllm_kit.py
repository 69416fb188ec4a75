"""A real vLLM engine for plain tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from factories import joined

from rollout.engine import Delta, Request, WeightUpdate
from rollout.engines.vllm import VllmEngine
from rollout.transfer import broadcast
from rollout.transfer.weights import ShmSender, specs_of


class Running:
    """An engine on an event loop of its own, called from plain tests."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.runner = asyncio.Runner()
        self.version = 0

    def __call__(self, work: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await work

        return self.runner.run(waited())

    def finish(self, requests: Sequence[Request]) -> dict[str, Delta]:
        async def work() -> dict[str, Delta]:
            await self.engine.submit(requests)
            found: dict[str, Delta] = {}
            while sum(delta.done for delta in found.values()) < len(requests):
                for delta in await self.engine.poll(1.0):
                    before = found.get(delta.key, replace(delta, token_ids=(), logprobs=(), pointers=()))
                    assert len(delta.token_ids) == len(delta.logprobs)
                    found[delta.key] = joined(before, delta)
            return found

        return self(work())

    def publish(self, model: torch.nn.Module, sender: ShmSender) -> WeightUpdate:
        self.version += 1
        update = sender.send(model, self.version)
        self(self.engine.update_weights(update))
        return update


@contextmanager
def started(engine: VllmEngine) -> Iterator[Running]:
    """Run an engine; the environment that it sets goes with it."""
    before = dict(os.environ)
    running = Running(engine)
    running(engine.start())
    yield running
    running(engine.close())
    running(engine.close())
    running.runner.close()
    os.environ.clear()
    os.environ.update(before)


def leave_half_way(update: WeightUpdate) -> None:
    """Be engine 1, whose process ends in the middle of a broadcast."""
    meeting = broadcast.Meeting(**update.payload["direct"]["nccl"])
    guest = broadcast.Guest(meeting, *meeting.place([0, 1], 1, 0), torch.device("cpu"))
    next(guest.receive(specs_of(update.payload["tensors"]), update.payload["size"]))
    guest.close()
