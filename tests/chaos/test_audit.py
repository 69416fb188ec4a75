"""The audit finds whatever is lost, trained twice or miscounted: a good run is forged in each way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.run.session import run
from rl.record.rollout_store import SCHEMA
from rl.state import checkpoint
from rl.state.journal import Journal
from rollout.serial import read_groups, write_groups
from tests.chaos.audit import Extent, audit, batches, unbroken
from tests.chaos.ledger import read_ledger, read_record, take
from tests.chaos.sameness import differences
from tests.run_kit import tiny

ITERATIONS, K = 4, 2
Row = dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a ledger of all that it has drawn: no journal was dropped."""
    folder = tmp_path_factory.mktemp("chaos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "drop_before", lambda *_: None)
        assert run(tiny(iterations=ITERATIONS, checkpoint={"every": 1, "keep": 100}), folder / "run") == 0
    take(folder / "run", folder / "ledger", "the end")
    return folder


@pytest.fixture
def forged(good: Path, tmp_path: Path) -> Path:
    """A copy to be forged."""
    shutil.copytree(good / "run", tmp_path / "run")
    return tmp_path / "run"


def found(root: Path, good: Path) -> list[str]:
    return audit(read_record(root), [read_ledger(good / "ledger")], Extent(ITERATIONS, K))


def test_of_a_good_run_nothing_is_said(good: Path) -> None:
    ledger = read_ledger(good / "ledger")
    assert sorted(ledger.journals) == [0, 1, 2, 3]
    assert sum(map(len, ledger.tokens().values())) > 100
    assert found(good / "run", good) == []
    assert [*differences(good / "run", good / "run", "bits")] == []


def stored(root: Path) -> dict[int, list[Row]]:
    return {int(path.stem): pq.read_table(path).to_pylist() for path in sorted(root.glob("rollouts/*.parquet"))}


def store(root: Path, files: dict[int, list[Row]]) -> None:
    for iteration, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "rollouts" / f"{iteration:06d}.parquet")


def changed(change: Callable[[Row], None]) -> Callable[[Path], None]:
    """Change the longest stored rollout."""

    def forge(root: Path) -> None:
        files = stored(root)
        change(max((row for rows in files.values() for row in rows), key=lambda row: len(row["token_ids"])))
        store(root, files)

    return forge


def lose_last_token(row: Row) -> None:
    for name in ("token_ids", "logprobs"):
        row[name].pop()
    row["segment_lengths"][-1] -= 1
    row["length"] -= 1


def lose_a_token_in_the_middle(row: Row) -> None:
    for name in ("token_ids", "logprobs"):
        del row[name][4]
    row["segment_lengths"][0] -= 1
    row["length"] -= 1


def repeat_a_token(row: Row) -> None:
    for name in ("token_ids", "logprobs"):
        row[name].insert(4, row[name][4])
    row["segment_lengths"][0] += 1
    row["length"] += 1


def another_token(row: Row) -> None:
    row["token_ids"][3] += 1


def another_logprob(row: Row) -> None:
    row["logprobs"][3] -= 1e-3


def another_version(row: Row) -> None:
    row["segment_versions"] = [version + 1 for version in row["segment_versions"]]


def of_the_future(row: Row) -> None:
    row["segment_versions"][-1] = row["iteration"] + 1


def backwards(row: Row) -> None:
    row["segment_versions"].reverse()


def lose_a_logprob(row: Row) -> None:
    row["logprobs"].pop()


def lose_a_rollout(root: Path) -> None:
    files = stored(root)
    next(rows for rows in files.values() if rows).pop()
    store(root, files)


def lose_a_file(root: Path) -> None:
    next(root.glob("rollouts/*.parquet")).unlink()


def train_twice(root: Path) -> None:
    """A rollout of one iteration is in the next one, too."""
    files = stored(root)
    iteration, rows = next((iteration, rows) for iteration, rows in files.items() if rows)
    files[iteration + 1].append(rows[0] | {"iteration": iteration + 1})
    store(root, files)


def split_a_group(root: Path) -> None:
    files = stored(root)
    iteration, rows = next((iteration, rows) for iteration, rows in files.items() if rows)
    files[iteration + 1].append(rows.pop() | {"iteration": iteration + 1})
    store(root, files)


def go_on_with_what_was_trained(root: Path) -> None:
    """The newest checkpoint has a group that an older one was still drawing, and that was trained since."""
    folders = checkpoint.available(root / "checkpoints")
    trained = {row["group"] for rows in stored(root).values() for row in rows}
    again = [group for path in folders for group in read_groups(path / "unfinished.arrow") if group.id in trained]
    write_groups(folders[-1] / "unfinished.arrow", again)
    checkpoint._write_manifest(folders[-1], {})


def forget_the_unfinished(root: Path) -> None:
    newest = checkpoint.available(root / "checkpoints")[-1]
    write_groups(newest / "unfinished.arrow", ())
    checkpoint._write_manifest(newest, {})


def metrics(change: Callable[[list[Row]], object]) -> Callable[[Path], None]:
    def forge(root: Path) -> None:
        rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
        change(rows)
        (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return forge


def summary(key: str) -> Callable[[Path], None]:
    def forge(root: Path) -> None:
        path = root / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: 1}))

    return forge


def damage_a_checkpoint(root: Path) -> None:
    path = checkpoint.available(root / "checkpoints")[-1] / "learner" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


FORGERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "last token lost": (changed(lose_last_token), "tokens that"),
    "token lost": (changed(lose_a_token_in_the_middle), "are there as they were"),
    "token twice": (changed(repeat_a_token), "are there as they were"),
    "another token": (changed(another_token), "only 3 are there as they were"),
    "another log-prob": (changed(another_logprob), "only 3 are there as they were"),
    "another version": (changed(another_version), "only 0 are there as they were"),
    "version of the future": (changed(of_the_future), "tokens of version"),
    "versions backwards": (changed(backwards), "has the versions"),
    "log-prob lost": (changed(lose_a_logprob), "log-probs"),
    "rollout lost": (lose_a_rollout, "is gone"),
    "file lost": (lose_a_file, "rollouts/ has the iterations"),
    "trained twice": (train_twice, "was trained on 2 times"),
    "group split": (split_a_group, "in several iterations"),
    "goes on though trained": (go_on_with_what_was_trained, "was trained on, and is going on"),
    "unfinished lost": (forget_the_unfinished, "is gone"),
    "row skipped": (metrics(lambda rows: rows.pop(1)), "metrics.jsonl has the iterations [0, 2, 3]"),
    "row twice": (metrics(lambda rows: rows.insert(1, rows[1])), "metrics.jsonl has the iterations [0, 1, 1, 2, 3]"),
    "row out of order": (metrics(lambda rows: rows.reverse()), "metrics.jsonl has the iterations [3, 2, 1, 0]"),
    "row miscounts": (metrics(lambda rows: rows[2].update({"rollouts/finished": 99})), "says that 99 rollouts"),
    "summary miscounts rollouts": (summary("rollouts"), "1 rollouts, there are"),
    "summary miscounts tokens": (summary("tokens_generated"), "1 tokens_generated, there are"),
    "summary miscounts iterations": (summary("iterations"), "1 iterations, there are 4"),
    "no summary": (lambda root: (root / "summary.json").unlink(), "summary.json is missing"),
    "no report": (lambda root: (root / "report.html").unlink(), "report.html: missing"),
    "no model": (lambda root: (root / "model" / "model.safetensors").unlink(), "model.safetensors: missing"),
    "checkpoint damaged": (damage_a_checkpoint, "does not match its checksum"),
    "checkpoint half written": (lambda root: (root / "checkpoints/.000009.tmp").mkdir(), "left behind"),
}


@pytest.mark.parametrize(("forge", "complaint"), FORGERIES.values(), ids=FORGERIES.keys())
def test_every_forgery_is_found(forge: Callable[[Path], object], complaint: str, forged: Path, good: Path) -> None:
    forge(forged)
    assert any(complaint in line for line in found(forged, good)), found(forged, good)


@pytest.mark.parametrize("name", ["another token", "rollout lost", "row miscounts", "summary miscounts tokens"])
def test_another_run_is_not_the_same(name: str, forged: Path, good: Path) -> None:
    FORGERIES[name][0](forged)
    assert [*differences(good / "run", forged, "bits")]
    assert [*differences(good / "run", forged, "rounding")]


def test_rounding_is_told_from_another_run(forged: Path, good: Path) -> None:
    def shift(row: Row) -> None:
        row["logprobs"] = [value + 1e-5 for value in row["logprobs"]]

    changed(shift)(forged)
    assert [*differences(good / "run", forged, "rounding")] == []
    assert [*differences(good / "run", forged, "bits")]


def test_batches_that_are_empty_or_too_many_are_found(good: Path) -> None:
    """Where the loop samples ahead; this run did not, and has iterations that finished none."""
    record = read_record(good / "run")
    assert [*batches(record, Extent(ITERATIONS, K))] == []
    assert "iteration 0 trained on no group" in batches(record, Extent(ITERATIONS, K, groups=3))
    assert "3 groups were trained on, of at most 0" in batches(record, Extent(ITERATIONS, K, groups=0))


def test_tokens_that_a_ledger_has_from_the_middle_on_are_found() -> None:
    now = [(0, 5, -1.0), (0, 6, -1.0), (1, 5, -1.0), (1, 7, -1.0)]
    assert unbroken(now[1:3], now) == 2
    assert unbroken([now[0], now[2]], now) == 1
    assert unbroken([(2, 5, -1.0)], now) == 0
    assert unbroken(now, []) == 0
