"""Stages without a model go through Ray Data on a cluster, and give what they give here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.commands.cli import main
from recipes.curate import order
from recipes.curate.config import ReadConfig, SourceConfig
from recipes.curate.reading import Reader, pieces
from recipes.curate.spread import here, on_cluster


@pytest.mark.slow
def test_pieces_come_back_in_order_from_the_cluster(ray_cluster: str, tmp_path: Path) -> None:
    assert list(on_cluster()(json.loads, map(str, range(70)))) == list(range(70)), "more than one window"
    assert list(on_cluster()(json.loads, iter([]))) == []
    rows = [{"id": str(i), "problem": f"How many are {i} and {i}?", "answer": str(2 * i)} for i in range(50)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = (SourceConfig(path=str(file)),)
    reader = Reader(sources, ReadConfig())
    read = [list(spread(reader, pieces(sources, None, 20))) for spread in (here(1), on_cluster())]
    assert [table.to_pylist() for table in read[0]] == [table.to_pylist() for table in read[1]]


@pytest.mark.slow
def test_what_goes_wrong_on_the_cluster_is_the_error_of_this_machine(
    ray_cluster: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(json.JSONDecodeError, match="Expecting property name") as told:
        list(on_cluster()(json.loads, iter(["1", "{", "3"])))
    assert (told.value.doc, told.value.pos) == ("{", 1)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_curation_on_the_cluster_is_the_one_of_this_machine(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "id": str(i),
            "problem": f"{name} has {i + 3} {thing} and buys {i} more. How many are there?",
            "answer": str(2 * i + 3),
        }
        for i, (name, thing) in enumerate((n, t) for n in ("Ann", "Bo", "Cy", "Di") for t in ("hats", "figs", "cups"))
    ]
    source, held = tmp_path / "a.jsonl", tmp_path / "held.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held.write_text(json.dumps(rows[3]) + "\n")
    keys = ["--encoder.kind", "static", "--duplicates.template_cap", "null"]
    outs = [tmp_path / name for name in ("here", "there")]
    for out in outs:
        assert main(["curate", str(source), "--against", str(held), "--out", str(out), *keys]) == 0
        monkeypatch.setattr(order, "here", lambda _: on_cluster())
    first, second = ((out / "fates.jsonl").read_bytes() for out in outs)
    assert first == second
    assert first.count(b'"kept"') == len(rows) - 1
