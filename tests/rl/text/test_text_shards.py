"""Shards of tokens: the same ones however often and by whomever they are begun, and held out by content."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.text.config import FactsText
from rl.text.documents import Documents, Split, open_source
from rl.text.stretch import Stretch, TextError, stretches
from tests.paths import ROOT
from tests.text_kit import END, TEXTS, contents, encode, everything, of_texts, shards


def test_all_of_a_source_is_trained_on_or_held_out_in_order(tmp_path: Path) -> None:
    found = shards(of_texts(TEXTS), tmp_path)
    found.fill(10**9)
    assert found.ended
    assert len(found) > 10
    assert found.tokens == len(everything(found))
    whole = {tuple(row) for row in encode([Stretch(text, True) for text in TEXTS])}
    parts: list[list[tuple[int, ...]]] = []
    held, size = found.heldout(10**9)
    for tokens in (np.array(everything(found)), held):
        parts.append(
            [(*piece.tolist(), END) for piece in np.split(tokens, np.flatnonzero(tokens == END) + 1) if len(piece)]
        )
        parts[-1] = [piece[:-1] for piece in parts[-1]]
    train, heldout = map(set, parts)
    assert train | heldout == whole
    assert not train & heldout
    assert heldout
    assert size == sum(len(row) - 1 for row in heldout)
    assert all(found[number].tokens + found[number].heldout <= 300 + 300 for number in range(len(found)))


def test_what_occurs_again_is_on_the_side_where_it_was(tmp_path: Path) -> None:
    found = shards(of_texts(TEXTS * 3), tmp_path)
    found.fill(10**9)
    once = shards(of_texts(TEXTS), tmp_path / "once")
    once.fill(10**9)
    assert len(found.heldout(10**9)[0]) == 3 * len(once.heldout(10**9)[0])
    assert found.heldout(10**9)[1] == 3 * once.heldout(10**9)[1]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=30),
    st.integers(1, 60),
)
@settings(deadline=None)
def test_shards_of_any_size_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    found = shards(of_texts(texts), tmp_path_factory.mktemp("shards"), size)
    found.fill(10**9)
    total = sum(len(row) for row in encode([Stretch(text, True) for text in texts]))
    assert sum(found[number].tokens + found[number].heldout for number in range(len(found))) == total
    assert sum(found[number].last for number in range(len(found))) == 1
    again = shards(of_texts(texts), found.folder, size)
    again.fill(10**9)
    assert everything(again) == everything(found)


def test_a_document_longer_than_a_shard_goes_on_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.text import stretch

    monkeypatch.setattr(stretch, "STRETCH", 50)
    text = " ".join(f"word{n}" for n in range(1000))
    found = shards(of_texts([text, "the second"]), tmp_path / "at-once")
    found.fill(10**9)
    assert len(found) > 20
    assert max(found[number].tokens + found[number].heldout for number in range(len(found))) < 300 + 300 + 50, (
        "over by more than what is encoded together"
    )
    for number in range(20):  # each shard made by another process
        shards(of_texts([text, "the second"]), tmp_path / "one-by-one").fill(200 * number)
    last = shards(of_texts([text, "the second"]), tmp_path / "one-by-one")
    last.fill(10**9)
    assert contents(tmp_path / "one-by-one") == contents(tmp_path / "at-once")


def test_a_kill_between_any_two_files_changes_nothing(tmp_path: Path) -> None:
    whole = shards(of_texts(TEXTS[:40]), tmp_path / "whole")
    whole.fill(10**9)
    made = contents(tmp_path / "whole")
    order = sorted(made, key=lambda name: (name[:5], name.endswith("json"), "heldout" in name))
    assert [name.split(".", 1)[1] for name in order[:3]] == ["train.npy", "heldout.npy", "json"]
    for kept in range(len(order)):
        folder = tmp_path / f"kept-{kept}"
        folder.mkdir()
        for name in order[:kept]:
            shutil.copy(tmp_path / "whole" / name, folder)
        (folder / f".{order[kept]}.99999.tmp").write_bytes(made[order[kept]][:7])
        again = shards(of_texts(TEXTS[:40]), folder)
        again.fill(10**9)
        assert contents(folder) == made


MAKER = """
import sys
from pathlib import Path
from tests.text_kit import TEXTS, encode, of_texts, shards
from rl.text.shards import Shards
encoded = []
def counted(found):
    encoded.extend(found)
    return encode(found)
print("ready", flush=True)
sys.stdin.readline()
Shards("prose", of_texts(TEXTS), Path(sys.argv[1]), counted, 257, 40).fill(10**9)
print(len(encoded))
"""


def test_processes_that_make_the_same_shards_at_once_make_each_once(tmp_path: Path) -> None:
    alone = shards(of_texts(TEXTS), tmp_path / "alone", 40)
    alone.fill(10**9)
    command = [sys.executable, "-c", MAKER, str(tmp_path / "shared")]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    done = [maker.communicate(timeout=120)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert sum(map(int, done)) == len(TEXTS), "something was encoded twice"
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_endless_text_holds_out_what_is_drawn_apart(tmp_path: Path) -> None:
    source = open_source(FactsText(length=64), None, 0)
    found = shards(source, tmp_path, 64 * 65)
    found.fill(3 * 64 * 64)
    assert not found.ended
    held, size = found.heldout(10**9)
    (first, *_) = source.read(0, "heldout").__next__()
    assert bytes(held[:64].tolist()).decode() == first.text
    assert size == len(held) - (held == END).sum()
    assert bytes(token for token in everything(found)[:64]).decode() == next(next(source.read(0, "train"))).text


def test_the_last_part_is_held_out_of_a_text_too_short_for_chance(tmp_path: Path) -> None:
    found = shards(of_texts(["just one document of some letters"]), tmp_path)
    found.fill(1)
    held, size = found.heldout(100)
    assert bytes([*everything(found), *held.tolist()[:-1]]).decode() == "just one document of some letters"
    assert (len(held), size) == (4, 33 * 4 // 34)
    assert len(found.heldout(2)[0]) == 2


def test_text_without_a_document_or_too_short_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"^text 'prose' has no document; name another$"):
        shards(of_texts([]), tmp_path / "none").fill(1)
    empty = shards(of_texts(["", ""]), tmp_path / "empty")
    empty.fill(1)
    assert (empty.tokens, len(empty), empty.ended) == (0, 1, True)
    assert len(empty.train(0)) == 0
    with pytest.raises(TextError, match=r"^text 'prose' is too short to hold anything out of it; add text$"):
        empty.heldout(10)


def test_a_damaged_shard_is_told_with_what_to_do(tmp_path: Path) -> None:
    shards(of_texts(TEXTS), tmp_path).fill(1)
    (tmp_path / "00000.json").write_text('{"documents": 1}')
    with pytest.raises(TextError, match=r"00000\.json: damaged \(.*\); remove .*, and it is made again$"):
        shards(of_texts(TEXTS), tmp_path).fill(1)


def test_few_files_are_open_however_many_shards_there_are(tmp_path: Path) -> None:
    found = shards(of_texts(TEXTS), tmp_path, 40)
    found.fill(10**9)
    assert len(found) > 100
    before = len(list(Path("/proc/self/fd").iterdir()))
    everything(found)
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 20


def test_a_source_that_fails_is_read_again_from_where_the_last_shard_ended(tmp_path: Path) -> None:
    broken = True

    def read(start: int, _: Split):  # type: ignore[no-untyped-def]
        for number in count(start):
            if number >= len(TEXTS):
                return
            if broken and number == 40:
                raise TextError("the network is away")
            yield stretches([TEXTS[number]])

    found = shards(Documents(read, "failing"), tmp_path / "failing")
    with pytest.raises(TextError, match="the network is away"):
        found.fill(10**9)
    broken = False
    found.fill(10**9)
    whole = shards(of_texts(TEXTS), tmp_path / "whole")
    whole.fill(10**9)
    assert contents(tmp_path / "failing") == contents(tmp_path / "whole")
