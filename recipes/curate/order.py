"""From the arguments of ``k15 curate`` to its files: everything is checked before anything is spent."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recipes.commands.eval_options import EvalError
from recipes.curate.asking import Asker
from recipes.curate.config import CurateConfig
from recipes.curate.evaluation_sets import EvaluationSet
from recipes.curate.evaluation_sets import load as load_sets
from recipes.curate.ledger import fates_of
from recipes.curate.pipeline import EMBEDDED, Curation, Nothing
from recipes.curate.reading import HUB, file_of, hub_source, names_of
from recipes.curate.report import write_page
from recipes.curate.results import Facts, write_results
from recipes.curate.rows import Numbers
from recipes.curate.showing import Showing
from recipes.curate.spread import WorkerLost, cores, here, on_cluster
from recipes.curate.stages import asked_folder, origin
from recipes.curate.summary import results_of
from recipes.curate.warmup import WarmupError, gather, write
from recipes.curate.work import Work
from recipes.curate.writing import FATES, marks_for, set_files, write_fates, write_set
from recipes.run.workspace import Workspace, WorkspaceError
from rl.launch import LaunchError, check_run_dir
from rl.stop import Interrupted, Stopper
from rollout.embedding.encoders import check_encoder
from rollout.embedding.vectors import VectorsError
from rollout.models.pretrained import ModelPathError
from rollout.models.templates import PromptError
from rollout.parquet import FormatError
from rollout.problems.source import ProblemError
from rollout.user_code import UserCodeError

REFUSED = (EvalError, ProblemError, ModelPathError, PromptError, UserCodeError, WorkspaceError)
"""What is wrong with the command, its sources, model or folder."""
WARMUP, PAGE, SUMMARY = "warmup.jsonl", "report.html", "summary.json"
LIBRARIES = {"faiss": "faiss-cpu", "datasketch": "datasketch", "sentence_transformers": "sentence-transformers"}


@dataclass(frozen=True)
class Order:
    """The arguments of the command."""

    config: CurateConfig
    out: Path
    model: str
    """Empty: none."""
    warmup: bool
    """Whether long-CoT demonstrations are asked for instead of a set."""
    command: str
    """As it was called."""


def carry_out(order: Order) -> int:
    """Curate, resuming what the folder holds; returns 0, 1, or 128 + signal. Raises ``REFUSED``, ``LaunchError`` and
    the errors of engines.
    """
    with Stopper() as stopper:
        try:
            check_run_dir(order.out.resolve())
            check_libraries()
            told, sets = checked(order)
            with stopper.interruptible(), Workspace(order.out).lock(), opened(order, sets, stopper) as work:
                return _curated(order, work, told)
        except Interrupted:
            say(f"stopped; the same command goes on in {order.out}")
            return 128 + (stopper.signal or signal.SIGTERM)
        except VectorsError as error:
            raise ProblemError(f"embeddings (encoder, whitening): {error}") from error
        except (LaunchError, FormatError, WorkerLost) as error:
            say(str(error))
            return 1


def say(text: str) -> None:
    """Print one line to standard error."""
    print(f"k15: {text}", file=sys.stderr, flush=True)


def check_libraries() -> None:
    """Raises ``ProblemError`` when what only curation needs is not installed."""
    missing = [package for name, package in LIBRARIES.items() if find_spec(name) is None]
    if missing:
        raise ProblemError(f"{', '.join(missing)} not installed: pip install 'k15[curate]'")


def checked(order: Order) -> tuple[dict[str, Any], list[EvaluationSet]]:
    """Return fingerprints of all that goes in, and the evaluation sets. Raises ``REFUSED``."""
    config = order.config
    folder = os.environ.get("K15_DATA")
    for one in config.sources:
        if not one.path.startswith(HUB) and written_here(file_of(one.path, folder), order.out):
            raise ProblemError(f"{one.path}: this command would write over it; choose another --out")
    check_out(order.out)
    if config.duplicates or config.coverage or (config.contamination and config.against):
        check_encoder(config.encoder)
    sources = [{**one.model_dump(mode="json"), "file": file_state(one.path, folder)} for one in config.sources]
    sets = load_sets(config.against) if config.against else []
    model = ""
    if order.model:
        from recipes.commands.eval_models import LocalModel

        model = LocalModel.find(order.model).fingerprint
    return {"sources": sources, "against": [_set_state(one) for one in sets], "model": model}, sets


def check_out(out: Path) -> None:
    """Raises ``ProblemError`` for a folder with files of others that would be written over."""
    if out.exists() and not out.is_dir():
        raise ProblemError(f"{out}: a file; --out wants a directory")
    if (out / ".lock").exists() and (out / "read").is_dir():  # its own; not by what a kill may leave away
        return
    named = (*(out / name for name in (FATES, WARMUP, PAGE, SUMMARY, "rows", "vectors")), *set_files(out))
    if found := sorted(path.name for path in named if path.exists()):
        raise ProblemError(f"{out} holds {', '.join(found)}, which k15 curate has not written; choose another --out")


def written_here(path: Path, out: Path) -> bool:
    """Return whether a file is one of those that are written to ``out`` for others to read."""
    return path.resolve() in {one.resolve() for one in (*set_files(out), out / FATES, out / WARMUP)}


def file_state(path: str, folder: str | None) -> str:
    """Return a text that changes when a source does."""
    if path.startswith(HUB):
        # A folder of ``datasets``; what the hub has is not looked up.
        saved = Path(hub_source(path).path).expanduser()
        files = sorted(saved.rglob("*")) if saved.is_dir() else []
    else:
        files = [file_of(path, folder)]
    states = [file.stat() for file in files]
    return " ".join(f"{state.st_size} {state.st_mtime_ns}" for state in states)


def _set_state(one: EvaluationSet) -> list[str]:
    digest = hashlib.sha256("\0".join([*one.ids, *one.statements]).encode(errors="replace")).hexdigest()[:16]
    return [one.name, digest]


@contextmanager
def opened(order: Order, sets: list[EvaluationSet], stopper: Stopper) -> Iterator[Work]:
    """Yield what the stages work with. Raises ``LaunchError`` when the cluster cannot be reached."""
    config = order.config
    with ExitStack() as stack:
        if config.ray.address:
            from rl.config import RunConfig
            from rl.launch import connected

            stack.enter_context(connected(RunConfig(ray=config.ray)))
            stopper.claim()
            spread = encoding = on_cluster()
        else:
            spread, encoding = here(config.workers or cores()), here(1)
        view = stack.enter_context(Showing())
        asker = None
        if order.model:
            asker = stack.enter_context(Asker(order.model, config.engine, config.ray, config.seed, longest(order)))
        yield Work(config, order.out, spread, encoding, view, names_of(config.sources), sets, asker)


def longest(order: Order) -> int:
    """Return the longest response that any stage asks for, in tokens."""
    config = order.config
    if order.warmup:
        return config.warmup.max_tokens
    return max((keys.max_tokens for keys in (config.guess, config.difficulty) if keys is not None), default=1)


def _curated(order: Order, work: Work, told: Mapping[str, Any]) -> int:
    began = time.monotonic()
    curation = Curation(work, told)
    try:
        kept = curation.run()
        ended = None
    except Nothing as error:
        kept, ended = np.empty(0, np.int64), error
    folders = [(one.name, order.out / one.name) for one in curation.passed if not one.skipped]
    marks = marks_for(kept, [folder for _, folder in folders])
    work.view.stage("write")
    earlier = [path for path in set_files(order.out) if path.exists()]
    files = [] if order.warmup else write_set(order.out, work.rows, kept, work.names, marks)
    fates = fates_of(work.rows.count, folders)
    write_fates(order.out, work.rows, work.names, fates)
    facts = facts_of(order, work, sum(one.seconds for one in curation.passed) or time.monotonic() - began)
    results = results_of(work, curation.passed, fates, kept, marks, facts)
    write_results(order.out / SUMMARY, results)
    write_page(order.out / PAGE, results)
    work.view.close()
    if ended is not None:
        gone = ", ".join(path.name for path in earlier if not path.exists())
        say(f"{ended}" + (f"; {gone} of an earlier command is removed" if gone else ""))
        return 1
    if order.warmup:
        return _warmed(order, work, kept)
    for one in files:
        print(f"set      {one.path}")
    print(f"fates    {order.out / 'fates.jsonl'}\nreport   {order.out / 'report.html'}")
    for one in files:
        print(f"train    k15 train RECIPE --problems.train {shlex.quote(one.source)}")
    return 0


def _warmed(order: Order, work: Work, kept: Numbers) -> int:
    assert work.asker is not None
    try:
        keys, problems = order.config.warmup, work.problems(kept)
        folder = asked_folder(work, "warmup", keys, {"samples", "kept", "behaviours"})
        found = gather(work.asker, problems, keys, folder, origin(work, kept, problems))
    except WarmupError as error:
        say(str(error))
        return 1
    target = order.out / WARMUP
    write(target, found.demonstrations)
    say(found.told)
    print(f"warm-up  {target}\nreport   {order.out / 'report.html'}")
    return 0


def facts_of(order: Order, work: Work, seconds: float) -> Facts:
    """Return what was done, with what."""
    from rl.state.run_dir import git_revision

    encoder = order.config.encoder
    return Facts(
        command=order.command,
        k15=version("k15"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=order.config.seed,
        seconds=round(seconds, 1),
        model=order.model or None,
        encoder=f"{encoder.kind} {encoder.path}".strip() if EMBEDDED & {*work.done} else None,
        git_revision=git_revision(Path(__file__).parent),
        versions=tuple((name, version(name)) for name in LIBRARIES.values()),
    )
