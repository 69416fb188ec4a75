"""Warm-up on the model's own right responses: what is drawn, what is learnt, and going on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from run_kit import tiny

from recipes.run.own_responses import Harvest, OwnResponses
from recipes.run.session import run
from recipes.run.setup import Setup, prepare
from rl.config import RunConfig, WarmupConfig, WarmupStage
from rl.rewarding import build_grader
from rl.stop import Interrupted
from rl.warmup import Pair
from rollout.engine import Request
from rollout.grading import Grading
from rollout.pool.board import Completion, Turns
from rollout.problems.source import ProblemError
from rollout.progress import Track
from rollout.types import Segment, StopReason

STAGE = WarmupStage(examples=3, sampled=4, kept=2)


class Scripted:
    """A pool that says what it is told to, and counts what it was asked."""

    def __init__(self, setup: Setup, says: Callable[[str, int], str], fails_after: int = 10**9) -> None:
        self.setup, self.says, self.fails_after = setup, says, fails_after
        self.asked: list[Request] = []

    def generate(
        self,
        requests: Sequence[Request],
        *,
        on_rest: Callable[[Completion], None] | None = None,
        turns: Turns | None = None,
    ) -> list[Completion]:
        found = []
        for request in requests:
            if len(self.asked) == self.fails_after:
                raise Interrupted("stopped")
            self.asked.append(request)
            problem, _, sample = request.key.rpartition("#")
            text = self.says(problem, int(sample))
            tokens = [*self.setup.tokenizer(text, add_special_tokens=False)["input_ids"]]
            ends = not text.endswith("+")
            tokens += [self.setup.end[0]] if ends else []
            segment = Segment(0, np.array(tokens, np.int32), np.zeros(len(tokens), np.float32))
            stop = StopReason.EOS if ends else None
            found.append(Completion(request.key, (segment,), stop))
            assert on_rest is not None
            on_rest(found[-1])
        return found


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(tiny())


@pytest.fixture
def grading(setup: Setup) -> Iterator[Grading]:
    with Grading(build_grader(setup.config.reward)) as grading:
        yield grading


def answer_of(setup: Setup, problem: str) -> str:
    return next(setup.train[index].answer for index in range(20) if setup.train[index].id == problem)


def draw(
    setup: Setup, grading: Grading, folder: Path, pool: Any, stage: WarmupStage = STAGE
) -> tuple[list[Pair], Harvest]:
    return OwnResponses(setup, pool, grading, folder, Track()).draw(2, stage)


def by_sample(setup: Setup) -> Callable[[str, int], str]:
    """Right, the same again, wrong, right in other words; the third problem is never answered rightly."""
    never = setup.train[setup.usable(3)[2]].id

    def says(problem: str, sample: int) -> str:
        right = answer_of(setup, problem)
        texts = [f"</think>\nAnswer: {right}"] * 2 + ["</think>\nAnswer: 7", f"\nplan: </think>\nAnswer: {right}"]
        return "1+" if problem == never else texts[sample]

    return says


def test_different_right_responses_are_learnt_token_by_token(setup: Setup, grading: Grading, tmp_path: Path) -> None:
    pool = Scripted(setup, by_sample(setup))
    pairs, harvest = draw(setup, grading, tmp_path, pool)
    assert harvest == Harvest(problems=3, responses=12, right=6, ungradable=0, unsolved=1, learnt=4)
    problems = [setup.train[index] for index in setup.usable(3)]
    for problem, (first, second) in zip(problems, (pairs[:2], pairs[2:]), strict=False):
        for (prompt, response), opening in ((first, ""), (second, "\nplan: ")):
            assert prompt.tolist() == setup.render(problem).token_ids.tolist()
            assert setup.tokenizer.decode(response[:-1]) == f"{opening}</think>\nAnswer: {problem.answer}"
            assert response[-1] == setup.end[0]
    assert len({request.seed for request in pool.asked}) == 12


def test_of_a_problem_at_most_so_many_are_learnt(setup: Setup, grading: Grading, tmp_path: Path) -> None:
    stage = WarmupStage(examples=3, sampled=4)
    assert draw(setup, grading, tmp_path, Scripted(setup, by_sample(setup)), stage)[1].learnt == 2


def test_only_faithful_responses_are_learnt_where_that_is_asked_for(
    setup: Setup, grading: Grading, tmp_path: Path
) -> None:
    """Right all of them, but two of a problem's speak of a number that it does not have."""

    def says(problem: str, sample: int) -> str:
        opening = ("we are given 918273645 ", "", "918273645 is given ", "")[sample]
        return f"{opening}</think>\nAnswer: {answer_of(setup, problem)}"

    for faithful, learnt, misquoting in ((False, 6, 0), (True, 3, 6)):
        stage = STAGE.model_copy(update={"faithful": faithful})
        pairs, harvest = draw(setup, grading, tmp_path / str(faithful), Scripted(setup, says), stage)
        assert (harvest.right, harvest.learnt, harvest.misquoting) == (12, learnt, misquoting)
        assert any("918273645" in setup.tokenizer.decode(response) for _, response in pairs) != faithful
    assert "12 are right, 6 of these misquote their problem, 3 of them are learnt" in harvest.told


def test_right_responses_that_all_misquote_are_told_apart_from_wrong_ones(
    setup: Setup, grading: Grading, tmp_path: Path
) -> None:
    def says(problem: str, sample: int) -> str:
        return f"we are given 918273645 </think>\nAnswer: {answer_of(setup, problem)}"

    stage = STAGE.model_copy(update={"faithful": True})
    with pytest.raises(ProblemError, match="all 12 right responses misquote their problems"):
        draw(setup, grading, tmp_path, Scripted(setup, says), stage)


def test_faithful_goes_with_sampled() -> None:
    with pytest.raises(ValidationError, match="it goes with"):
        WarmupStage(faithful=True)


def test_no_response_is_drawn_twice(setup: Setup, grading: Grading, tmp_path: Path) -> None:
    whole = draw(setup, grading, tmp_path / "whole", Scripted(setup, by_sample(setup)))
    first = Scripted(setup, by_sample(setup), fails_after=5)
    with pytest.raises(Interrupted):
        draw(setup, grading, tmp_path / "cut", first)
    second = Scripted(setup, by_sample(setup))
    pairs, harvest = draw(setup, grading, tmp_path / "cut", second)
    assert len(first.asked) == 5
    assert len(second.asked) == 7
    assert harvest == whole[1]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pairs, whole[0], strict=True))


def test_nothing_right_is_an_error_that_says_why(setup: Setup, grading: Grading, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"stage 2: none of 12 responses is right.*12 of them: .*warmup.sampled"):
        draw(setup, grading, tmp_path, Scripted(setup, lambda *_: "</think>\nAnswer: 7"))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"path": "a.jsonl"}, "leave path, response and mixture out"),
        ({"mixture": {"careful": 1}}, "leave path, response and mixture out"),
        ({"kept": 5}, "warmup.kept 5 is more than the 4 responses"),
    ],
)
def test_keys_that_do_not_go_with_it_are_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        WarmupConfig(sampled=4, **keys)
    with pytest.raises(ValidationError, match="does not go with an environment"):
        tiny(warmup={"sampled": 2}, environment={"kind": "retry"})


ANYTHING = """
def reward(problem, response):
    return 1 if len(response) % 2 else 0
"""


def with_own_stage(folder: Path) -> RunConfig:
    (folder / "my_reward.py").write_text(ANYTHING)
    return tiny(
        iterations=0,
        warmup={"examples": 8, "batch_tokens": 128, "then": [{"examples": 4, "sampled": 3, "kept": 3}]},
        reward={"function": f"{folder / 'my_reward.py'}:reward", "truncated": 0.0},
        rollout={"groups": 3, "k": 2, "segment_tokens": 12, "max_tokens": 60, "loss_on": "all"},
    )


def test_a_run_learns_from_its_own_responses_and_tells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = with_own_stage(tmp_path)
    assert run(config, tmp_path / "run") == 0
    told = json.loads((tmp_path / "run" / "warmup" / "warmup.json").read_text())
    harvest = told["sampled"]["2"]
    assert harvest["responses"] == 12
    assert 0 < harvest["learnt"] <= harvest["right"] <= 12
    assert f"warm-up stage 2: 12 responses to 4 problems: {harvest['right']} are right" in capfd.readouterr().out
    lines = (tmp_path / "run" / "warmup-responses" / "stage2" / "responses.jsonl").read_text().splitlines()
    assert len(lines) == 12
