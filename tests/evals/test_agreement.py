"""evals.agreement: both verdicts out of a score, and how they compare."""

from __future__ import annotations

import pytest

from evals.agreement import Verdicts, agreement, of_score
from rewards.score import Score
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.grader import combined
from rollout.reward_models.opinion import Opinion


def both(rule: int, model: int, count: int, problem: str = "") -> list[Verdicts]:
    return [Verdicts(problem or f"{rule}{model}{i}", bool(rule), bool(model)) for i in range(count)]


@pytest.mark.parametrize("when", ["undecided", "not_right", "always"])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_both_verdicts_are_read_back_out_of_a_score(when: str, threshold: float) -> None:
    config = RewardModelConfig.model_validate({"path": "unused", "when": when, "threshold": threshold})
    for rule in (Score.right(), Score.wrong("no"), Score.ungradable("?")):
        for opinion in (None, Opinion(0.7), Opinion(0.1), Opinion.none("?")):
            found = of_score("p", combined(rule, opinion, config))
            assert found.rule == (rule.correct if rule.gradable else None)
            right = opinion.right if opinion else None
            assert found.model == (None if right is None else right >= threshold)
            assert found.probability == right


def test_kappa_is_cohens() -> None:
    """The example of the textbooks: 20 and 15 of 50 agree; kappa 0.4."""
    found = agreement([*both(1, 1, 20), *both(1, 0, 5), *both(0, 1, 10), *both(0, 0, 15)])
    assert (found.both_right, found.false_wrong, found.false_right, found.both_wrong) == (20, 5, 10, 15)
    assert found.agreement is not None
    assert found.agreement.mean == 0.7
    assert found.kappa == pytest.approx(0.4)
    assert found.kappa95 is not None
    assert found.kappa95[0] < 0.2 < 0.4 < 0.6 < found.kappa95[1]


def test_who_always_says_the_same_agrees_by_chance() -> None:
    found = agreement([*both(1, 1, 90), *both(0, 1, 10)])
    assert found.kappa == 0.0
    assert agreement(both(1, 1, 5)).kappa is None


def test_responses_to_one_problem_are_one_observation() -> None:
    many = agreement([*both(1, 1, 50), *both(0, 1, 50)])
    one = agreement([*both(1, 1, 50, "a"), *both(0, 1, 50, "b")])
    assert many.agreement is not None
    assert one.agreement is not None
    assert one.agreement.mean == many.agreement.mean
    assert one.agreement.high - one.agreement.low > 3 * (many.agreement.high - many.agreement.low)


def test_what_only_one_has_judged_is_counted_apart() -> None:
    found = agreement([Verdicts("a", True, None), Verdicts("b", None, False), Verdicts("c", None, None)])
    assert (found.only_rule, found.only_model, found.neither, found.compared) == (1, 1, 1, 0)
    assert found.agreement is None
    told = "rule and model have no response in common; judged by the model alone 1, by the rule alone 1, by neither 1"
    assert found.lines == [told]
    more = agreement([*both(1, 1, 2), Verdicts("a", True, None)])
    assert more.lines[1].endswith("; judged by the model alone 0, by the rule alone 1")
