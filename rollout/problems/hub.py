"""Problems from any Hugging Face data set, by a mapping of columns."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from rollout.problems.config import HubSource
from rollout.problems.rows import problem_of
from rollout.problems.source import ProblemError, ProblemList


def load_rows(config: HubSource) -> Any:
    """Return the ``datasets.Dataset`` of the split; a folder written by ``save_to_disk`` is recognised by its files."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    folder = Path(config.path).expanduser()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            loaded = load_from_disk(str(folder))
            if not isinstance(loaded, DatasetDict):
                return loaded
            if config.split not in loaded:
                raise ProblemError(f"data set {folder} has no split '{config.split}'; it has: {', '.join(loaded)}")
            return loaded[config.split]
        return load_dataset(str(folder) if folder.exists() else config.path, config.name, split=config.split)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ProblemError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ProblemError(f"data set '{config.path}' (split {config.split}) cannot be loaded: {reason}") from error


def load_hub(config: HubSource) -> ProblemList:
    """Return the problems of a data set's split. Raises ``ProblemError`` naming data set, row or column."""
    rows = load_rows(config)
    origin = f"data set '{config.path}' (split {config.split})"
    for ours in ("problem", "answer"):
        if ours not in config.columns:
            raise ProblemError(f"{origin}: columns must map '{ours}' to one of: {', '.join(rows.column_names)}")
    for theirs in config.columns.values():
        if theirs not in rows.column_names:
            near = difflib.get_close_matches(theirs, rows.column_names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(rows.column_names)}"
            raise ProblemError(f"{origin}: no column '{theirs}'; {hint}")
    if config.limit is not None:
        rows = rows.select(range(min(config.limit, len(rows))))
    name = Path(config.path).name
    problems = []
    mapped = set(config.columns.values())
    for index, row in enumerate(rows):
        fields = {key: value for key, value in row.items() if key not in mapped}
        fields |= {ours: row[theirs] for ours, theirs in config.columns.items()}
        try:
            problems.append(problem_of(fields, config.verifier, f"{name}-{config.split}-{index}", name))
        except ValueError as error:
            raise ProblemError(f"{origin}, row {index}: {error}") from error
    return ProblemList(problems, origin, [f"{origin}, row {index}" for index in range(len(problems))])
