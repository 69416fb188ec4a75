"""The table of the long2short benchmark. Its runs are no tests."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import shortening
from benchmarks.shortening import points, table


def variant(name: str, accuracy: float, tokens: float, change: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "name": name,
        "accuracy": {"mean": accuracy},
        "tokens": {"mean": tokens},
        "change": change and {"accuracy": change[0], "tokens": change[1]},
    }


def test_the_table_spreads_each_variant_over_the_runs() -> None:
    found = []
    for run, accuracy in (("default-t1-s0", 0.7), ("avx2-t1-s0", 0.8), ("avx2-t1-s1", 0.9)):
        long = variant("long", accuracy, 140.0, None)
        found += points(run, {"variants": [long, variant("rl", accuracy - 0.01, 70.0, (-0.01, -0.5))]})
    lines = table(found).splitlines()
    assert "0.700 / 0.800 / 0.900" in lines[1]
    assert lines[2].startswith("long2short RL")
    assert "-1.0 / -1.0 / -1.0" in lines[2]
    assert "-50% / -50% / -50%" in lines[2]
    assert len(lines) == 3


def test_runs_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(shortening, "RUNS", tmp_path)
    assert shortening.main(["--seeds", "3", "--capabilities", "default"]) == 1
    assert "default-t1-s3" in "".join(capsys.readouterr())
