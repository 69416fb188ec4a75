"""What long2short says of its variants: the front, the table, sentences, the results file."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shorten_kit import ALL, answer, variant

from recipes.shorten.efficiency import (
    decided,
    dominated_by,
    dominates,
    efficiency,
    pareto,
    ratio,
    table,
    token_change,
    verdict,
)
from recipes.shorten.judging import change, judged
from recipes.shorten.report import (
    ShortenResultsError,
    read_results,
    write_results,
)
from recipes.shorten.results import TITLES, Change
from rewards.score import Score
from rewards.stats import Estimate


def test_the_front_is_what_nothing_dominates() -> None:
    assert pareto(ALL) == {"rl", "short"}
    assert pareto(ALL[:1]) == {"long"}
    assert pareto([]) == frozenset()
    twins = [variant("dpo", 0.8, 100), variant("rl", 0.8, 100)]
    assert pareto(twins) == {"dpo", "rl"}
    assert pareto([variant("dpo", 0.8, 100), variant("rl", 0.8, 99)]) == {"rl"}
    assert pareto([variant("dpo", 0.8, 100), variant("rl", 0.81, 100)]) == {"rl"}
    assert dominated_by(ALL[4], ALL) == ("dpo", "rl")
    assert dominated_by(ALL[6], ALL) == ()


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(1, 500)), min_size=1, max_size=len(TITLES))


@given(POINTS)
def test_the_front_has_no_dominated_point_and_every_other_one_is_dominated_by_the_front(
    points: list[tuple[float, float]],
) -> None:
    variants = [variant(name, *point) for name, point in zip(TITLES, points, strict=False)]
    front = pareto(variants)
    best = [one for one in variants if one.name in front]
    assert best
    for one in variants:
        assert (one.name in front) != any(dominates(other, one) for other in best)
    assert verdict(variants)
    assert len(table(variants).splitlines()) == 1 + len(variants)


def test_the_interval_of_a_ratio_is_that_of_independent_draws() -> None:
    found = ratio(Estimate(0.9, 0.9 - 1.96 * 0.02, 0.9 + 1.96 * 0.02, 9), Estimate(100, 100 - 1.96 * 4, 107.84, 7))
    draws = np.random.default_rng(0).normal((0.9, 100), (0.02, 4), (200_000, 2))
    low, high = np.percentile(draws[:, 0] / draws[:, 1], (2.5, 97.5))
    assert (found.mean, found.n) == (pytest.approx(0.009), 7)
    assert (found.low, found.high) == (pytest.approx(low, rel=0.005), pytest.approx(high, rel=0.005))
    assert ratio(Estimate(1, 1, 1, 1), Estimate(0, 0, 0, 1)) == Estimate(0, 0, inf, 1)
    assert ratio(Estimate(0, 0, 0.5, 1), Estimate(10, 10, 10, 1)) == Estimate(0, 0, 0.05, 1)


def test_accuracy_per_token_and_whether_a_difference_in_it_is_one() -> None:
    assert efficiency(ALL[0]).mean == pytest.approx(45)
    assert token_change(ALL[6], ALL[0]).mean == pytest.approx(-0.5)
    assert token_change(ALL[6], ALL[0]).low < -0.52
    assert decided(ALL[6], ALL[0])
    assert decided(ALL[0], ALL[6])
    near, far = variant("dpo", 0.9, 101), variant("dpo", 0.9, 150)
    assert not decided(ALL[6], near)
    assert decided(ALL[6], far)
    assert not decided(ALL[6], replace(far, accuracy=Estimate(0.9, 0.1, 1, 2), tokens=Estimate(150, 50, 250, 2)))


TABLE = """\
                   accuracy  95 %           tokens  median  tokens against long   points against long  cap hit  ungradable  front
long                 90.0 %  [87.0, 93.0]    200.0   200.0                                               1.0 %       0.0 %  -
merge + rejection    70.0 %  [67.0, 73.0]    120.0   120.0  -40 % [-43, -37]      -20.0 [-23.0, -17.0]   1.0 %       0.0 %  -
long2short RL        91.0 %  [88.0, 94.0]    100.0   100.0  -50 % [-53, -47]      +1.0 [-2.0, +4.0]      1.0 %       0.0 %  yes
"""  # noqa: E501


def test_the_table() -> None:
    assert table([ALL[0], ALL[4], ALL[6]]) + "\n" == TABLE
    assert table([]) + "\n" == TABLE.splitlines(keepends=True)[0]
    assert "against long" in table(ALL[6:])


def test_what_the_comparison_shows_in_sentences() -> None:
    cuts, ranking, paper, front = verdict(ALL)
    assert cuts == (
        "These save at least 40 % of the tokens at a loss of at most 2 points of accuracy: DPO (-41 % tokens, -1.0 "
        "points) and long2short RL (-50 % tokens, +1.0 points). The 95 % intervals do not exclude a worse trade for "
        "DPO (down to -4.0 points, -38 % tokens)."
    )
    assert ranking == (
        "Points of accuracy per 100 tokens, best first: long2short RL 91, DPO 75.4, shortest rejection 67.7, "
        "merge + rejection 58.3, merge 40."
    )
    assert paper == "k1.5 ranks long2short RL > DPO > merge + rejection > merge; so do these numbers."
    assert front == (
        "On the Pareto front by the point estimates, from short to long: short, long2short RL. long2short RL is at "
        "least as accurate and as short as DPO, merge + rejection, shortest rejection, merge and long."
    )


def test_another_order_than_the_papers_is_said_and_so_is_what_is_undecided() -> None:
    found = [ALL[0], variant("dpo", 0.90, 100), variant("rl", 0.89, 101), variant("merge", 0.9, 60)]
    _, ranking, paper, _ = verdict(found)
    assert ranking.endswith("merge 150, DPO 90, long2short RL 88.1. Not decided at 95 %: DPO / long2short RL.")
    assert paper == (
        "k1.5 ranks long2short RL > DPO > merge; these numbers say merge > DPO > long2short RL; turned round beyond "
        "the 95 % intervals: merge over DPO, merge over long2short RL; turned round, but not decided: DPO over "
        "long2short RL."
    )
    same = verdict([ALL[0], variant("dpo", 0.90, 101), variant("rl", 0.9, 100)])[2]
    assert same.endswith("so do these numbers. Not decided at 95 %: long2short RL / DPO.")


def test_sentences_about_few_variants() -> None:
    assert verdict([ALL[0], variant("merge", 0.5, 190)])[0].startswith("No method saves at least 40 %")
    assert len(verdict([ALL[0], ALL[2]])) == 2  # one method has no order
    assert len(verdict([ALL[0], ALL[2], ALL[3]])) == 3  # k1.5 ranks but one of them
    for few in ([], ALL[:1], ALL[:2], ALL[2:]):
        assert verdict(few) == ["There is nothing to compare: no method was judged beside the long model."]


def test_exactly_two_points_lost_and_forty_percent_saved_are_within_the_goal() -> None:
    edge = replace(variant("dpo", 0.88, 120), change=Change(0.88 - 0.90, -0.02, 0.0, 0.5, 120 / 200 - 1))
    assert edge.change
    assert edge.change.accuracy < -0.02  # by rounding
    assert verdict([ALL[0], edge])[0].startswith("These save")


def test_change_is_paired_and_leaves_ungradable_problems_out() -> None:
    long = [answer("a", 0, 100, Score.right()), answer("b", 0, 100, Score.right()), answer("c", 0, 100, Score(None))]
    other = [answer("a", 0, 40, Score.right()), answer("b", 0, 80, Score(0.0)), answer("c", 0, 60, Score.right())]
    found = change(long, other)
    assert found
    assert found.accuracy == pytest.approx(-0.5)
    assert found.tokens == pytest.approx(-0.4)
    assert change([answer("a", 0, 5, Score(None))], [answer("a", 0, 5, Score.right())]) is None


def test_judged_gives_one_variant_per_model() -> None:
    answers = {name: [answer("a", 0, 10, Score.right()), answer("b", 0, 30, Score(0.0))] for name in ("long", "rl")}
    found = judged({name: Path(name) for name in answers}, answers, {"long": "", "rl": "made so"}, 1)
    assert [one.name for one in found] == ["long", "rl"]
    assert (found[1].accuracy.mean, found[1].tokens.mean, found[1].note) == (0.5, 20, "made so")
    assert found[0].change is None


def test_results_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for variants in (ALL, ALL[:1], []):
        write_results(path, variants, {"k15": "0.1.0"})
        assert read_results(path) == (variants, {"k15": "0.1.0"})


def test_the_schema_of_the_results_file_is_frozen(tmp_path: Path) -> None:
    """A change here breaks those who read results.json: raise ``SCHEMA``."""
    write_results(tmp_path / "results.json", ALL, {})
    data = json.loads((tmp_path / "results.json").read_text())
    assert list(data) == ["schema", "facts", "variants"]
    assert data["schema"] == "k15.shorten/1"
    estimate = {"mean", "low", "high", "n"}
    row = data["variants"][6]
    assert set(row) == {
        *("name", "model", "accuracy", "tokens", "median_tokens", "truncated", "ungradable", "samples", "change"),
        "note",
    }
    assert set(row["accuracy"]) == set(row["tokens"]) == estimate
    assert set(row["change"]) == {"accuracy", "low", "high", "p", "tokens"}
    assert data["variants"][0]["change"] is None


GOOD = {"schema": "k15.shorten/1", "facts": {}, "variants": []}


ROW = {"name": "long", "model": "m", "accuracy": None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[]", "schema None"),
        ({**GOOD, "schema": "k15.shorten/0"}, "k15.shorten/0.*judge again"),
        ({"schema": "k15.shorten/1"}, "not a complete results file: facts: Field required"),
        ({**GOOD, "variants": [ROW]}, r"variants\.0\.accuracy"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ShortenResultsError, match=words) as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


def test_a_results_file_with_an_unknown_variant(tmp_path: Path) -> None:
    write_results(tmp_path / "r.json", [replace(ALL[0], name="better\x1b[2J")], {})
    with pytest.raises(ShortenResultsError, match=r"no such variant: 'better‹U\+001B›\[2J'"):
        read_results(tmp_path / "r.json")
