"""Children of an engine never outlive it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the guard needs /proc")

PARENT = """
import subprocess, sys, time
from rollout.guard import Guard
guard = Guard()
code = "import time; print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, guard._process.pid, flush=True)
if sys.argv[1] == "close":
    guard.close(); guard.close()
time.sleep(600)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["kill", "close"])
def test_children_end_with_their_parent_and_bystanders_do_not(how: str) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child, guard = map(int, parent.stdout.readline().split())
        if how == "kill":
            assert running(child)
            parent.kill()
        end = time.monotonic() + 10
        while (running(child) or running(guard)) and time.monotonic() < end:
            time.sleep(0.02)
        assert not running(child)
        assert not running(guard)
        assert bystander.poll() is None
    finally:
        for process in (parent, bystander):
            process.kill()
            process.wait()
        parent.stdout.close()


NESTED = """
import subprocess, sys, time
from rollout.guard import Guard
outer = Guard()
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""
INNER = """
import subprocess, sys, time
from rollout.guard import Guard
inner = Guard()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, inner._process.pid, flush=True)
time.sleep(600)
"""


def test_a_guard_above_ends_what_is_under_a_guard_below() -> None:
    """As when a run dies whose engine has children: the inner guard dies with its engine, the child must not stay."""
    parent = subprocess.Popen([sys.executable, "-c", NESTED, INNER], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, guard = map(int, parent.stdout.readline().split())
    assert running(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while (running(child) or running(guard)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not running(child)
    assert not running(guard)
