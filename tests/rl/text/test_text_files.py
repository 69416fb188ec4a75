"""Documents in files: nothing is lost or changed, whatever the text and its size; what cannot be read is one line."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rl.text import files, stretch
from rl.text.config import FilesText
from rl.text.documents import open_source
from rl.text.files import read_files, text_files
from rl.text.stretch import STRETCH, Stretch, TextError, stretches

any_text = st.text(st.characters(exclude_categories=["Cs"]))


def texts(paths: list[Path], start: int = 0, field: str = "text") -> list[str]:
    return ["".join(one.text for one in document) for document in read_files(paths, field, start)]


@given(st.lists(any_text), st.integers(1, 9))
@example(["word " * 10, "", "nobreakinthisatall" * 3], 4)
@example(["\r\n\r\n", "\r", "\n"], 1)
def test_stretches_put_together_are_the_text_wherever_it_came_apart(parts: list[str], longest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretch, "STRETCH", longest)
        found = list(stretches(parts))
    assert "".join(one.text for one in found) == "".join(parts)
    assert [one.ends for one in found] == [False] * (len(found) - 1) + [True]
    assert all(0 < len(one.text) <= longest for one in found) or found == [Stretch("", True)]


def test_a_text_is_cut_behind_white_space_where_there_is_any() -> None:
    found = [one.text for one in stretches(["word " * STRETCH])]
    assert len(found) > 1
    assert all(text.endswith("word ") and text.startswith("word") for text in found)
    assert [len(one.text) for one in stretches(["x" * (2 * STRETCH + 1)])] == [STRETCH, STRETCH, 1]


@given(any_text.filter(lambda text: not text.startswith("\ufeff")), st.integers(1, 7), st.booleans())
@example("aé€😀" * 3, 1, True)
@example("a\x00b\r\nc\u2028d\x0c", 2, False)
def test_a_text_file_is_read_as_it_is_wherever_its_bytes_are_cut(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, marked: bool
) -> None:
    path = tmp_path_factory.mktemp("text") / "one.txt"
    path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "STRETCH", size)
        assert texts([path]) == [text]


@pytest.mark.parametrize(
    ("data", "byte"),
    [(b"ab\xff" + b"c" * 9, 2), (b"\xef\xbb\xbfab\xff", 5), (b"abcdef\xe2\x82", 6), (b"abc\xe2\x82d", 3)],
    ids=["no-byte-of-any", "behind-the-mark", "ends-in-a-character", "half-a-character"],
)
@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_what_is_not_utf8_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, byte: int, size: int
) -> None:
    monkeypatch.setattr(files, "STRETCH", size)
    path = tmp_path / "one.txt"
    path.write_bytes(data)
    with pytest.raises(TextError, match=rf"one\.txt: not UTF-8 text \(byte {byte}\); convert it, or leave it out$"):
        texts([path])


def test_a_large_file_without_a_space_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_text("é" * (1 << 23))
    tracemalloc.start()
    size = sum(len(one.text) for document in read_files([path], "text", 0) for one in document)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 1 << 23
    assert peak < 1 << 21, "more than two of the file's sixteen megabytes"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Every kind: eight documents."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text("zero")
    (folder / "below" / "b.MD").write_text("one")
    rows = [{"text": "two", "other": 1}, {"text": "three\ud800"}]
    (folder / "c.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n")
    pq.write_table(pa.table({"n": [1, 2, 3], "text": ["four", "five", "six"]}), folder / "d.parquet")
    (folder / "e.txt").write_text("")
    (folder / "ignored.csv").write_text("x")
    return folder


ALL = ["zero", "one", "two", "three?", "four", "five", "six", ""]


@pytest.mark.parametrize("start", range(10))
def test_documents_are_read_from_any_number_on(mixed: Path, start: int) -> None:
    paths = text_files(str(mixed), None)
    assert [path.name for path in paths] == ["a.txt", "b.MD", "c.jsonl", "d.parquet", "e.txt"]
    assert texts(paths, start) == ALL[start:]


def test_a_folder_with_a_circle_of_links_is_read_once(mixed: Path) -> None:
    (mixed / "below" / "up").symlink_to(mixed)
    (mixed / "broken.txt").symlink_to(mixed / "nowhere")
    (mixed / "self.txt").symlink_to("self.txt")
    assert texts(text_files(str(mixed), None)) == ALL


def test_paths_are_looked_up_in_the_folder_of_data_first(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert text_files("mixed/*.txt", None) == [Path("mixed/a.txt"), Path("mixed/e.txt")]
    assert text_files("*.txt", str(mixed)) == [mixed / "a.txt", mixed / "e.txt"]
    assert text_files(f"{mixed}/**/*.MD", None) == [mixed / "below" / "b.MD"]
    assert text_files("mixed/a.txt", str(tmp_path / "elsewhere")) == [Path("mixed/a.txt")]
    odd = mixed / "odd[1].txt"
    odd.write_text("a name that looks like a pattern")
    assert text_files(str(odd), None) == [odd]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("*.nothing", r"text '\*\.nothing': no file matches it; name another path$"),
        ("empty", r"text 'empty': no file there ends in \.txt, .*; name another path$"),
        ("missing.txt", r"no text 'missing\.txt' in .*"),
        ("packed", r"packed/one\.txt\.gz: compressed; unpack it$"),
        ("packed/*", r"packed/one\.txt\.gz: compressed; unpack it$"),
        ("table.csv", r"table\.csv: not one of \.txt, .*; rename it, or name others$"),
    ],
)
def test_what_names_no_text_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "one.txt.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "table.csv").write_text("x")
    with pytest.raises(TextError, match=message) as caught:
        text_files(path, None)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_not_left_out_silently(mixed: Path) -> None:
    (mixed / "below").chmod(0)
    try:
        with pytest.raises(TextError, match="below: cannot be read: Permission denied"):
            text_files(str(mixed), None)
    finally:
        (mixed / "below").chmod(0o755)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: field 'text' is int, not text; set the source's field$"),
        ("a.jsonl", b'\n{"body": "x"}\n', r"a\.jsonl:2: no field 'text'; it has: body; set the source's field$"),
        ("a.jsonl", b"{", r"a\.jsonl:1: not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl:1: not UTF-8"),
        ("a.jsonl", b"\x1f\x8b\x08", r"compressed by gzip; unpack it"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_rows_without_text_are_told_with_their_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=message):
        texts([path])


def test_a_parquet_file_without_the_field_tells_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), path)
    with pytest.raises(TextError, match=r"a\.parquet: no field 'text'; it has: body, n; set the source's field$"):
        texts([path])
    assert texts([path], field="body") == ["x"]


def test_changed_files_are_another_source(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("before")

    def identity() -> str:
        return open_source(FilesText(path=str(path)), None, 0).identity

    first = identity()
    assert identity() == first
    state = path.stat()
    path.write_text("behind")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert identity() != first
