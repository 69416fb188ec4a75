"""The guess filter: what counts as a guess, what is left out, and what is said of a filter that tells nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from curate_kit import Model, problems, right

from evals.evaluate import Answer, Response
from recipes.curate.config import GuessConfig
from recipes.curate.guess import Guess, GuessOutcome, filter_guesses, guess_of, guessed, said
from rewards.score import Score
from rollout.grading import Answered
from rollout.types import Problem, StopReason

CONFIG = GuessConfig(attempts=4, max_tokens=20)
PREFIX = CONFIG.prefix


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "tiny"


@pytest.mark.parametrize(
    ("verifier", "text", "stop", "answer"),
    [
        ("math", r"\boxed{7}. Since 3 + 4", StopReason.LENGTH, r"\boxed{7}"),
        ("math", r"\boxed{\frac{1}{2}} or", StopReason.LENGTH, r"\boxed{\frac{1}{2}}"),
        ("math", r"\boxed{\frac{1}{2", StopReason.LENGTH, ""),
        ("math", r"\boxed{12", StopReason.LENGTH, ""),
        ("math", r"\boxed{7", StopReason.EOS, r"\boxed{7}"),
        ("math", r"\boxed{\frac{1", StopReason.EOS, ""),
        ("math", r"\boxed{7}, not \boxed{8}", StopReason.EOS, r"\boxed{7}"),
        ("gsm8k", "#### 7\nBecause 3", StopReason.LENGTH, "#### 7"),
        ("gsm8k", "The answer is 7", StopReason.LENGTH, ""),
        ("gsm8k", "The answer is 7", StopReason.EOS, "The answer is 7"),
        ("exact", "Paris\nIt is the", StopReason.LENGTH, "Paris"),
        ("exact", "</think>\n\nParis\nIt is", StopReason.LENGTH, "Paris"),
        ("exact", "Par", StopReason.LENGTH, ""),
        ("math", r"\boxed{7}", StopReason.ABORTED, ""),
    ],
)
def test_what_an_attempt_says(verifier: str, text: str, stop: StopReason, answer: str) -> None:
    assert said(Answered(Problem.ask("p", "q", "7", verifier), text, stop)) == answer


def test_a_right_guess_counts_though_it_was_cut_at_the_cap(folder: Path, tmp_path: Path) -> None:
    def says(problem: str, sample: int) -> str:
        number = int(problem[1:])
        texts = {
            0: "1} because+",  # right, and cut
            1: "5} because+",  # wrong, and cut
            2: "33333333333333333333333+",  # no end of it
            3: "4",  # right, without its brace
            4: "!",
            5: "6}" if sample == 3 else "!",  # right once, else failures
            6: "7} is \\boxed{0}",  # right first
        }
        return texts[number]

    model = Model(folder, says)
    with model.asker() as asker:
        found = filter_guesses(asker, problems(7), CONFIG, tmp_path)
    fates = [(guess.fate, guess.attempts, guess.right, guess.ungradable, guess.unfinished) for guess in found.guesses]
    assert fates == [
        ("guessed", 4, 4, 0, 0),
        ("kept", 4, 0, 0, 0),
        ("kept", 4, 0, 0, 4),
        ("guessed", 4, 4, 0, 0),
        ("kept", 0, 0, 4, 0),
        ("guessed", 1, 1, 3, 0),
        ("guessed", 4, 4, 0, 0),
    ]
    assert [guess.detail for guess in found.guesses] == ["1", "", "", "4", "aborted", "6", "7"]
    assert (found.asked, found.guessed) == (6, 4)
    assert found.warning == ""
    tokenizer = asker.model.tokenizer
    assert tokenizer.decode(model.requests[0].prompt.token_ids).endswith(
        "Give the final answer at once, without any reasoning.<assistant>The final answer is \\boxed{"
    )
    assert {request.max_new_tokens for request in model.requests} == {20}
    assert {request.sampling.temperature for request in model.requests} == {1.0}


def test_the_filter_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    model = Model(folder, lambda *_: "1}")
    with model.asker() as asker:
        first = filter_guesses(asker, problems(3), CONFIG, tmp_path)
    with model.asker() as asker:
        assert filter_guesses(asker, problems(3), CONFIG, tmp_path) == first
    assert len(model.requests) == 12


def test_answers_that_cannot_be_guessed_are_not_asked_for(folder: Path, tmp_path: Path) -> None:
    tests = {"tests": [{"input": "1", "output": "2"}], "testtype": "stdin"}
    mixed = [
        *problems(1),
        Problem.ask("code", "Write a program.", "-", "code", extra=tests),
        Problem.ask("free", "Write a poem."),
        Problem.ask("city", "Capital of France?", "Paris", "exact"),
    ]
    model = Model(folder, lambda problem, _: "Paris\nThat is+" if problem == "city" else "0}")
    with model.asker() as asker:
        found = filter_guesses(asker, mixed, CONFIG, tmp_path)
    assert [guess.fate for guess in found.guesses] == ["kept", "not asked", "not asked", "guessed"]
    assert [guess.dropped for guess in found.guesses] == [False, False, False, True]
    assert found.note == (
        "1 problems were not asked for guesses: answers of the verifier 'code' cannot be guessed; "
        "1 problems were not asked for guesses: no verifier"
    )
    assert not asker.model.tokenizer.decode(model.requests[-1].prompt.token_ids).endswith("{")


def test_a_prompt_that_does_not_fit_is_a_fate(folder: Path, tmp_path: Path) -> None:
    long = Problem.ask("long", "What? " * 100, "1", "math")
    with Model(folder, lambda *_: "0}").asker() as asker:
        found = filter_guesses(asker, [long, *problems(1)], CONFIG, tmp_path)
    assert [guess.fate for guess in found.guesses] == ["unfitting", "kept"]
    assert found.guesses[0].dropped
    assert "the context of 512 leaves" in found.guesses[0].detail


@pytest.mark.parametrize(
    ("guesses", "told"),
    [
        ([Guess("a", "guessed", 4, 1), Guess("b", "guessed", 4, 4)], "all 2 problems were guessed"),
        ([Guess("a", "kept", 4, 0, unfinished=3)], "3 of 4 guesses were cut before they said an answer"),
        ([Guess("a", "kept", 0, ungradable=4, detail="died")], "none of 4 guesses could be judged.*: died"),
        ([Guess("a", "guessed", 4, 1), Guess("b", "kept", 4)], "^$"),
        ([], "^$"),
    ],
)
def test_warnings(guesses: list[Guess], told: str) -> None:
    assert re.search(told, GuessOutcome(tuple(guesses)).warning)


def test_plain_functions() -> None:
    (one,) = problems(1)
    cut = Response(PREFIX + "1} so", StopReason.LENGTH, 20)
    failed = Answer(one, 0, cut, Score.ungradable("the grader died"))
    good = Answer(one, 1, cut, Score.right("1"))
    assert guessed([failed, good]) == {"p0": Guess("p0", "guessed", 1, 1, 1, 0, "1")}
    assert guess_of(one, [failed]) == Guess("p0", "kept", 0, 0, 1, 0, "the grader died")
    assert right(0) == "It is \\boxed{1}."
