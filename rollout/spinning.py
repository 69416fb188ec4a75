"""How long the threads of one computation wait awake for one another. Imports nothing heavy."""

from __future__ import annotations

import os


def waiting() -> dict[str, str]:
    """Return the variables that make a process's threads wait briefly awake, then asleep; the user's own win.

    Awake for long (libgomp's default), they keep the cores from whoever they wait for once another job runs beside
    them: a step of two threads then took 2 s instead of 0.18 s. Asleep at once, the second thread gains nothing.
    """
    return {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000")}


def wait_briefly() -> None:
    """Have the threads of this process, and of those that it starts, wait so. Before torch is loaded: libgomp reads it
    once.
    """
    os.environ.update(waiting())
