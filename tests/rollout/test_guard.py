"""Children of an engine never outlive it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import running, until_gone

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the guard needs /proc")

PARENT = """
import subprocess, sys, time
from rollout.engines.guard import Guard
guard = Guard()
code = "import time; print('up', flush=True); time.sleep(6000)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, guard._process.pid, flush=True)
if sys.argv[1] == "close":
    guard.close(); guard.close()
time.sleep(6000)
"""


@pytest.mark.parametrize("how", ["kill", "close"])
def test_children_end_with_their_parent_and_bystanders_do_not(how: str) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(6000)"])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child, guard = map(int, parent.stdout.readline().split())
        if how == "kill":
            assert running(child)
            parent.kill()
        until_gone([child, guard])
        assert bystander.poll() is None
    finally:
        for process in (parent, bystander):
            process.kill()
            process.wait()
        parent.stdout.close()


NESTED = """
import subprocess, sys, time
from rollout.engines.guard import Guard
outer = Guard()
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(6000)
"""
INNER = """
import subprocess, sys, time
from rollout.engines.guard import Guard
inner = Guard()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(6000)"])
print(child.pid, inner._process.pid, flush=True)
time.sleep(6000)
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
    until_gone([child, guard])
