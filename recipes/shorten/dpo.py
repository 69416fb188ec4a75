"""Direct preference optimisation on token ids, with TRL's trainer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.shorten.config import DpoConfig
from recipes.shorten.training import Start, on_model
from rl.config import RunConfig
from rl.state.disk import writing
from rollout.models.export import save_model, save_tokenizer
from rollout.models.pretrained import files_of
from rollout.progress import progress
from rollout.strict_json import dumps

TokenPair = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Prompt, chosen and rejected token ids; responses as sampled, with their end token if they have one."""
CHECKPOINTS = 10
"""Checkpoints over the whole training; the last one is kept."""


class DpoError(RuntimeError):
    """Training cannot be carried out; one line."""


@dataclass(frozen=True)
class Job:
    """One training, complete in itself: it may run on another machine that shares the folder."""

    config: RunConfig
    """Device, type, adapters, threads, seed."""
    keys: DpoConfig
    model: str
    folder: str
    """Gets ``model/``, ``checkpoints/`` and ``log.jsonl``."""


@dataclass(frozen=True)
class Step:
    """Progress."""

    done: int
    total: int
    said: str
    """Loss and reward margin, when they were logged."""


def optimise(start: Start, pairs: Sequence[TokenPair], keys: DpoConfig) -> int:
    """Train on ``pairs`` where the learner would be and write ``folder/model``; returns the number of steps.

    Goes on from the last checkpoint of an interrupted training.
    """
    config = on_model(start.setup.config, start.model)
    job = Job(config, keys, str(start.model), str(start.folder))
    last = Step(0, 0, "")
    with start.stopper.interruptible(), progress() as watch:
        watch.stage("starting the trainer")
        for step in start.workers.process(config, start.model).stream(train, job, pairs):
            if not last.total:
                watch.stage("DPO", step.total, earlier=step.done - 1)
            watch.say(step.said)
            watch.advance(step.done - last.done)
            last = step
    return last.total


def train(job: Job, pairs: Sequence[TokenPair]) -> Iterator[Step]:
    """Train, yielding after each optimiser step; the model is on disk when the last one has been yielded.

    The trainer runs on a thread of its own, since it calls back rather than yields. Raises ``DpoError``, and what the
    trainer raises.
    """
    steps: queue.Queue[Step | None] = queue.Queue()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _train(job, pairs, steps.put)
        except BaseException as failure:  # noqa: BLE001 - handed over to the consumer, which raises it
            failures.append(failure)
        finally:
            steps.put(None)

    thread = threading.Thread(target=work, name="dpo", daemon=True)
    thread.start()
    while (step := steps.get()) is not None:
        yield step
    thread.join()
    if failures:
        raise failures[0]


def _train(job: Job, pairs: Sequence[TokenPair], tell: Callable[[Step], None]) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from transformers.trainer_utils import get_last_checkpoint

    from rl.learner.policy import check_tokenizer

    if job.config.model.threads:
        torch.set_num_threads(job.config.model.threads)
    folder = Path(job.folder)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    check_tokenizer(tokenizer, job.model)
    rows = [{"prompt_ids": list(p), "chosen_ids": list(c), "rejected_ids": list(r)} for p, c, r in pairs]
    trainer = _trainer(job, Dataset.from_list(rows), tokenizer, tell)
    checkpoints = folder / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    policy = trainer.accelerator.unwrap_model(trainer.model)
    for name, parameter in policy.named_parameters():
        if not parameter.isfinite().all():
            raise DpoError(f"DPO made {name} NaN or infinite: lower dpo.lr, remove {folder} and run the command again")
    with writing(folder):
        source = files_of(job.model)
        (folder / "model").mkdir(exist_ok=True)
        save_model(policy, folder / "model", source)
        save_tokenizer(tokenizer, folder / "model", source)
    (folder / "log.jsonl").write_text("".join(dumps(row) + "\n" for row in trainer.state.log_history))


def _load(job: Job) -> Any:
    """The model in float32, with block attention if it was trained with it."""
    from rl.learner.policy import load_model
    from rollout.models import moba

    model = load_model(job.model)
    block = moba.read(model.config.get_text_config())
    if block is not None:
        moba.use(model, block, otherwise="sdpa")
    return model


def _trainer(job: Job, pairs: Any, tokenizer: Any, tell: Callable[[Step], None]) -> Any:
    import peft
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOTrainer

    class OnTokens(DPOTrainer):  # type: ignore[misc]
        """Takes token ids as they were sampled: text would be tokenised anew, and could come out differently."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    class Telling(TrainerCallback):  # type: ignore[misc]
        said = ""

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.said = f"loss {logs['loss']:.3f}, margin {logs.get('rewards/margins', float('nan')):.3f}"

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            tell(Step(state.global_step, state.max_steps, self.said))

    lora = job.config.model.lora
    adapters = None
    if lora is not None:
        targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
        adapters = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    trainer = OnTokens(
        model=_load(job),
        ref_model=None if adapters else _load(job),
        args=_arguments(job, len(pairs)),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=adapters,
        callbacks=[Telling()],
    )
    trainer.remove_callback(PrinterCallback)  # what it would print goes to log.jsonl and the progress bar
    return trainer


def _arguments(job: Job, pairs: int) -> Any:
    from trl import DPOConfig as Arguments

    keys, model = job.keys, job.config.model
    steps = max(1, keys.epochs * -(-pairs // keys.batch_pairs))
    losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, keys.sft_weight]} if keys.sft_weight else {}
    return Arguments(
        output_dir=str(Path(job.folder) / "checkpoints"),
        per_device_train_batch_size=keys.micro_batch_pairs,
        gradient_accumulation_steps=keys.batch_pairs // keys.micro_batch_pairs,
        num_train_epochs=keys.epochs,
        learning_rate=keys.lr,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        beta=keys.beta,
        max_length=None,
        gradient_checkpointing=model.gradient_checkpointing,
        use_cpu=model.device == "cpu",
        bf16=model.compute_dtype == "bfloat16",
        seed=job.config.seed,
        save_steps=max(1, steps // CHECKPOINTS),
        save_total_limit=1,
        logging_steps=max(1, steps // 100),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=model.device == "cuda",
        **losses,
    )
