"""TRL's GRPOTrainer on k15's model, problems and verifier: the other side of ``benchmarks.loop``, a process of its own.

    python -m benchmarks.trl_arm SETTINGS.json RESULT.json

Clock, samples and tokens are counted as in ``benchmarks.curve``: evaluations are left out, everything else counts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.curve import Checked, Curve, Point, save_curve
from rollout.types import Prompt


@dataclass(frozen=True)
class Settings:
    """One run."""

    model: str
    """Directory of the model that training starts from."""
    config: str
    """File of the k15 configuration that names problems, groups, k, lengths, sampling and updates."""
    generation: str
    """``generate``: padded batches; ``continuous``: continuous batching of transformers; ``vllm``: colocated vLLM."""
    lr: float
    """AdamW's, constant."""
    threads: int
    """Torch threads."""
    iterations: int
    """Most iterations; one is a generation batch and ``updates`` optimiser steps."""
    evaluate_every: int
    target: float | None
    """Stop once an evaluation reaches it."""
    seed: int
    eval_batch: int = 256
    """Held-out prompts decoded together."""


class Notes:
    """What happened when, in the units of ``Curve``."""

    def __init__(self) -> None:
        self.began = 0.0
        self.evaluated = 0.0
        """Seconds spent on evaluations since ``began``."""
        self.samples = 0
        self.tokens = 0
        self.points: list[Point] = []
        self.checks: list[Checked] = []

    def curve(self) -> Curve:
        """The run so far."""
        return Curve(tuple(self.points), tuple(self.checks))


def grpo_config(settings: Settings, config: Any, output: Path) -> Any:
    """GRPOConfig with k15's batch shape, and everything switched off that only costs time."""
    from trl import GRPOConfig

    rollout = config.rollout
    batch = rollout.groups * rollout.k
    return GRPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=batch // config.learner.updates,
        gradient_accumulation_steps=1,
        steps_per_generation=config.learner.updates,
        num_generations=rollout.k,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        top_p=1.0,
        top_k=0,
        max_steps=settings.iterations * config.learner.updates,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        bf16=False,
        fp16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_vllm=settings.generation == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=config.engine.max_model_len,
        use_transformers_continuous_batching=settings.generation == "continuous",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
    )


def run(settings: Settings, result: Path) -> None:
    """Train and write the curve to ``result``."""
    import torch

    torch.set_num_threads(settings.threads)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOTrainer

    from recipes.run.setup import prepare
    from rl.config import RunConfig
    from rl.config_io import load, read_file
    from rollout.grading import by_name

    config = load(RunConfig(), read_file(Path(settings.config)), [])
    setup = prepare(config)
    count = settings.iterations * config.rollout.groups
    problems = [setup.train[index] for index in range(count)]
    known = {problem.id: problem for problem in (*problems, *setup.heldout)}
    rows = [{"prompt": config.problems.framing.messages(problem), "problem_id": problem.id} for problem in problems]
    notes = Notes()

    def grade(problem_id: str, token_ids: list[int]) -> float:
        if not token_ids or token_ids[-1] not in setup.end:
            return 0.0  # truncated is wrong, as in k15
        problem = known[problem_id]
        text = setup.transcript.graded(setup.render(problem).token_ids, token_ids)
        return float(by_name(problem, text).correct)

    def reward(problem_id: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        notes.samples += len(completion_ids)
        notes.tokens += sum(map(len, completion_ids))
        return [grade(name, ids) for name, ids in zip(problem_id, completion_ids, strict=True)]

    class Follow(TrainerCallback):  # type: ignore[misc]
        """Clock and evaluations."""

        def on_train_begin(self, _args: Any, _state: Any, _control: Any, model: Any = None, **_: Any) -> None:
            self.check(model, 0)
            notes.evaluated, notes.began = 0.0, time.monotonic()

        def on_step_end(self, _args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step % config.learner.updates:
                return
            iteration = state.global_step // config.learner.updates
            seconds = time.monotonic() - notes.began - notes.evaluated
            notes.points.append(Point(seconds, notes.samples, notes.tokens))
            print(f"iteration {iteration}: {seconds:.1f} s", file=sys.stderr, flush=True)
            if iteration % settings.evaluate_every == 0 or iteration == settings.iterations:
                accuracy = self.check(model, iteration)
                if settings.target is not None and accuracy >= settings.target:
                    control.should_training_stop = True

        def check(self, model: Any, iteration: int) -> float:
            began = time.monotonic()
            found = evaluate(model, setup, settings, grade, iteration)
            notes.checks.append(found)
            notes.evaluated += time.monotonic() - began
            print(f"iteration {iteration}: held out {found.accuracy:.3f}", file=sys.stderr, flush=True)
            return found.accuracy

    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=grpo_config(settings, config, result.with_suffix(".trl")),
        train_dataset=Dataset.from_list(rows),
        processing_class=setup.tokenizer,
        callbacks=[Follow()],
    )
    trainer.train()
    save_curve(notes.curve(), result)


def evaluate(model: Any, setup: Any, settings: Settings, grade: Any, iteration: int) -> Checked:
    """One response at the training temperature to each held-out problem, with transformers' own generation."""
    import torch

    from rewards.stats import mean_ci

    pad = setup.tokenizer.pad_token_id
    correct: list[list[float]] = []
    training = model.training
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(settings.seed + iteration)
        for start in range(0, len(setup.heldout), settings.eval_batch):
            part = setup.heldout[start : start + settings.eval_batch]
            ids = torch.tensor(padded([setup.render(problem) for problem in part], pad))
            drawn = model.generate(
                ids,
                attention_mask=(ids != pad).long(),
                max_new_tokens=setup.config.rollout.max_tokens,
                do_sample=True,
                temperature=setup.config.eval.temperature,
                top_k=0,
                top_p=1.0,
                eos_token_id=list(setup.end),
                pad_token_id=pad,
            )
            for problem, row in zip(part, drawn[:, ids.shape[1] :].tolist(), strict=True):
                correct.append([grade(problem.id, until_end(row, setup.end))])
    model.train(training)
    estimate = mean_ci(correct)
    return Checked(iteration, estimate.mean, estimate.low, estimate.high)


def padded(prompts: Sequence[Prompt], pad: int) -> list[list[int]]:
    """Token ids of prompts, padded on the left to the length of the longest."""
    width = max(map(len, prompts))
    return [[pad] * (width - len(prompt)) + prompt.token_ids.tolist() for prompt in prompts]


def until_end(token_ids: list[int], end: tuple[int, ...]) -> list[int]:
    """The response up to its first end token, which belongs to it; all of it without one."""
    for index, token in enumerate(token_ids):
        if token in end:
            return token_ids[: index + 1]
    return token_ids


def save(settings: Settings, path: Path) -> None:
    """Write ``settings`` where the process will read them."""
    path.write_text(json.dumps(asdict(settings)))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run(Settings(**json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
