"""Calls that go on while their caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


def beside(name: str, call: Callable[..., T], *arguments: Any, done: Future[T] | None = None) -> Future[T]:
    """Run ``call`` on a thread of its own, which does not keep the process alive; return its future, which is ``done``
    if that is given: who may be interrupted at any moment has it before anything runs.
    """
    future: Future[T] = Future() if done is None else done

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = call(*arguments)
        except BaseException as error:  # noqa: BLE001 - not lost in a thread: whoever asks for the result gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def settle(call: Future[Any]) -> None:
    """Return when ``call`` does not run, and will not: it has ended, or never begins."""
    if not call.cancel():
        wait([call])
