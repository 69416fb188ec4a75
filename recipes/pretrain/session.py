"""A whole pretraining: texts, learner, steps, held-out loss, model. Resumes whatever its folder holds.

pretraining.yaml  resolved configuration; ``k15 train RECIPE --config pretraining.yaml`` starts it again
stage.json        what it was made from; whether it is finished
text/             tokens of the texts
initial/, model/  Hugging Face files: before, after
metrics.jsonl     one line per step
checkpoints/      see ``rl.state.checkpoint``
run.json          when, with which versions
results.json, loss.png, report.html
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.commands.choose import short_name
from recipes.commands.sample import PRETRAINING
from recipes.pretrain.plot import write_png
from recipes.pretrain.report import INFO, write_report
from recipes.pretrain.results import Result, lines, parameters_of, read_result, write_result
from recipes.pretrain.texts import FOLDER, check_same, held_out_rows, open_texts, sources_of, tokenizer_of
from recipes.run.launching import Site
from recipes.run.work import in_workspace
from rl.config_io import dump
from rl.learner.config import ScratchModel
from rl.pretraining import HeldOut, Texts, held_out, plan, pretrain
from rl.pretraining_config import PretrainConfig
from rl.record.log import MetricsLog, read_metrics
from rl.state.disk import writing
from rl.state.run_dir import provenance
from rl.stop import Stopper
from rl.text.encoding import document_end
from rollout.files import replace_file, replacing_folder
from rollout.models.endings import declare_end, end_tokens
from rollout.models.export import save_model, save_tokenizer
from rollout.progress import Progress
from rollout.strict_json import dumps

MODEL = "model"
WRITTEN = (MODEL, "initial", "checkpoints", "metrics.jsonl", "results.json", "config.yaml")
"""What a pretraining or a run of RL writes; a folder that holds it already belongs to another."""


def run(config: PretrainConfig, folder: Path) -> int:
    """Train into ``folder``, resuming what is there, and print the results; returns 0, 1, or 128 + signal.

    Raises ``WorkspaceError`` for a folder that holds something else.
    """
    told = {"config": config.model_dump(mode="json", exclude={"cache"})}

    def work(stopper: Stopper, watch: Progress) -> str:
        return "\n".join(lines(train(config, folder.resolve(), stopper, watch)))

    return in_workspace(folder, told, WRITTEN, work, "--run-dir")


def train(config: PretrainConfig, folder: Path, stopper: Stopper, watch: Progress) -> Result:
    """Do all that ``folder`` does not hold yet; whoever calls has it locked.

    Raises ``TextError``, ``NonFiniteGradients``, ``ModelPathError``, ``PolicyError``, ``Interrupted`` and ``OSError``.
    """
    if (done := read_result(folder)) is not None:
        return done
    replace_file(folder / PRETRAINING, dump(config).encode())
    if not (folder / INFO).exists():
        replace_file(folder / INFO, (dumps(provenance(), indent=1) + "\n").encode())
    with ExitStack() as stack:
        return _Session(config, folder, stopper, watch, stack).train()


@dataclass
class _Session:
    """The work of one process; ``stack`` closes what it opens."""

    config: PretrainConfig
    folder: Path
    stopper: Stopper
    watch: Progress
    stack: ExitStack

    def train(self) -> Result:
        """Do it."""
        config, folder, watch = self.config, self.folder, self.watch
        watch.stage("reading text")
        sources = sources_of(config)
        with self.stopper.interruptible():
            self.tokenizer = tokenizer_of(config, sources, folder / "tokenizer")
            root = Path(config.cache).expanduser() if config.cache else folder / FOLDER
            self.texts = open_texts(config, sources, self.tokenizer, root)
            check_same(self.texts, folder / "texts.json")
            rows = self._check(self.texts)
        watch.stage("starting the learner")
        with self.stopper.interruptible():
            start = self._start()
            self.policy: Any = Site(config.run(), self.stack, self.stopper.claim).learner(config.run(), start)
            if not isinstance(config.model.base, ScratchModel):
                self._rehearse()

        def measured() -> dict[str, HeldOut]:
            bins = config.measure.bins
            return {name: held_out(self.policy, parts, size, bins) for name, (parts, size) in rows.items()}

        began = time.monotonic()
        with closing(MetricsLog(folder, config.log.sinks, config.log.project, config.model_dump(mode="json"))) as log:
            tokens = pretrain(
                config,
                self.texts,
                document_end(self.tokenizer),
                self.policy,
                lambda _: _named(measured()),
                folder / "checkpoints",
                watch,
                self.stopper,
                _Recorder(log).record,
            )
            watch.stage("measuring and writing the model")
            final = measured()
            check_finite(final)
        self._write(folder / MODEL)
        return self._conclude(final, tokens, time.monotonic() - began)

    def _check(self, texts: Texts) -> Mapping[str, tuple[list[Any], float]]:
        """Return the held-out windows of every text, all of one length, and the bytes of a token; before anything is
        spent. Raises ``TextError`` for a text with too little.
        """
        config, found = self.config, {}
        for name, shards in texts.shards.items():
            shards.fill(1)
            if shards.ended and any(config.mixture(stage)[name] for stage in config.stages):
                needed = sum(step.length * step.counts[list(texts.shards).index(name)] for step in plan(config))
                if needed > 2 * shards.tokens > 0:
                    self.watch.warn(
                        f"text {name!r} has {shards.tokens:,} tokens and is read {needed / shards.tokens:.1f} times"
                    )
            found[name] = held_out_rows(shards, config.longest, config.measure.tokens)
        for name, counts in zip(texts.shards, zip(*(step.counts for step in plan(config)), strict=True), strict=True):
            if any(counts):
                texts.windows(name, config.longest)[0]
        return found

    def _start(self) -> Path | str:
        """Return the files that training starts from; weights from scratch are written once."""
        from rl.learner.policy import create_model
        from rollout.models.pretrained import resolve_model

        base, initial = self.config.model.base, self.folder / "initial"
        if not isinstance(base, ScratchModel):
            return resolve_model(base.path)
        if not initial.exists():
            model = create_model(base, self.tokenizer, self.config.seed)
            with writing(self.folder), replacing_folder(initial) as aside:
                save_tokenizer(self.tokenizer, aside)
                save_model(model, aside)
        return initial

    def _rehearse(self) -> None:
        """Write the model as it is, so that what would fail at the end fails now."""
        trial = self.folder / ".rehearsal"
        try:
            self._write(trial)
        finally:
            shutil.rmtree(trial, ignore_errors=True)

    def _write(self, target: Path) -> None:
        from rollout.models.pretrained import files_of, resolve_model

        base = self.config.model.base
        source = None if isinstance(base, ScratchModel) else files_of(resolve_model(base.path))
        with replacing_folder(target) as aside:
            self.policy.export(aside, self.config.model.export_dtype)
            with writing(aside):
                save_tokenizer(self.tokenizer, aside, source)
                declare_end(aside, end_tokens(self.tokenizer))

    def _conclude(self, final: Mapping[str, HeldOut], tokens: int, seconds: float) -> Result:
        size = parameters_of(self.folder / MODEL)
        result = Result(dict(final), tokens, size, seconds, str(self.folder / MODEL))
        losses = {name: one.loss for name, one in final.items()}
        write_png(self.folder / "loss.png", read_metrics(self.folder), losses, short_name(self.config.recipe))
        write_result(self.folder, result)
        write_report(self.folder)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return result


def check_finite(final: Mapping[str, HeldOut]) -> None:
    """Raise ``NonFiniteGradients`` for held-out losses that are not numbers: such a model is of no use."""
    from rl.learner.learner import NonFiniteGradients

    if lost := [name for name, one in final.items() if not math.isfinite(one.loss)]:
        raise NonFiniteGradients(
            f"the loss on what is held out of text {lost[0]!r} is not finite in the end; lower the schedule's lr, in "
            "another --run-dir"
        )


class _Recorder:
    """Writes the rows of steps; the first one drops what an earlier process wrote from there on."""

    def __init__(self, log: MetricsLog) -> None:
        self._log, self._begun = log, False

    def record(self, number: int, values: Mapping[str, float | None]) -> None:
        """Write a row."""
        if not self._begun:
            self._log.truncate(number)
            self._begun = True
        self._log.write(number, {name: value for name, value in values.items() if value is not None})


def _named(measured: Mapping[str, HeldOut]) -> dict[str, float]:
    """Return held-out losses by the names that ``metrics.jsonl`` has for them."""
    found: dict[str, float] = {}
    for name, one in measured.items():
        found |= {f"heldout/{name}/loss": one.loss, f"heldout/{name}/bits": one.bits}
        found[f"heldout/{name}/trailing"] = one.positions[-1]
    return found
