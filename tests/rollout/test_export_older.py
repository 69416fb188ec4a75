"""Exports read by transformers 4.57, in an environment of its own beside this one's torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import log_probs
from transformers import AutoModelForCausalLM

from rollout.models.export import save_model, save_tokenizer
from rollout.models.pretrained import cache_folder
from rollout.models.tokenizer import build_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OLD = ("transformers==4.57.*", "tokenizers>=0.22,<=0.23.0", "huggingface-hub>=0.34,<1.0")
"""transformers and the two packages that it wants other releases of than ours; the rest is borrowed."""
READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
assert transformers.__version__.startswith("4.57"), transformers.__version__
torch.set_num_threads(1)
found = {}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.arange(5, 85)[None] % model.config.vocab_size
    with torch.no_grad():
        scores = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found[folder] = {"scores": scores.tolist(), "tokens": tokenizer("abba", add_special_tokens=False)["input_ids"]}
json.dump(found, sys.stdout)
"""
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip
SCALED = {
    "rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"rope_parameters": SCALED},
    "Qwen3": {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "Qwen3Moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "Mixtral": {"num_local_experts": 4},
    "Gemma3": {
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    },
    "GPTNeoX": {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}},
    "StableLm": {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.25}},
    "Phi3": {
        "sliding_window": None,
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 2e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def older() -> Path:
    """The folder with transformers 4.57, installed once per machine."""
    folder = cache_folder() / "tests" / "transformers-4.57"
    if (folder / "installed").exists():
        return folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
    done = subprocess.run([*command, *OLD], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"transformers 4.57 cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    (folder / "installed").touch()
    return folder


def random_model(family: str) -> Any:
    import transformers

    kind = "Gemma3Text" if family == "Gemma3" else family
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **FAMILIES[family]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def test_transformers_4_reads_what_was_exported(older: Path, tmp_path: Path) -> None:
    wanted, sequence = {}, [token % 32 for token in range(5, 85)]
    for family in FAMILIES:
        model, folder = random_model(family), tmp_path / family
        folder.mkdir()
        save_model(model, folder)
        save_tokenizer(build_tokenizer(["a", "b"], 64), folder)
        wanted[str(folder)] = log_probs(model, sequence)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", READ, str(older), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    ids = build_tokenizer(["a", "b"], 64)("abba", add_special_tokens=False)["input_ids"]
    for folder, scores in wanted.items():
        assert found[folder]["scores"] == pytest.approx(scores, abs=1e-4), folder
        assert found[folder]["tokens"] == ids, folder
