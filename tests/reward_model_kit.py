"""Reward models for tests: one without weights, right or wrong as a test wants it, and a tiny classifier on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from judge_kit import family_tokenizer
from run_kit import tiny
from tiny_models import tiny_llama
from transformers import LlamaConfig, LlamaForSequenceClassification

from rl.config import RunConfig
from rollout.grading import Answered
from rollout.models.export import save_tokenizer
from rollout.models.tokenizer import build_tokenizer
from rollout.problems.build import build_source
from rollout.problems.config import ArithmeticSource
from rollout.problems.source import Procedural
from rollout.reward_models.card import Card, write_card
from rollout.reward_models.opinion import Opinion


class Says:
    """``right``: text -> probability of being right, ``None`` for no opinion; what it raises the model raises."""

    def __init__(self, right: Callable[[str], float | None]) -> None:
        self.right = right
        self.asked: list[str] = []
        """Texts, in the order in which they came."""
        self.closed = 0

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """See ``RewardModel``."""
        await asyncio.sleep(0)
        self.asked += [one.text for one in answers]
        return [self._opinion(one.text) for one in answers]

    def _opinion(self, text: str) -> Opinion:
        right = self.right(text)
        if right is None:
            return Opinion.none("it would not say", f"hm, {text}", read=0.0)
        return Opinion(right, "", {"read": 1.0}, f"I have read {text}")

    def counts(self) -> dict[str, float]:
        """See ``RewardModel``."""
        return {"calls": 1.0}

    def close(self) -> None:
        """See ``RewardModel``."""
        self.closed += 1


def save_head(folder: Path, seed: int = 0) -> Path:
    """A tiny classifier of responses to sums."""
    source = build_source(ArithmeticSource(), "train")
    assert isinstance(source, Procedural)
    tokenizer = build_tokenizer((*source.generator.alphabet, "\\boxed{", "}"), 512)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        num_labels=2,
        id2label={0: "wrong", 1: "right"},
        label2id={"wrong": 0, "right": 1},
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def save_coin(folder: Path) -> Path:
    """A classifier that nobody trained, of responses alone: no better than a coin."""
    write_card(save_head(folder), Card(kind="head", template="{response}"))
    return folder


def save_judge(folder: Path) -> Path:
    """A causal LM that nobody trained, with a chat template: it writes no verdict."""
    tokenizer = family_tokenizer("qwen")
    tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def rewarded(head: Path, iterations: int = 2, **model: Any) -> RunConfig:
    """A policy that ends some of its responses, rewarded by ``head``."""
    return tiny(
        iterations=iterations,
        warmup={"examples": 600, "batch_tokens": 1024, "lr": 1e-2},
        rollout={"groups": 6, "k": 2, "segment_tokens": 40, "max_tokens": 40, "loss_on": "all"},
        eval={"every": 2, "samples": 4},
        reward={"length": None, "model": {"path": str(head), "when": "always", "audit": 1.0, **model}},
    )
