"""A trial: one training of an arm with one seed. Trials that several findings share are made once.

A trial is known by the hash of its configuration and of the trial whose model it starts from, so a result is never
taken for that of another setting, and whatever was done is done for all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from recipes.pretrain.results import Result, read_result
from recipes.shorten.config import ShortenConfig
from recipes.shorten.report import read_results
from recipes.shorten.results import Variant
from rl.config import RunConfig
from rl.learner.config import PretrainedModel
from rl.pretraining_config import PretrainConfig
from rl.record.log import Evaluation, find_evaluation, read_metrics
from rl.record.metrics import Row
from rl.state.run_dir import flatten
from rollout.files import replace_file

Config = PretrainConfig | RunConfig | ShortenConfig
DONE = "trial.json"
BEGUN = "begun.json"
FREE = ("recipe", "cache", "log.", "ray.", "checkpoint.", "promise")
"""Keys that a result does not depend on."""
RUN = "run"
"""Folder of the training, in that of the trial."""


@cache
def _defaults(kind: type[Config]) -> dict[str, Any]:
    return flatten(json.loads(kind().model_dump_json()))


@dataclass(frozen=True)
class Trial:
    """One training, by the product's own recipes."""

    config: Config
    base: Trial | None = None
    """The trial whose model it starts from; its folder takes the place of ``config.model.base``."""

    @cached_property
    def keys(self) -> dict[str, Any]:
        """All that its result depends on, but for rounding and what it starts from: dotted keys and their values."""
        flat = flatten(json.loads(self.config.model_dump_json()))
        return {key: value for key, value in flat.items() if not key.startswith(FREE)}

    @cached_property
    def key(self) -> str:
        """Hash of the keys that differ from their defaults, and of what it starts from: keys that a later version adds
        leave it as it is.
        """
        default = _defaults(type(self.config))
        own = {key: value for key, value in self.keys.items() if key not in default or default[key] != value}
        text = json.dumps([type(self.config).__name__, own, self.base.key if self.base else None], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def all_keys(self) -> dict[str, Any]:
        """Its own keys, and those of what it starts from behind ``base.``."""
        below = self.base.all_keys if self.base is not None else {}
        return self.keys | {f"base.{key}": value for key, value in below.items()}

    @property
    def chain(self) -> Iterator[Trial]:
        """The trials that it starts from, first things first, and itself."""
        if self.base is not None:
            yield from self.base.chain
        yield self

    def folder(self, root: Path) -> Path:
        """Return where it is kept."""
        return root / "trials" / self.key

    def model(self, root: Path) -> Path:
        """Return where its model is, once it is done."""
        return self.folder(root) / RUN / "model"

    def placed(self, root: Path) -> Config:
        """Return its configuration with the model that it starts from."""
        changes: dict[str, Any] = {}
        if isinstance(self.config, PretrainConfig):
            changes["cache"] = str(root / "text")
        if self.base is not None and not isinstance(self.config, ShortenConfig):  # whose models are arguments
            path = str(self.base.model(root))
            changes["model"] = self.config.model.model_copy(update={"base": PretrainedModel(path=path)})
        return self.config.model_copy(update=changes)


@dataclass(frozen=True)
class Outcome:
    """What a trial has come to."""

    trial: Trial
    folder: Path
    seconds: float
    """Of all processes that worked on it."""
    failed: str | None = None
    """Why it came to no result (its loss was not finite); ``None``: it did."""
    cpu: str = ""
    """On what it was made."""

    @cached_property
    def rows(self) -> list[Row]:
        """Its steps, or iterations."""
        return read_metrics(self.folder / RUN)

    @cached_property
    def pretraining(self) -> Result:
        """The results of a pretraining."""
        found = read_result(self.folder / RUN)
        assert found is not None
        return found

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The summary of a run."""
        found: dict[str, Any] = json.loads((self.folder / RUN / "summary.json").read_bytes())
        return found

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """The models of a shortening, by their names."""
        return {one.name: one for one in read_results(self.folder / RUN / "results.json")[0]}

    def evaluation(self, name: str = "after") -> Evaluation:
        """Return a held-out evaluation of a run: ``before`` or ``after`` RL, or ``it0010``."""
        trial = self.trial.config
        assert isinstance(trial, RunConfig)
        at = {"before": 0, "after": trial.iterations}.get(name)
        found = find_evaluation(self.folder / RUN, name, int(name[2:]) if at is None else at)
        assert found is not None
        return found


def write_outcome(outcome: Outcome) -> None:
    """Write that a trial is done. Raises ``OSError``."""
    told = {"seconds": outcome.seconds, "failed": outcome.failed, "cpu": outcome.cpu, "keys": outcome.trial.all_keys}
    replace_file(outcome.folder / DONE, (json.dumps(told) + "\n").encode())


def read_outcome(trial: Trial, root: Path) -> Outcome | None:
    """Return what a trial has come to; ``None`` while it is not done. One whose base failed has failed."""
    if trial.base is not None:
        before = read_outcome(trial.base, root)
        if before is None or before.failed is not None:
            return before and Outcome(
                trial, trial.folder(root), 0.0, f"what it starts from has failed: {before.failed}"
            )
    file = trial.folder(root) / DONE
    if not file.exists():
        return None
    told = json.loads(file.read_bytes())
    if not _same(trial, told.pop("keys")):
        return None
    return Outcome(trial, trial.folder(root), **told)


def claim_folder(trial: Trial, root: Path) -> None:
    """Note what is made in a trial's folder from now on; what a version with other defaults has begun or made there,
    under the same key, is removed.
    """
    folder = trial.folder(root)
    for name in (DONE, BEGUN):
        if (file := folder / name).exists() and not _same(trial, json.loads(file.read_bytes())["keys"]):
            shutil.rmtree(folder / RUN, ignore_errors=True)
            for gone in (DONE, BEGUN, "seconds.json"):
                (folder / gone).unlink(missing_ok=True)
    if not (folder / BEGUN).exists():
        replace_file(folder / BEGUN, (json.dumps({"keys": trial.all_keys}) + "\n").encode())


def _same(trial: Trial, then: dict[str, Any]) -> bool:
    """Whether all keys that both know have the same values."""
    now = trial.all_keys
    return all(now[key] == value for key, value in then.items() if key in now)
