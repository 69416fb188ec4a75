"""long2short's numbers and what people read: the front, the table, the sentences, the page, the picture."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from evals.evaluate import Answer, Response
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
from recipes.shorten.plot import COLORS, figure, limits, write_png
from recipes.shorten.report import (
    PageData,
    ShortenResultsError,
    page_script,
    payload,
    read_results,
    write_report,
    write_results,
)
from recipes.shorten.results import METHODS, TITLES, Change, Variant
from rewards.score import Score
from rewards.stats import Estimate
from rollout.page import render
from rollout.types import Problem, StopReason

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


HOSTILE = (
    "</script><script>document.title='pwned'</script>\x1b[31m\u202egnp.exe<img src=x onerror=document.title='pwned'>"
)


def hostile() -> PageData:
    """Every field that a model, a data set or a path can reach holds the hostile string."""
    problem = Problem(HOSTILE, HOSTILE, HOSTILE, "exact", extra={"x": HOSTILE})
    answers = {
        one.name: [
            Answer(problem, 0, Response(HOSTILE, StopReason.EOS, 9, error=HOSTILE), Score.wrong(HOSTILE, HOSTILE))
        ]
        for one in ALL
    }
    variants = tuple(replace(one, model=HOSTILE, note=HOSTILE) for one in ALL)
    return PageData(f"t {HOSTILE}", variants, answers, {HOSTILE: HOSTILE})


def test_hostile_text_is_inert(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, hostile())
    text = path.read_text("utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200b\u2028\u202a-\u202e\u2066-\u2069]", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "https://" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page_script())
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert data["problems"][0]["answers"][0]["response"].startswith("</script><script>document.title")  # nothing lost
    assert "‹U+202E›gnp.exe" in data["variants"][0]["note"]


NO_FRAMES = "window.requestAnimationFrame = () => 0;"
"""A browser that is busy, or prints the document only, may not come to draw a single frame."""

PROBE = """
window.addEventListener("error", (event) => { document.body.dataset.error = event.message; });
setTimeout(() => {
  const spots = [...document.querySelectorAll(".spot")];
  spots[0]?.focus();
  for (const card of document.querySelectorAll("details")) card.open = true;
  spots[0]?.dispatchEvent(new KeyboardEvent("keydown", { key: "End", bubbles: true }));
  const boxes = [...document.querySelectorAll(".name")].map((label) => label.getBoundingClientRect());
  document.body.dataset.labels = JSON.stringify(boxes.map((b) => [b.left, b.top, b.right, b.bottom]));
  document.body.dataset.focused = document.activeElement.getAttribute("aria-label") ?? "";
}, 0);
"""


def browse(page: PageData, folder: Path) -> tuple[dict[str, str], str]:
    """What a browser makes of the page, with every answer unfolded: the probe's findings and the document."""
    path = folder / "page.html"
    path.write_text(render(page.title, payload(page), NO_FRAMES + page_script() + PROBE, "problems"), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    flags += ["--disable-component-update", f"--user-data-dir={folder}/c"]
    flags += ["--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search("<body([^>]*)>", done.stdout)
    assert found
    attributes = {name: value.replace("&quot;", '"') for name, value in re.findall(r'data-(\w+)="([^"]*)"', found[1])}
    assert "error" not in attributes, attributes
    return attributes, done.stdout.split('<div id="page">')[1].split('<script type="application/json"')[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_page_and_runs_nothing_hostile(tmp_path: Path) -> None:
    found, body = browse(hostile(), tmp_path)
    assert "<img" not in body
    assert body.count("&lt;/script&gt;&lt;script&gt;document.title") > len(ALL)
    for words in ("Token efficiency", "Response lengths", "at least 40&nbsp;% of the tokens", 'class="tip"'):
        assert words in body, words
    assert body.count('class="move head') == 5  # from the long model to each method
    assert found["focused"].startswith("long; accuracy 90.0")  # the End key: the longest
    assert disjoint(json.loads(found["labels"]), len(ALL))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("variants", [(), tuple(ALL[:1])], ids=["none", "one"])
def test_a_browser_draws_a_page_of_little(tmp_path: Path, variants: tuple[Variant, ...]) -> None:
    _, body = browse(PageData("little", variants, {}, {}), tmp_path)
    assert "There is nothing to compare" in body
    assert body.count('class="spot') == len(variants)
    assert "0 of 0 problems" in body
    assert ("axes do not start at 0" in body) == bool(variants)


def disjoint(boxes: list[list[float]], count: int) -> bool:
    """Whether ``count`` rectangles (left, low, right, high) do not overlap."""
    apart = [a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(boxes, 2)]
    return len(boxes) == count and all(apart)


def test_the_page_has_every_variant_and_an_even_spread_of_problems() -> None:
    answers = {one.name: [answer(f"p{i}", 0, 10 + i, Score.right()) for i in range(150)] for one in ALL}
    answers["rl"] = answers["rl"][:3]
    data = payload(PageData("t", tuple(ALL), answers, {}))
    assert [one["name"] for one in data["variants"]] == [one.name for one in ALL]
    assert {one["name"] for one in data["variants"] if one["front"]} == {"rl", "short"}
    assert data["variants"][4]["rivals"] == ["DPO", "long2short RL"]
    assert len(data["problems"]) == 60
    assert [len(one["answers"]) for one in data["problems"]] == [7, 7] + [6] * 58  # p0 and p2 have all
    assert data["problems"][-1]["id"] == "p147"
    assert len({tuple(one["histogram"]["edges"]) for one in data["variants"]}) == 1  # can be compared by eye


def test_long_answers_are_clipped() -> None:
    answers = {one.name: [answer("a", 0, 9, Score.right(), "x" * 100_000)] for one in ALL}
    data = payload(PageData("t", tuple(ALL), answers, {}))
    for shown in data["problems"][0]["answers"]:
        assert len(shown["response"]) < 8_100
        assert "characters left out" in shown["response"]


def test_axes_show_every_interval_and_start_at_0_when_that_costs_little() -> None:
    assert limits([Estimate(0.9, 0.8, 0.95, 1), Estimate(0.5, 0.3, 0.6, 1)], 1.0) == (0, 1)
    low, high = limits([Estimate(170, 160, 180, 1), Estimate(120, 110, 130, 1)])
    assert 100 < low < 110
    assert 180 < high < 190
    for alike in (0.0, 1.0, 90.0):
        low, high = limits([Estimate(alike, alike, alike, 1)])
        assert 0 <= low < high
        assert low <= alike < high
    assert limits([]) == (0, 1)


@pytest.mark.parametrize("variants", [ALL, ALL[:1], []], ids=["all", "one", "none"])
def test_the_picture_is_one(tmp_path: Path, variants: list[Variant]) -> None:
    write_png(tmp_path / "plot.png", variants, r"a title with $\bad{$ and _ and </script>" + "\x1b")
    data = (tmp_path / "plot.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1260, 810)
    assert len(data) > 10_000


@pytest.mark.parametrize("seed", range(6))
def test_labels_of_the_picture_do_not_overlap_and_stay_inside(seed: int) -> None:
    random = np.random.default_rng(seed)
    accuracies = 0.6 + 0.3 * random.random(len(TITLES)) ** (1 + seed)
    tokens = 100 + 200 * random.random(len(TITLES)) ** (1 + seed)
    variants = [variant(*row) for row in zip(TITLES, accuracies.tolist(), tokens.tolist(), strict=True)]
    drawn = figure(variants, "t")
    drawn.draw_without_rendering()
    labels = [text for text in drawn.axes[0].texts if text.get_text()]
    boxes = [Text.get_window_extent(text) for text in labels]
    assert disjoint([list(box.extents) for box in boxes], len(TITLES))
    frame = drawn.axes[0].get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_an_axis_that_leaves_0_out_says_so_in_the_picture() -> None:
    axes = figure([ALL[0], ALL[5]], "t").axes[0]
    assert axes.get_xlim()[0] == axes.get_xbound()[0] > 0
    assert "not from 0" in axes.get_xlabel()
    assert "not from 0" not in figure(ALL, "t").axes[0].get_ylabel()
    assert figure(ALL, "t").axes[0].get_ylim()[0] == 0


def test_an_interval_that_misses_its_mean_by_rounding_is_drawn() -> None:
    tokens = Estimate(100.1, 100.1 + 2e-14, 100.1 - 2e-14, 9)
    figure([replace(ALL[0], tokens=tokens)], "t").draw_without_rendering()


def test_every_method_has_a_title_and_the_same_color_in_page_and_picture() -> None:
    assert set(METHODS) < set(TITLES) == set(COLORS)
    style = (Path(__file__).parents[1] / "rollout" / "page" / "page.css").read_text()
    light = dict(re.findall(r"--(c\d|ink): (#[0-9a-f]{6});", style.split("@media")[0]))
    line = re.search(r"const COLOR = \{(.*?)\};", page_script())
    assert line
    classes = dict(re.findall(r'(\w+): "(\w+)"', line[1]))
    assert {name: light[kind.replace("s", "c")] for name, kind in classes.items()} == COLORS
