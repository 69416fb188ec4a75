"""Runs ``moba_triton_cases.py`` under Triton's interpreter, which a process must ask for before it imports Triton."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import TESTS

CASES = TESTS / "moba_triton_cases.py"
ROOT = CASES.parent.parent


@pytest.mark.slow
def test_triton_kernels_under_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=CASES.parent.parent
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
