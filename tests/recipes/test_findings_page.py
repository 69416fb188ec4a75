"""``evidence.html``, ``evidence.md`` and the table of the terminal, of invented judgements."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from recipes.evidence.bench.drawing import courses, dots
from recipes.evidence.bench.finding import Finding, Judgement, Row, Ruling, estimate
from recipes.evidence.bench.page import Entry, anchor, markdown, table, write_docs, write_page

HOSTILE = (
    "</script><script>document.title='pwned'</script>\x1b[31m\u202e<img src=x onerror=document.title='pwned'> $x^2"
)


def finding(text: str) -> Finding:
    said = {name: f"{name} {text}" for name in ("TITLE", "PAPER", "CLAIM", "PUBLISHED", "SCALE")}
    return cast(Finding, SimpleNamespace(**said))


def entry(name: str = "muon", ruling: Ruling = "holds", text: str = "", **keys: Any) -> Entry:
    def draw(axes: Any) -> None:
        values = np.array([0.1, 0.2, np.nan])
        dots(axes, {"an arm": values, "none": values * np.nan, "one": values[:1]}, "a score")

    rows = (Row(f"an arm {text}", estimate(np.array([0.1, 0.2, 0.3])), "nats"), Row("lost", estimate(np.array([]))))
    judgement = Judgement(ruling, f"It is so {text}.", rows, draw)
    return Entry(name, finding(text), judgement, 12, 3.25, **keys)


def entries(text: str = "") -> list[Entry]:
    left = Entry("decay", finding(text), Judgement("cannot tell", "Not all of its trials are done."), 5, 0.0, 3)
    return [entry(text=text, failed=(f"AdamW {text}: 1 of 3",)), entry("rms", "does not"), left]


def test_a_title_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "evidence.html"
    write_page(path, entries(HOSTILE), [("date", HOSTILE)])
    text = path.read_text("utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert data["findings"][0]["rows"][0][1] == "0.200 [-0.048, 0.448]"
    assert data["findings"][0]["rows"][1][1] == "no result"
    assert data["findings"][0]["plot"].startswith("data:image/png;base64,")
    assert data["findings"][2]["plot"] == ""


def test_the_page_of_nothing(tmp_path: Path) -> None:
    write_page(tmp_path / "evidence.html", [], [])
    assert "# Evidence" in markdown([], [])
    assert len(table([]).splitlines()) == 1


def test_the_documentation_has_the_plots_beside_it(tmp_path: Path) -> None:
    page = write_docs(tmp_path / "docs", entries(), [("seeds", "0, 1, 2")])
    text = page.read_text()
    assert page == tmp_path / "docs" / "evidence.md"
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in (tmp_path / "docs" / "evidence").iterdir()) == ["muon.png", "rms.png"]
    assert "**Verdict: holds.** It is so ." in text
    assert "| an arm  | 0.200 [-0.048, 0.448] | nats | 3 |" in text
    assert "- Came to no result: AdamW : 1 of 3" in text
    assert "3 still to be done" in text
    assert "- seeds: 0, 1, 2" in text
    headings = {anchor(heading) for heading in re.findall("^## (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(.*?)\)", text)) == headings - {"how-it-was-made"}


def test_courses_of_different_lengths_have_no_mean() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    courses(
        axes, {"a": [([0, 1], [2.0, 4.0]), ([0, 1], [4.0, 8.0])], "b": [([0], [1.0]), ([0, 1], [1.0, 2.0])]}, "x", "y"
    )
    drawn_lines = [line.get_ydata().tolist() for line in axes.lines if len(line.get_xdata())]
    assert [3.0, 6.0] in drawn_lines
    assert len(drawn_lines) == 5
    courses(Figure().add_subplot(), {"nobody": []}, "x", "y")
