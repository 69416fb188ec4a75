"""Problems from a user's own code: every form, checked like files, with errors that name file and line."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from run_kit import tiny

from recipes.run.demonstrations import demonstrations
from recipes.run.setup import prepare
from rl.config import RunConfig
from rollout.problems.build import build_source
from rollout.problems.config import PythonSource
from rollout.problems.fit import Limits, Screen
from rollout.problems.source import ProblemError, ProblemList, Procedural, check_disjoint
from rollout.problems.user import KEPT, MOST, Stream
from rollout.types import Problem, Prompt

ROWS = "[{'problem': f'What is {i}+1?', 'answer': i + 1, 'level': i} for i in range(5)]"


def config(folder: Path, text: str, **more: Any) -> PythonSource:
    file = folder / "mine.py"
    file.write_text(text)
    return PythonSource(path=f"{file}:source", verifier="exact", **more)


def refusal(source: PythonSource) -> str:
    with pytest.raises(ProblemError) as caught:
        build_source(source, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"source = {ROWS}",
        f"def source():\n    return {ROWS}",
        f"def source():\n    yield from {ROWS}",
        f"def source():\n    return ({{**row, 'id': None}} for row in {ROWS})",
        "import json\nclass source:\n    def __iter__(self):\n"
        f"        return iter({ROWS})\n    def __len__(self):\n        return 5",
    ],
)
def test_rows_of_every_iterable_are_read_like_a_files(text: str, tmp_path: Path) -> None:
    source = build_source(config(tmp_path, text), "train")
    assert isinstance(source, ProblemList)
    assert source[1] == Problem.ask("source-train-1", "What is 1+1?", "2", "exact", "source", 1.0, {"level": 1})
    assert source.size == 5
    assert source.place(1) == f"{tmp_path}/mine.py:source, problem 2 (train)"


def test_problems_come_as_they_are_and_the_split_is_passed_on(tmp_path: Path) -> None:
    text = (
        "from rollout.types import Problem\n"
        "def source(split):\n"
        "    return [Problem.ask(f'{split}{i}', f'{split} {i}?', str(i), 'arithmetic', 'mine', 2) for i in range(3)]\n"
    )
    train, heldout = (build_source(config(tmp_path, text), split) for split in ("train", "heldout"))
    assert train[2] == Problem.ask("train2", "train 2?", "2", "arithmetic", "mine", 2.0)
    assert heldout[0].prompt == "heldout 0?"
    check_disjoint(train, heldout)


def test_a_list_is_checked_like_a_file(tmp_path: Path) -> None:
    twice = config(tmp_path, "source = [{'id': 'a', 'problem': 'x', 'answer': '1'}] * 2")
    assert "the id 'a' occurs twice" in refusal(twice)
    assert "no problems are left" in refusal(config(tmp_path, "source = []"))
    same = config(tmp_path, f"source = {ROWS}")
    with pytest.raises(ProblemError, match="5 of 5 held-out problems"):
        check_disjoint(build_source(same, "train"), build_source(same, "heldout"))


def test_the_content_of_a_list_is_its_fingerprint(tmp_path: Path) -> None:
    first = build_source(config(tmp_path, f"source = {ROWS}"), "train").fingerprint
    assert build_source(config(tmp_path, f"# a comment\nsource = {ROWS}"), "train").fingerprint == first
    assert build_source(config(tmp_path, f"source = {ROWS}[1:]"), "train").fingerprint != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def source():\n    return 1 / 0", ":2: ZeroDivisionError: division by zero (while source made its train"),
        ("def source():\n    yield {'problem': 'x', 'answer': 1}\n    raise KeyError('x')", ":3: KeyError: 'x' (while"),
        ("def source(a):\n    return []", "missing 1 required positional argument"),
        ("source = 3", ":source: gave int; a problem source returns an iterable of dicts"),
        ("source = 'text'", ":source: gave str;"),
        ("source = {'problem': 'x', 'answer': '1'}", ":source: gave dict;"),
        ("source = [3]", ":source, problem 1 (train): is int, neither a Problem nor a dict"),
        ("source = [{'problem': 'x', 'answer': '1'}, {'problem': 'y'}]", ", problem 2 (train): no answer"),
        (
            "from rollout.types import Problem\nsource = [Problem.ask('a', 'x', '1', 'maths')]",
            ", problem 1 (train): unknown verifier 'maths'; did you mean 'math'?",
        ),
        ("sauce = []", "mine.py: has no 'source'; did you mean 'sauce'?"),
        ("source = [", "mine.py:1: SyntaxError: "),
    ],
)
def test_mistakes_name_file_and_line_or_problem(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(config(tmp_path, text))


COUNTING = (
    "def source():\n    i = 0\n    while True:\n        yield {'problem': f'{i}?', 'answer': i}\n        i += 1\n"
)


def test_an_iterable_that_never_ends_has_to_say_so(tmp_path: Path) -> None:
    assert f"goes on after {MOST} problems; if it never ends say so with stream: true" in refusal(
        config(tmp_path, COUNTING)
    )


def test_a_stream_is_drawn_by_number_however_far_back(tmp_path: Path) -> None:
    source = build_source(config(tmp_path, COUNTING, stream=True), "train")
    assert isinstance(source, Stream)
    assert source.size is None
    assert [source[i].prompt for i in (5, 0, KEPT + 10, 3, KEPT + 11)] == [
        f"{i}?" for i in (5, 0, KEPT + 10, 3, KEPT + 11)
    ]
    assert source.fingerprint == build_source(config(tmp_path, COUNTING, stream=True), "train").fingerprint
    assert source.fingerprint != build_source(config(tmp_path, COUNTING + "\n", stream=True), "train").fingerprint


def test_a_stream_that_could_not_be_resumed_is_refused(tmp_path: Path) -> None:
    text = "import random\ndef source():\n    while True:\n        yield {'problem': str(random.random()), 'answer': 1}"
    assert "its problems differ when it is begun twice" in refusal(config(tmp_path, text, stream=True))
    assert "ended after 0 problems" in refusal(config(tmp_path, "source = []", stream=True))


def test_a_streams_problems_that_are_held_out_are_left_out_as_they_come(tmp_path: Path) -> None:
    source = build_source(config(tmp_path, COUNTING, stream=True), "train")
    screen = Screen(source, lambda _: Prompt((1,)), Limits(8, 1, 8, "m"), True, held_out=frozenset({"1?", "3?"}))
    assert [index for index in range(5) if screen.fits(index)] == [0, 2, 4]


TASK = """
from dataclasses import dataclass
from rollout.types import Problem

@dataclass(frozen=True)
class Doubling:
    alphabet = (*"0123456789", "Double ", "Answer: ", "</think>", "<think>")

    def problem(self, index, split):
        n = 2 * index + (split == "heldout")
        if n == 202:
            raise RuntimeError("no more")
        return Problem.ask(f"d{n}", f"Double {n}", str(2 * n), "arithmetic", "doubling")

    def demonstration(self, problem, rng):
        return f"<think></think>Answer: {problem.answer}"

def source():
    return Doubling()
"""


def with_task(folder: Path) -> RunConfig:
    task = config(folder, TASK).model_dump()
    return tiny(problems={"train": task, "heldout": task, "heldout_size": 4})


def test_a_task_of_ones_own_trains_a_model_from_scratch(tmp_path: Path) -> None:
    """Its alphabet is the vocabulary, its demonstrations are the warm-up."""
    setup = prepare(with_task(tmp_path))
    assert isinstance(setup.train, Procedural)
    assert [problem.prompt for problem in setup.heldout] == ["Double 1", "Double 3", "Double 5", "Double 7"]
    (pairs,), notes = demonstrations(setup)
    assert (len(pairs), notes) == (24, [])
    assert setup.tokenizer.decode(pairs[3][1]).startswith("<think></think>Answer: 12")
    assert setup.train.generator.demonstration(setup.train[1], Random(0)).endswith("4")
    assert setup.fingerprint == prepare(with_task(tmp_path)).fingerprint
    with pytest.raises(ProblemError, match=r"mine.py:12: RuntimeError: no more"):
        setup.train[101]


def test_what_a_run_is_judged_on_is_not_drawn_from_a_task_either(tmp_path: Path) -> None:
    """Nothing makes the splits of a user's task disjoint but the user."""
    task = config(tmp_path, TASK.replace('+ (split == "heldout")', ""))
    both = tiny(problems={"train": task.model_dump(), "heldout": task.model_dump(), "heldout_size": 4})
    setup = prepare(both)
    assert [index for index in range(6) if setup.screen.fits(index)] == [4, 5]


SOURCE = """
from rollout.types import Problem

class source:
    size, fingerprint = SIZE, "abc"

    def __getitem__(self, index):
        return [Problem.ask("a", "A?", "1", "exact"), Problem.ask("b", "B?", "2", "exact"), 7][index]

    def place(self, index):
        return f"mine {index}"
"""


def test_a_whole_source_of_ones_own(tmp_path: Path) -> None:
    stream = build_source(config(tmp_path, SOURCE.replace("SIZE", "None")), "train")
    assert (stream.size, stream.fingerprint, stream.place(1), stream[0].prompt) == (None, "abc", "mine 1", "A?")
    with pytest.raises(ProblemError, match=r"problem 3 \(train\): is int, not a Problem"):
        stream[2]
    with pytest.raises(ProblemError, match=r"mine.py:8: IndexError: list index out of range \(while source made"):
        stream[3]


def test_one_that_ends_is_checked_like_a_file(tmp_path: Path) -> None:
    source = build_source(config(tmp_path, SOURCE.replace("SIZE", "2")), "train")
    assert isinstance(source, ProblemList)
    assert (source.size, source.place(1)) == (2, "mine 1")
    assert "problem 3 (train): is int, not a Problem" in refusal(config(tmp_path, SOURCE.replace("SIZE", "3")))
    assert "the id 'b' occurs twice" in refusal(
        config(tmp_path, SOURCE.replace("SIZE", "3").replace(", 7]", ', Problem.ask("b", "C?", "1", "exact")]'))
    )
