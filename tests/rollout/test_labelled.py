"""Responses with verdicts from files, runs and evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.reward_models.labelled import LONGEST, LabelledError, by_the_rule, read, read_labelled

ROW = {"question": "1 + 1?", "reference": "2", "response": "2", "label": "right"}


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("given", "label"),
    [
        *((value, "right") for value in (True, 1, 1.0, "1", "1.0", "correct", "Right", "TRUE")),
        *((value, "wrong") for value in (False, 0, 0.0, "0", " 0.00", "wrong", "incorrect", "False")),
        ("-1.0", "-1"),
        ("1.5", "1.5"),
        *((value, "") for value in (None, "", " ")),
        ("slip", "slip"),
    ],
)
def test_verdicts_in_all_their_words(tmp_path: Path, given: object, label: str) -> None:
    (row,) = read_labelled(lines(tmp_path / "few.jsonl", [{**ROW, "label": given}]))
    assert row.label == label


def test_other_names_of_columns(tmp_path: Path) -> None:
    given = {"id": "a", "problem": "1 + 1?", "answer": 2, "prediction": "3", "expected": False}
    (row,) = read_labelled(lines(tmp_path / "few.jsonl", [given]))
    assert (row.id, row.question, row.reference, row.response, row.label) == ("a", "1 + 1?", "2", "3", "wrong")
    assert row.place.endswith("few.jsonl:1")


def test_zero_and_one_are_classes_beside_other_numbers(tmp_path: Path) -> None:
    rows = read_labelled(lines(tmp_path / "few.jsonl", [{**ROW, "label": number} for number in (0, 1, 2)]))
    assert [row.label for row in rows] == ["0", "1", "2"]


def test_a_parquet_file_says_the_same_as_lines(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "label": "wrong", "response": "3\x00"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "few.parquet")
    one, other = read_labelled(tmp_path / "few.parquet"), read_labelled(lines(tmp_path / "few.jsonl", rows))
    assert [(row.id, row.response, row.label) for row in one] == [(row.id, row.response, row.label) for row in other]


def test_a_parquet_file_of_somebody_elses_types(tmp_path: Path) -> None:
    given = {
        "question": pa.array(["1 + 1?", "1 + 2?", "1 + 3?"]).dictionary_encode(),
        "reference": pa.array([Decimal("2.50"), Decimal("3.00"), None]),
        "response": pa.array(["2", "3", "5"], pa.large_string()),
        "label": pa.array([Decimal(1), Decimal(0), None]),
        "meta": pa.array([{"a": [1]}, None, None]),
    }
    pq.write_table(pa.table(given), tmp_path / "theirs.parquet")
    rows = read_labelled(tmp_path / "theirs.parquet")
    assert [(row.question, row.reference, row.label) for row in rows] == [
        ("1 + 1?", "2.50", "right"),
        ("1 + 2?", "3.00", "wrong"),
        ("1 + 3?", "", ""),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_as_other_systems_write_them(tmp_path: Path, end: str) -> None:
    (tmp_path / "theirs.jsonl").write_bytes(b"\xef\xbb\xbf" + (json.dumps(ROW) + end).encode() * 2)
    assert [row.label for row in read_labelled(tmp_path / "theirs.jsonl")] == ["right"] * 2


def test_all_columns_of_a_parquet_file_are_named_where_one_is_missing(tmp_path: Path) -> None:
    names = {"question": "no question, problem or prompt", "response": "no response or prediction"}
    for name, message in names.items():
        rows = [{**{key: value for key, value in ROW.items() if key != name}, "theirs": "x"}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "theirs.parquet")
        with pytest.raises(LabelledError, match=rf"theirs.parquet: {message}; there is: .*, label, theirs"):
            read_labelled(tmp_path / "theirs.parquet")


def test_rollouts_of_a_run_as_their_grader_saw_them(tmp_path: Path) -> None:
    row = {"problem": "an id", "prompt": "1 + 1?", "answer": "2"}
    row |= {"stop": "eos", "opening": "<think>", "last_turn": None}
    rows = [
        {**row, "rollout": "a/0", "response": "</think>2", "correct": True},
        {**row, "rollout": "a/1", "response": "tool, </think>3", "last_turn": "</think>3", "correct": False},
        {**row, "rollout": "a/2", "response": "2", "correct": None},
        {**row, "rollout": "a/3", "response": "and so", "correct": False, "stop": "length"},
    ]
    (tmp_path / "rollouts").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rollouts" / "000000.parquet")
    reading = read(tmp_path)
    assert [(one.id, one.response, one.label) for one in reading.rows] == [
        ("a/0", "<think></think>2", "right"),
        ("a/1", "<think></think>3", "wrong"),
    ]
    assert {one.question for one in reading.rows} == {"1 + 1?"}
    assert reading.note == "1 ungradable, 1 cut off"


def test_samples_of_an_evaluation(tmp_path: Path) -> None:
    row = {"benchmark": "b", "problem": "p", "question": "1 + 1?", "answer": "2", "response": "2", "stop": None}
    verdicts = ("correct", "wrong", "ungradable")
    rows = [{**row, "sample": number, "verdict": verdict} for number, verdict in enumerate(verdicts)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "samples.parquet")
    reading = read(tmp_path)
    assert [(one.id, one.label) for one in reading.rows] == [("b/p/0", "right"), ("b/p/1", "wrong")]
    assert reading.left_out == {"ungradable": 1}


def test_ids_are_unique(tmp_path: Path) -> None:
    rows = read_labelled(lines(tmp_path / "few.jsonl", [{**ROW, "id": name} for name in ("a", "a", "a#2", "a")]))
    assert len({row.id for row in rows}) == 4
    assert rows[0].id == "a"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"response": None}, "response is null; fill it in, leave the row out, or give it .defect"),
        ({"question": " "}, "question is blank"),
        ({"question": None, "problem": None}, "question is null"),
        ({"response": ["2"]}, "response is list, not text: give it as one text"),
        ({"question": [{"role": "user", "content": "1 + 1?"}]}, "question is list, not text"),
        ({"response": "x\ud800"}, r"response has a lone surrogate \(U\+D800, character 2\)"),
        ({"reference": "x" * (LONGEST + 1)}, "reference has 1048577 characters"),
        ({"label": float("nan")}, "the label is nan: give true or false"),
        ({"label": 0.5}, "the label is 0.5"),
        ({"label": {"right": 1}}, "the label is dict"),
    ],
)
def test_every_row_is_checked(tmp_path: Path, changed: Mapping[str, Any], message: str) -> None:
    rows = [dict(ROW) for _ in range(1000)]
    rows[899] = {**ROW, **changed}
    with pytest.raises(LabelledError, match=rf"few.jsonl:900: {message}"):
        read_labelled(lines(tmp_path / "few.jsonl", rows))


def test_a_reward_models_verdict_is_no_label(tmp_path: Path) -> None:
    """A model that is compared with its own verdicts would always be right."""
    rows = [
        {**ROW, "label": None, "verdict": "correct", "rule": "wrong", "model": 0.9},
        {**ROW, "label": None, "verdict": "correct", "rule": None, "model": 0.9},
        {**ROW, "label": None, "verdict": "wrong", "rule": "wrong", "model": None},
        {**ROW, "label": "right", "model": "the one that answered"},
    ]
    file = lines(tmp_path / "graded.jsonl", rows)
    reading = read(file)
    assert [row.label for row in reading.rows] == ["wrong", "wrong", "right"]
    assert reading.note == "1 judged by a reward model alone"
    assert len(read(file, labels=False).rows) == 4


def test_a_label_by_hand_is_a_label_whoever_judged_before(tmp_path: Path) -> None:
    parts = [{"name": "rule", "value": 0.0}, {"name": "model", "value": 0.9}]
    rows = [
        {**ROW, "label": "right", "verdict": "wrong", "rule": "wrong", "model": 0.9},
        {**ROW, "label": "right", "rollout": "0/1", "correct": None, "score_parts": parts},
        {**ROW, "label": "right", "rollout": "0/2"},
    ]
    reading = read(lines(tmp_path / "by_hand.jsonl", rows))
    assert [row.label for row in reading.rows] == ["right"] * 3


def test_columns_of_somebody_elses_with_our_names_do_no_harm(tmp_path: Path) -> None:
    odd = [
        {"stop": ["\n"]},
        {"score_parts": 3},
        {"score_parts": "ab"},
        {"score_parts": [1, {}]},
        {"rule": [], "model": {}},
    ]
    reading = read(lines(tmp_path / "theirs.jsonl", [{**ROW, "label": None, "correct": True, **one} for one in odd]))
    assert [row.label for row in reading.rows] == ["right"] * 5


def test_the_rollouts_of_a_run_have_the_rules_verdicts() -> None:
    def judged(**parts: float) -> Mapping[str, Any]:
        return by_the_rule({"correct": True, "score_parts": [{"name": n, "value": v} for n, v in parts.items()]})

    assert judged(rule=0.0, model=0.9, agrees=0.0)["correct"] == 0.0
    assert judged(model=0.9)["correct"] is None
    assert judged(rule=1.0)["correct"] is True, "no model was asked"
    assert judged(form=2.0)["correct"] is True


def test_what_holds_no_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="holds no responses that can be used; name"):
        read_labelled(lines(tmp_path / "few.jsonl", []))
    with pytest.raises(LabelledError, match=r"left out: 1 marked as defect"):
        read_labelled(lines(tmp_path / "few.jsonl", [{**ROW, "defect": True}]))
    with pytest.raises(LabelledError, match="neither a run"):
        read_labelled(tmp_path)
    with pytest.raises(LabelledError, match="no such file"):
        read_labelled(tmp_path / "none")
    (tmp_path / "few.parquet").write_bytes(b"no")
    with pytest.raises(LabelledError, match="not a readable Parquet file"):
        read_labelled(tmp_path / "few.parquet")
    (tmp_path / "few.jsonl").write_text('{"question": ' + "1" * 5000 + "}")
    with pytest.raises(LabelledError, match=r"few.jsonl:1: .*digits"):
        read_labelled(tmp_path / "few.jsonl")
