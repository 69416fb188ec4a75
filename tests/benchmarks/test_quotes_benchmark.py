"""Planting for the benchmark of quotes: what is replaced, what is left alone; figures on real data, if there is any."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.quotes.__main__ import read, verdict, with_notes
from benchmarks.quotes.planting import (
    KINDS,
    Site,
    carried,
    changed,
    literal,
    names_of,
    plant,
    rename,
    sites,
    stripped,
    value,
)
from rewards.quotes import quote_report

PROMPT = "Ann sold 48 hats at twenty dollars, half as many in May. Ann has 7 more."
RATIONALE = (
    "In May Ann sold 48/2 = <<48/2=24>>24 hats.\nThus Ann got 20 * 24 = $<<20*24=480>>480.\nIt is <<480=480>>480."
)
PLAIN = "In May Ann sold 48/2 = 24 hats.\nThus Ann got 20 * 24 = $480.\nIt is 480."


def test_operands_that_the_prompt_has_can_be_planted_and_no_others() -> None:
    assert stripped(RATIONALE) == PLAIN
    assert literal(PROMPT) >= {48.0, 20.0, 0.5, 7.0}
    found = sites(PROMPT, RATIONALE)
    assert [(PLAIN[site.start : site.end], site.note) for site in found] == [("48", 0), ("20", 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_of_its_kind(kind: str) -> None:
    for seed in range(30):
        new = changed(kind, "48", random.Random(seed), ["13"])
        assert new is not None
        assert {
            "digit": len(new) == 2 and sum(a != b for a, b in zip(new, "48", strict=True)) == 1 and new[0] != "0",
            "swap": new == "84",
            "one": new in ("47", "49"),
            "ten": new == "480",
            "other": new == "13",
        }[kind]
    assert changed("swap", "7", random.Random(0), []) is None
    assert changed("swap", "10", random.Random(0), []) is None


def test_one_place_is_replaced_and_nothing_else() -> None:
    site = sites(PROMPT, RATIONALE)[0]
    planted = plant("swap", PLAIN, site, "84")
    assert planted.text == PLAIN.replace("48/2", "84/2")
    assert planted.text[planted.start : planted.end] == "84"
    noted = with_notes(RATIONALE, planted, site.note, "48")
    assert noted.text == RATIONALE.replace("48/2", "84/2")
    assert noted.text[noted.start : noted.end] == "84"
    assert verdict(PROMPT, planted, quote_report(PROMPT, PLAIN)) == (True, True)
    assert verdict(PROMPT, noted, quote_report(PROMPT, RATIONALE)) == (True, True)


def test_carried_through_all_later_results_are_computed_anew() -> None:
    planted = carried(RATIONALE, sites(PROMPT, RATIONALE)[0], "84")
    assert planted is not None
    assert planted.text == "In May Ann sold 84/2 = 42 hats.\nThus Ann got 20 * 42 = $840.\nIt is 840."
    assert carried("48/0 = <<48/0=1>>1", Site(0, 2, 0), "84") is None


def test_names_are_replaced_by_names_of_other_problems() -> None:
    text = "Then Ann met Bob, and Ann left on Monday in July."
    assert names_of(text) == ["Ann", "Bob"]
    renamed = rename("So Ann left.", text, random.Random(0), ["Ann", "Zoe"])
    assert renamed is not None
    assert renamed.text[renamed.start : renamed.end] == "Zoe"
    assert value("1,250") == 1250


@pytest.mark.skipif("K15_DATA" not in os.environ, reason="K15_DATA names no folder with gsm8k_train.jsonl")
def test_the_goal_is_met_on_a_part_of_the_training_split() -> None:
    rows = read(Path(os.environ["K15_DATA"]) / "gsm8k_train.jsonl")[4000:4400]
    alarms, hits = 0, []
    for row in rows:
        plain = stripped(row["rationale"])
        report = quote_report(row["problem"], plain)
        alarms += bool(report.of(["number"]).unsupported)
        rng = random.Random(row["id"])
        if places := sites(row["problem"], row["rationale"]):
            site = rng.choice(places)
            new = changed("digit", plain[site.start : site.end], rng, [])
            if new is not None and value(new) not in literal(row["problem"]):
                hits.append(verdict(row["problem"], plant("digit", plain, site, new), report)[0])
    assert alarms <= 0.02 * len(rows)
    assert sum(hits) >= 0.95 * len(hits) > 200
