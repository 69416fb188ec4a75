"""A pretraining small enough for tests: a file of text and sums, and a model that reads them in a second."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from recipes.pretrain.results import Result
from recipes.pretrain.session import train
from rl.pretraining_config import PretrainConfig
from rl.record.log import read_metrics
from rl.stop import Stopper
from rollout.progress import Track

WORDS = ("the", "stone", "by", "a", "river", "was", "wet", "and", "his", "boat", "slow", "so", "they", "waited", "sang")
EXPERTS = {"routed": 4, "active": 2, "shared": 1, "width": 16, "dense_layers": 1, "latent": 16}


SUMS = {"kind": "problems"}


def save_text(path: Path, documents: int = 120) -> Path:
    """A file with lines of words, each line another order of them."""
    rows = [" ".join(WORDS[(n * step) % len(WORDS)] for step in range(1, 30)) for n in range(1, documents)]
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def keys(file: Path, **changes: Any) -> dict[str, Any]:
    """Keys of a configuration over ``file``, read under two names. Made-up texts take seconds to be made (``SUMS``)."""
    base = {
        "kind": "scratch",
        "layers": 2,
        "width": 32,
        "heads": 2,
        "kv_heads": 2,
        "mlp_width": 48,
        "context": 64,
        "tied": False,
    }
    return {
        "model": {"base": base, "threads": 1},
        "text": {"prose": {"kind": "files", "path": str(file)}, "again": {"kind": "files", "path": str(file)}},
        "schedule": {"kind": "cosine", "steps": 8, "batch": 3, "length": 64, "lr": 3e-3, "ramp": 0.2},
        "measure": {"every": 3, "tokens": 512, "bins": 4},
        "checkpoint": {"every": 3},
        "log": {"live": False},
    } | changes


def small(file: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig.model_validate(keys(file, **changes))


def with_base(text: Path, **changes: Any) -> dict[str, Any]:
    """The section ``model`` with other keys of ``base``."""
    model = keys(text)["model"]
    return {"model": {**model, "base": model["base"] | changes}}


class Noted(Track):
    """Notes warnings; sends ``stop`` to this process after a step."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.steps = 0
        self._stop = stop

    def say(self, text: str) -> None:
        self.steps += 1
        if self.steps == self._stop:
            signal.raise_signal(signal.SIGTERM)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def trained(config: PretrainConfig, folder: Path, watch: Noted | None = None) -> Result:
    folder.mkdir(exist_ok=True)
    with Stopper() as stopper:
        return train(config, folder, stopper, watch or Noted())


def assert_same_training(one: Path, other: Path) -> None:
    """Weights, measurements and metrics, bit for bit but for seconds."""
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)] for folder in (one, other)
    ]
    assert rows[0] == rows[1]
