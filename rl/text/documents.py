"""Documents to pretrain on, from wherever a configuration says: files, a data set, packages, or made up.

A source gives its documents in an order that never changes, from any number on. Long ones come in stretches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from rl.text.carried import NoPackage, files_of
from rl.text.carried import documents as carried
from rl.text.config import FactsText, FilesText, HubText, ProblemsText, PythonText, TextSource
from rl.text.files import read_files, state_of, text_files, text_of_row
from rl.text.stretch import Stretch, TextError, conversation, stretches
from rollout.problems.build import build_generator
from rollout.problems.source import ProblemError
from rollout.seeds import seed_of

__all__ = ["Documents", "Split", "Stretch", "TextError", "open_source"]

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Documents:
    """A source: ``read(number, split)`` yields its documents from ``number`` on, each as its stretches.

    ``read`` raises ``TextError``. A source that is not endless gives all of its documents for either split.
    """

    read: Callable[[int, Split], Iterator[Iterator[Stretch]]]
    identity: str
    """Tells sources apart that give other documents, as far as can be told without reading them: where files were
    changed, it is another one."""
    endless: bool = False
    """Made up: there is always another one, and those held out are drawn apart."""


def open_source(config: TextSource, folder: str | None, seed: int) -> Documents:
    """Return the documents of a source.

    ``folder``: where relative paths are looked up first ($K15_DATA). ``seed``: draws what demonstrations of procedural
    problems leave to chance. Raises ``TextError`` for what can be told without reading.
    """
    if isinstance(config, FilesText):
        paths = text_files(config.path, folder)
        return Documents(lambda start, _: read_files(paths, config.field, start), f"{config!r} {state_of(paths)}")
    if isinstance(config, HubText):
        local = sorted(file for file in Path(config.path).rglob("*") if file.is_file())  # none of a name on the hub
        return Documents(lambda start, _: _of_hub(config, start), f"{config!r} {state_of(local)}")
    if isinstance(config, PythonText):
        return Documents(lambda start, _: islice(_of_packages(config), start, None), f"{config!r} {_sizes(config)}")
    if isinstance(config, FactsText):
        return Documents(lambda start, split: _facts(config, start, split), repr(config), endless=True)
    try:
        build_generator(config.source)
    except ProblemError as error:
        raise TextError(str(error)) from error
    return Documents(lambda start, split: _problems(config, start, split, seed), f"{config!r} {seed}", endless=True)


def _of_hub(config: HubText, start: int) -> Iterator[Iterator[Stretch]]:
    from datasets import load_dataset

    origin = f"data set '{config.path}' (split {config.split})"
    try:
        rows = load_dataset(config.path, config.name, split=config.split, streaming=True).skip(start)
        for number, row in enumerate(rows, start):
            yield stretches([text_of_row(row, config.field, f"{origin}, row {number}")])
    except TextError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TextError(f"{origin} cannot be read: {reason}") from error


def _of_packages(config: PythonText) -> Iterator[Iterator[Stretch]]:
    for package in config.packages:
        yield from (stretches([text]) for text in carried(package, config.part))


def _sizes(config: PythonText) -> list[tuple[str, int]]:
    """Return the files of the packages and their sizes in bytes, the same wherever their versions are."""
    try:
        return [(path.name, path.stat().st_size) for package in config.packages for path in files_of(package)]
    except NoPackage as error:
        raise TextError(f"{error} (text of kind python)") from error


def _facts(config: FactsText, start: int, split: Split) -> Iterator[Iterator[Stretch]]:
    from rl.text.facts import Language

    language = Language(config.words, config.keys, config.recent, config.seed)
    for number in count(start):
        yield stretches([language.draw(config.length, np.random.default_rng([number, split == "heldout", 1])).text])


def _problems(config: ProblemsText, start: int, split: Split, seed: int) -> Iterator[Iterator[Stretch]]:
    generator = build_generator(config.source)
    for number in count(start):
        problem = generator.problem(number, split)
        said = generator.demonstration(problem, Random(seed_of(seed, "demonstration", number)))
        yield iter([conversation(problem.messages, said)])
