"""Problems from files and data sets: what is read, what is refused, and that both splits stay apart."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import os
from dataclasses import fields
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from rollout.problems.build import build_source
from rollout.problems.config import ArithmeticSource, CountdownSource, HubSource, JsonlSource
from rollout.problems.countdown import Countdown
from rollout.problems.hub import load_hub
from rollout.problems.jsonl import load_jsonl, read_rows
from rollout.problems.rows import difficulty_of
from rollout.problems.source import ProblemError, ProblemList, Procedural, check_disjoint
from rollout.types import Problem


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "problem": f"What is {number}+1?", "answer": str(number + 1), "source": "sums", **more}


def write(path: Path, *rows: dict[str, Any] | str) -> JsonlSource:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    path.write_text("\n".join(lines) + "\n")
    return JsonlSource(path=str(path))


def test_a_row_becomes_a_problem(tmp_path: Path) -> None:
    source = load_jsonl(write(tmp_path / "f.jsonl", row(1, level=3, unit="cm"), "", row(2)))
    assert source[0] == Problem.ask("p1", "What is 1+1?", "2", "math", "sums", 3.0, {"level": 3, "unit": "cm"})
    assert [problem.id for problem in source] == ["p1", "p2"]
    assert source.size == len(source) == 2


def test_a_pass_rate_is_read_and_stays_with_the_other_fields(tmp_path: Path) -> None:
    rates: list[Any] = [0, 0.3, 1, None]
    source = load_jsonl(write(tmp_path / "f.jsonl", *(row(i, pass_rate=rate) for i, rate in enumerate(rates)), row(9)))
    assert [problem.pass_rate for problem in source] == [0.0, 0.3, 1.0, None, None]
    assert source[1].extra == {"pass_rate": 0.3}
    without = load_jsonl(write(tmp_path / "g.jsonl", *(row(i) for i in (0, 1, 2, 3, 9))))
    assert source.fingerprint == without.fingerprint  # a run goes on when its problems were rated meanwhile


@pytest.mark.parametrize("rate", [1.5, -0.1, True, "0.5", [0.5]])
def test_a_pass_rate_that_is_none_is_refused(tmp_path: Path, rate: object) -> None:
    with pytest.raises(ProblemError, match=r"f.jsonl:1: pass_rate is .*, not a number from 0 to 1"):
        load_jsonl(write(tmp_path / "f.jsonl", row(1, pass_rate=rate)))
    with pytest.raises(ValueError, match=r"'pass_rate' is 1\.5"):
        Problem.ask("p", "q", pass_rate=1.5)


def test_id_and_source_default_to_place_and_file(tmp_path: Path) -> None:
    config = write(tmp_path / "sums.jsonl", "", '{"problem": "1+1?", "answer": 2}')
    assert load_jsonl(config)[0] == Problem.ask("sums-2", "1+1?", "2", "math", "sums")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "a", "problem": "x"', "not valid JSON: Expecting ',' delimiter (column"),
        ("[1, 2]", "expected an object, found list; each line has to be one JSON object"),
        ("id,problem,answer", "not valid JSON: Expecting value (column 1); each line has to be one JSON object"),
        ('{"problem": "x", "answer": ""}', "no answer"),
        ('{"problem": "x"}', "no answer"),
        ('{"problem": "x", "answer": null}', "no answer"),
        ('{"problem": "x", "answer": "  "}', "answer is blank"),
        ('{"problem": "", "answer": "1"}', "no problem"),
        ('{"problem": "x", "answer": ["1"]}', "answer is list, not text"),
        ('{"problem": "x", "answer": true}', "answer is bool, not text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named_by_file_line_and_reason(line: str, reason: str, tmp_path: Path) -> None:
    config = write(tmp_path / "f.jsonl", row(1), line)
    with pytest.raises(ProblemError) as caught:
        load_jsonl(config)
    assert str(caught.value).startswith(f"{config.path}:2: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(b"{}\n"), "compressed by gzip; unpack it"),
        (bz2.compress(b"{}\n"), "compressed by bzip2; unpack it"),
        (lzma.compress(b"{}\n"), "compressed by xz; unpack it"),
        (b"PAR1....PAR1", "Parquet, under a name that does not end in .parquet; rename it"),
        (
            b'[\n {"problem": "1 + 1?"}\n]\n',
            "one JSON array; write each of its objects on a line (jq -c '.[]' f.jsonl)",
        ),
        (b'[{"problem": "1 + 1?"}]', "one JSON array; write each of its objects on a line (jq -c '.[]' f.jsonl)"),
        ("{}\n".encode("utf-16"), "UTF-16; write it as UTF-8"),
    ],
    ids=["gzip", "bzip2", "xz", "parquet", "array", "flat array", "utf-16"],  # gzip writes the time
)
def test_a_file_of_another_form_is_told_by_its_first_bytes(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(data)
    with pytest.raises(ProblemError) as caught:
        load_jsonl(JsonlSource(path=str(tmp_path / "f.jsonl")))
    assert str(caught.value) == f"{tmp_path / 'f.jsonl'}: not JSON Lines, but {reason}"


def test_a_table_of_text_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("problem,answer\n1 + 1?,2\n")
    with pytest.raises(ProblemError, match=r"f\.csv: not JSON Lines, but a table of text; write it as Parquet"):
        load_jsonl(JsonlSource(path=str(tmp_path / "f.csv")))


def test_lines_of_a_pipe_are_read_from_the_first_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=lambda: (tmp_path / "pipe").write_text('{"a": 1}\n{"a": 2}\n'))
    writer.start()
    assert [found for _, found in read_rows(tmp_path / "pipe")] == [{"a": 1}, {"a": 2}]
    writer.join()


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(json.dumps(row(1)).encode() + b'\n{"problem": "\xff"}\n')
    with pytest.raises(ProblemError, match=r"f\.jsonl:2: not UTF-8 text"):
        load_jsonl(JsonlSource(path=str(tmp_path / "f.jsonl")))


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"the id 'p1' occurs twice"):
        load_jsonl(write(tmp_path / "f.jsonl", row(1), row(2), row(1)))


@pytest.mark.parametrize("rows", [[], [row(1, defect="wrong gold")]])
def test_an_empty_data_set_is_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="no problems are left"):
        load_jsonl(write(tmp_path / "f.jsonl", *rows))


def test_rows_with_a_defect_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write(
        tmp_path / "f.jsonl", row(1), row(2, defect="wrong gold"), row(3, defect="garbled"), row(4, defect=None)
    )
    with caplog.at_level(logging.INFO):
        assert [problem.id for problem in load_jsonl(config)] == ["p1", "p4"]
    assert "left out 2 rows marked as defect" in caplog.text


def test_filters_then_skip_then_limit(tmp_path: Path) -> None:
    rows = [row(i, single=i % 2 == 0) for i in range(10)] + [row(10, single=True) | {"problem": "long " * 20}]
    write(tmp_path / "f.jsonl", *rows)
    config = JsonlSource(path=str(tmp_path / "f.jsonl"), where={"single": True}, max_prompt_chars=50, skip=1, limit=3)
    assert [problem.id for problem in load_jsonl(config)] == ["p2", "p4", "p6"]
    all_of_them = config.model_copy(update={"skip": 0, "limit": None})
    assert len(load_jsonl(all_of_them)) == 5
    some = JsonlSource.model_validate({"path": str(tmp_path / "f.jsonl"), "where": {"id": ["p3", "p8"]}})
    assert [problem.id for problem in load_jsonl(some)] == ["p3", "p8"]


def test_shuffled_splits_of_a_file_are_apart_and_whole(tmp_path: Path) -> None:
    write(tmp_path / "f.jsonl", *[row(i) for i in range(20)])
    everything = JsonlSource(path=str(tmp_path / "f.jsonl"), shuffle=1)
    first, rest = (everything.model_copy(update=part) for part in ({"limit": 8}, {"skip": 8}))
    ids = [problem.id for problem in load_jsonl(everything)]
    assert sorted(ids) == sorted(f"p{i}" for i in range(20))
    assert ids != [f"p{i}" for i in range(20)]
    assert [p.id for p in load_jsonl(first)] + [p.id for p in load_jsonl(rest)] == ids
    assert ids != [p.id for p in load_jsonl(everything.model_copy(update={"shuffle": 2}))]


def test_files_are_looked_up_in_k15_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    write(here / "f.jsonl", row(1))
    monkeypatch.chdir(here)
    monkeypatch.delenv("K15_DATA", raising=False)
    config = JsonlSource(path="f.jsonl")
    assert load_jsonl(config)[0].id == "p1"
    monkeypatch.setenv("K15_DATA", str(data))
    assert load_jsonl(config)[0].id == "p1"
    write(data / "f.jsonl", row(2))
    assert load_jsonl(config)[0].id == "p2"


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("K15_DATA", "/no/such/folder")
    with pytest.raises(ProblemError) as caught:
        load_jsonl(JsonlSource(path="f.jsonl"))
    assert str(caught.value) == f"no problem file 'f.jsonl' in /no/such/folder and {tmp_path}"
    monkeypatch.delenv("K15_DATA")
    with pytest.raises(ProblemError, match=r"\$K15_DATA may name the folder"):
        load_jsonl(JsonlSource(path="f.jsonl"))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="cannot be read: Is a directory"):
        load_jsonl(JsonlSource(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("fields", "difficulty"),
    [
        ({"level": 3}, 3.0),
        ({"level": "Level 4"}, 4.0),
        ({"difficulty": 2.5, "level": 1}, 2.5),
        ({"difficulty": "hard"}, 3.0),
        ({"grade": "2"}, 2.0),
        ({"difficulty": "unheard of", "level": 2}, 2.0),
        ({"level": True}, None),
        ({}, None),
    ],
)
def test_difficulty(fields: dict[str, Any], difficulty: float | None) -> None:
    assert difficulty_of(fields) == difficulty


def test_shared_problems_between_training_and_held_out_are_refused(tmp_path: Path) -> None:
    train = load_jsonl(write(tmp_path / "train.jsonl", row(1), row(2)))
    same = load_jsonl(write(tmp_path / "held.jsonl", row(3), row(2) | {"id": "other", "problem": " what is  2+1? "}))
    apart = load_jsonl(write(tmp_path / "apart.jsonl", row(3)))
    check_disjoint(train, apart)
    with pytest.raises(ProblemError, match=r"1 of 2 held-out problems .* \(first: 'other'\)"):
        check_disjoint(train, same)


def test_the_fingerprint_follows_what_is_asked_and_expected(tmp_path: Path) -> None:
    one = load_jsonl(write(tmp_path / "a.jsonl", row(1), row(2)))
    assert load_jsonl(write(tmp_path / "b.jsonl", row(1), row(2))).fingerprint == one.fingerprint
    changed = [[row(2), row(1)], [row(1), row(2, answer="9")], [row(1)]]
    for number, rows in enumerate(changed):
        assert load_jsonl(write(tmp_path / f"c{number}.jsonl", *rows)).fingerprint != one.fingerprint


def test_procedural_sources_are_unlimited_and_split() -> None:
    train, heldout = (build_source(ArithmeticSource(steps=(2, 3)), split) for split in ("train", "heldout"))
    assert isinstance(train, Procedural)
    assert train.size is None
    assert train[5] == train[5]
    assert not {train[i].prompt for i in range(300)} & {heldout[i].prompt for i in range(300)}
    assert train.fingerprint != heldout.fingerprint
    assert train.fingerprint != build_source(ArithmeticSource(steps=(2, 3), seed=1), "train").fingerprint
    check_disjoint(train, heldout)


def test_values_that_a_generator_refuses_are_named() -> None:
    with pytest.raises(ProblemError, match="arithmetic problems: steps must satisfy"):
        build_source(ArithmeticSource(steps=(5, 2)), "train")


def test_countdown_keys_are_the_fields_of_its_generator() -> None:
    assert build_source(CountdownSource(), "train")[0].verifier == "countdown"
    assert len(build_source(CountdownSource(numbers=(5, 5)), "train")[0].prompt.split("\n")[0].split()) == 6
    with pytest.raises(ProblemError, match=r"countdown problems: tries must be at least the most numbers \(5\)"):
        build_source(CountdownSource(numbers=(5, 5), tries=4), "train")
    assert CountdownSource().model_dump(exclude={"kind"}) == {f.name: f.default for f in fields(Countdown)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with the columns of GSM8K, as ``datasets`` writes it to disk and as Parquet files."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("hub")
    data = Dataset.from_list(
        [{"question": f"{i}+1?", "answer": f"so\n#### {i + 1}", "level": i % 5 + 1} for i in range(6)]
    )
    DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(folder / "disk")
    data.save_to_disk(folder / "single")
    (folder / "parquet").mkdir()
    data.to_parquet(folder / "parquet" / "train-00000.parquet")
    return folder


@pytest.mark.parametrize("form", ["disk", "single", "parquet"])
def test_a_data_set_with_a_column_mapping(form: str, saved: Path) -> None:
    config = HubSource(
        path=str(saved / form),
        columns={"problem": "question", "answer": "answer", "difficulty": "level"},
        verifier="gsm8k",
        limit=3,
    )
    source = build_source(config, "train")
    assert isinstance(source, ProblemList)
    assert len(source) == 3
    assert source[1] == Problem.ask(f"{form}-train-1", "1+1?", "so\n#### 2", "gsm8k", form, 2.0, {"difficulty": 2})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"columns": {"problem": "questoin", "answer": "answer"}}, "no column 'questoin'; did you mean 'question'?"),
        ({"columns": {"problem": "question"}}, "columns must map 'answer' to one of: question, answer, level"),
        ({"split": "validation"}, "has no split 'validation'; it has: train, test"),
    ],
)
def test_mistakes_about_a_data_set_are_one_line(change: dict[str, Any], reason: str, saved: Path) -> None:
    config = HubSource(path=str(saved / "disk"), columns={"problem": "question", "answer": "answer"})
    with pytest.raises(ProblemError) as caught:
        load_hub(config.model_copy(update=change))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_set_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"data set '.*nothing' \(split train\) cannot be loaded") as caught:
        load_hub(HubSource(path=str(tmp_path / "nothing")))
    assert "\n" not in str(caught.value)


def test_an_answerless_row_of_a_data_set_is_named(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"problem": "x", "answer": "1"}, {"problem": "y", "answer": None}]).save_to_disk(tmp_path / "d")
    with pytest.raises(ProblemError, match="row 1: no answer"):
        load_hub(HubSource(path=str(tmp_path / "d")))
