"""``results.json`` of a pretraining."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from recipes.run.workspace import WorkspaceError
from rl.pretraining import HeldOut
from rollout.files import replace_file
from rollout.strict_json import dumps

RESULTS = "results.json"
SCHEMA = "k15.pretraining/1"


@dataclass(frozen=True)
class Result:
    """What a pretraining has come to."""

    heldout: dict[str, HeldOut]
    """By the texts' names."""
    tokens: int
    """That were read."""
    parameters: int
    """Of the model, as its files hold it."""
    seconds: float
    """Of the process that finished it."""
    model_path: str
    schema: str = SCHEMA


def write_result(folder: Path, result: Result) -> None:
    """Write it, atomically. Raises ``OSError``."""
    replace_file(folder / RESULTS, (dumps(asdict(result), indent=1) + "\n").encode())


def read_result(folder: Path) -> Result | None:
    """Return what ``write_result`` wrote, if it did. Raises ``WorkspaceError`` for a file that is something else."""
    path = folder / RESULTS
    if not path.exists():
        return None
    try:
        found = TypeAdapter(Result).validate_python(json.loads(path.read_bytes()))
    except (ValueError, ValidationError) as error:
        raise WorkspaceError(f"{path}: not what k15 wrote; remove it, and the same command writes it again") from error
    if found.schema != SCHEMA:
        raise WorkspaceError(f"{path}: schema {found.schema!r}, this k15 reads {SCHEMA!r}; remove it")
    return found


def parameters_of(model: Path) -> int:
    """Return how many numbers the weights of a model's folder hold, from their heads. Raises ``OSError``."""
    from safetensors import safe_open

    found = 0
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "np") as weights:
            found += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return found


def lines(result: Result) -> Iterator[str]:
    """Yield the table for the terminal."""
    yield f"{'held out':<12}{'nats/token':>12}{'bits/byte':>12}{'trailing':>12}"
    for name, one in result.heldout.items():
        yield f"{name:<12}{one.loss:>12.4f}{one.bits:>12.4f}{one.positions[-1]:>12.4f}"
    yield f"{result.parameters:,} parameters, {result.tokens:,} tokens, {result.seconds:.0f} s"
    yield f"model {result.model_path}"
