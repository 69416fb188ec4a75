"""Exported models: what older readers need, what comes along byte for byte, types, adapters."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from learner_kit import learner_spec, save_tiny_model, tiny_llama
from rank_kit import run_ranks
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_models import log_probs
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from rl.learner.forward import PolicyModel, causal_lm
from rl.learner.host import LearnerHost
from rl.learner.spec import Receivers
from rollout.models import export
from rollout.models.export import ExportError, in_both_spellings, save_model, save_tokenizer, tokenizer_in_old_spelling
from rollout.models.pretrained import files_of
from rollout.models.tokenizer import build_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONTRADICTS_ITSELF = b'{"do_sample": false,  "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 3]}'


def base_of_transformers_4(folder: Path) -> Path:
    """A model as transformers 4 wrote it, with generation settings that transformers 5 refuses to write."""
    save_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "dtype", "torch_dtype"):
        config.pop(key, None)
    old = {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "torch_dtype": "float32", "transformers_version": "4.51.3"}
    (folder / "config.json").write_text(json.dumps({**config, **old}))
    (folder / "generation_config.json").write_bytes(CONTRADICTS_ITSELF)
    tokenizer = build_tokenizer([chr(97 + i) for i in range(20)], 256)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings = {**settings, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=4))
    (folder / "special_tokens_map.json").write_text('{"eos_token":   "<eos>"}')
    (folder / "chat_template.jinja").write_text("{# of its own #}{{ messages }}")
    return folder


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5, "rope_scaling": None}),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            {"rope_theta": 1e4, "rope_scaling": None, "partial_rotary_factor": 0.25},
        ),
        (
            {
                "model_type": "gpt_neox",
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
            },
            {"rotary_emb_base": 1e4, "rope_scaling": None, "rotary_pct": 0.25},
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            {
                "rope_theta": 1e6,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 1e4,
            },
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0],
                    "long_factor": [2.0],
                    "original_max_position_embeddings": 64,
                }
            },
            {
                "rope_theta": 1e4,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
                "original_max_position_embeddings": 64,
            },
        ),
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"vocab_size": 3}, {}),
    ],
)
def test_rotary_settings_and_type_are_written_in_both_spellings(config: dict[str, Any], added: dict[str, Any]) -> None:
    assert in_both_spellings(config) == {**config, **added}
    nested = in_both_spellings({"text_config": {"model_type": "x", **config}, "vision_config": {"model_type": "y"}})
    assert nested["text_config"].items() >= added.items() if config.get("model_type") is None else True


def test_an_export_of_an_older_base_is_read_as_it_was_meant(tmp_path: Path) -> None:
    base = base_of_transformers_4(tmp_path / "base")
    host = LearnerHost(learner_spec(), base, Receivers("local"))
    (tmp_path / "out").mkdir()
    host.export(tmp_path / "out")
    save_tokenizer(AutoTokenizer.from_pretrained(base), tmp_path / "out", files_of(base))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]) == (500000.0, LLAMA3)
    assert config["torch_dtype"] == config["dtype"] == "float32"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == CONTRADICTS_ITSELF
    sequence = [*range(5, 25)] * 3
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert log_probs(read, sequence) == log_probs(AutoModelForCausalLM.from_pretrained(base), sequence)
    AutoTokenizer.from_pretrained(tmp_path / "out")


def test_a_configuration_that_reads_back_differently_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_old_rotary", lambda *_: {"rope_scaling": LLAMA3, "rope_theta": 1.0})
    with pytest.raises(ExportError, match=r"rotary embedding is read back as .*llama3"):
        save_model(tiny_llama(), tmp_path)


def test_bfloat16_halves_the_weights_and_says_so(tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=True)
    for dtype in ("float32", "bfloat16"):
        (tmp_path / dtype).mkdir()
        save_model(model, tmp_path / dtype, dtype=dtype)
    full, half = (load_file(tmp_path / dtype / "model.safetensors") for dtype in ("float32", "bfloat16"))
    assert full.keys() == half.keys()
    assert "lm_head.weight" not in full, "tied: stored once"
    assert all(half[name].equal(full[name].bfloat16()) for name in full)
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "bfloat16").dtype == torch.bfloat16
    assert next(model.parameters()).dtype == torch.float32


def test_a_large_model_is_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD", "10KB")
    model = tiny_llama()
    save_model(model, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    sequence = [*range(5, 25)]
    assert log_probs(AutoModelForCausalLM.from_pretrained(tmp_path), sequence) == log_probs(model.eval(), sequence)


def adapted(model: Any) -> Any:
    policy = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.1)
    return policy


VARIANTS: dict[str, Callable[[], Any]] = {
    "plain": tiny_llama,
    "tied": lambda: tiny_llama(tie_word_embeddings=True),
    "lora": lambda: adapted(tiny_llama()),
}


def export_of_ranks(rank: int, folder: Path) -> str:
    """Export models that all ranks hold shards of; return this rank's failure with a file that cannot be written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "SHARD", "10KB")
        for name, make in VARIANTS.items():
            model = make()
            for layer in causal_lm(model).model.layers:
                fully_shard(layer)
            fully_shard(PolicyModel(model, torch.float32))
            save_model(model, folder / name, first=rank == 0)
        blocked = folder / "blocked"
        try:
            save_model(model, blocked, first=rank == 0)
        except (OSError, SafetensorError) as error:
            return str(error)
    return ""


def test_ranks_export_the_files_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD", "10KB")
    for name, make in VARIANTS.items():
        for folder in (tmp_path / "alone" / name, tmp_path / name):
            folder.mkdir(parents=True)
        save_model(make(), tmp_path / "alone" / name)
    (tmp_path / "blocked").write_bytes(b"a file, where a directory must be")
    failures = run_ranks(2, export_of_ranks, tmp_path)
    for name in VARIANTS:
        alone = {path.name: path.read_bytes() for path in (tmp_path / "alone" / name).iterdir()}
        ranks = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        assert len(alone) > 4
        assert alone.keys() == ranks.keys()
        assert [file for file in alone if alone[file] != ranks[file]] == []
    assert failures[0], "a failed write is raised where it was tried"
    assert failures[1] == "", "and leaves nobody waiting"


def test_an_export_holds_one_file_of_copies_at_a_time(tmp_path: Path) -> None:
    alive: set[int] = set()
    most = 0

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal most
        for index in range(20):
            tensor = torch.full((10,), float(index))
            alive.add(index)
            weakref.finalize(tensor, alive.discard, index)
            most = max(most, len(alive))
            yield str(index), tensor
            del tensor

    members = {f"{file}.safetensors": [str(index) for index in range(4 * file, 4 * file + 4)] for file in range(5)}
    export._write_files(stream(), members, tmp_path)
    assert most <= 4 + 1
    assert load_file(tmp_path / "3.safetensors")["13"].tolist() == [13.0] * 10


def test_persistent_buffers_are_exported(tmp_path: Path) -> None:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        vocab_size=32, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, v_head_dim=8, qk_nope_head_dim=8,
        first_k_dense_replace=0, max_position_embeddings=64,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config)
    model.model.layers[0].mlp.gate.e_score_correction_bias.fill_(0.5)
    save_model(model, tmp_path)
    assert load_file(tmp_path / "model.safetensors")["model.layers.0.mlp.gate.e_score_correction_bias"].mean() == 0.5


def test_generation_settings_in_a_model_configuration_do_not_stop_an_export(tmp_path: Path) -> None:
    """Models of long ago carry them there; transformers 5 loads such a configuration and refuses to write it."""
    model = tiny_llama()
    model.config.temperature = 0.6
    with pytest.raises(ValueError, match="generation parameters"):
        model.save_pretrained(tmp_path / "refused")
    save_model(model, tmp_path)
    assert LlamaConfig.from_pretrained(tmp_path).hidden_size == model.config.hidden_size


def test_a_tokenizer_of_our_own_has_a_class_that_older_readers_know(tmp_path: Path) -> None:
    save_tokenizer(build_tokenizer(["a", "b"], 64), tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoTokenizer.from_pretrained(tmp_path).encode("ab", add_special_tokens=False)
    old = tokenizer_in_old_spelling({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"]})
    assert old == {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<x>"]}
