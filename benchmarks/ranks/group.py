"""Processes that are the ranks of a learner, for one measurement after the other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PRELOAD = ["torch", "torch.distributed.tensor", "torch.distributed.fsdp", "transformers"]
"""Imported once, in the server that the processes are forked from."""


class RankError(RuntimeError):
    """A rank raised or died; its traceback."""


class Group:
    """``size`` processes that have joined one gloo group, one thread each. Use as a context manager."""

    def __init__(self, size: int) -> None:
        self.size = size
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._folder = tempfile.TemporaryDirectory()
        pipes = [context.Pipe() for _ in range(size)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, size, self._folder.name, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()

    def call(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Return the results of ``function(*args)``, defined at the top of a module, by rank. Raises ``RankError``."""
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        found = []
        for rank, pipe in enumerate(self._pipes):
            try:
                done, result = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RankError(f"rank {rank} of {self.size} died") from None
            if not done:
                raise RankError(f"rank {rank} of {self.size}:\n{result}")
            found.append(result)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, size: int, folder: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except Exception:  # noqa: BLE001 - whatever it is, the parent says it
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
