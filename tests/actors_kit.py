"""Ranks of a learner that do what they are told, for tests of how they are called and what becomes of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.actors import RayPolicy
from rl.config import RunConfig
from rl.learner.spec import LearnerSpec

MISSING = "no such model"
"""A path that cannot be loaded."""


class Unloadable(ValueError):
    """As the learner's ``PolicyError``, which comes with all of transformers."""


class Rank:
    """One of a group of actors. ``ready`` loads: all fail on ``MISSING``, ``MISSING:1`` only on rank 1."""

    def __init__(self, rank: int, path: str, seats: tuple[str, int] | None) -> None:
        self.rank, self.path, self.seats = rank, path, seats

    def ready(self) -> None:
        if self.path in (MISSING, f"{MISSING}:{self.rank}"):
            raise Unloadable(f"model {self.path} cannot be loaded\nand a second line")
        if self.path.startswith(MISSING):
            wait()
        if self.seats is not None:
            import torch.distributed as dist

            place, size = self.seats
            dist.init_process_group("gloo", init_method=f"file://{place}", rank=self.rank, world_size=size)

    def replace(self, spec: LearnerSpec, path: str) -> None:
        self.path = path
        self.ready()

    def act(self, plan: Sequence[str]) -> tuple[int, int]:
        """Behave as ``plan`` says for this rank."""
        how, _, what = plan[self.rank].partition(" ")
        match how:
            case "wait":
                wait()
            case "meet":
                import torch.distributed as dist

                dist.barrier()
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise raised(what)
        return self.rank, os.getpid()


def wait() -> None:
    threading.Event().wait()


def raised(what: str) -> Exception:
    kind, _, message = what.partition(" ")
    kinds: dict[str, Any] = {"ValueError": ValueError, "MemoryError": MemoryError, "OSError": OSError}
    if kind == "CUDA":
        import torch

        return torch.OutOfMemoryError(message)
    return kinds[kind](message)


def policy(size: int, path: str = "model", timeout_s: float = 3600.0, meet: Path | None = None) -> RayPolicy:
    """A group of ``size`` ranks; ``meet``: a folder where they meet each other."""
    import ray

    started = 0

    def spawn(spec: LearnerSpec, path: Path | str) -> list[Any]:
        nonlocal started
        started += 1
        seats = None if meet is None else (str(meet / str(started)), size)
        actor = ray.remote(Rank).options(num_cpus=0.1)
        return [actor.remote(rank, str(path), seats) for rank in range(size)]

    return RayPolicy(spawn, LearnerSpec.of(RunConfig()), path, timeout_s, timeout_s)
