"""The sending end of weight transfer, and shared memory between processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import TESTS
from tiny_models import log_probs, named_weights, tiny_llama
from transformers import AutoModelForCausalLM

from benchmarks.zoo_models import MODELS
from rollout.engines.hf import load_weights
from rollout.models.export import save_model
from rollout.transfer.sender import sender
from rollout.transfer.weights import (
    RECEIVER,
    ShmReader,
    ShmSender,
    layout,
    receivable,
    register,
)

BY_FAMILY = {model.family: model for model in MODELS}


@pytest.mark.parametrize("tied", [True, False])
def test_named_weights_are_the_checkpoint_plus_the_tied_head(tied: bool) -> None:
    model = tiny_llama(tied)
    weights = dict(named_weights(model))
    assert set(weights) == set(model.state_dict())
    assert "lm_head.weight" in weights
    for name, tensor in weights.items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert not tensor.requires_grad
    shared = weights["lm_head.weight"].data_ptr() == weights["model.embed_tokens.weight"].data_ptr()
    assert shared == tied


def test_lora_is_merged_into_the_names_of_the_base_model() -> None:
    peft = pytest.importorskip("peft")
    base = tiny_llama()
    names = set(base.state_dict())
    frozen = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    weights = dict(named_weights(adapted))
    assert set(weights) == names
    assert not torch.equal(weights["model.layers.0.mlp.up_proj.weight"], frozen["model.layers.0.mlp.up_proj.weight"])
    plain = tiny_llama()
    plain.load_state_dict(weights)
    tokens = [1, 5, 9, 2, 7]
    assert log_probs(plain, tokens) == pytest.approx(log_probs(adapted, tokens), abs=1e-5)
    for name, tensor in base.state_dict().items():
        stripped = name.replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(tensor, frozen[stripped]), "sending must not change the model"


def test_a_mixture_of_experts_is_sent_under_checkpoint_names() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    names = {name for name, _ in named_weights(Qwen3MoeForCausalLM(config))}
    assert "model.layers.0.mlp.experts.1.gate_proj.weight" in names
    assert not any("gate_up_proj" in name for name in names)


@pytest.mark.parametrize("family", ["GPTNeoX", "Qwen3Moe", "Gemma3Text"])
def test_an_hf_engine_gets_its_weights_under_its_modules_names(family: str) -> None:
    """A checkpoint of these architectures calls some otherwise, or cuts stacks of experts into their parts."""
    model = BY_FAMILY[family]
    built = AutoModelForCausalLM.from_config(model.config())
    other = AutoModelForCausalLM.from_config(model.config())
    source, reader = ShmSender("local", "module"), ShmReader()
    load_weights(other, reader, source.send(built, 1).payload)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), other.parameters(), strict=True))
    reader.close()
    source.close()


@pytest.mark.parametrize("family", ["Qwen3Moe", "Mixtral"])
def test_lora_on_a_mixture_of_experts_is_merged_into_its_checkpoint_names(family: str, tmp_path: Path) -> None:
    """peft adapts the stacked experts of transformers by parameter, one wrapper inside of another."""
    import transformers

    peft = pytest.importorskip("peft")
    sizes = {
        "vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    own = (
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        if family == "Qwen3Moe"
        else {"num_local_experts": 4}
    )
    plain = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes, **own))
    names = {name: tensor.shape for name, tensor in named_weights(plain)}
    adapted = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert any("experts" in name for name, parameter in adapted.named_parameters() if parameter.requires_grad)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert {name: tensor.shape for name, tensor in named_weights(adapted)} == names
    save_model(adapted, tmp_path)
    tokens = [1, 5, 9, 2, 7, 30, 3]
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert log_probs(read, tokens) == pytest.approx(log_probs(adapted, tokens), abs=1e-5)


def test_layout_aligns_and_shares() -> None:
    a, b = torch.zeros(3), torch.zeros(5, dtype=torch.bfloat16)
    specs, size = layout([("a", a), ("b", b), ("tied", a)])
    assert [spec.offset for spec in specs] == [0, 64, 0]
    assert size == 128
    assert specs[1].dtype == "bfloat16"


def test_two_buffers_take_turns_so_the_last_update_stays_valid() -> None:
    reader, source = ShmReader(), ShmSender()
    models = [tiny_llama(seed=seed) for seed in range(4)]
    updates = [source.send(model, version) for version, model in enumerate(models)]
    assert updates[0].payload["path"] == updates[2].payload["path"] != updates[1].payload["path"]
    for update, model in zip(updates[2:], models[2:], strict=True):
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in reader.read(update.payload))
    larger = tiny_llama(hidden_size=96)
    update = source.send(larger, 4)
    assert all(torch.equal(tensor, larger.state_dict()[name]) for name, tensor in reader.read(update.payload))
    reader.close()
    source.close()
    source.close()


def test_another_process_reads_the_same_bytes() -> None:
    source, model = ShmSender(), tiny_llama()
    update = source.send(model, 1)
    code = (
        "import sys, json; from rollout.transfer.weights import ShmReader\n"
        "print(sum(t.double().sum().item() for _, t in ShmReader().read(json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(update.payload)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(out) == pytest.approx(sum(t.double().sum().item() for t in model.state_dict().values()))
    source.close()


def test_a_killed_learner_leaves_no_memory_behind_and_a_clear_error() -> None:
    code = (
        "import sys, json, time, torch; from tiny_models import tiny_llama\n"
        "from rollout.transfer.weights import ShmSender\n"
        "sender = ShmSender(); print(json.dumps(sender.send(tiny_llama(), 1).payload), flush=True); time.sleep(6000)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    learner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    assert learner.stdout is not None
    payload = json.loads(learner.stdout.readline())
    reader = ShmReader()
    held = dict(reader.read(payload))
    learner.kill()
    learner.wait()
    learner.stdout.close()
    assert held["model.norm.weight"].sum().item() == 64, "what is mapped stays readable"
    with pytest.raises(FileNotFoundError, match="another machine"):
        list(ShmReader().read(payload))
    assert not os.path.exists(payload["path"])


def test_a_tied_head_is_left_out_for_a_model_without_one() -> None:
    weights = [("model.embed_tokens.weight", torch.zeros(2)), ("lm_head.weight", torch.ones(2))]
    bare, headed = torch.nn.Module(), torch.nn.Module()
    headed.lm_head = torch.nn.Linear(1, 1)

    def names(model: torch.nn.Module, tied: bool) -> list[str]:
        return [name for name, _ in receivable(model, tied, weights)]

    assert names(bare, True) == ["model.embed_tokens.weight"]
    assert names(headed, True) == names(bare, False) == ["model.embed_tokens.weight", "lm_head.weight"]


def test_unknown_transfer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"carrier pigeon.*shm, local, ipc, nccl"):
        sender("carrier pigeon")


def test_the_plug_in_registers_once_and_is_an_entry_point() -> None:
    pytest.importorskip("vllm")
    from importlib.metadata import entry_points

    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    register()
    register()
    assert RECEIVER in WeightTransferEngineFactory._registry
    assert "rollout.transfer.weights:register" in {point.value for point in entry_points(group="vllm.general_plugins")}
