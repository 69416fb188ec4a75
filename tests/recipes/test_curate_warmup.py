"""Demonstrations from a model's own responses: which are kept, and that a run learns them as they stand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curate_kit import Model, problems, right
from run_kit import tiny

from evals.evaluate import Answer, Response
from recipes.curate.config import WarmupSetConfig
from recipes.curate.warmup import (
    NOT_ASKED,
    Demonstration,
    Kept,
    WarmupError,
    Writing,
    gather,
    reasons,
    sift,
    write,
)
from recipes.run.demonstrations import demonstrations
from recipes.run.setup import prepare
from rewards.score import Score
from rollout.problems.rows import demonstration_of
from rollout.types import Message, Problem, StopReason

PLAN = "My plan is to add. "
CHECK = "Let me double-check this. "
DOUBT = "Wait, that is wrong. "
OTHER = "Alternatively, count. "
CONFIG = WarmupSetConfig(samples=4, kept=2, max_tokens=200, prompt="{problem} Think hard, step by step, and check all.")
WRITING = Writing(CONFIG.prompt, "", ("<eos>",))
(ONE,) = problems(1)


def drawn(sample: int, text: str, stop: StopReason = StopReason.EOS, score: Score | None = None) -> Answer:
    return Answer(ONE, sample, Response(text, stop, len(text)), score or Score.right("1"))


def test_right_complete_different_with_the_most_behaviours_then_the_shortest() -> None:
    answers = [
        drawn(0, PLAN + CHECK + "1."),
        drawn(1, PLAN + CHECK + DOUBT + "1."),
        drawn(2, PLAN + CHECK + DOUBT + "Well, 1."),
        drawn(3, PLAN + CHECK + DOUBT + "1.\n"),
        drawn(4, PLAN + "1."),
        drawn(5, PLAN + CHECK + "2.", score=Score.wrong("differs")),
        drawn(6, PLAN + CHECK + "3", StopReason.LENGTH, Score.wrong("truncated at the length cap")),
        drawn(7, PLAN + CHECK + "4.", score=Score.ungradable("died")),
        drawn(8, PLAN + CHECK + "<eos> 5."),
        drawn(9, PLAN + CHECK + "You say: think hard, step by step, and check all."),
    ]
    found = sift(CONFIG, WRITING, ONE, answers)
    assert [one.sample for one in found.kept] == [1, 2]
    assert found.kept[0] == Kept(
        PLAN + CHECK + DOUBT + "1.", ("planning", "evaluation", "reflection"), len(answers[1].response.text), 1
    )
    assert (found.responses, found.right) == (10, 7)
    assert dict(found.reasons) == {
        "the same as another": 1,
        "fewer than 2 behaviours": 1,
        "wrong": 1,
        "cut at warmup.max_tokens": 1,
        "could not be judged: died": 1,
        "not the same tokens as text": 1,
        "it quotes the prompt that called for it": 1,
        "others of the problem are better": 1,
    }
    assert sift(CONFIG, WRITING, ONE, [], "too long").reasons == ((NOT_ASKED, 4),)


def test_where_a_box_is_asked_for_a_number_without_one_is_no_answer() -> None:
    """A last number is right by chance often enough, and such a response is none to learn from."""
    boxed = Writing("{problem} Check all, then put the answer within \\boxed{}.")
    answers = [drawn(0, PLAN + CHECK + "The sum is 1."), drawn(1, PLAN + CHECK + "It is \\boxed{1}.")]
    assert [one.sample for one in sift(CONFIG, boxed, ONE, answers).kept] == [1]
    code = replace(ONE, verifier="code")
    assert [one.sample for one in sift(CONFIG, boxed, code, answers).kept] == [0, 1], "it is asked without the prompt"


def test_a_set_is_drawn_and_goes_on(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def says(problem: str, sample: int) -> str:
        number = int(problem[1:])
        return (PLAN + CHECK + OTHER * (sample % 2) + right(number)) if number else "It is \\boxed{9}."

    model = Model(tmp_path_factory.getbasetemp() / "tiny", says)
    with model.asker(longest=200) as asker:
        found = gather(asker, problems(3), CONFIG, tmp_path / "out")
        again = CONFIG.model_copy(update={"kept": 1, "behaviours": 3})
        fewer = gather(asker, problems(3), again, tmp_path / "out")
    assert len(model.requests) == 12
    assert [one.problem.id for one in found.demonstrations] == ["p1", "p1", "p2", "p2"]
    assert [one.kept.sample for one in found.demonstrations] == [1, 0, 1, 0]
    assert [one.kept.sample for one in fewer.demonstrations] == [1, 1]
    assert found.told == (
        "12 responses to 3 problems, 8 right and complete: 4 kept, of 2 problems (left out: 4 wrong; 4 the same as "
        "another)"
    )
    assert reasons(fewer.sifted)[0] == ("wrong", 4)
    write(tmp_path / "set.jsonl", found.demonstrations)
    rows = [json.loads(line) for line in (tmp_path / "set.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "id": "p1#1",
        "problem": "What is 1 + 1?",
        "response": PLAN + CHECK + OTHER + right(1),
        "behaviours": ["planning", "evaluation", "exploration"],
        "tokens": len(PLAN + CHECK + OTHER + right(1)) + 1,
        "source": "sums",
        "answer": "2",
    }


def test_nothing_kept_is_an_error_that_says_why(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = Model(tmp_path_factory.getbasetemp() / "tiny", lambda problem, _: right(int(problem[1:])))
    with (
        model.asker(longest=200) as asker,
        pytest.raises(WarmupError, match=r"none of 12 responses to 3 problems .*: fewer than 2 behaviours \(12\)"),
    ):
        gather(asker, problems(3), CONFIG, tmp_path)


def test_a_conversation_stays_one() -> None:
    messages = (Message("system", "Be brief."), Message("user", "1 + 1?"))
    row = Demonstration(Problem("p", messages, "2", "math"), Kept("It is 2.", (), 3, 0)).row()
    problem, response = demonstration_of(row, "name")
    assert (problem.messages, response) == (messages, "It is 2.")


ALWAYS = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<eos>"
    "{% else %}<user>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)


def test_a_run_learns_what_was_written_behind_its_own_prompt(tmp_path: Path) -> None:
    """With a template that begins the thinking: its tag stands in the prompt, in sampling as in training."""
    said = PLAN + CHECK + "</think>" + right(0)
    model = Model(tmp_path / "model", lambda *_: said, template=ALWAYS)
    with model.asker(longest=200) as asker:
        found = gather(asker, problems(1), CONFIG, tmp_path / "out")
    assert [one.kept.response for one in found.demonstrations] == [said]
    write(tmp_path / "set.jsonl", found.demonstrations)
    changes: dict[str, Any] = {
        "model": {"base": {"kind": "pretrained", "path": str(model.path)}, "threads": 1},
        "engine": {"kind": "hf", "max_model_len": 256, "threads": 1},
        "warmup": {"path": str(tmp_path / "set.jsonl"), "examples": 1},
    }
    setup = prepare(tiny(**changes))
    ((pairs,), _) = demonstrations(setup)
    assert pairs is not None
    (prompt, response) = pairs[0]
    assert setup.tokenizer.decode(prompt) == "<user>What is 0 + 1?<assistant><think>\n"
    assert setup.tokenizer.decode(response) == said + "<eos>"
    drawn_tokens = setup.tokenizer(said, add_special_tokens=False)["input_ids"]
    assert np.array_equal(response, [*drawn_tokens, setup.end[0]])
