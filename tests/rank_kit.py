"""Processes of one gloo group, for tests of what several ranks do together."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

LIMIT = 180.0
"""Seconds after which a rank that still runs says where it is and ends; bounds hangs only."""
GRACE = 30.0
"""Seconds more for ranks to start, and to end by themselves."""
PRELOAD = (
    "pytest",
    "rl.learner.learner",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers.models.llama.modeling_llama",
)
"""Imported once in the server that the ranks are forked from: their imports would be most of a test's time."""


class RankFailed(AssertionError):
    """A rank raised, died, or ran past the limit; its traceback where there is one."""


def run_ranks(world: int, function: Callable[..., Any], *args: Any, limit: float = LIMIT) -> list[Any]:
    """Return the results of ``function(rank, *args)`` in ``world`` processes, by rank.

    ``function``: defined at the top of a module; it finds the default gloo group of all ranks, and one thread.
    Arguments and results are pickled. Raises ``RankFailed`` for the first rank that fails, and kills the others.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        ranks = [
            context.Process(target=_rank, args=(rank, world, folder, limit, pipes[rank][1], function, args))
            for rank in range(world)
        ]
        try:
            for process, (_, theirs) in zip(ranks, pipes, strict=True):
                process.start()
                theirs.close()  # so that a rank's death ends its pipe
            return _collect([ours for ours, _ in pipes], ranks, limit + GRACE)
        finally:
            for process in ranks:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _collect(pipes: list[Connection], ranks: list[Any], limit: float) -> list[Any]:
    results: dict[int, Any] = {}
    end = time.monotonic() + limit
    while len(results) < len(pipes):
        ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in results], max(0.0, end - time.monotonic()))
        if not ready:
            raise RankFailed(f"ranks {sorted(set(range(len(pipes))) - set(results))} still run after {limit:.0f} s")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                done, results[rank] = pickle.loads(pipes[rank].recv_bytes())
            except EOFError:
                ranks[rank].join(GRACE)
                how = f"exit code {ranks[rank].exitcode}"
                raise RankFailed(f"rank {rank} of {len(pipes)} died or hung ({how}); stderr may tell where") from None
            if not done:
                raise RankFailed(f"rank {rank} of {len(pipes)}:\n{results[rank]}")
    return [results[rank] for rank in range(len(pipes))]


def _rank(
    rank: int, world: int, folder: str, limit: float, pipe: Connection, function: Callable[..., Any], args: tuple
) -> None:
    faulthandler.enable()  # a rank that a signal ends says where it was
    faulthandler.dump_traceback_later(limit, exit=True)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
        result = function(rank, *args)
        dist.barrier()  # nobody leaves while others still talk to it
        pipe.send_bytes(pickle.dumps((True, result)))  # plainly: torch would send handles of memory that dies with us
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
        raise
    finally:
        pipe.close()
