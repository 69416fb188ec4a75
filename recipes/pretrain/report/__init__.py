"""``report.html`` of a pretraining: held-out losses, the course of training, stages, settings and versions."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from evals.report.page import render, script_of
from evals.report.run.data import ReportError
from recipes.commands.sample import PRETRAINING
from recipes.pretrain.report.figures import Course, positions, sections
from recipes.pretrain.report.stages import read_of, stages
from recipes.pretrain.results import parameters_of, read_result
from recipes.run.workspace import WorkspaceError
from rl.config_io import ConfigError, checked, read_file
from rl.learner.config import ModelConfig, ScratchModel
from rl.pretraining_config import PretrainConfig
from rl.record.log import LogError, read_metrics
from rollout.files import replace_file

FILE = "report.html"
INFO = "run.json"


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of what a pretraining's folder holds so far and return its path.

    Raises ``ReportError`` for records that cannot be read, and ``OSError``.
    """
    try:
        course = read_course(folder)
    except (LogError, WorkspaceError) as error:
        raise ReportError(str(error)) from error
    path = folder / FILE
    title = f"{course.name} \N{MIDDLE DOT} k15"
    replace_file(path, render(title, payload(course), page_script(), "texts").encode())
    return path


def page_script() -> str:
    """Return the script that draws ``payload`` with the parts of ``evals.report.page``."""
    return script_of("recipes.pretrain.report", "report.js")


def read_course(folder: Path) -> Course:
    """Read a pretraining, which may still be at work. Raises ``LogError``, ``WorkspaceError`` and ``OSError``."""
    notes, config = [], None
    try:
        config = checked(PretrainConfig, read_file(folder / PRETRAINING))
    except ConfigError as error:
        notes.append(f"{PRETRAINING}: {error.lines[0]}; stages and positions are left out")
    result = read_result(folder)
    initial = folder / "initial"
    return Course(
        name=folder.resolve().name,
        facts=_facts(folder / INFO),
        config=config,
        config_text=(folder / PRETRAINING).read_text("utf-8", errors="replace"),
        rows=sorted(read_metrics(folder), key=lambda row: row["iteration"]),
        result=result,
        parameters=result.parameters if result else (parameters_of(initial) if initial.exists() else None),
        notes=tuple(notes),
    )


def _facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # of an older version, or damaged: nothing else needs it
        return {}
    return found if isinstance(found, dict) else {}


def payload(course: Course) -> dict[str, Any]:
    """Return everything that the page shows, as plain JSON data."""
    config, versions = course.config, course.facts.get("versions")
    read = [*accumulate(row["tokens"] for row in course.rows)]
    return {
        "name": course.name,
        "recipe": config.recipe if config else None,
        "model": model_words(config.model) if config else None,
        "optimizer": config.learner.optimizer.kind if config else None,
        "seed": config.seed if config else None,
        "facts": {key: course.facts.get(key) for key in ("started", "git_revision")},
        "versions": [[name, str(one)] for name, one in versions.items()] if isinstance(versions, dict) else [],
        "steps": len(course.rows),
        "planned": config.steps if config else None,
        "finished": course.result is not None,
        "texts": texts(course),
        "parameters": course.parameters,
        "tokens": read[-1] if read else 0,
        "seconds": sum(row.get("seconds", 0.0) for row in course.rows),
        "skipped": sum(row.get("skipped", 0.0) for row in course.rows),
        "sections": [asdict(section) for section in sections(course)],
        "positions": asdict(panel) if (panel := positions(course)) else None,
        "stages": stages(config) if config else [],
        "config": course.config_text,
        "notes": list(course.notes),
    }


def texts(course: Course) -> list[dict[str, Any]]:
    """Return what is known of the held-out part of each text: first and last loss, and the tokens read of it."""
    read = read_of(course.config, len(course.rows)) if course.config else {}
    found = []
    for name in course.texts:
        keys = {what: f"heldout/{name}/{what}" for what in ("loss", "bits", "trailing")}
        measured = [row for row in course.rows if keys["loss"] in row]
        last: dict[str, float | None] = {
            what: measured[-1].get(key) if measured else None for what, key in keys.items()
        }
        if course.result and (end := course.result.heldout.get(name)):
            last = {"loss": end.loss, "bits": end.bits, "trailing": end.positions[-1]}
        first = measured[0][keys["loss"]] if measured else None
        found.append({"name": name, **last, "first": first, "read": read.get(name)})
    return found


def model_words(model: ModelConfig) -> str:
    """Return what a model is, in a few words."""
    base = model.base
    if not isinstance(base, ScratchModel):
        return base.path
    kind = {"llama": "Llama", "gpt2": "GPT-2", "gpt_neox": "GPT-NeoX"}[base.architecture]
    shape = f"{base.layers} layers, width {base.width}"
    if base.experts is None:
        return f"{kind} from scratch, {shape}"
    return f"DeepSeek-V3 from scratch, {shape}, {base.experts.active} of {base.experts.routed} experts"
