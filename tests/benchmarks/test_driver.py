"""Token data are arrays (invariant 12): what the driver does for a response does not depend on its length."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import driver

PIECES = 8
"""Pieces of progress of each response, however long it is."""


def calls(length: int, folder: Path) -> int:
    """Calls of Python and C functions, in all threads, while eight responses go from the engine to the batch."""
    counts = {"n": 0}

    def count(_frame: Any, event: str, _arg: Any) -> None:
        if event in ("call", "c_call"):
            counts["n"] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        row = driver.one(8, length, length // PIECES, folder)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert row["tokens"] == 8 * length
    if length > 1000:  # a row of the journal takes some 80 bytes besides
        assert max(row["bytes_per_token"], row["journal_bytes"]) < 12
    return counts["n"]


def test_no_work_of_python_grows_with_the_length(tmp_path: Path) -> None:
    calls(64, tmp_path / "warm")  # what is imported late is imported
    short, long = calls(512, tmp_path / "short"), calls(8192, tmp_path / "long")
    assert long < 1.1 * short


def test_the_benchmark_prints_its_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["driver", "--only", "8x256"])
    driver.main()
    assert '"us_per_token"' in capsys.readouterr().out
    assert driver.text_us(1000) > 0
