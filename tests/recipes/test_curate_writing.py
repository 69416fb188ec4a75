"""The rows of the set and the fates of all: what a source says stays, and nothing of an earlier set does."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from recipes import qwen3_math, smollm2
from recipes.curate.ledger import Drop, Outcome, fates_of, write_outcome
from recipes.curate.order import file_state
from recipes.curate.rows import Rows
from recipes.curate.writing import Written, row_of, write_set
from rl.config_io import load
from rollout.problems.config import JsonlSource
from rollout.problems.jsonl import load_jsonl
from rollout.problems.rows import difficulty_of

ROW = {"problem": "How many?", "answer": "1", "level": "Level 5", "domain": "Mathematics -> Algebra", "x": None}


def test_a_row_keeps_the_fields_of_its_source() -> None:
    found = row_of(ROW, "a", "file", "algebra", {"cluster": 3, "difficulty_level": 0, "template_size": None})
    assert found.items() >= {"level": "Level 5", "x": None, "id": "a", "source": "file", "cluster": 3}.items()
    assert (found["domain"], found["source_domain"]) == ("algebra", "Mathematics -> Algebra")
    assert "template_size" not in found
    assert difficulty_of(found) == 5  # where nothing was measured training reads what it would have read before


def test_a_measured_difficulty_takes_the_place_of_the_sources_own_and_of_a_set_curated_again_the_first_stays() -> None:
    once = row_of(ROW | {"difficulty": 7}, "a", "file", "algebra", {"pass_rate": 0.3})
    assert (once["difficulty"], once["source_difficulty"]) == (0.7, 7)
    again = row_of(once, "a", "file", "algebra", {"pass_rate": 0.9})
    assert (again["difficulty"], again["source_difficulty"]) == (0.1, 7)
    assert again["source_domain"] == "Mathematics -> Algebra"


def test_an_empty_set_takes_an_earlier_one_away_and_nothing_else(tmp_path: Path) -> None:
    theirs = {"curated_by_hand.jsonl", "curated-v1.jsonl"}
    for name in ("curated.jsonl", "curated-math.jsonl", "curated-none.jsonl", *theirs):
        (tmp_path / name).touch()
    assert write_set(tmp_path, Rows(tmp_path / "rows"), np.empty(0, np.int64), ["a"], {}) == []
    assert {path.name for path in tmp_path.iterdir()} == theirs


@pytest.mark.parametrize("path", ["FILE", "hub:FOLDER", "hub:FOLDER:test"])
def test_a_source_that_changes_is_noticed(path: str, tmp_path: Path) -> None:
    file = tmp_path / "saved" / "data.arrow"
    file.parent.mkdir()
    file.write_text("1")
    given = path.replace("FILE", str(file)).replace("FOLDER", str(file.parent))
    before = file_state(given, None)
    assert file_state(given, None) == before
    file.write_text("12")
    assert file_state(given, None) != before


def test_each_row_has_the_fate_that_its_stage_gave_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_outcome(first, Outcome([Drop(4, "b", "why"), Drop(1, "a")]))
    write_outcome(second, Outcome([Drop(0, "a", other=3)]))
    fates = fates_of(6, [("first", first), ("second", second)])
    assert fates.dropped.tolist() == [0, 1, 4]
    assert fates.of(np.array([4, 2, 0, 1])) == [
        ("first", Drop(4, "b", "why")),
        None,
        ("second", Drop(0, "a", other=3)),
        ("first", Drop(1, "a")),
    ]


@pytest.mark.parametrize("recipe", [smollm2, qwen3_math])
def test_a_recipe_is_told_to_take_all_of_the_set(recipe: ModuleType, tmp_path: Path) -> None:
    rows = [{"problem": f"How many are {n} and 1?" + " Think." * 50 * n, "answer": str(n + 1)} for n in range(3)]
    path = tmp_path / "a set: it's mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load(recipe.config(), overrides=[("problems.train", Written(path, "math").source)])
    assert isinstance(config.problems.train, JsonlSource)
    assert {one.prompt for one in load_jsonl(config.problems.train)} == {row["problem"] for row in rows}
