"""A reward head in vLLM's pooling runner, on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reward_kit import TEMPLATE
from scipy.special import softmax
from tiny_models import tiny_llama
from transformers import AutoModelForSequenceClassification

from rollout.config import EngineConfig
from rollout.engines.vllm_arguments import environment
from rollout.models.classifier import describe, save_classifier
from rollout.reward_models.card import Card, write_card
from tests.needs import needs_vllm

pytestmark = [pytest.mark.slow, needs_vllm]

TEXTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 5], [3] * 40]


def test_vllm_pools_what_transformers_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_classifier(tiny_llama(), torch.nn.Linear(64, 2, bias=False), tmp_path)
    describe(tmp_path, ("wrong", "right"), 0)
    write_card(tmp_path, Card(kind="head", template=TEMPLATE))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = np.concatenate([model(torch.tensor([text])).logits.numpy() for text in TEXTS])

    own = environment(EngineConfig(threads=1)) | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    from vllm import LLM

    told = LLM(str(tmp_path), runner="pooling", dtype="float32", skip_tokenizer_init=True, max_model_len=128)
    found = told.classify([{"prompt_token_ids": text} for text in TEXTS], use_tqdm=False)
    np.testing.assert_allclose([one.outputs.probs for one in found], softmax(logits, axis=1), atol=1e-5)
