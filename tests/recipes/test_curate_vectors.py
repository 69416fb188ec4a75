"""Vectors on disk: what is there is used where it is of the same rows, encoder and pool, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recipes.curate.rows import SCHEMA, Rows
from recipes.curate.showing import Showing
from recipes.curate.spread import Spread, here
from recipes.curate.vectors import Embedded
from rl.stop import Interrupted
from rollout.embedding.config import EncoderConfig, WhiteningConfig
from rollout.embedding.vectors import VectorsError

ALONE: Spread = here(1)
TEXTS = [f"How many {thing} are {number} {thing}?" for thing in ("cats", "boats", "drums") for number in range(8)]


def rows(folder: Path, texts: list[str]) -> Rows:
    empty: dict[str, Any] = {field.name: 0 if field.type in (pa.int64(), pa.int32()) else "" for field in SCHEMA}
    found = Rows(folder / "rows")
    table = [empty | {"statement": text, "number": n, "difficulty": None} for n, text in enumerate(texts)]
    found.write(0, pa.Table.from_pylist(table, SCHEMA))
    return found


def embedded(
    folder: Path,
    of: Rows,
    *,
    identity: str = "a",
    pool: range = range(24),
    k: int | None = None,
    spread: Spread = ALONE,
) -> Embedded:
    found = Embedded(
        folder / "vectors", of, np.array(pool), EncoderConfig(kind="static"), WhiteningConfig(k=k), 0, identity
    )
    with Showing() as view:
        found.make(spread, view)
    return found


def test_rows_that_have_changed_are_encoded_again(tmp_path: Path) -> None:
    first = embedded(tmp_path, rows(tmp_path, TEXTS)).whitened.copy()
    second = embedded(tmp_path, rows(tmp_path, TEXTS[::-1]), identity="b").whitened
    assert np.allclose(second, first[::-1], atol=1e-3)
    assert not np.allclose(second, first, atol=1e-1)


def test_one_row_cannot_be_whitened_and_says_what_to_leave_out(tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match=r"1 row is left.*--duplicates null"):
        embedded(tmp_path, rows(tmp_path, TEXTS[:1]), pool=range(1))


def test_what_is_encoded_is_not_encoded_again(tmp_path: Path) -> None:
    whole = embedded(tmp_path, rows(tmp_path, TEXTS))

    def refuse(*_: Any) -> Iterator[Any]:
        raise AssertionError("encoded again")

    assert np.array_equal(embedded(tmp_path, whole.rows, spread=refuse).whitened, whole.whitened)
    part = embedded(tmp_path, whole.rows, pool=range(3, 20), spread=lambda _, pieces: iter(list(pieces)))
    assert part.whitened.shape[0] == 17


@pytest.mark.parametrize("name", ["whitener.npz", "whitened.npy"])
def test_killed_while_it_whitens_anew_it_goes_back_to_what_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = rows(tmp_path, TEXTS)
    before = embedded(tmp_path, of, k=4)
    kept, mapped = before.whitened.copy(), before.encode(TEXTS)

    def cut(self: Embedded) -> None:
        real(self)
        (self.folder / "whitened.npy").write_bytes(old) if name == "whitener.npz" else None
        raise Interrupted("SIGKILL")

    old, real = (tmp_path / "vectors" / "whitened.npy").read_bytes(), Embedded._whiten
    with monkeypatch.context() as patch:
        patch.setattr(Embedded, "_whiten", cut)
        with pytest.raises(Interrupted):
            embedded(tmp_path, of, k=3)
    again = embedded(tmp_path, of, k=4)
    assert np.array_equal(again.whitened, kept)
    assert np.array_equal(again.encode(TEXTS), mapped)
