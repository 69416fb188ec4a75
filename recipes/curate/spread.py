"""Work on pieces of the data, spread over the cores of this machine or, through Ray Data, over a cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from rollout.plain import first_line

T = TypeVar("T")
R = TypeVar("R")
Spread = Callable[[Callable[[T], R], Iterable[T]], Iterator[R]]
"""``spread(work, pieces)`` yields ``work(piece)`` in the order of the pieces. ``work`` and its results are pickled."""


class WorkerLost(RuntimeError):
    """A process that worked on a piece has died; one line."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


_held: list[Callable[[Any], Any]] = []
"""In a worker: its work, which is sent once, for it may be large."""


def _begin(work: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who gave the work, and ends its workers in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _held[:] = [pickle.loads(work)]


def _end_with_parent() -> None:
    """End this worker when who gave the work is killed: the pipe of its work, of which it holds both ends, never
    closes.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _act(piece: Any) -> Any:
    return _held[0](piece)


def here(workers: int) -> Spread[Any, Any]:
    """Return a ``Spread`` over ``workers`` processes of this machine; with one, over none."""

    def spread(work: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
        pieces = iter(pieces)
        first = tuple(islice(pieces, 2))
        if workers == 1 or len(first) < 2:  # processes take seconds to start
            yield from map(work, chain(first, pieces))
            return
        # Not forked: this process may have threads, of torch or of a grader.
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _begin, (pickle.dumps(work),))
        try:
            begun: deque[Future[R]] = deque()
            for piece in chain(first, pieces):
                begun.append(pool.submit(_act, piece))
                if len(begun) > 2 * workers:  # no more pieces in memory than keep all at work
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerLost(
                "a worker process was killed, for want of memory perhaps: the same command goes on, and with fewer "
                "--workers takes less"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return spread


def on_cluster() -> Spread[Any, Any]:
    """Return a ``Spread`` over the Ray cluster that this process is connected to.

    Pieces and results travel through Ray's object store, a window of them at a time, so the workers need no disk in
    common with this process.
    """

    def spread(work: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
        import ray
        from ray import cloudpickle
        from ray.data import DataContext, from_items
        from ray.exceptions import RayError

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # plans, progress and stack traces
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        held = ray.put(work)

        def act(row: dict[str, Any]) -> dict[str, Any]:
            try:
                done, error = ray.get(held)(cloudpickle.loads(row["piece"])), None
            except Exception as raised:  # noqa: BLE001  raised again by who gave the work
                done, error = None, raised
            return {"done": cloudpickle.dumps((done, error))}

        window = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        rest = iter(pieces)
        while some := [{"piece": cloudpickle.dumps(piece)} for piece in islice(rest, window)]:
            try:
                rows = from_items(some, override_num_blocks=len(some)).map(act).take_all()
            except RayError as error:
                raise WorkerLost(
                    f"the cluster could not do it: {first_line(error)}; the same command goes on"
                ) from error
            for row in rows:
                done, failed = cloudpickle.loads(row["done"])
                if failed is not None:
                    raise failed
                yield done

    return spread
