"""The benchmark of the optimiser's share of a step: what it times is a step, and part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.muon_share import build, measure
from rl.learner.config import ScratchModel

TINY = ScratchModel(layers=1, width=32, heads=2, kv_heads=2, mlp_width=48, context=64)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_optimisers_time_is_part_of_the_steps(kind: str, tmp_path: Path) -> None:
    learner = build(tmp_path / "model", TINY, 1, kind, "auto")
    before = learner.optimizer.step
    whole, part = measure(learner, 128, 64, 2, "wall")
    assert 0 < part < whole
    assert learner.optimizer.step == before
    assert (learner.optimizer.muon is not None) == (kind == "muon")
    assert learner.optimizer.steps == 3
