"""Language-model quality of block attention, the MoBA paper in miniature: ``python -m benchmarks.moba_quality``.

A small Llama learns procedural text with facts to recall (``rl.text.facts``) from scratch: from facts alone,
then from short texts, then from long ones. As long as a sequence is no longer than ``top_k`` blocks, block attention
*is* full attention, so the short stages are the same training for every arm and are done once per seed; the long stage
is done once per arm and seed, on the same sequences in the same order. One JSON line per arm and seed, with held-out
losses in nats per token; then one per arm, with its differences from full attention, seed by seed. Finished arms are
kept in DIR and not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import CACHE, emit, environment, say, spread
from kernels.rope import install
from kernels.varlen import NAME as FULL
from kernels.varlen import register
from rl.learner.config import OptimizerConfig
from rl.learner.forward import packed_logprobs
from rl.optim.build import PolicyOptimizer, build_optimizer
from rl.text.facts import KEYS, LETTERS, VALUES, Language
from rollout.models import moba
from rollout.models.attention import BlockAttentionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS, HEADS, HEAD_DIM = 3, 2, 64
ROPE_BASE = 500_000.0
"""As in Llama 3. 19 of a head's 32 pairs turn less than once within 1,024 tokens (with 10,000: 14), and it is by those
that a query finds a key by what it is, however far back."""
SPAN = 192
"""Keys that a query sees at most: block size times top_k, the same in all sparse arms."""
BINS = 8
"""Stretches of positions that losses are given for; the last one is the trailing loss."""
HELD_OUT = 10**6
"""Seed of the sequences that are measured on."""
WARMUP = 20
"""Steps over which the learning rate rises."""
TOKENS = LETTERS + KEYS + VALUES
"""Letters by token id."""


@dataclass(frozen=True)
class Settings:
    """What a result depends on beside its arm and seed; results of other settings are not mixed with them."""

    fact_steps: int
    """Steps on short sequences of facts alone: there a small model soon finds out how to recall one."""
    short_steps: int
    """Steps on texts that are no longer than what a sparse query sees."""
    steps: int
    """Steps on long texts."""
    length: int
    """Tokens of a long text."""
    batch: int
    """Long texts per step; shorter sequences are as many as have about as many tokens together."""
    held_out: int
    """Batches of long texts to measure on."""
    words: float
    """Words between facts in the long stage. In short texts there is one: they are too short to repeat fewer."""
    lr: float
    width: int
    """Of the model."""


FACTS_ALONE = Language(words=0.0, keys=8, recent=0)


@dataclass(frozen=True)
class Sequences:
    """A batch."""

    tokens: npt.NDArray[np.int64]
    """Token ids [n, length]."""
    distance: npt.NDArray[np.int64]
    """[n, length]: where a token is a recalled value, tokens back to its key's last occurrence; 0 elsewhere."""


def sequences(language: Language, count: int, length: int, seed: tuple[int, ...]) -> Sequences:
    """``count`` sequences of ``length`` tokens; equal seeds give equal sequences."""
    rng = np.random.default_rng([*seed, 1])
    drawn = [language.draw(length, rng) for _ in range(count)]
    tokens = np.array([[TOKENS.index(letter) for letter in one.text] for one in drawn], np.int64)
    return Sequences(tokens, np.stack([one.distance for one in drawn]))


@dataclass(frozen=True)
class Arm:
    """One way to attend in the long stage."""

    name: str
    block: BlockAttentionConfig | None
    """``None``: full attention. ``full_from`` counts steps of the long stage."""


def arms(steps: int) -> list[Arm]:
    """Full attention first; then the paper's comparisons: sparse, blocks of other sizes, layer and time hybrids."""

    def block(size: int, full_last_layers: int = 0, full_from: int | None = None) -> BlockAttentionConfig:
        return BlockAttentionConfig(
            block_size=size, top_k=SPAN // size, full_last_layers=full_last_layers, full_from=full_from
        )

    sizes = (64, 32, 16, 8)
    return [
        Arm("full", None),
        *(Arm(f"blocks of {size}, top {SPAN // size}", block(size)) for size in sizes),
        *(Arm(f"blocks of 64, last {n} of {LAYERS} layers full", block(64, n)) for n in (1, 2)),
        Arm("blocks of 64, last 10 % of steps full", block(64, full_from=round(0.9 * steps))),
    ]


def new_model(seed: int, length: int, width: int) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=width,
            intermediate_size=11 * width // 4,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=HEAD_DIM,
            max_position_embeddings=length,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
            tie_word_embeddings=True,
            dtype="float32",
        )
    )
    register()
    install(model)
    return model.train()


def logprobs(model: PreTrainedModel, batch: Sequences) -> torch.Tensor:
    """Log-probs [n, length - 1] of all tokens but each sequence's first."""
    count, length = batch.tokens.shape
    tokens = torch.from_numpy(batch.tokens).flatten()
    targets = torch.arange(len(tokens)).view(count, length)[:, 1:].flatten()
    ends = torch.arange(count + 1, dtype=torch.int32) * length
    return packed_logprobs(model, tokens, ends, targets)[0].view(count, -1)


def update(model: PreTrainedModel, optimizer: PolicyOptimizer, batch: Sequences, lr: float) -> float:
    """One step of next-token prediction; returns the loss before it."""
    loss = -logprobs(model, batch).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(lr)
    optimizer.zero_grad()
    return loss.item()


def start(settings: Settings, seed: int, path: Path) -> dict[str, Any]:
    """Weights and optimiser after the short stages, from ``path`` if it is there."""
    if not path.exists():
        model = new_model(seed, settings.length, settings.width)
        moba.use(model, None, otherwise=FULL)
        optimizer = build_optimizer(model, optimizer_config(settings))
        facts = short_batches(settings, FACTS_ALONE, settings.fact_steps, SPAN // 3, seed)
        texts = short_batches(settings, Language(), settings.short_steps, SPAN, seed)
        for step, batch in enumerate(chain(facts, texts)):
            loss = update(model, optimizer, batch, settings.lr * min(1.0, (step + 1) / WARMUP))
            if step % 50 == 49:
                say(f"seed {seed}, short stages, step {step + 1}: loss {loss:.3f}")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def short_batches(settings: Settings, language: Language, steps: int, length: int, seed: int) -> Iterator[Sequences]:
    """Sequences of ``length`` tokens, in batches with about as many tokens as a long one."""
    count = max(1, settings.batch * settings.length // length)
    for step in range(steps):
        yield sequences(language, count, length, (seed, length, step))


def optimizer_config(settings: Settings) -> OptimizerConfig:
    return OptimizerConfig(lr=settings.lr, weight_decay=0.0)


def held_out_texts(settings: Settings) -> list[Sequences]:
    """What all arms and seeds are measured on."""
    language = Language(settings.words)
    batches = [sequences(language, settings.batch, settings.length, (HELD_OUT, n)) for n in range(settings.held_out)]
    if not any((batch.distance > SPAN).any() for batch in batches):
        raise SystemExit(f"no held-out fact lies more than {SPAN} tokens back: longer texts (--length) are needed")
    return batches


def train(
    settings: Settings, seed: int, arm: Arm, state: dict[str, Any], held_out: Sequence[Sequences]
) -> dict[str, Any]:
    """The long stage of one arm, and its losses on ``held_out``, with the attention that it ended with."""
    began = time.process_time()
    language, model = Language(settings.words), new_model(seed, settings.length, settings.width)
    moba.use(model, None, otherwise=FULL)
    optimizer = build_optimizer(model, optimizer_config(settings))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    losses = []
    for step in range(settings.steps):
        moba.use(model, arm.block.at(step) if arm.block else None, otherwise=FULL)
        batch = sequences(language, settings.batch, settings.length, (seed, settings.length, step))
        # Constant, then down to 0 over the second half.
        losses.append(update(model, optimizer, batch, settings.lr * min(1.0, 2 - 2 * step / settings.steps)))
    return {
        "arm": arm.name,
        "seed": seed,
        "moba": arm.block.model_dump() if arm.block else None,
        "density": round(moba.shares(arm.block, [settings.length], LAYERS)[0], 4),
        **measure(model, held_out),
        "training_losses": [round(mean(losses[i : i + 10]), 4) for i in range(0, len(losses), 10)],
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def measure(model: PreTrainedModel, batches: Sequence[Sequences]) -> dict[str, Any]:
    """Mean losses: of all tokens, by position, of all but recalled values, and of those by how far back they lie."""
    with torch.no_grad():
        loss = np.concatenate([-logprobs(model, batch).numpy() for batch in batches])
    distance = np.concatenate([batch.distance[:, 1:] for batch in batches])
    positions = [float(part.mean()) for part in np.array_split(loss, BINS, axis=1)]
    return {
        "loss": round(float(loss.mean()), 5),
        "trailing": round(positions[-1], 5),
        "rest": round(float(loss[distance == 0].mean()), 5),
        "recall_near": round(float(loss[(distance > 0) & (distance <= SPAN // 3)].mean()), 4),
        "recall_far": round(float(loss[distance > SPAN].mean()), 4),
        "positions": [round(value, 5) for value in positions],
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per arm, in order: its losses, and by how much they exceed full attention's of the same seed."""
    full = {row["seed"]: row for row in rows if row["moba"] is None}
    lines = []
    for name in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == name and row["seed"] in full]
        line: dict[str, Any] = {"arm": name, "density": mine[0]["density"]}
        for key in ("loss", "trailing", "rest", "recall_near", "recall_far"):
            line[key] = round(mean(row[key] for row in mine), 4)
            line[f"{key}_above_full"] = spread([row[key] - full[row["seed"]][key] for row in mine])
        lines.append(line)
    return lines


def plot(rows: Sequence[dict[str, Any]], settings: Settings, path: Path) -> None:
    """Two panels: each arm's loss above full attention's, seed by seed; and the same by position."""
    from matplotlib.figure import Figure

    full = {row["seed"]: row for row in rows if row["moba"] is None}
    sparse = [row for row in rows if row["moba"] is not None and row["seed"] in full]
    names = list(dict.fromkeys(row["arm"] for row in sparse))
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(names):
        mine = [row for row in sparse if row["arm"] == name]
        left.plot(
            [row["loss"] - full[row["seed"]]["loss"] for row in mine], [place] * len(mine), "o", color=f"C{place}"
        )
        gaps = [np.subtract(row["positions"], full[row["seed"]]["positions"]) for row in mine]
        centres = (np.arange(BINS) + 0.5) * settings.length / BINS
        right.plot(centres, np.mean(gaps, axis=0), color=f"C{place}", label=name)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("loss above full attention's, nats per token; one dot per seed")
    right.set_xlabel("position")
    right.set_ylabel("loss above full attention's")
    for axes, line in ((left, left.axvline), (right, right.axhline)):
        line(0, color="gray", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CACHE / "moba_quality", metavar="DIR")
    parser.add_argument("--fact-steps", type=int, default=600, help="steps of the first stage, on facts alone")
    parser.add_argument("--short-steps", type=int, default=600, help="steps of the second stage, on short texts")
    parser.add_argument("--steps", type=int, default=700, help="steps of the long stage")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a sequence in the long stage")
    parser.add_argument("--batch", type=int, default=4, help="sequences per step of the long stage")
    parser.add_argument("--held-out", type=int, default=24, help="batches to measure on")
    parser.add_argument("--words", type=float, default=3.0, help="words between facts in the long stage")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=64, help="of the model")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1], metavar="N,...")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="PNG")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    arguments.out.mkdir(parents=True, exist_ok=True)
    emit({"environment": environment()} | asdict(settings))
    rows = [row for seed in arguments.seeds for row in seed_rows(settings, seed, arguments.out)]
    for line in summary(rows):
        emit(line)
    if arguments.plot:
        plot(rows, settings, arguments.plot)


def seed_rows(settings: Settings, seed: int, out: Path) -> list[dict[str, Any]]:
    """Results of all arms for one seed: those kept in ``out``, and the missing ones, kept as soon as they are there."""
    key = "-".join(str(value) for value in asdict(settings).values())
    kept = out / f"{key}-seed{seed}.jsonl"
    done = {row["arm"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    held_out = held_out_texts(settings)
    for arm in arms(settings.steps):
        if arm.name not in done:
            row = train(settings, seed, arm, start(settings, seed, kept.with_suffix(".pt")), held_out)
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done[arm.name] = row
        emit(done[arm.name])
    return [done[arm.name] for arm in arms(settings.steps)]


if __name__ == "__main__":
    main()
