"""A judge with evidence in windows, against one that reads as much of it as fits: is the verdict right, and does the
pointer name the text that decided?

    python -m benchmarks.evidence_judge --out runs/evidence_judge

A small Llama from scratch learns to judge claims (``?k``: ``k7``) by a window of four facts (``k7q2z9a4``); whether
one is so of which its window says nothing it cannot know. Then each claim comes with twelve facts in three texts, one
of which decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import string
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rewards.stats import wilson
from rl.reward_models import HERE, open_model
from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.models.tokenizer import build_tokenizer
from rollout.reward_models.asking import judge_card
from rollout.reward_models.card import write_card
from rollout.reward_models.config import EvidenceConfig, RewardModelConfig
from rollout.reward_models.opinion import Opinion
from rollout.types import Problem

LETTERS, DIGITS = string.ascii_lowercase, string.digits
LABELS = ("correct", "incorrect")
TEMPLATE = "{reference}\n{question}{response}"
FACTS = 4
"""Of a window."""
CONTEXT = 64
TURNS = 4
"""Claims about one window in training."""
RATE = 3e-3
WORDS = (*(letter + digit for letter in LETTERS for digit in DIGITS), *LETTERS, *DIGITS, "?", "\n", *LABELS)
"""A fact is one token."""
Fact = tuple[str, str]


def facts(draw: random.Random, count: int) -> list[Fact]:
    """Return facts about different letters."""
    return [(letter, draw.choice(DIGITS)) for letter in draw.sample(LETTERS, count)]


def text_of(some: Sequence[Fact]) -> str:
    """Return facts as a judge reads them."""
    return "".join(letter + digit for letter, digit in some)


def claim(draw: random.Random, fact: Fact) -> tuple[str, bool]:
    """Return a digit that is claimed of a fact's letter, and whether it is so: as often as not."""
    right = draw.random() < 0.5
    return fact[1] if right else draw.choice(DIGITS.replace(fact[1], "")), right


def claims(draw: random.Random, window: Sequence[Fact]) -> Iterator[tuple[Fact, str, bool, bool]]:
    """Yield a fact, a digit that is claimed of its letter, whether that is right, and whether the window says so."""
    others = sorted({*LETTERS} - {letter for letter, _ in window})
    while True:
        known = bool(window) and draw.random() < 0.6
        fact = draw.choice(list(window)) if known else (draw.choice(others), draw.choice(DIGITS))
        digit, right = claim(draw, fact)
        yield fact, digit, right, known


def example(draw: random.Random, ids: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Return tokens and targets of a conversation: a window, which may be empty, and ``TURNS`` claims with verdicts."""
    window = facts(draw, FACTS) if draw.random() < 0.9 else []
    row, targets = [ids[one] for one in ("<user>", *map("".join, window), "\n")], [-100] * (2 + len(window))
    for turn, ((letter, so), digit, right, known) in enumerate(islice(claims(draw, window), TURNS)):
        row += [ids[one] for one in (*(("<user>",) if turn else ()), "?", letter, letter + digit, "<assistant>")]
        targets += [-100] * (len(row) - len(targets) - 2)
        targets += [ids[letter + so] if known else -100, -100]  # to look a fact up comes before judging by it
        row += [ids[LABELS[not right]], ids["<eos>"]]
        targets += [ids[LABELS[not right]], -100]
    return row, targets


def train(out: Path, steps: int, seed: int, batch: int = 64) -> None:
    """Train the judge and write it to ``out``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = build_tokenizer(WORDS, CONTEXT)
    ids = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step in range(steps):
        rows, targets = zip(*(example(draw, ids) for _ in range(batch)), strict=True)
        width = max(map(len, rows))
        inputs = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in targets])
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}, loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_card(out, judge_card(TEMPLATE, max_tokens=CONTEXT - 4))


def questions(count: int, windows: int, seed: int) -> list[tuple[list[list[Fact]], int, Answered, bool]]:
    """Return for each claim the facts of its texts, the text that decides, the claim as an answer, whether it is so."""
    draw = random.Random(f"test {seed}")
    found = []
    for index in range(count):
        every = facts(draw, windows * FACTS)
        texts = [every[at : at + FACTS] for at in range(0, len(every), FACTS)]
        fact = draw.choice(every)
        digit, right = claim(draw, fact)
        problem = Problem.ask(f"q{index}", f"?{fact[0]}")
        found.append((texts, every.index(fact) // FACTS, Answered(problem, fact[0] + digit), right))
    return found


def judged(path: Path, rows: Sequence[tuple[Answered, Mapping[str, str]]], how: EvidenceConfig) -> list[Opinion]:
    """Return the judge's opinions on claims, each with its evidence."""
    answers = [
        Answered(Problem(a.problem.id, a.problem.messages, extra={"evidence": dict(evidence)}), a.text)
        for a, evidence in rows
    ]
    config = RewardModelConfig(
        path=str(path), evidence=how, engine=EngineConfig(kind="hf", max_model_len=CONTEXT, max_concurrency=64)
    )
    model = open_model(config, HERE)
    try:
        return asyncio.run(_judge(model, answers))
    finally:
        model.close()


async def _judge(model: Any, answers: Sequence[Answered]) -> list[Opinion]:
    return list(await model.judge(answers))


def row(name: str, right: Sequence[bool], pointers: Sequence[bool] | None = None) -> dict[str, Any]:
    """Return and print accuracy, and how often the pointer names the text that decides, with Wilson's intervals."""
    found: dict[str, Any] = {"arm": name, "accuracy": sum(right) / len(right), "n": len(right)}
    found["ci95"] = wilson(found["accuracy"], len(right))
    said = "{:<22}{:5.1f} % [{:.1f}, {:.1f}]".format(name, *(100 * x for x in (found["accuracy"], *found["ci95"])))
    if pointers is not None:
        found["pointer"] = sum(pointers) / len(pointers)
        found["pointer95"] = wilson(found["pointer"], len(pointers))
        said += "   pointer {:5.1f} % [{:.1f}, {:.1f}]".format(
            *(100 * x for x in (found["pointer"], *found["pointer95"]))
        )
    print(said, flush=True)
    return found


def compare(path: Path, count: int, windows: int, seed: int) -> list[dict[str, Any]]:
    """Judge the same claims in several ways."""
    asked = questions(count, windows, seed)
    named = [{f"text {number}": text_of(text) for number, text in enumerate(texts, 1)} for texts, *_ in asked]
    answers, truth = [answer for _, _, answer, _ in asked], [right for *_, right in asked]

    def scored(name: str, evidence: Sequence[Mapping[str, str]], how: EvidenceConfig, point: bool) -> list[Opinion]:
        said = judged(path, list(zip(answers, evidence, strict=True)), how)
        right = [one.right is not None and (one.right >= 0.5) == is_so for one, is_so in zip(said, truth, strict=True)]
        at = [one.parts.get("pointer") == where + 1 for one, (_, where, *_) in zip(said, asked, strict=True)]
        rows.append(row(name, right, at if point else None))
        return said

    rows: list[dict[str, Any]] = []
    single = EvidenceConfig()
    scored("the text that decides", [{"it": text_of(texts[at])} for texts, at, *_ in asked], single, False)
    said = scored("windows, entropy", named, single.model_copy(update={"each": True}), True)
    for pooling in ("mean", "exact"):
        how = EvidenceConfig.model_validate({"merging": {"pooling": pooling}})
        scored(f"windows, {pooling}", named, how, True)
    votes = [[one.parts[f"window {k}"] >= 0.5 for k in range(1, windows + 1)] for one in said]
    rows.append(row("vote of the windows", [(2 * sum(v) > len(v)) == t for v, t in zip(votes, truth, strict=True)]))
    scored("cut to one window", [{"cut": text_of(texts[0])} for texts, *_ in asked], single, False)
    scored("all in one window", [{"all": "".join(map(text_of, texts))} for texts, *_ in asked], single, False)
    return rows


def main() -> int:
    """Train and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    path = given.out / f"judge{given.seed}"
    if not (path / "config.json").is_file():
        train(path, given.steps, given.seed)
    rows = compare(path, given.count, given.windows, given.seed)
    (given.out / f"results{given.seed}.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
