"""Weights for an engine on another machine than the learner's, which cannot read the learner's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rollout.engine import WeightUpdate
from rollout.transfer.weights import Buffer, machine


@contextmanager
def mirrored(update: WeightUpdate, get: Callable[[Any], Any]) -> Iterator[WeightUpdate]:
    """Yield ``update`` as an engine of this machine can take it; memory made for that goes when the context ends.

    ``get`` returns the bytes of one of the payload's ``pieces``. They are fetched only for an engine that has no other
    way: it does not take part in a broadcast, and the learner's memory is elsewhere.
    """
    payload = {key: value for key, value in update.payload.items() if key != "pieces"}
    elsewhere = payload.get("machine", machine()) != machine()
    if not elsewhere or "nccl" in payload.get("direct", {}) or "pieces" not in update.payload:
        yield replace(update, payload=payload)
        return
    buffer = Buffer(payload["size"])
    try:
        end = 0
        for piece in update.payload["pieces"]:
            data = memoryview(get(piece)).cast("B")
            buffer.map[end : end + len(data)] = data
            end += len(data)
        yield replace(update, payload={**payload, "path": buffer.path, "machine": machine()})
    finally:
        buffer.close()
