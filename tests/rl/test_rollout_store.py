"""rl.record.rollout_store: what was sampled is what is stored, for us and for datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import group, rollout
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import HOSTILE, decode, graded, make_advantages, make_group, score_group

from rewards.score import Score
from rl.record.rollout_store import (
    SCHEMA,
    StoreError,
    drop_rollouts_from,
    read_rollouts,
    rollout_files,
    segment_texts,
    to_table,
    write_rollouts,
)
from rollout.types import Prompt, Rollout, Segment, StopReason


def test_rows_come_back(tmp_path: Path) -> None:
    scored = [score_group(make_group(3, j, np.random.default_rng(j), 0.5)) for j in range(4)]
    advantages = make_advantages(scored)
    path = write_rollouts(tmp_path, 3, to_table(3, scored, advantages, 0.2, graded))
    assert path.name == "000003.parquet"
    assert list(path.parent.iterdir()) == [path]  # nothing left aside
    rows = read_rollouts(path).to_pylist()
    flat = [(item, j, r) for item in scored for j, r in enumerate(item.group.rollouts)]
    assert len(rows) == 16
    for row, (item, j, r) in zip(rows, flat, strict=True):
        assert row["rollout"] == r.id
        assert row["token_ids"] == r.token_ids.tolist()
        assert row["logprobs"] == pytest.approx(r.logprobs, rel=1e-6)
        assert row["response"] == "".join(row["segment_texts"]) == decode(r.token_ids)
        assert (
            row["opening"] + row["response"] == graded(r.prompt.token_ids, r.token_ids) == "<think>" + row["response"]
        )
        assert row["segment_lengths"] == [len(s) for s in r.segments]
        assert row["segment_versions"] == [s.version for s in r.segments]
        assert row["stop"] == r.stop
        assert row["score"] == (r.score.reward if r.score else None)
        assert row["correct"] == (r.correct if r.score and r.score.gradable else None)
        assert row["reward"] == item.rewards[j]
        assert row["length_reward"] == pytest.approx(0.2 * item.length_rewards[j])
        assert row["advantage"] == advantages.get(r.id)
        assert row["trained"] == (r.id in advantages)


def test_ungradable_is_null_never_zero(tmp_path: Path) -> None:
    aborted = Rollout("0.0/1", Prompt((1,)), (), StopReason.ABORTED, Score.ungradable("aborted"))
    scored = score_group(group("0.0", [rollout("0.0/0", score=Score.ungradable("timed out")), aborted]))
    first, second = to_table(0, [scored], {}, 0.2, lambda _, ids: str(ids) if len(ids) else "").to_pylist()
    assert first["correct"] is first["score"] is first["reward"] is first["advantage"] is None
    assert first["reason"] == "timed out"
    assert (second["response"], second["token_ids"], second["segment_texts"]) == ("", [], [])


def test_hostile_text_and_lone_surrogates_can_be_stored(tmp_path: Path) -> None:
    scored = score_group(group("0.0", [rollout("0.0/0", score=Score.wrong(HOSTILE, HOSTILE))]))
    path = write_rollouts(tmp_path, 0, to_table(0, [scored], {}, 0.0, lambda _, ids: HOSTILE if len(ids) else ""))
    assert read_rollouts(path, ["response"]).to_pylist() == [{"response": HOSTILE.replace("\ud800", "?")}]


def test_datasets_reads_all_iterations_with_one_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    for i in range(3):
        scored = [score_group(make_group(i, 0, np.random.default_rng(i), 1.0))] if i else []  # an empty iteration
        write_rollouts(tmp_path, i, to_table(i, scored, {}, 0.2, graded))
    files = [str(path) for path in rollout_files(tmp_path)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["iteration"][:] == [1] * 4 + [2] * 4
    assert set(loaded.column_names) == set(SCHEMA.names)
    assert loaded[0]["score_parts"][0].keys() == {"name", "value"}


def test_broken_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000000.parquet"
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(StoreError, match=r"000000\.parquet: not a readable Parquet file"):
        read_rollouts(path)
    pq.write_table(pa.table({"iteration": [1]}), path)
    with pytest.raises(StoreError, match="format None, this k15 reads b'1'"):
        read_rollouts(path)


def test_unwritable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollouts").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        write_rollouts(tmp_path, 0, to_table(0, [], {}, 0.0, graded))


def test_a_resumed_run_drops_later_files(tmp_path: Path) -> None:
    for i in range(5):
        write_rollouts(tmp_path, i, to_table(i, [], {}, 0.0, graded))
    begun = tmp_path / "rollouts" / ".000003.parquet.4711.tmp"
    begun.write_bytes(b"PAR1")
    assert drop_rollouts_from(tmp_path, 3) == 2
    assert not begun.exists(), "whoever wrote it was killed"
    assert [path.stem for path in rollout_files(tmp_path)] == ["000000", "000001", "000002"]


@given(st.text(max_size=40).filter(lambda t: "\ufffd" not in t), st.data())
def test_segment_texts_join_to_the_response_at_any_byte_boundary(text: str, data: st.DataObject) -> None:
    """A byte-level tokenizer: boundaries may fall inside a character."""
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=4)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    segments = tuple(Segment(i, tuple(piece), (0.0,) * len(piece)) for i, piece in enumerate(pieces) if piece)
    texts = segment_texts(
        Rollout("r", Prompt((1,)), segments), lambda _, ids: "<think>" + bytes(ids.tolist()).decode("utf-8", "replace")
    )
    assert len(texts) == len(segments)
    assert "".join(texts) == text
