"""Every hostile case, as the user that runs the tests and, where that is root, as an ordinary user too."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rewards.code.sandbox import Sandbox
from tests.hostile.__main__ import CASES
from tests.hostile.case import Case
from tests.paths import ROOT
from tests.sandbox_kit import sandbox

__all__ = ["sandbox"]
USER = 60099
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(sandbox: Sandbox, case: Case) -> None:
    outcome = sandbox.run(case.job())
    assert case.check(outcome, sandbox.describe()), outcome


def _old(python: str) -> bool:
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    return not os.path.exists(python) or subprocess.run([python, "-c", code], check=False).returncode != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(_old(SYSTEM_PYTHON), reason="an ordinary user needs a Python outside of root's home")
def test_all_cases_as_an_ordinary_user(tmp_path: Path) -> None:
    """In a user namespace, without control groups: the same verdicts."""
    for folder in ("rewards", "tests/hostile"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
        SYSTEM_PYTHON,
        "-m",
        "tests.hostile",
        "--slots=3",
    ]
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/") and str(folder) != "/tmp":
            folder.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{len(CASES)} of {len(CASES)} as they must" in done.stdout
    assert "cgroup none, user namespaces" in done.stdout
