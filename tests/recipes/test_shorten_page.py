"""The page and the picture of long2short, drawn from invented results."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from browser_kit import PROBE, body_of, drawn, needs_browser, noted
from matplotlib.text import Text
from paths import ROOT
from shorten_kit import ALL, answer, variant

from evals.evaluate import Answer, Response
from evals.report.page import render
from recipes.shorten.plot import COLORS, figure, limits, write_png
from recipes.shorten.report import (
    PageData,
    page_script,
    payload,
    write_report,
)
from recipes.shorten.results import METHODS, TITLES, Variant
from rewards.score import Score
from rewards.stats import Estimate
from rollout.types import Problem, StopReason

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


LOOK = """
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
    script = NO_FRAMES + PROBE + page_script() + LOOK
    path.write_text(render(page.title, payload(page), script, "problems"), "utf-8")
    document = drawn(path, folder / "profile")
    return noted(document), body_of(document)


@needs_browser
def test_a_browser_draws_the_page_and_runs_nothing_hostile(tmp_path: Path) -> None:
    found, body = browse(hostile(), tmp_path)
    assert "<img" not in body
    assert body.count("&lt;/script&gt;&lt;script&gt;document.title") > len(ALL)
    for words in ("Token efficiency", "Response lengths", "at least 40&nbsp;% of the tokens", 'class="tip"'):
        assert words in body, words
    assert body.count('class="move head') == 5  # from the long model to each method
    assert found["focused"].startswith("long; accuracy 90.0")  # the End key: the longest
    assert disjoint(json.loads(found["labels"]), len(ALL))


@needs_browser
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
    style = (ROOT / "evals" / "report" / "page" / "page.css").read_text()
    light = dict(re.findall(r"--(c\d|ink): (#[0-9a-f]{6});", style.split("@media")[0]))
    line = re.search(r"const COLOR = \{(.*?)\};", page_script())
    assert line
    classes = dict(re.findall(r'(\w+): "(\w+)"', line[1]))
    assert {name: light[kind.replace("s", "c")] for name, kind in classes.items()} == COLORS
