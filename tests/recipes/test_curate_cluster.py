"""Stages without a model go through Ray Data on a cluster, and give what they give here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.curate.config import ReadConfig, SourceConfig
from recipes.curate.reading import Reader, pieces
from recipes.curate.spread import here, on_cluster


def _halved(number: int) -> float:
    if number == 13:
        raise ValueError("thirteen is unlucky")
    return number / 2


@pytest.mark.slow
def test_pieces_come_back_in_order_from_the_cluster(ray_cluster: str, tmp_path: Path) -> None:
    assert list(on_cluster()(_halved, iter(range(12)))) == [n / 2 for n in range(12)]
    assert list(on_cluster()(_halved, iter([]))) == []
    rows = [{"id": str(i), "problem": f"How many are {i} and {i}?", "answer": str(2 * i)} for i in range(50)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = (SourceConfig(path=str(file)),)
    reader = Reader(sources, ReadConfig())
    read = [list(spread(reader, pieces(sources, None, 20))) for spread in (here(1), on_cluster())]
    assert [table.to_pylist() for table in read[0]] == [table.to_pylist() for table in read[1]]


@pytest.mark.slow
def test_what_goes_wrong_on_the_cluster_is_told(ray_cluster: str) -> None:
    with pytest.raises(Exception, match="thirteen is unlucky"):
        list(on_cluster()(_halved, iter(range(20))))
