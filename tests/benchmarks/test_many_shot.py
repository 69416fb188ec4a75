"""Many shots: rows read once for all ways, as the benchmark does, and each way drawn by ``k15 eval``, agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from eval_kit import CHARACTERS
from tiny_models import tiny_llama

from benchmarks import many_shot
from benchmarks.many_shot import FRAMINGS, Model, answers, compared, run
from benchmarks.nbce_cost import line_of
from evals.benchmarks import get
from recipes.commands.cli import main
from rollout.models.tokenizer import build_tokenizer

LABELS = get("agnews").labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a token for each label, and news."""
    path = tmp_path_factory.mktemp("many")
    tokenizer = build_tokenizer([*CHARACTERS, *LABELS], 1024)
    model = tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=1024)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    for name, count in (("agnews_test", 8), ("agnews_dev", 40)):
        rows = [{"id": f"{name}{i}", "problem": f"{name[-3:]} {i * 37}", "answer": LABELS[i % 4]} for i in range(count)]
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_way_is_what_k15_eval_draws(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_shot, "WINDOWS", (1, 2, 3))
    monkeypatch.setattr(many_shot, "SHOTS", 4)
    framing = next(one for one in FRAMINGS if one.name == "turns")
    right = run(Model(str(folder / "model"), "float32"), framing, folder, [1], 8, tmp_path)
    shared = ["eval", "agnews", "--model", str(folder / "model"), "--engine", "hf", "--data", str(folder)]
    shared += ["--shots-seed", "1", "--shots", "12", "--dtype", "float32"]
    found: dict[str, np.ndarray] = {}
    for pooling, more in (("entropy", ["--beside", "truncated,parallel,vote"]), ("mean", []), ("exact", [])):
        out = tmp_path / pooling
        assert main([*shared, "--nbce", "3", "--pooling", pooling, *more, "--out", str(out)]) == 0
        for row in pq.read_table(out / "samples.parquet").to_pylist():
            way = row["benchmark"].partition(" ")[2] or pooling
            found[way] = np.append(found.get(way, []), row["verdict"] == "correct")
    assert main([*shared, "--out", str(tmp_path / "whole")]) == 0
    rows = pq.read_table(tmp_path / "whole" / "samples.parquet").to_pylist()
    found["whole"] = np.array([row["verdict"] == "correct" for row in rows])
    assert set(found) == set(many_shot.WAYS)
    for way, mine in found.items():
        assert right[way, 3][0].tolist() == mine.astype(bool).tolist(), way
    lines = compared(right)
    assert len(lines) == 3 * len(many_shot.WAYS)
    many_shot.plot(lines, tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size > 5000


def test_a_vote_goes_by_windows_and_then_by_the_surest() -> None:
    def said(*rows: tuple[float, float]) -> dict[str, np.ndarray]:
        return {"none": np.zeros((1, 2)), **{f"window {k}": np.log([row]) for k, row in enumerate(rows, 1)}}

    assert answers(said((0.9, 0.1), (0.4, 0.6), (0.4, 0.6)), "vote", 3).tolist() == [1]
    assert answers(said((0.9, 0.1), (0.4, 0.6)), "vote", 2).tolist() == [0]


def test_the_line_through_costs() -> None:
    assert line_of([1, 2, 4], [3, 5, 9]) == pytest.approx({"a_window_adds_s": 2, "without_s": 1, "r2": 1})
    assert line_of([1, 2, 3], [1, 3, 2])["r2"] == pytest.approx(0.25)
