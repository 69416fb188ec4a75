"""The short form of the chaos suite: a case of each kind, in both loops. All of them: ``make chaos``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.cases import CASES, SHORT, Act
from tests.chaos.doom import fill
from tests.chaos.stage import Ended, complaints
from tests.chaos.strikes import Strike
from tests.paths import ROOT


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What the suite says of each case of its short form."""
    command = [sys.executable, "-m", "tests.chaos", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = dict(re.findall(r"^\| (\S+) \| [\d.]+ \| (.+) \|$", done.stdout, re.MULTILINE))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    print(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
@pytest.mark.parametrize("name", sorted(SHORT))
def test_a_run_that_is_struck_loses_nothing(name: str, told: dict[str, str]) -> None:
    assert told[name] == "as it must"


def test_every_case_has_a_name_of_its_own_and_strikes_that_can_be_written() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.name for case in CASES} >= SHORT
    strikes = [strike for case in CASES for act in case.acts for strike in act.strikes]
    assert [Strike.read(str(strike)) for strike in strikes] == strikes
    with pytest.raises(ValueError, match="is no strike"):
        Strike.read("engine-kill")


def test_no_disk_is_filled_but_a_runs_own(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no disk of the run's own"):
        fill(tmp_path / "run")
    assert not [*tmp_path.iterdir()]


def test_the_end_of_a_process_is_looked_at() -> None:
    """Its exit code, the one line that it has to say, and what it leaves behind."""
    good = Ended(1, "it 1/4\nk15: /run: No space left on device\n", ())
    assert [*complaints(Act(code=1), good)] == []
    assert [*complaints(Act(code=1, says="No space"), good)] == []
    assert [*complaints(Act(code=0), good)] == ["exit code 1 instead of 0"]
    assert [*complaints(Act(code=1, says="no disk"), good)] == ["it does not say 'no disk'"]
    traced = Ended(1, "Traceback (most recent call last):\nOSError: No space left on device\n", ())
    assert [*complaints(Act(code=1), traced)] == ["it ends with 0 lines of k15's instead of one"]
    assert [*complaints(Act(code=1), Ended(1, good.output, ("raylet",)))] == ["process raylet is left behind"]
