"""long2short's numbers and what people read: the front, the table, the sentences, the page, the picture."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.evaluate import Answer, Response
from recipes.shorten.efficiency import dominates, efficiency, pareto, table, verdict
from recipes.shorten.judging import change, judged
from recipes.shorten.plot import write_png
from recipes.shorten.report import PageData, ShortenResultsError, payload, read_results, write_report, write_results
from recipes.shorten.results import METHODS, TITLES, Change, Variant
from rewards.score import Score
from rewards.stats import Estimate
from rollout.types import Problem, StopReason


def variant(name: str, accuracy: float, tokens: float, spread: float = 0.03) -> Variant:
    return Variant(
        name=name,
        model=f"/models/{name}",
        accuracy=Estimate(accuracy, accuracy - spread, accuracy + spread, 200),
        tokens=Estimate(tokens, tokens - 5, tokens + 5, 200),
        median_tokens=tokens,
        truncated=0.01,
        ungradable=0.0,
        samples=4,
        change=None
        if name == "long"
        else Change(accuracy - 0.9, accuracy - 0.93, accuracy - 0.87, 0.5, tokens / 200 - 1),
        note=f"how {name} was made",
    )


ALL = [
    variant("long", 0.90, 200),
    variant("short", 0.30, 60),
    variant("merge", 0.60, 150),
    variant("rejection", 0.88, 130),
    variant("merge_rejection", 0.70, 120),
    variant("dpo", 0.89, 118),
    variant("rl", 0.91, 100),
]


def answer(problem: str, sample: int, tokens: int, score: Score, text: str = "") -> Answer:
    response = Response(text, StopReason.EOS, tokens, tuple(range(tokens)))
    return Answer(Problem(problem, f"what is {problem}?", "1", "exact"), sample, response, score)


def test_the_front_is_what_nothing_dominates() -> None:
    assert pareto(ALL) == {"rl", "short"}
    assert pareto(ALL[:1]) == {"long"}
    assert pareto([]) == frozenset()
    twins = [variant("dpo", 0.8, 100), variant("rl", 0.8, 100)]
    assert pareto(twins) == {"dpo", "rl"}
    assert pareto([variant("dpo", 0.8, 100), variant("rl", 0.8, 99)]) == {"rl"}


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


def test_table_and_sentences() -> None:
    lines = table(ALL).splitlines()
    assert len(lines) == 1 + len(ALL)
    assert "long2short RL" in lines[7]
    assert "91.0 %" in lines[7]
    assert "50 %" in lines[7]
    assert "+1.0 [-2.0, +4.0]" in lines[7]
    assert lines[7].endswith("yes")
    assert lines[1].endswith("-")
    cuts, ranking, front = verdict(ALL)
    assert cuts == "DPO and long2short RL save 40 % of the tokens at 2 points of accuracy or less"
    assert "k1.5 ranks them so, too" in ranking
    assert front == "on the Pareto front, from short to long: short, long2short RL"


def test_another_order_than_the_papers_is_said_and_so_is_what_is_undecided() -> None:
    found = [ALL[0], variant("dpo", 0.90, 100), variant("rl", 0.89, 101), variant("merge", 0.1, 150)]
    cuts, ranking, _ = verdict(found)
    assert cuts.startswith("DPO and long2short RL save")
    assert "k1.5's order is another: long2short RL > DPO > merge" in ranking
    assert "undecided, since both intervals overlap: DPO and long2short RL" in ranking
    assert verdict([ALL[0], variant("merge", 0.5, 190)])[0].startswith("no method saves 40 %")
    assert len(verdict(ALL[:1])) == 1
    assert efficiency(replace(ALL[0], tokens=Estimate(0, 0, 0, 1))) == 0


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


def test_results_file_round_trip_and_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, ALL, {"k15": "0.1.0"})
    assert read_results(path) == (ALL, {"k15": "0.1.0"})
    path.write_text(json.dumps({"schema": "k15.shorten/0", "variants": [], "facts": {}}))
    with pytest.raises(ShortenResultsError, match="judge again"):
        read_results(path)
    path.write_text("{}")
    with pytest.raises(ShortenResultsError, match="no results"):
        read_results(path)
    with pytest.raises(ShortenResultsError, match="cannot be read"):
        read_results(tmp_path / "none.json")


HOSTILE = "</script><script>alert(1)</script>\x1b[31m\u202egnp.exe<img src=x onerror=alert(1)>"


def test_model_text_is_inert(tmp_path: Path) -> None:
    answers = {"long": [answer("a", 0, 9, Score.right(), HOSTILE)], "rl": [answer("a", 0, 9, Score(0.0), HOSTILE)]}
    page = PageData(f"t {HOSTILE}", (ALL[0], ALL[6]), answers, {HOSTILE: HOSTILE})
    write_report(tmp_path / "report.html", page)
    text = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in text
    assert "alert(1)</script>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("<script") == 2
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_the_page_has_every_variant_and_an_even_spread_of_problems() -> None:
    answers = {one.name: [answer(f"p{i}", 0, 10 + i, Score.right()) for i in range(150)] for one in ALL}
    data = payload(PageData("t", tuple(ALL), answers, {}))
    assert [one["name"] for one in data["variants"]] == [one.name for one in ALL]
    assert {one["name"] for one in data["variants"] if one["front"]} == {"rl", "short"}
    assert len(data["problems"]) == 60
    assert [len(one["answers"]) for one in data["problems"]] == [len(ALL)] * 60
    assert data["problems"][-1]["id"] == "p147"


@pytest.mark.parametrize("variants", [ALL, ALL[:1]], ids=["all", "one"])
def test_the_picture_is_one(tmp_path: Path, variants: list[Variant]) -> None:
    write_png(tmp_path / "plot.png", variants, "a title with $ and _")
    data = (tmp_path / "plot.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1260, 810)
    assert len(data) > 20_000


def test_every_method_has_a_title_and_a_color() -> None:
    from recipes.shorten.plot import COLORS

    assert set(METHODS) < set(TITLES) == set(COLORS)
