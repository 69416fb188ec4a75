"""Calls that go on while their caller does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def beside(name: str, call: Callable[..., T], *arguments: Any) -> Future[T]:
    """Run ``call`` on a thread of its own, which does not keep the process alive."""
    done: Future[T] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()
        try:
            result = call(*arguments)
        except BaseException as error:  # noqa: BLE001 - not lost in a thread: whoever asks for the result gets it
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
