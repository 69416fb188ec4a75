"""Documents in files: a text file is one document, of rows each is one."""

from __future__ import annotations

import codecs
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from rl.text.stretch import STRETCH, Stretch, TextError, stretches
from rollout.parquet import storable
from rollout.problems.jsonl import BOM, lines_of, row_of
from rollout.problems.parquet import parquet_rows
from rollout.problems.source import ProblemError, find_data

PLAIN = (".txt", ".md")
LINES = (".jsonl", ".ndjson")
KINDS = (*PLAIN, *LINES, ".parquet")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".br")
"""How files end that hold text once they are unpacked."""


def text_files(path: str, folder: str | None) -> list[Path]:
    """Return the files that a path or pattern names, in order; relative ones are looked up in ``folder`` first.

    Raises ``TextError``.
    """
    try:
        place = find_data(path, folder)
    except ProblemError as error:
        if not any(sign in path for sign in "*?["):
            raise TextError(str(error).replace("problem file", "text")) from error
        found, what = _matching(path, folder), "no file matches it"
    else:
        found, what = _below(place), f"no file there ends in {', '.join(KINDS)}"
    if not found:
        raise TextError(f"text {path!r}: {what}; name another path")
    for file in found:
        if _is_packed(file):
            raise TextError(f"{file}: compressed; unpack it")
        if file.suffix.lower() not in KINDS:
            raise TextError(f"{file}: not one of {', '.join(KINDS)}; rename it, or name others")
    return found


def _matching(pattern: str, folder: str | None) -> list[Path]:
    whole = Path(pattern).expanduser()
    roots = [Path(whole.anchor)] if whole.is_absolute() else [Path(folder), Path()] if folder else [Path()]
    inside = str(whole.relative_to(whole.anchor))
    found = (sorted({file for file in root.glob(inside) if file.is_file()}) for root in roots)
    return next((files for files in found if files), [])


def _below(place: Path) -> list[Path]:
    """Return the file, or all texts below a folder. Links to folders are not followed: they may lead in a circle."""
    if not place.is_dir():
        return [place]

    def refuse(error: OSError) -> None:
        raise TextError(f"{error.filename}: cannot be read: {error.strerror}; mend that, or name others") from error

    files = (Path(root, name) for root, _, names in os.walk(place, onerror=refuse) for name in names)
    return sorted(file for file in files if (file.suffix.lower() in KINDS or _is_packed(file)) and file.is_file())


def _is_packed(file: Path) -> bool:
    ends = [suffix.lower() for suffix in file.suffixes]
    return len(ends) > 1 and ends[-1] in PACKED and ends[-2] in KINDS


def state_of(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Return what tells files apart from what they were: where, size in bytes, and time of the last change in ns."""
    return [(str(path.resolve()), (state := path.stat()).st_size, state.st_mtime_ns) for path in paths]


def read_files(paths: Sequence[Path], field: str, start: int) -> Iterator[Iterator[Stretch]]:
    """Yield the documents of files from number ``start`` on; what is before is passed over, not parsed.

    ``field``: of a row, its text; a row is in memory as a whole. Raises ``TextError``.
    """
    for path in paths:
        if path.suffix.lower() in PLAIN:
            if start:
                start -= 1
            else:
                yield stretches(_decoded(path))
            continue
        rows = _parquet(path, field, start) if path.suffix.lower() == ".parquet" else _lines(path, field, start)
        try:
            start = yield from rows
        except ProblemError as error:
            raise TextError(str(error)) from error


def _lines(path: Path, field: str, start: int) -> Generator[Iterator[Stretch], None, int]:
    """Yield the documents from ``start`` on; returns how many more are to be passed over."""
    for number, line in lines_of(path):
        if start:
            start -= 1
        else:
            place = f"{path}:{number}"
            yield stretches([text_of_row(row_of(place, line), field, place)])
    return start


def _parquet(path: Path, field: str, start: int) -> Generator[Iterator[Stretch], None, int]:
    """Yield the documents from ``start`` on; returns how many more are to be passed over."""
    names: list[str] = []

    def wanted(name: str) -> bool:
        names.append(name)
        return name == field

    passed = 0
    for number, row in parquet_rows(path, wanted):
        if not row:
            text_of_row(dict.fromkeys(names), field, str(path))
        if passed < start:
            passed += 1
        else:
            yield stretches([text_of_row(row, field, f"{path}:{number}")])
    return start - passed


def text_of_row(row: dict[str, object], field: str, place: str) -> str:
    """Return the text of a row. Raises ``TextError``."""
    text = row.get(field)
    if isinstance(text, str):
        return storable(text)
    if field in row:
        raise TextError(f"{place}: field {field!r} is {type(text).__name__}, not text; set the source's field")
    raise TextError(f"{place}: no field {field!r}; it has: {', '.join(row)}; set the source's field")


def _decoded(path: Path) -> Iterator[str]:
    """Yield a file's text in parts, without a byte order mark. Raises ``TextError``."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    try:
        with path.open("rb") as file:
            if file.peek(len(BOM)).startswith(BOM):
                read = len(file.read(len(BOM)))
            data = b"."
            while data:
                data = file.read(STRETCH)
                begun = len(decoder.getstate()[0])
                yield decoder.decode(data, final=not data)
                read += len(data)
    except UnicodeDecodeError as error:
        where = read - begun + error.start
        raise TextError(f"{path}: not UTF-8 text (byte {where}); convert it, or leave it out") from error
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {error.strerror}") from error
