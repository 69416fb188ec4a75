"""long2short: which responses are learned from, and which checkpoint RL starts from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.evaluate import Answer, Response
from recipes.shorten.selection import (
    Candidate,
    best_base,
    is_correct,
    length,
    preferences,
    preferences_of,
    shortest,
    shortest_correct,
)
from rewards.score import Score
from rewards.stats import Estimate
from rollout.types import Problem, StopReason

RIGHT, WRONG, UNGRADABLE = Score.right(), Score(0.0), Score(None)


def answer(sample: int, tokens: int, score: Score, stop: StopReason = StopReason.EOS, problem: str = "p") -> Answer:
    ids = tuple([sample] * tokens)
    response = Response("", stop, tokens, ids)
    return Answer(Problem.ask(problem, "what?", "1", "exact"), sample, response, score)


def samples(group: list[Answer]) -> list[int]:
    return [one.sample for one in group]


def test_the_shortest_correct_one_is_chosen() -> None:
    group = [answer(0, 5, WRONG), answer(1, 30, RIGHT), answer(2, 20, RIGHT), answer(3, 25, RIGHT)]
    chosen = shortest_correct(group)
    assert chosen
    assert chosen.sample == 2


def test_of_equally_short_ones_the_first() -> None:
    chosen = shortest_correct([answer(3, 20, RIGHT), answer(1, 20, RIGHT), answer(2, 20, RIGHT)])
    assert chosen
    assert chosen.sample == 1


def test_a_problem_without_a_correct_response_is_skipped() -> None:
    answers = [
        answer(0, 5, WRONG, problem="a"),
        answer(1, 9, UNGRADABLE, problem="a"),
        answer(0, 7, RIGHT, problem="b"),
    ]
    assert [one.problem.id for one in shortest(answers)] == ["b"]
    assert preferences(answers, 1.5, 4) == []


@pytest.mark.parametrize("stop", [StopReason.LENGTH, StopReason.REPETITION, StopReason.ABORTED])
def test_an_incomplete_response_is_never_chosen_even_if_it_was_graded_as_right(stop: StopReason) -> None:
    cut, whole = answer(0, 4, RIGHT, stop), answer(1, 9, RIGHT)
    assert not is_correct(cut)
    assert shortest_correct([cut]) is None
    assert shortest_correct([cut, whole]) is whole


def test_pairs_against_longer_wrong_ones_and_much_longer_correct_ones() -> None:
    group = [
        answer(0, 20, RIGHT),  # chosen
        answer(1, 19, WRONG),  # shorter and wrong: says nothing about length
        answer(2, 20, WRONG),  # as long
        answer(3, 21, WRONG),
        answer(4, 29, RIGHT),  # correct, 1.45 times as long
        answer(5, 30, RIGHT),  # 1.5 times
        answer(6, 50, WRONG, StopReason.LENGTH),  # cut at the cap: wrong and longer
        answer(7, 99, UNGRADABLE),
        answer(8, 99, WRONG, StopReason.ABORTED),
    ]
    pairs = preferences_of(group, 1.5, 9)
    assert {pair.chosen.sample for pair in pairs} == {0}
    assert samples([pair.rejected for pair in pairs]) == [6, 5, 3]


def test_the_cap_keeps_the_longest_rejected() -> None:
    group = [answer(0, 10, RIGHT), *(answer(i, 10 + i, WRONG) for i in range(1, 8))]
    assert [length(pair.rejected) for pair in preferences_of(group, 1.5, 3)] == [17, 16, 15]


def test_equal_lengths_and_a_single_response_give_no_pair() -> None:
    assert preferences_of([answer(i, 12, RIGHT) for i in range(8)], 1.5, 4) == []
    assert preferences_of([answer(0, 12, RIGHT)], 1.5, 4) == []
    assert preferences_of([answer(0, 12, WRONG), answer(1, 30, WRONG)], 1.5, 4) == []


def test_the_same_tokens_are_rejected_once() -> None:
    one = answer(1, 30, WRONG)
    twin = Answer(one.problem, 2, one.response, one.score)
    assert len(preferences_of([answer(0, 10, RIGHT), one, twin], 1.5, 4)) == 1


GROUPS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([RIGHT, WRONG, UNGRADABLE]), st.sampled_from([*StopReason])),
    max_size=8,
)


@given(GROUPS, st.floats(1.0, 3.0), st.integers(1, 8))
def test_every_pair_obeys_the_rule(drawn: list[tuple[int, Score, StopReason]], longer: float, limit: int) -> None:
    group = [answer(i, *one) for i, one in enumerate(drawn)]
    pairs = preferences_of(group, longer, limit)
    assert len(pairs) <= limit
    for pair in pairs:
        base = length(pair.chosen)
        assert pair.chosen is shortest_correct(group)
        assert all(base <= length(one) for one in group if is_correct(one))
        assert length(pair.rejected) > base
        assert pair.rejected.score.gradable
        assert not is_correct(pair.rejected) or length(pair.rejected) >= longer * base
    assert shortest(group) == ([shortest_correct(group)] if any(map(is_correct, group)) else [])


def candidate(iteration: int, accuracy: float, tokens: float, error: float = 0.0) -> Candidate:
    """``error``: half the width of the accuracy's interval."""
    sure = Estimate(accuracy, accuracy - error, accuracy + error, 9)
    return Candidate(f"{iteration}", iteration, sure, Estimate(tokens, tokens, tokens, 9))


def test_of_bases_that_cannot_be_told_apart_the_shortest_is_taken() -> None:
    found = [candidate(2, 0.4, 100, 0.08), candidate(4, 0.69, 131, 0.09), candidate(20, 0.88, 149, 0.07)]
    assert best_base(found).iteration == 4


def test_the_base_has_the_most_accuracy_per_token() -> None:
    found = [candidate(10, 0.6, 60), candidate(20, 0.84, 70), candidate(30, 0.85, 95)]
    assert best_base(found).iteration == 20
    assert best_base([candidate(10, 0.5, 50), candidate(20, 0.5, 50)]).iteration == 20
    assert best_base([candidate(10, 0.0, 0), candidate(5, 0.1, 90)]).iteration == 5
    with pytest.raises(ValueError, match="no checkpoint"):
        best_base([])
