"""From sources as they are to numbered rows: what is no problem is there too, with the reason."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from processes import until, until_gone

from recipes.curate.config import ReadConfig, SourceConfig
from recipes.curate.reading import (
    Ids,
    Reader,
    check_sources,
    hub_source,
    names_of,
    numbered,
    own_response,
    pieces,
    raw_rows,
)
from recipes.curate.rows import Rows
from recipes.curate.spread import WorkerLost, here
from rollout.problems.source import ProblemError
from rollout.types import Problem

GOOD = {"id": "good", "problem": "How many legs have three cats?", "answer": "12"}


def lines(path: Path, rows: Iterable[Mapping[str, Any] | str | bytes]) -> SourceConfig:
    data = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path.write_bytes(b"\n".join(data) + b"\n")
    return SourceConfig(path=str(path))


def table_of(sources: Sequence[SourceConfig], config: ReadConfig | None = None, size: int = 3) -> pa.Table:
    reader, ids = Reader(tuple(sources), config or ReadConfig()), Ids(names_of(sources))
    tables: list[pa.Table] = []
    for piece in pieces(sources, None, size):
        tables.append(numbered(reader(piece), sum(table.num_rows for table in tables), ids))
    return pa.concat_tables(tables)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"problem": "cut', "unreadable"),
        ("[1, 2]", "unreadable"),
        (b'{"problem": "\xff", "answer": "1"}', "unreadable"),
        ({"problem": "What is 1 + 1?"}, "no problem or answer"),
        ({"problem": "What is 1 + 1?", "answer": " "}, "no problem or answer"),
        ({"answer": "2"}, "no problem or answer"),
        ('{"problem": "What is 0 / 0?", "answer": NaN}', "no problem or answer"),
        ({"problem": "What is 1 + 1?", "answer": ["2"]}, "no problem or answer"),
        ({**GOOD, "defect": "wrong gold"}, "marked as a defect"),
        ({**GOOD, "problem": "How many? " * 2000}, "too long"),
        (f'{{"problem": "How many?", "answer": "1", "x": {"[" * 900 + "]" * 900}}}', "unreadable"),
        (f'{{"messages": {"[" * 900 + "]" * 900}, "answer": "1"}}', "unreadable"),
        ({**GOOD, "problem": "Itâ€™s five oâ€™clock; which hour is it?"}, "broken encoding"),
        ({**GOOD, "problem": "Which \ufffd is it?"}, "broken encoding"),
        (
            {**GOOD, "answer": "Because the sum of two odd numbers is always even, the claim follows at once from it."},
            "answer is prose",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 25 and "{" not in value else None,
)
def test_each_row_that_is_no_problem_says_why(tmp_path: Path, row: Any, reason: str) -> None:
    table = table_of([lines(tmp_path / "a.jsonl", [GOOD, row, {**GOOD, "id": "after"}])])
    assert table.column("reason").to_pylist() == ["", reason, ""]
    assert table.column("number").to_pylist() == [0, 1, 2]
    assert table.column("place").to_pylist()[1].endswith("a.jsonl:2")


def test_a_reference_that_its_own_grader_cannot_judge_is_left_out(tmp_path: Path) -> None:
    odd = {**GOOD, "id": "odd", "answer": r"\frac{1}{"}
    table = table_of([lines(tmp_path / "a.jsonl", [GOOD, odd])])
    assert table.column("reason").to_pylist()[0] == ""
    assert table.column("reason").to_pylist()[1].startswith("answer")
    kept = table_of([lines(tmp_path / "a.jsonl", [GOOD, odd])], ReadConfig(check_answers=False))
    assert kept.column("reason").to_pylist() == ["", ""]


def test_a_rationale_is_no_reference_of_the_verifier_math_but_one_of_gsm8k(tmp_path: Path) -> None:
    row = {**GOOD, "answer": "Each cat has four legs, and three times four is <<3*4=12>>12 legs.\n#### 12"}
    source = lines(tmp_path / "a.jsonl", [row])
    assert table_of([source]).column("reason").to_pylist() == ["answer is prose"]
    read = table_of([source.model_copy(update={"verifier": "gsm8k"})])
    assert read.column("reason").to_pylist() == [""]
    assert read.column("answer").to_pylist() == ["12"]  # what others' answers are compared with
    assert json.loads(read.column("row")[0].as_py())["answer"] == row["answer"]


def test_text_is_brought_into_one_form(tmp_path: Path) -> None:
    row = {**GOOD, "problem": "  Cafe\u0301:\r\nhow\u00a0many\u200b cups?\ufeff ", "answer": " 3\n"}
    table = table_of([lines(tmp_path / "a.jsonl", [row])])
    assert table.column("statement").to_pylist() == ["Caf\u00e9:\nhow many cups?"]
    assert table.column("answer").to_pylist() == ["3"]
    assert json.loads(table.column("row")[0].as_py())["problem"] == "Caf\u00e9:\nhow many cups?"


def test_ids_are_unique_over_all_sources(tmp_path: Path) -> None:
    first = lines(tmp_path / "a.jsonl", [GOOD, {**GOOD, "problem": "Another one: how many?"}])
    second = lines(tmp_path / "b.jsonl", [GOOD, {key: GOOD[key] for key in ("problem", "answer")}])
    ids = table_of([first, second], size=1).column("id").to_pylist()
    assert ids == ["good", "a/good", "b/good", "b-2"]


def test_ids_are_unique_whatever_they_are(tmp_path: Path) -> None:
    hostile = ["x", "a/x", "a/x#4", "a/x#4#", "x"]
    ids = table_of([lines(tmp_path / "a.jsonl", [{**GOOD, "id": one} for one in hostile])]).column("id").to_pylist()
    assert ids[:4] == hostile[:4]
    assert len(set(ids)) == 5


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("gsm8k/train.jsonl", "math/train.jsonl", "aime.jsonl"), ("gsm8k/train", "math/train", "aime")),
        (("train.jsonl", "/b/train.parquet"), ("train", "b/train")),
        (
            ("hub:org/sums:train", "hub:org/sums:test", "hub:org/other"),
            ("org/sums:train", "org/sums:test", "org/other"),
        ),
        (("hub:org/sums:main:train", "hub:org/sums:hard:train"), ("org/sums:main:train", "org/sums:hard:train")),
        (("a.jsonl", "a.jsonl"), ("a[0]", "a[1]")),
    ],
    ids=["folders", "root", "splits", "configurations", "filters"],
)
def test_no_two_sources_have_one_name(paths: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert names_of([SourceConfig(path=path) for path in paths]) == names


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("hub:org/sums", (None, "train")),
        ("hub:org/sums:test", (None, "test")),
        ("hub:org/sums:main:test", ("main", "test")),
    ],
    ids=["name", "split", "configuration"],
)
def test_a_data_set_of_the_hub_has_a_configuration(path: str, parts: tuple[str | None, str]) -> None:
    found = hub_source(path)
    assert (found.path, found.name, found.split) == ("org/sums", *parts)


@pytest.mark.parametrize("path", ["hub:", "hub:org/sums:", "hub:org/sums::test", "hub:org/sums:a:b:c"])
def test_a_data_set_with_another_name_is_refused(path: str) -> None:
    with pytest.raises(ProblemError, match="expected hub:NAME"):
        hub_source(path)


def test_the_configuration_that_is_named_is_read(tmp_path: Path) -> None:
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("main", "hard")]
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    for name in ("main", "hard"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**GOOD, "id": name}) + "\n")
    rows = list(raw_rows(SourceConfig(path=f"hub:{tmp_path}:hard:train"), 0, None))
    assert [one.content["id"] for one in rows if isinstance(one.content, Mapping)] == ["hard"]


def test_a_field_called_statement_is_not_the_statement(tmp_path: Path) -> None:
    table = table_of([lines(tmp_path / "a.jsonl", [{**GOOD, "statement": "of another kind"}])])
    assert table.column("statement").to_pylist() == [GOOD["problem"]]


def test_a_conversation_is_all_that_is_said(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Take 7."), ("assistant", "Taken."), ("user", "Now double it.")]
    messages = [{"role": role, "content": said} for role, said in turns]
    table = table_of([lines(tmp_path / "a.jsonl", [{"messages": messages, "answer": "14"}])])
    assert table.column("reason").to_pylist() == [""]
    assert table.column("statement").to_pylist() == ["Take 7.\n\nTaken.\n\nNow double it."]


@pytest.mark.parametrize(
    "value", ["1" + "0" * 400, "1e999", "NaN", '"' + "9" * 400 + '"'], ids=["int", "infinite", "nan", "text"]
)
def test_a_difficulty_that_no_float_holds_is_none(value: str, tmp_path: Path) -> None:
    row = f'{{"problem": "How many?", "answer": "1", "difficulty": {value}, "grade": 3}}'
    assert table_of([lines(tmp_path / "a.jsonl", [row])]).column("difficulty").to_pylist() == [3.0]


def test_columns_and_where(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "solution": "4", "kind": kind} for kind in ("easy", "hard")]
    source = lines(tmp_path / "a.jsonl", rows)
    mapped = {"columns": {"problem": "question", "answer": "solution"}, "where": {"kind": "hard"}}
    table = table_of([source.model_copy(update=mapped)])
    assert table.column("reason").to_pylist() == ["not chosen by where", ""]
    assert table.column("statement").to_pylist()[1] == "How many?"


def test_parquet_gives_the_rows_that_json_lines_give(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "id": "b", "answer": "7"}]
    plain = table_of([lines(tmp_path / "a.jsonl", rows)])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    other = table_of([SourceConfig(path=str(tmp_path / "a.parquet"))])
    assert other.drop_columns(["place"]).equals(plain.drop_columns(["place"]))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**50], pa.timestamp("ms")),
        pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers()),
    ],
    ids=["date", "utf-8"],
)
def test_parquet_that_python_cannot_hold_is_one_error(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({**{key: [value] for key, value in GOOD.items()}, "odd": column}), tmp_path / "a.parquet")
    with pytest.raises(ProblemError, match=r"a\.parquet: not a readable Parquet file"):
        table_of([SourceConfig(path=str(tmp_path / "a.parquet"))])


def test_a_source_without_answers_is_refused_with_its_columns(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "final": "4"}] * 3
    source = lines(tmp_path / "bare.jsonl", rows)
    with pytest.raises(ProblemError, match=r"bare\.jsonl: none of its 3 rows .*question, final.*--columns"):
        check_sources(iter([table_of([source])]), [source])


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"question": "How many?", "answer": "4"}, "--columns '{problem: question}'"),
        (
            {"question": "How many?", "answer": "2 and 2 make 4.\n#### 4"},
            "--columns '{problem: question}' --verifier gsm8k",
        ),
        (
            {"problem": "How many?", "answer": "It is so that 2 of them and 2 more of them make 4. #### 4"},
            "--verifier gsm8k",
        ),
        ({"prompt": [{"role": "user", "content": "How many?"}], "answer": "4"}, "--columns '{messages: prompt}'"),
        ({"instruction": "How many?", "output": 4}, "--columns '{problem: instruction, answer: output}'"),
    ],
)
def test_a_source_of_another_form_is_refused_with_the_options_that_read_it(
    row: Mapping[str, Any], options: str, tmp_path: Path
) -> None:
    rows = [row, {**row, "id": "other"}]
    source = lines(tmp_path / "theirs.jsonl", rows)
    with pytest.raises(ProblemError, match=rf"none of its 2 rows .*2 of them: .*try {re.escape(options)}$"):
        check_sources(iter([table_of([source])]), [source])
    given = dict(zip(*[iter(shlex.split(options))] * 2, strict=True))
    mended = SourceConfig(
        path=source.path,
        columns=yaml.safe_load(given.get("--columns", "{}")),
        verifier=given.get("--verifier", "math"),
    )
    assert table_of([mended]).column("reason").to_pylist() == ["", ""]


def test_reasons_are_counted_whatever_their_details(tmp_path: Path) -> None:
    rows = [
        {"problem": "How many?", "answer": f"This is such a long text that it is no answer at all, number {n}."}
        for n in range(3)
    ]
    source = lines(tmp_path / "prose.jsonl", [*rows, "{", "{"])
    with pytest.raises(ProblemError, match=r"none of its 5 rows .* 3 of them: answer is prose: .* 0\."):
        check_sources(iter([table_of([source])]), [source])


def test_a_filter_that_chooses_nothing_is_named(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [GOOD]).model_copy(update={"where": {"level": 9}})
    with pytest.raises(ProblemError, match=r"not chosen by where.*mend the source's where"):
        check_sources(iter([table_of([source])]), [source])


def test_what_a_source_says_is_told_without_its_terminal_escapes(tmp_path: Path) -> None:
    source = lines(tmp_path / "bad.jsonl", [{**GOOD, "defect": "\x1b[2Jgone", "\x1b[31mred": 1}])
    with pytest.raises(ProblemError, match="gone") as raised:
        check_sources(iter([table_of([source])]), [source])
    assert str(raised.value).isprintable()


def test_an_empty_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for name, told in (("empty", "no row"), ("missing", "no problem file")):
        with pytest.raises(ProblemError, match=told):
            list(pieces([SourceConfig(path=str(tmp_path / f"{name}.jsonl"))], None, 5))


def test_code_is_checked_by_its_reference_solution() -> None:
    code = Problem.ask("c", "Print.", "print(input())", "code")
    assert own_response(code) == "```python\nprint(input())\n```"
    assert own_response(Problem.ask("c", "Print.", "<graded by tests>", "code")) is None


def test_rows_come_back_by_number(tmp_path: Path) -> None:
    import recipes.curate.rows as module

    rows = Rows(tmp_path / "rows")
    source = lines(tmp_path / "a.jsonl", [{**GOOD, "id": str(i), "problem": f"How many? {i}"} for i in range(7)])
    table = table_of([source])
    size, module.SHARD = module.SHARD, 3
    try:
        for shard in range(3):
            rows.write(shard, table.slice(3 * shard, 3))
        assert (rows.shards, rows.count) == (3, 7)
        import numpy as np

        assert rows.texts(np.array([0, 4, 6])).to_pylist() == ["How many? 0", "How many? 4", "How many? 6"]
        assert [row["id"] for row in rows.some([5, 1, 5], ["id"]).values()] == ["1", "5"]
        assert rows.column("number").to_pylist() == list(range(7))
    finally:
        module.SHARD = size


def _squared(number: int) -> int:
    if number == 13:
        raise ValueError("thirteen")
    return number * number


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_is_killed_is_told_in_one_line() -> None:
    with pytest.raises(WorkerLost, match="--workers"):
        list(here(2)(_die, iter(range(10))))


def test_workers_end_with_who_gave_the_work_however_that_ends(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, time
from recipes.curate.spread import here

def noted(piece):
    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(0.1)

if __name__ == "__main__":
    list(here(2)(noted, range(10**6)))
"""
    script = tmp_path / "giver.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    giver = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": str(root)})
    try:
        until(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2, "two workers at work")
    finally:
        giver.kill()
        giver.wait()
    until_gone([int(path.name) for path in tmp_path.glob("[0-9]*")])


@pytest.mark.parametrize("workers", [1, 2])
def test_work_is_spread_in_order_and_its_errors_come_through(workers: int) -> None:
    assert list(here(workers)(_squared, iter(range(11)))) == [n * n for n in range(11)]
    with pytest.raises(ValueError, match="thirteen"):
        list(here(workers)(_squared, iter(range(20))))
