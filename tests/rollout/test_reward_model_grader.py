"""The rule first, then the model: who is asked of what, whose verdict counts, and that both are on record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from reward_model_kit import Says

from rewards.score import Score
from rollout.engine import AllEnginesDead
from rollout.grading import Answered, Grading, Through, VerifierGrader
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.grader import RuleThenModel, combined
from rollout.reward_models.opinion import Opinion
from rollout.types import Problem, StopReason

VERDICTS = {"right": 1.0, "likely": 0.75, "unlikely": 0.25, "wrong": 0.0, "silent": None}


def rule(problem: Problem, text: str) -> Score:
    """By the first word of a text, ``yes`` or ``no``; undecided about any other."""
    first = text.split()[0]
    if first not in ("yes", "no"):
        return Score.ungradable("it does not say")
    return Score.right(first, form=2.0) if first == "yes" else Score.wrong("not that", first)


def says(text: str) -> float | None:
    """By the second word."""
    if text.endswith("raise"):
        raise RuntimeError("out of memory")
    if text.endswith("dead"):
        raise AllEnginesDead("the judge m: all 1 rollout engines are dead")
    if text.endswith("nan"):
        return float("nan")
    return VERDICTS[text.split()[1]]


def config(**keys: object) -> RewardModelConfig:
    return RewardModelConfig.model_validate({"path": "unused", "audit": 0.0, **keys})


def grade(texts: Sequence[str], stop: StopReason | None = StopReason.EOS, **keys: object) -> list[Score]:
    model = Says(says)
    with Grading(RuleThenModel(VerifierGrader(rule), model, config(**keys))) as grading:
        return grading.submit(lambda: [Answered(Problem.ask("p", "?"), text, stop) for text in texts]).result()


@pytest.mark.parametrize(
    ("when", "verdicts"),
    [
        ("undecided", ["correct", "wrong", "correct", "wrong", "ungradable"]),
        ("not_right", ["correct", "correct", "correct", "wrong", "ungradable"]),
        ("always", ["wrong", "correct", "correct", "wrong", "ungradable"]),
    ],
)
def test_whose_verdict_counts(when: str, verdicts: list[str]) -> None:
    texts = ["yes unlikely", "no likely", "maybe likely", "maybe unlikely", "maybe silent"]
    assert [score.verdict for score in grade(texts, when=when)] == verdicts


def test_both_verdicts_are_parts_of_the_score() -> None:
    scores = grade(["yes unlikely", "yes right", "no wrong", "maybe likely"], when="always")
    kept = [{name: score.parts.get(name) for name in ("rule", "model", "agrees")} for score in scores]
    assert kept == [
        {"rule": 1.0, "model": 0.25, "agrees": 0.0},
        {"rule": 1.0, "model": 1.0, "agrees": 1.0},
        {"rule": 0.0, "model": 0.0, "agrees": 1.0},
        {"rule": None, "model": 0.75, "agrees": None},
    ]
    assert scores[0].parts["form"] == 2.0, "the rule's own parts stay"
    assert scores[0].parts["model/read"] == 1.0
    assert scores[0].opinion == "I have read yes unlikely"
    assert scores[0].reason == "wrong, says the reward model (right with 25 %)"
    assert scores[1].reason == ""


def test_without_an_opinion_the_rule_stands_where_the_model_could_only_have_overruled_it() -> None:
    (by_rule,) = grade(["no silent"], when="not_right")
    assert (by_rule.verdict, by_rule.reason, by_rule.parts["rule"]) == ("wrong", "not that", 0.0)
    (masked,) = grade(["no silent"], when="always")
    assert (masked.verdict, masked.reason) == ("ungradable", "the reward model has no opinion: it would not say")
    assert masked.parts["rule"] == 0.0
    assert masked.opinion == "hm, no silent"


def test_why_a_model_that_wrote_nothing_has_no_opinion_is_on_record_whoever_decides() -> None:
    silent = Opinion.none("too long\n", "", read=0.0)
    by_rule = combined(Score(1.0, True), silent, config())
    assert (by_rule.verdict, by_rule.reason, by_rule.opinion) == ("correct", "", "(no opinion: too long )")
    assert combined(Score(1.0, True), None, config()).opinion == "", "it was not asked"


def test_the_reward_is_the_verdict_or_the_probability() -> None:
    texts = ["maybe likely", "maybe unlikely"]
    assert [score.reward for score in grade(texts)] == [1.0, 0.0]
    assert [score.reward for score in grade(texts, reward="probability")] == [0.75, 0.25]
    assert [score.verdict for score in grade(texts, threshold=0.8)] == ["wrong", "wrong"]


@pytest.mark.parametrize("stop", [StopReason.LENGTH, StopReason.REPETITION, StopReason.ABORTED])
def test_what_was_cut_off_is_settled_without_the_model(stop: StopReason) -> None:
    model = Says(says)
    with Grading(RuleThenModel(VerifierGrader(rule), model, config(when="always"))) as grading:
        (score,) = grading.submit(lambda: [Answered(Problem.ask("p", "?"), "maybe right", stop)]).result()
    assert score.verdict == ("ungradable" if stop is StopReason.ABORTED else "wrong")
    assert model.asked == []


@pytest.mark.parametrize(("text", "reason"), [("maybe raise", "RuntimeError: out of memory"), ("maybe nan", "nan")])
def test_a_model_that_fails_costs_no_response_a_reward_and_is_counted(text: str, reason: str) -> None:
    grader = RuleThenModel(VerifierGrader(rule), Says(says), config())
    with Grading(grader) as grading:
        answers = [Answered(Problem.ask("p", "?"), one) for one in ("yes right", text)]
        fine, failed = grading.submit(lambda: answers).result()
    assert fine.verdict == "correct"
    assert failed.verdict == "ungradable"
    assert reason in failed.reason
    assert grader.counts()["model/failed"] == grader.counts()["model/no_opinion"] == 1


@pytest.mark.parametrize("when", ["undecided", "not_right", "always"])
def test_a_judge_without_engines_is_nobodys_missing_opinion(when: str) -> None:
    with pytest.raises(AllEnginesDead, match="the judge m"):
        grade(["maybe dead"], when=when)


def test_what_the_model_itself_failed_on_is_counted_too() -> None:
    class Fails(Says):
        def counts(self) -> dict[str, float]:
            return {"failed": 2.0}

    assert RuleThenModel(VerifierGrader(rule), Fails(says), config()).counts()["model/failed"] == 2


def test_what_is_counted() -> None:
    grader = RuleThenModel(VerifierGrader(rule), Says(says), config(when="always"))
    texts = ["yes right", "yes wrong", "no right", "no likely", "no wrong", "maybe right", "no silent"]
    with Grading(grader) as grading:
        grading.submit(lambda: [Answered(Problem.ask("p", "?"), text) for text in texts]).result()
    found = {name.removeprefix("model/"): value for name, value in grader.counts().items()}
    wanted = {"asked": 7, "no_opinion": 1, "failed": 0, "compared": 5, "agreed": 2, "false_right": 2, "false_wrong": 1}
    assert found == {**wanted, "calls": 1}


def test_an_audit_compares_a_share_of_what_the_rule_decides_and_changes_no_verdict() -> None:
    texts = [f"{'yes' if i % 2 else 'no'} {'wrong' if i % 2 else 'right'} {i}" for i in range(400)]
    scores = grade(texts, audit=0.25)
    assert [score.verdict for score in scores] == ["wrong", "correct"] * 200
    compared = [text for text, score in zip(texts, scores, strict=True) if "agrees" in score.parts]
    assert 60 <= len(compared) <= 140
    again = grade(texts, audit=0.25)
    assert compared == [text for text, score in zip(texts, again, strict=True) if "agrees" in score.parts]
    assert not any("model" in score.parts for score in grade(texts, audit=0.0))


def test_in_evaluations_the_rule_decides_what_it_can() -> None:
    model = Says(says)
    grader = RuleThenModel(VerifierGrader(rule), model, config(when="always"))
    with Grading(grader) as grading:
        beside = grading.beside(grader.rule_decides())
        answers = [Answered(Problem.ask("p", "?"), text) for text in ("yes wrong", "no right", "maybe right")]
        scores = beside.submit(lambda: answers).result()
        assert [score.verdict for score in scores] == ["correct", "wrong", "correct"]
        assert grader.counts()["model/asked"] == 0, "what evaluations ask is not counted as training's"
        beside.close()
        assert grading.submit(lambda: answers).result()[0].verdict == "wrong", "the run's own still works"
    assert model.closed == 1


def test_another_event_loop_asks_through_the_grading() -> None:
    grader = RuleThenModel(VerifierGrader(rule), Says(says), config())
    with Grading(grader) as grading:
        through = Through(grading)
        (score,) = asyncio.run(through.grade([Answered(Problem.ask("p", "?"), "maybe right")]))
        through.close()
        assert score.verdict == "correct"
        assert grading.submit(lambda: [Answered(Problem.ask("p", "?"), "no right")]).result()[0].verdict == "wrong"
