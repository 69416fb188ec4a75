"""``evidence.html`` and the lists of ``k15 evidence``, from invented verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from browser_kit import body_of, drawn, needs_browser

from recipes.evidence import FINDINGS
from recipes.evidence.bench.finding import Bench, Judgement, Row, estimate
from recipes.evidence.bench.page import Entry, columns, ruling_of, table, write_page
from recipes.evidence.bench.session import listing, load

HOSTILE = "</script><script>document.title='pwned'</script>\x1b[31m<img src=x onerror=document.title='pwned'>"


def entries() -> Sequence[Entry]:
    rows = (Row("difference", estimate(np.array([0.1, 0.2, 0.3])), "nats"), Row(HOSTILE, estimate(np.array([0.5]))))
    bad = SimpleNamespace(TITLE=HOSTILE, PAPER=HOSTILE, CLAIM=HOSTILE, PUBLISHED=HOSTILE, SCALE=HOSTILE)
    return [
        Entry("muon", load("muon"), Judgement("holds", "It does.", rows), 57, 140.2),
        Entry("rms", load("rms"), Judgement("does not", "It does not."), 9, 12.3, 0, ("plain Muon: 2 of 3",)),
        Entry("moba", load("moba"), Judgement("cannot tell", "Not all of its trials are done."), 18, 33.0, 7),
        Entry("hostile", cast(Any, bad), Judgement("cannot tell", HOSTILE, rows), 3, 1.0, 0, (HOSTILE,)),
    ]


@needs_browser
def test_a_browser_draws_the_page_and_runs_nothing_hostile(tmp_path: Path) -> None:
    write_page(tmp_path / "evidence.html", entries(), [("seeds", "0, 1, 2"), (HOSTILE, HOSTILE)])
    document = drawn(tmp_path / "evidence.html", tmp_path / "profile")
    body = body_of(document)
    assert "<img" not in body  # no plot was drawn, and no text became one
    assert "pwned</title>" not in document
    for words in ("not finished", "7 still to be done", "plain Muon: 2 of 3", "0.519 of the FLOPs", "0.500 (one seed)"):
        assert words in body, words
    for name in ("muon", "rms", "moba", "hostile"):
        assert f'href="#finding-{name}"' in body
        assert f'id="finding-{name}"' in body


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert columns([["a", "1", "x"], ["long", "22", ""]], right=(1,)) == "a      1  x\nlong  22"


def test_the_table_tells_how_far_a_finding_is() -> None:
    lines = table(entries()).splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == ["finding", "muon", "rms", "moba", "hostile"]
    assert "11 of 18 trials" in lines[3]
    assert ruling_of(Entry("x", load("muon"), Judgement("holds", ""), 5, 0.0, 5)) == ""


@pytest.mark.parametrize("begun", [False, True])
def test_the_list_keeps_its_columns_apart(tmp_path: Path, begun: bool) -> None:
    if begun:
        (tmp_path / "trials").mkdir()
    lines = listing(Bench(tmp_path, (0, 1, 2))).splitlines()
    assert len(lines) == len(FINDINGS)
    for line, name in zip(lines, FINDINGS, strict=True):
        finding = load(name)
        assert line.startswith(f"{name} ")
        assert f"  {finding.PAPER}  " in line
        assert line.endswith(f"  {finding.TITLE}")
