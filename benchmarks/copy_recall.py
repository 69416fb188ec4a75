"""Does a copy head help to copy whole spans? ``python -m benchmarks.copy_recall``; some minutes a seed on one core.

A tiny model learns the task of ``benchmarks.copy_task`` by the product's warm-up, once without and once with
``learner.copying``: the same examples, order and steps. Three arms:

base      the first model, greedy
bio       the second model, greedy
masked    the second model, greedy, its copies held to spans of the prompt (``rollout.copying.decode``)

One JSON line per seed and arm: exact recall by length of the spans (trained on 3 to 8, tested beyond), accuracy of
tokens within spans, recall of rare tokens, F1 of the tags; then the arms over all seeds, and whether the order is the
expected one. What is finished is kept in ``runs/bench/copy_recall``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.common import CACHE, emit, environment, say
from benchmarks.copy_task import EOS, Item, Recall, item, recall, tokenizer
from rl.config import WarmupStage
from rl.learner.config import LearnerConfig, ModelConfig, ScratchModel
from rl.learner.host import LearnerHost
from rl.learner.policy import create_model
from rl.learner.spec import LearnerSpec, Receivers
from rl.objectives.copying import F1
from rl.stop import Stopper
from rl.warmup import warm_up
from rollout.copying.decode import Decoded, Decoding, masked_decode, structured_decode
from rollout.copying.head import load_head
from rollout.copying.labels import NAMES, copy_labels
from rollout.files import replace_file
from rollout.progress import progress

MODEL = ScratchModel(layers=2, width=128, heads=4, kv_heads=4, mlp_width=256, context=256)
TRAINED = range(3, 9)
"""Lengths of the spans that are trained on."""
TESTED = (3, 5, 8, 11, 14)
ARMS = ("base", "bio", "masked")


@dataclass(frozen=True)
class Settings:
    """What a measurement is of."""

    examples: int = 10_000
    batch_tokens: int = 1000
    lr: float = 4e-3
    weight: float = 0.5
    """``learner.copying.weight`` of the second model."""
    tests: int = 60
    """Items of each length."""


def demonstrations(keys: Settings, seed: int) -> list[Item]:
    """Return what is trained on."""
    rng = random.Random(seed)
    return [item(rng, [rng.choice(TRAINED) for _ in range(3)]) for _ in range(keys.examples)]


def tests(keys: Settings, seed: int) -> dict[int, list[Item]]:
    """Return the tested items by the length of their spans; of texts that no training has."""
    rng = random.Random(10_000 + seed)
    return {length: [item(rng, [length] * 3) for _ in range(keys.tests)] for length in TESTED}


def taught(keys: Settings, copying: dict[str, Any] | None, seed: int, folder: Path) -> Path:
    """Return the directory of a model that the product's warm-up has taught the task."""
    words: Any = tokenizer()
    start, end = folder / "start", folder / "end"
    create_model(MODEL, words, seed).save_pretrained(start)
    words.save_pretrained(start)
    learner = LearnerConfig.model_validate({"copying": copying})
    spec = LearnerSpec(ModelConfig(base=MODEL, threads=1), learner, seed=seed)
    host = LearnerHost(spec, start, Receivers("local"))
    pairs = [one.pair for one in demonstrations(keys, seed)]
    stage = WarmupStage(examples=len(pairs), batch_tokens=keys.batch_tokens, lr=keys.lr)
    began = time.process_time()
    losses: list[float] = []
    with progress() as watch:
        steps = warm_up(
            [stage], [pairs], host, folder / "saved", watch, Stopper(), seed, lambda _, one: losses.append(one.loss)
        ).steps
    head = "base" if copying is None else "bio"
    say(f"  {head}: {steps} steps, {time.process_time() - began:.0f} s of CPU, loss {np.mean(losses[-20:]):.3f}")
    host.export(end)
    return end


def responses(model: Any, head: nn.Linear | None, items: Sequence[Item]) -> list[Decoded]:
    """Return greedy responses, their copies held to spans of the prompt if there is a ``head``."""
    prompts = [np.array(one.prompt, np.int32) for one in items]
    decoding = Decoding(max(len(one.response) for one in items) + 8, (EOS,))
    if head is not None:
        return masked_decode(model, head, prompts, prompts, decoding)
    return structured_decode(model, [None] * len(items), prompts, decoding)


@torch.no_grad()
def tag_f1(model: Any, head: nn.Linear, items: Sequence[Item]) -> dict[str, float]:
    """Return the F1 of each tag that the head tells on the right responses."""
    told, true = [], []
    for one in items:
        states = model.model(torch.tensor([[*one.prompt, *one.response]])).last_hidden_state[0]
        told += head(states[len(one.prompt) - 1 : -1]).argmax(1).tolist()
        true += copy_labels(np.array(one.prompt), np.array(one.response)).target.tolist()
    found = {name: F1.of(torch.tensor(told), torch.tensor(true), tag).value for tag, name in enumerate(NAMES)}
    return {name: round(value or 0.0, 4) for name, value in found.items()}


def brought_back(items: Sequence[Item], answers: Sequence[Decoded]) -> Recall:
    """Return what all answers bring back."""
    return sum((recall(one, told.token_ids.tolist()) for one, told in zip(items, answers, strict=True)), Recall())


def summary(asked: Mapping[int, Sequence[Item]], answers: Mapping[int, Sequence[Decoded]]) -> dict[str, Any]:
    """Return the numbers of an arm, by length of the spans and in all."""
    found = {length: brought_back(items, answers[length]) for length, items in asked.items()}
    all_of = sum(found.values(), Recall())
    return {
        "exact": {str(length): round(one.exact / one.spans, 4) for length, one in found.items()},
        "exact_all": round(all_of.exact / all_of.spans, 4),
        "tokens": round(all_of.right / all_of.tokens, 4),
        "rare": round(all_of.rare_right / all_of.rare, 4),
        "fallbacks": sum(told.fallbacks for each in answers.values() for told in each),
    }


def measure(keys: Settings, seed: int) -> dict[str, dict[str, Any]]:
    """Return the rows of one seed by arm."""
    asked = tests(keys, seed)
    with tempfile.TemporaryDirectory() as aside:
        plain = AutoModelForCausalLM.from_pretrained(taught(keys, None, seed, Path(aside) / "base")).eval()
        folder = taught(keys, {"weight": keys.weight}, seed, Path(aside) / "bio")
        model, head = AutoModelForCausalLM.from_pretrained(folder).eval(), load_head(folder)
    f1 = tag_f1(model, head, [one for items in asked.values() for one in items[:40]])
    rows: dict[str, dict[str, Any]] = {}
    for arm, chosen, held in (("base", plain, None), ("bio", model, None), ("masked", model, head)):
        answers = {length: responses(chosen, held, items) for length, items in asked.items()}
        rows[arm] = summary(asked, answers) | ({} if arm == "base" else {"f1": f1})
    return rows


def measured(keys: Settings, seed: int) -> dict[str, dict[str, Any]]:
    """Return the rows of one seed; those measured before with the same settings and instructions are not repeated."""
    capability = torch.backends.cpu.get_cpu_capability()
    name = hashlib.sha256(json.dumps(asdict(keys)).encode()).hexdigest()[:12]
    file = CACHE / "copy_recall" / f"{name}-{capability}-{seed}.json"
    if not file.exists():
        say(f"seed {seed}, {capability}")
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(measure(keys, seed)).encode())
    return json.loads(file.read_text())


def over_seeds(all_of: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Emit each arm's mean over the seeds, and what of the expected order holds."""
    for arm in ARMS:
        rows = [seed[arm] for seed in all_of]
        mean = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in ("exact_all", "tokens", "rare")}
        exact = {length: round(float(np.mean([row["exact"][str(length)] for row in rows])), 4) for length in TESTED}
        emit({"arm": arm, "seeds": len(rows), "exact": exact, **mean})
    for first, second in pairwise(ARMS):
        gaps = {
            length: [
                round(seed[second]["exact"][str(length)] - seed[first]["exact"][str(length)], 4) for seed in all_of
            ]
            for length in TESTED
        }
        whole = [round(seed[second]["exact_all"] - seed[first]["exact_all"], 4) for seed in all_of]
        emit({"gap": f"{second} - {first}", "by_length": gaps, "all": whole, "every_seed": min(whole) > 0})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copy_recall", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    for name, field in Settings.__dataclass_fields__.items():
        kind = float if isinstance(field.default, float) else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=field.default)
    chosen = parser.parse_args(arguments)
    keys = Settings(**{name: getattr(chosen, name) for name in Settings.__dataclass_fields__})
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    capability = torch.backends.cpu.get_cpu_capability()
    emit({"environment": environment(), "cpu_capability": capability, "settings": asdict(keys)})
    all_of = []
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
        all_of.append(measured(keys, seed))
        for arm, row in all_of[-1].items():
            emit({"seed": seed, "arm": arm, **row})
    over_seeds(all_of)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
