"""The data of a report, read once from a run directory, which may be of a run that is still going."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rl.config_io import parse_yaml
from rl.diversity_config import CollapseConfig
from rl.record.log import FILE, Evaluation, read_evaluations, read_metrics
from rl.record.timeline import Process, TimelineError, read_timeline
from rollout.reward_models.config import AlarmConfig

Alarm = TypeVar("Alarm", AlarmConfig, CollapseConfig)


class ReportError(RuntimeError):
    """The directory is no run, or a file of it cannot be understood."""


@dataclass(frozen=True)
class RunData:
    """A run as read from its directory."""

    name: str
    """Name of the directory."""
    facts: dict[str, Any]
    """``run.json``: recipe, git_revision, seed, started, versions ...; empty when missing."""
    config_text: str
    """``config.yaml`` as it stands; empty when missing."""
    rows: list[dict[str, Any]]
    """``metrics.jsonl``, by iteration."""
    evaluations: list[Evaluation]
    """Held-out evaluations, by iteration."""
    planned: int | None
    """Iterations the configuration asks for; ``None`` when unknown."""
    k: int | None
    """Responses per problem in training; ``None`` when unknown."""
    model: str
    """What the policy started from, in words; empty when unknown."""
    summary: dict[str, Any] | None
    """``summary.json``; ``None`` until the run is finished."""
    alarm: AlarmConfig | None = None
    """The watch over its reward model; ``None`` when there is none, or unknown."""
    collapse: CollapseConfig | None = None
    """The watch over how different its responses are; likewise."""
    judge: dict[str, Any] = field(default_factory=dict)
    """Its reward model: ``model`` (the path) and ``when``; empty without one."""
    timeline: Sequence[Process] = ()
    """What its processes did when; none for a run of before that was recorded."""
    notes: Sequence[str] = ()
    """What could not be read and is left out."""

    @property
    def complete(self) -> bool:
        """True when the run is finished."""
        return self.summary is not None

    def column(self, key: str) -> list[float | None]:
        """Return one metric over the rows; ``None`` where a row lacks it."""
        return [row.get(key) for row in self.rows]

    def total(self, key: str) -> float:
        """Return the sum of a metric over the rows that have it."""
        return sum(value for value in self.column(key) if value is not None)

    def largest(self, *keys: str) -> float | None:
        """Return the largest value of the metrics over all rows; ``None`` when no row has one."""
        return max((value for key in keys for value in self.column(key) if value is not None), default=None)

    def evaluation(self, name: str) -> Evaluation | None:
        """Return the evaluation of that name."""
        return next((item for item in self.evaluations if item.name == name), None)


def read_run(run_dir: Path) -> RunData:
    """Read a run. Raises ``ReportError`` when ``run_dir`` is none, ``LogError`` naming a broken file and line."""
    if not run_dir.is_dir():
        what = "a file" if run_dir.exists() else "no such directory"
        raise ReportError(f"{run_dir}: {what}; give the directory of a run, e.g. runs/demo")
    if not any((run_dir / name).exists() for name in (FILE, "run.json", "config.yaml")):
        raise ReportError(f"{run_dir}: not a run directory (no config.yaml, run.json or {FILE} in it)")
    config_path = run_dir / "config.yaml"
    config_text = config_path.read_text(encoding="utf-8", errors="replace") if config_path.exists() else ""
    config = _mapping(config_path, config_text)
    timeline, notes = _timeline(run_dir)
    planned, rollout = config.get("iterations"), config.get("rollout")
    k = rollout.get("k") if isinstance(rollout, dict) else None
    return RunData(
        name=run_dir.resolve().name,
        facts=_facts(run_dir / "run.json"),
        config_text=config_text,
        rows=sorted(read_metrics(run_dir), key=lambda row: row["iteration"]),
        evaluations=read_evaluations(run_dir),
        planned=planned if isinstance(planned, int) else None,
        k=k if isinstance(k, int) else None,
        model=_model_words(config),
        alarm=_alarm(AlarmConfig, _reward_model(config)),
        collapse=_alarm(CollapseConfig, _section(config, "diversity")),
        judge={"model": model["path"], "when": model.get("when")} if "path" in (model := _reward_model(config)) else {},
        summary=_facts(run_dir / "summary.json") if (run_dir / "summary.json").exists() else None,
        timeline=timeline,
        notes=notes,
    )


def _timeline(run_dir: Path) -> tuple[list[Process], list[str]]:
    """Read the timeline; one that is damaged is left out with a note, since nothing else in the report needs it."""
    try:
        return read_timeline(run_dir), []
    except TimelineError as error:
        return [], [str(error)]


def _facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReportError(f"{path}: not JSON ({error}); remove it to go on without") from error
    if not isinstance(facts, dict):
        raise ReportError(f"{path}: not a JSON object; remove it to go on without")
    return facts


def _mapping(path: Path, text: str) -> dict[str, Any]:
    try:
        config = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    return config if isinstance(config, dict) else {}


def _reward_model(config: dict[str, Any]) -> dict[str, Any]:
    return _section(_section(config, "reward"), "model")


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _alarm(kind: type[Alarm], section: dict[str, Any]) -> Alarm | None:
    try:
        return kind.model_validate(section["alarm"]) if section.get("alarm") else None
    except ValueError:  # of another version; the report does without
        return None


def _model_words(config: dict[str, Any]) -> str:
    model = config.get("model")
    base = model.get("base") if isinstance(model, dict) else None
    if not isinstance(base, dict):
        return ""
    if base.get("kind") == "scratch":
        return f"Llama from scratch, {base.get('layers', '?')} layers, width {base.get('width', '?')}"
    return str(base.get("path", ""))
