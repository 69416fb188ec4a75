"""Documents to pretrain on, from wherever a configuration says: files, a data set, packages, or made up.

A source gives its documents in an order that never changes, from any number on, so that what was read of it need not be
read again. Long documents come in stretches.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal

from rl.text.carried import NoPackage
from rl.text.carried import documents as carried
from rl.text.config import FactsText, FilesText, HubText, ProblemsText, PythonText, TextSource
from rollout.problems.build import build_generator
from rollout.problems.jsonl import BOM, read_rows
from rollout.problems.source import ProblemError, find_data
from rollout.seeds import seed_of

Split = Literal["train", "heldout"]
STRETCH = 1 << 16
"""Characters of the longest stretch of a document that is in memory."""
PLAIN = (".txt", ".md")
ROWS = (".jsonl", ".ndjson", ".parquet")


class TextError(ValueError):
    """Text that cannot be used; one line: where, what, what to do."""


@dataclass(frozen=True)
class Stretch:
    """A document, or a part of one."""

    text: str
    ends: bool
    """Whether the document ends with it."""


@dataclass(frozen=True)
class Documents:
    """A source: ``read(number, split)`` yields its documents from ``number`` on, each as its stretches."""

    read: Callable[[int, Split], Iterator[list[Stretch] | Iterator[Stretch]]]
    identity: str
    """Tells sources apart that give other documents, as far as can be told without reading them."""
    endless: bool = False
    """Made up: there is always another one, and those held out are drawn apart."""


def open_source(config: TextSource, folder: str | None, seed: int) -> Documents:
    """Return the documents of a source.

    ``folder``: where relative paths are looked up first ($K15_DATA). ``seed``: draws what demonstrations of procedural
    problems leave to chance. Raises ``TextError`` for what can be told without reading.
    """
    if isinstance(config, FilesText):
        paths = text_files(config.path, folder)
        sizes = [(str(path), path.stat().st_size) for path in paths]
        return Documents(lambda start, _: islice(_of_files(paths, config.field), start, None), f"{config} {sizes}")
    if isinstance(config, HubText):
        return Documents(lambda start, _: _of_hub(config, start), str(config))
    if isinstance(config, PythonText):
        return Documents(lambda start, _: islice(_of_packages(config), start, None), f"{config} {_versions(config)}")
    if isinstance(config, FactsText):
        return Documents(lambda start, split: _facts(config, start, split), str(config), endless=True)
    return Documents(lambda start, split: _problems(config, start, split, seed), f"{config} {seed}", endless=True)


def text_files(path: str, folder: str | None) -> list[Path]:
    """Return the files that a path or pattern names, in order. Raises ``TextError``."""
    if any(sign in path for sign in "*?["):
        whole = Path(path).expanduser()
        roots = [Path(whole.anchor)] if whole.is_absolute() else [Path(folder), Path()] if folder else [Path()]
        pattern = str(whole.relative_to(whole.anchor))
        found = next((files for root in roots if (files := sorted(root.glob(pattern)))), [])
    else:
        try:
            place = find_data(path, folder)
        except ProblemError as error:
            raise TextError(str(error).replace("problem file", "text")) from error
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        if place.is_dir():
            found = [file for file in found if file.suffix.lower() in (*PLAIN, *ROWS)]
    found = [file for file in found if file.is_file()]
    if not found:
        raise TextError(f"text {path!r}: no file of these kinds there: {', '.join((*PLAIN, *ROWS))}")
    for file in found:
        if file.suffix.lower() not in (*PLAIN, *ROWS):
            raise TextError(f"{file}: not one of {', '.join((*PLAIN, *ROWS))}; rename it, or name others")
    return found


def _of_files(paths: list[Path], field: str) -> Iterator[list[Stretch] | Iterator[Stretch]]:
    for path in paths:
        if path.suffix.lower() in PLAIN:
            yield _file(path)
        else:
            yield from (_stretches(_field(row, field, f"{path}:{number}")) for number, row in _rows(path))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        yield from read_rows(path)
    except ProblemError as error:
        raise TextError(str(error)) from error


def _field(row: dict[str, object], field: str, place: str) -> str:
    text = row.get(field)
    if isinstance(text, str):
        return text
    if field in row:
        raise TextError(f"{place}: field {field!r} is {type(text).__name__}, not text; set the source's field")
    raise TextError(f"{place}: no field {field!r}; it has: {', '.join(row)}; set the source's field")


def _file(path: Path) -> Iterator[Stretch]:
    """Yield a file's text in stretches, cut at white space where there is any; raises ``TextError`` for other bytes."""
    read, rest = 0, b""
    try:
        with path.open("rb") as file:
            while data := file.read(STRETCH):
                data = rest + (data.removeprefix(BOM) if read == 0 else data)
                text, kept = _decoded(path, data, read)
                cut = _cut(text)
                rest = text[cut:].encode() + kept
                read += len(data) - len(rest)
                if text[:cut]:
                    yield Stretch(text[:cut], False)
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {error.strerror}") from error
    text, kept = _decoded(path, rest, read)
    if kept:
        raise TextError(f"{path}: not UTF-8 text (byte {read + len(rest) - len(kept)}); convert it, or leave it out")
    yield Stretch(text, True)


def _decoded(path: Path, data: bytes, before: int) -> tuple[str, bytes]:
    """Return the text of ``data``, and the bytes at its end that are the beginning of a character."""
    for short in range(4):
        try:
            whole = data[: len(data) - short]
            return whole.decode(), data[len(whole) :]
        except UnicodeDecodeError as error:
            if len(data) - error.start > 3 or error.reason != "unexpected end of data":
                where = before + error.start
                raise TextError(f"{path}: not UTF-8 text (byte {where}); convert it, or leave it out") from error
    return "", data


def _cut(text: str) -> int:
    """Return where a text may be cut: behind its last white space, or at its end where there is none in sight."""
    last = max((match.end() for match in re.finditer(r"\s", text[len(text) // 2 :])), default=0)
    return len(text) // 2 + last if last else len(text)


def _stretches(text: str) -> list[Stretch]:
    found = [text[start : start + STRETCH] for start in range(0, len(text), STRETCH)] or [""]
    return [Stretch(part, number == len(found)) for number, part in enumerate(found, 1)]


def _of_hub(config: HubText, start: int) -> Iterator[list[Stretch]]:
    from datasets import load_dataset

    origin = f"data set '{config.path}' (split {config.split})"
    try:
        rows = load_dataset(config.path, config.name, split=config.split, streaming=True).skip(start)
        for number, row in enumerate(rows, start):
            yield _stretches(_field(row, config.field, f"{origin}, row {number}"))
    except TextError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TextError(f"{origin} cannot be read: {reason}") from error


def _of_packages(config: PythonText) -> Iterator[list[Stretch]]:
    for package in config.packages:
        try:
            yield from map(_stretches, carried(package, config.part))
        except NoPackage as error:
            raise TextError(f"{error} (text of kind python)") from error


def _versions(config: PythonText) -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = [platform.python_version()]
    for package in config.packages:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("-")
    return " ".join(found)


def _facts(config: FactsText, start: int, split: Split) -> Iterator[list[Stretch]]:
    from rl.text.facts import Language

    language = Language(config.words, config.keys, config.recent, config.seed)
    number = start
    while True:
        yield _stretches(language.draw(config.length, (number, split == "heldout")).text)
        number += 1


def _problems(config: ProblemsText, start: int, split: Split, seed: int) -> Iterator[list[Stretch]]:
    generator, number = build_generator(config.source), start
    while True:
        problem = generator.problem(number, split)
        said = generator.demonstration(problem, Random(seed_of(seed, "demonstration", number)))
        turns = [said] if isinstance(said, str) else [message.content for message in said]
        yield _stretches("\n".join([*(message.content for message in problem.messages), *turns]))
        number += 1


def digest(parts: list[str]) -> str:
    """Return a hash of texts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
