"""The page of a curation and its summary: what is on them, their bounds, and that no text of the data acts there."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser_kit import PROBE, body_of, drawn, needs_browser, noted

from evals.report.page import render
from recipes.curate.report import SERIES, largest, page_script, payload, write_page
from recipes.curate.results import (
    PAIRS,
    POINTS,
    SAMPLES,
    SAMPLES_TOTAL,
    TEXT,
    WARNINGS,
    Contamination,
    CurateResults,
    CurateResultsError,
    EvaluationSet,
    Facts,
    Kept,
    Map,
    Other,
    Pair,
    PassRates,
    Point,
    Sample,
    Source,
    Stage,
    bounded,
    read_results,
    write_results,
)

HOSTILE = (
    "</script><script>document.body.dataset.error='x'</script>\"'\x00\x1b[31m\u202egnp.exe\ud800"
    "<img src=x onerror=document.body.dataset.error=1>{{7*7}}"
)
SIZE = 1_000_000
STAGES = {
    "read": {"no answer": 20_000, "answer not right against itself": 5_000},
    "formats": {"multiple choice": 80_000, "proof": 15_000},
    "duplicates": {"exact": 100_000, "near duplicate": 80_000},
    "contamination": {"same": 300, "renumbered": 700},
    "guess": {"guessed right": 60_000},
    "difficulty": {"trivial": 120_000},
    "coverage": {"not chosen": 419_000},
}
KEPT = SIZE - sum(sum(reasons.values()) for reasons in STAGES.values())


def stages() -> tuple[Stage, ...]:
    found, left = [], SIZE
    for name, reasons in STAGES.items():
        found.append(Stage(name, name.capitalize(), left, reasons, 12.5, f"note of {name}"))
        left -= found[-1].dropped
    return tuple(found)


def statement(i: int) -> str:
    return f"Ann has {i} apples and eats {i % 7} of them. How many are left over?"


def sample(stage: str, reason: str, i: int, text: str = "") -> Sample:
    other = Other(f"{reason} of", f"o{i}", "sums", statement(i + 1), 0.91, "Jaccard") if stage == "duplicates" else None
    return Sample(stage, reason, f"r{i}", "sums", f"sums.jsonl:{i}", text or statement(i), str(i), "why", other)


def point(i: int, draw: random.Random) -> Point:
    fate = draw.choice(["", *STAGES])
    source = draw.choice(["sums", "words"])
    x, y = draw.uniform(-1, 1), draw.uniform(-1, 1)
    return Point(
        x, y, f"r{i}", source, statement(i), draw.choice(["algebra", "geometry"]), draw.choice([0.1, 0.5]), fate
    )


def pair(i: int, kind: str) -> Pair:
    why = "" if kind else "other words"
    return Pair("MATH-500", kind, f"r{i}", "sums", statement(i), f"m{i}", statement(i + 1), 0.8, 0.4, why)


def results(rows: int = 100_000) -> CurateResults:
    """Of a million rows, with more samples than a page holds."""
    draw = random.Random(0)
    every = [(stage, reason) for stage, reasons in STAGES.items() for reason in reasons]
    half = {stage: sum(reasons.values()) // 2 for stage, reasons in STAGES.items()}
    return CurateResults(
        Facts("k15 curate a.jsonl --out set", "0.1", "2026-01-02", 3, 87.5, "some/model", "some/encoder"),
        tuple(f"warning {i}" for i in range(80)),
        stages(),
        (Source("sums", "a.jsonl", SIZE // 2, half, KEPT // 2), Source("words", "b.jsonl", SIZE // 2, half, KEPT // 2)),
        Kept(
            KEPT,
            ("easy", "hard"),
            {f"domain {i}": (i + 1, 2) for i in range(40)},
            {"en": KEPT - 5, "zh": 5},
            {"integer": KEPT},
            ((0.5, 230), (1.0, 4000)),
        ),
        tuple(sample(stage, reason, i) for stage, reason in every for i in range(20)),
        PassRates(10, {"sums": tuple(range(11)), "words": tuple(range(11, 0, -1))}, 4, 1.0),
        Map(tuple(point(i, draw) for i in range(min(rows, 6_000))), SIZE, "t-SNE"),
        Contamination(
            (EvaluationSet("MATH-500", 500, 5_000, {"same": 300, "renumbered": 700}, 210),),
            tuple(pair(i, "same") for i in range(500)),
            tuple(pair(i, "") for i in range(500)),
            1_000,
            4_000,
            ("same", "reworded"),
        ),
    )


def bare() -> CurateResults:
    """No model, no evaluation set, nothing kept."""
    read = Stage("read", "Read", 5, {"no answer": 5})
    guess = Stage("guess", "Guessing", 0, {}, skipped="it needs --model")
    return CurateResults(Facts("k15 curate a.jsonl", "0.1", "2026-01-02", 0, 0.1), (), (read, guess), (), Kept(0))


def hostile() -> CurateResults:
    """Every field that data, a model or a path can reach holds the hostile string, or it and much more."""
    text = HOSTILE + "x" * 100_000
    one = results()
    assert one.map
    assert one.contamination
    row = Sample("duplicates", HOSTILE, text, HOSTILE, text, text, text, text, Other(HOSTILE, text, HOSTILE, text, 0.5))
    close = Pair(HOSTILE, HOSTILE, text, HOSTILE, text, text, text, 0.5, 0.5, text)
    return replace(
        one,
        facts=Facts(
            text, HOSTILE, HOSTILE, 0, 1.0, HOSTILE, HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), ((HOSTILE, HOSTILE),)
        ),
        warnings=(text,),
        stages=(
            Stage("duplicates", HOSTILE, 9, {HOSTILE: 3, "exact": 1}, 1.0, HOSTILE),
            Stage("x", HOSTILE, 5, {}, skipped=HOSTILE),
        ),
        sources=(Source(HOSTILE, HOSTILE, 9, {"duplicates": 4}, 5),),
        kept=Kept(5, (HOSTILE, "b"), {HOSTILE: (2, 3)}, {HOSTILE: 5}, {HOSTILE: 5}),
        samples=(row,),
        pass_rates=PassRates(2, {HOSTILE: (1, 2, 3), "constructor": (1, 1, 1)}),
        map=Map(
            (Point(0.0, 0.0, text, HOSTILE, text, HOSTILE, 0.5, HOSTILE), Point(1.0, 1.0, "b", "__proto__", "c")),
            2,
            HOSTILE,
        ),
        contamination=Contamination(
            (EvaluationSet(HOSTILE, 3, 2, {HOSTILE: 1, "toString": 1}, 1),), (close,), (close,), 1, 1
        ),
    )


def test_a_page_of_a_million_rows_is_small_and_says_its_bounds(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", results())
    assert (tmp_path / "a.html").stat().st_size < 2_000_000
    data = payload(results())
    assert len(data["map"]["x"]) == POINTS
    assert data["map"]["total"] == SIZE
    assert len(data["contamination"]["confirmed"]) == len(data["contamination"]["candidates"]) == PAIRS
    assert len(data["warnings"]) == WARNINGS < data["warnings_total"]
    groups = [(row["stage"], row["reason"]) for row in data["samples"]]
    assert {groups.count(group) for group in groups} == {SAMPLES}
    assert len(set(groups)) == sum(len(reasons) for reasons in STAGES.values())
    assert data["kept"]["domains"][-1][0] == "17 others"
    assert sum(sum(counts) for _, counts in data["kept"]["domains"]) == sum(i + 3 for i in range(40))


def test_of_very_many_reasons_each_has_fewer_rows() -> None:
    many = tuple(sample("read", f"reason {j}", i) for i in range(SAMPLES) for j in range(150))
    shown = bounded(replace(results(), samples=many)).samples
    assert len(shown) == 300
    assert len({one.reason for one in shown}) == 150
    more = tuple(sample("read", f"reason {j}", 0) for j in range(2 * SAMPLES_TOTAL))
    assert len(bounded(replace(results(), samples=more)).samples) == SAMPLES_TOTAL


def test_the_funnel_adds_up() -> None:
    data = payload(results())
    for before, after in zip(data["stages"], data["stages"][1:], strict=False):
        assert before["entered"] - before["dropped"] == after["entered"]
    assert data["stages"][-1]["entered"] - data["stages"][-1]["dropped"] == data["kept"]["rows"] == KEPT


def test_the_smaller_sources_share_a_colour_and_lose_no_problem() -> None:
    sources = tuple(Source(f"s{i}", "", 100 - i, {"read": 1}, 3) for i in range(60))
    rates = PassRates(2, {f"s{i}": (1, 2, 3) for i in range(60)})
    data = payload(replace(results(), sources=sources, pass_rates=rates))
    layers = data["pass_rates"]["layers"]
    assert [name for name, _ in layers] == [f"s{i}" for i in range(SERIES)]
    assert data["pass_rates"]["others"] == [54, 108, 162]
    assert len(data["sources"]) == 40
    assert sum(row["rows"] for row in data["sources"]) == sum(one.rows for one in sources)
    assert data["sources"][-1]["name"] == "21 others"
    assert data["sources"][-1]["dropped"] == {"read": 21}


def test_the_largest_come_first_and_the_rest_as_one() -> None:
    counts = {"a": 1, "b": 5, "c": 3, "d": 1}
    assert largest(counts, 4) == [("b", 5), ("c", 3), ("a", 1), ("d", 1)]
    assert largest(counts, 3) == [("b", 5), ("c", 3), ("2 others", 2)]


@pytest.mark.parametrize("make", [results, bare, hostile])
def test_equal_results_give_equal_bytes_and_survive_their_file(make: Any, tmp_path: Path) -> None:
    found = bounded(make())
    assert bounded(found) == found
    write_page(tmp_path / "a.html", make())
    write_page(tmp_path / "b.html", make())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    write_results(tmp_path / "summary.json", found)
    again = read_results(tmp_path / "summary.json")
    if make is not hostile:  # a lone surrogate has no place in a file
        assert again == found
    write_results(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "summary.json").read_bytes()


def test_a_summary_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_results(path, bounded(bare()))
    good = json.loads(path.read_text())

    def refused(data: Any, words: str) -> None:
        path.write_text(json.dumps(data))
        with pytest.raises(CurateResultsError, match=words) as caught:
            read_results(path)
        assert "\n" not in str(caught.value)

    refused([], "schema None")
    refused({**good, "schema": "k15.curate/0"}, "curate again")
    refused({"schema": good["schema"]}, "results: Field required")
    refused({**good, "results": {**good["results"], "kept": {**good["results"]["kept"], "rows": "5"}}}, "kept.rows")
    refused({**good, "results": {**good["results"], "more": 1}}, "has keys that no summary has")
    with pytest.raises(CurateResultsError, match="cannot be read"):
        read_results(tmp_path / "none.json")


def test_points_without_a_place_are_left_out() -> None:
    points = (Point(float("nan"), 0, "a", "s", "t"), Point(0.123456, 0, "b", "s", "t"))
    data = payload(replace(results(), map=Map(points, 2, "m")))
    assert data["map"]["id"] == ["b"]
    assert data["map"]["x"] == [0.1235]


def test_hostile_text_is_inert_and_clipped(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_page(path, hostile())
    text = path.read_text("utf-8")
    assert path.stat().st_size < 130_000
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200b\u2028\u202a-\u202e\u2066-\u2069]", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page_script())
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    (row,) = json.loads(found[1])["samples"]
    assert row["statement"].startswith("</script><script>document.body")
    assert "‹U+202E›gnp.exe" in row["statement"]
    assert "characters left out" in row["statement"]
    assert len(row["statement"]) < TEXT + 100


LOOK = """
setTimeout(() => {
  for (const group of document.querySelectorAll("details")) group.open = true;
  for (const button of document.querySelectorAll(".open")) button.click();
  const canvas = document.querySelector("canvas");
  const note = document.body.dataset;
  note.wide = String(document.documentElement.scrollWidth > innerWidth);
  if (!canvas) return;
  const pixels = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const inked = () => new Set(new Uint32Array(pixels().buffer)).size;
  const modes = [...document.querySelectorAll(".tools [aria-label='Colour by'] button")];
  note.modes = modes.map((button) => button.textContent).join();
  note.inks = modes.map((button) => { button.click(); return inked() > 3; }).join();
  canvas.focus();
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
  press("ArrowRight");
  note.first = document.querySelector(".hint").textContent;
  ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"].forEach(press);
  note.spoken = document.querySelector(".spoken").textContent;
  const hint = document.querySelector(".hint").getBoundingClientRect();
  const box = canvas.getBoundingClientRect();
  note.inside = String(hint.left >= box.left - 1 && hint.right <= box.right + 1);
  press("Escape");
  note.hidden = String(document.querySelector(".hint").hidden);
  const only = document.querySelector(".keys button");
  only.click();
  note.pressed = document.querySelector(".keys button").getAttribute("aria-pressed");
}, 20);
"""


def browse(found: CurateResults, folder: Path) -> tuple[dict[str, str], str]:
    """What a browser makes of the page with everything unfolded: the findings of ``LOOK``, and what is shown."""
    path = folder / "page.html"
    path.write_text(render("t", payload(found), PROBE + page_script() + LOOK, "samples"), "utf-8")
    document = drawn(path, folder / "profile")
    return noted(document), body_of(document)


@needs_browser
def test_a_browser_shows_the_curation(tmp_path: Path) -> None:
    notes, body = browse(results(), tmp_path)
    for words in (
        f"Of 1,000,000 rows {KEPT:,} are kept (10.0&nbsp;%)",
        "95,000 of 975,000 dropped (9.7&nbsp;%)",
        "near duplicate",
        "30 more",
        "4,000 of 1,000,000 rows",
        "8 of 80,000 shown",
        "10 right: dropped as trivial",
        "100 of 1,000 pairs",
        "What was confirmed is dropped, but for: other numbers.",
        "not confirmed: other words",
        "other numbers",
        "210 · 42.0&nbsp;%",
        "domain 39",
        "some/encoder",
    ):
        assert words in body, words
    assert "<mark>1</mark>" in body, "the numbers in which near duplicates differ"
    assert notes["modes"] == "fate,source,domain,pass rate"
    assert notes["inks"] == "true,true,true,true"
    assert notes["first"].startswith("Ann has 0 apples")
    assert notes["spoken"].startswith("Ann has")
    assert notes["spoken"] != notes["first"]
    assert (notes["inside"], notes["hidden"], notes["pressed"], notes["wide"]) == ("true", "true", "true", "false")


@needs_browser
def test_a_browser_runs_nothing_hostile(tmp_path: Path) -> None:
    notes, body = browse(hostile(), tmp_path)
    assert "<img" not in body
    assert "&lt;/script&gt;&lt;script&gt;document.body" in body
    assert notes["wide"] == "false"


@needs_browser
def test_a_browser_shows_that_nothing_is_there(tmp_path: Path) -> None:
    notes, body = browse(bare(), tmp_path)
    for words in (
        "Of 5 rows none are kept.",
        "No model was asked",
        "there is no map",
        "there is no set",
        "Of the rows that were dropped none is shown.",
        "compared with no evaluation set",
        "Left out: it needs --model",
    ):
        assert words in body, words
    assert notes["wide"] == "false"
