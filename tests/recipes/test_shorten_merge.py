"""Model merging: the average is the average, whatever the shards; what does not fit is refused by name."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from recipes.shorten import merge as merging
from recipes.shorten.merge import merge
from recipes.shorten.merge_checkpoint import Checkpoint
from rollout.models.tokenizer import build_tokenizer
from rollout.problems.arithmetic import TOKENS
from tests.merge_kit import model, refusal, state


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_it_is_the_average(tmp_path: Path, tied: bool, weight: float) -> None:
    long, short = (model(tmp_path / name, i, tie_word_embeddings=tied) for i, name in enumerate(("long", "short")))
    report = merge(long, short, tmp_path / "out", weight)
    ours, one, two = state(tmp_path / "out"), state(long), state(short)
    assert ours.keys() == one.keys()
    for key, tensor in ours.items():
        expected = ((1 - weight) * one[key].double() + weight * two[key].double()).float()
        terms = (1 - weight) * one[key].double().abs() + weight * two[key].double().abs()
        assert ((tensor.double() - expected.double()).abs() <= 2**-22 * terms).all(), "beyond float32's roundings"
        assert weight not in (0.0, 1.0) or tensor.equal(expected), key
    assert report.averaged == len(load_file(long / "model.safetensors"))
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == AutoTokenizer.from_pretrained(long).get_vocab()
    )


@pytest.mark.parametrize("kind", ["gpt2", "qwen2_moe"])
def test_other_architectures(tmp_path: Path, kind: str) -> None:
    tokenizer = build_tokenizer(TOKENS, 64)
    for seed, name in enumerate(("long", "short")):
        torch.manual_seed(seed)
        made: Any
        if kind == "gpt2":
            made = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=2, n_head=2, n_positions=16))
        else:
            sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
            experts = {"num_experts": 3, "moe_intermediate_size": 4, "shared_expert_intermediate_size": 4}
            made = Qwen2MoeForCausalLM(Qwen2MoeConfig(vocab_size=len(tokenizer), **sizes, **experts))
        made.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    merge(tmp_path / "long", tmp_path / "short", tmp_path / "out")
    one, two = state(tmp_path / "long"), state(tmp_path / "short")
    assert all(torch.allclose(tensor, (one[key] + two[key]) / 2) for key, tensor in state(tmp_path / "out").items())


def test_shards_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = model(tmp_path / "long", 0), model(tmp_path / "short", 1)
    cut, fine = model(tmp_path / "cut", 0, "4KB"), model(tmp_path / "fine", 1, "2KB")
    assert merge(cut, fine, tmp_path / "whole").shards == 1
    monkeypatch.setattr(merging, "SHARD", "5KB")
    report = merge(long, short, tmp_path / "sharded")
    files = [*(tmp_path / "sharded").glob("*.safetensors")]
    assert report.shards == len(files) > 2
    assert report.bytes == sum(tensor.nbytes for file in files for tensor in load_file(file).values())
    one, two = state(tmp_path / "sharded"), state(tmp_path / "whole")
    assert all(one[key].equal(two[key]) for key in two)


def test_memory_holds_one_shard_and_a_tensor_of_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = (model(tmp_path / name, i, num_hidden_layers=12) for i, name in enumerate(("long", "short")))
    sizes = [tensor.nbytes for tensor in load_file(long / "model.safetensors").values()]
    monkeypatch.setattr(merging, "SHARD", "8KB")

    alive: list[weakref.ref[torch.Tensor]] = []
    peak: list[int] = []

    def watched(make: Any) -> Any:
        def made(*given: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*given)
            alive.append(weakref.ref(tensor))
            storages = {one.data_ptr(): one.nbytes for one in (ref() for ref in alive) if one is not None}
            peak.append(sum(storages.values()))
            return tensor

        return made

    monkeypatch.setattr(Checkpoint, "read", watched(Checkpoint.read))
    monkeypatch.setattr(merging, "_mean", watched(merging._mean))
    merge(long, short, tmp_path / "out")
    assert len(peak) == 3 * len(sizes)
    assert max(sizes) < max(peak) <= 8000 + 2 * max(sizes) < sum(sizes) / 4


def test_types_are_the_long_models_and_what_is_no_float_is_copied(tmp_path: Path) -> None:
    long, short = model(tmp_path / "long", 0), model(tmp_path / "short", 1)
    for folder, value in ((long, 1), (short, 2)):
        tensors = load_file(folder / "model.safetensors")
        tensors = {key: tensor.bfloat16() for key, tensor in tensors.items()} if folder == long else tensors
        save_file({**tensors, "steps": torch.tensor([value])}, folder / "model.safetensors", metadata={"format": "pt"})
    report = merge(long, short, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as made:
        assert made.get_tensor("steps").tolist() == [1]
        assert made.get_tensor("model.norm.weight").dtype is torch.bfloat16
    assert report.copied == 1


def test_tied_weights_are_merged_once(tmp_path: Path) -> None:
    long, short = model(tmp_path / "long", 0), model(tmp_path / "short", 1)
    expected = merge(long, short, tmp_path / "out")
    assert expected.tied == 0

    def with_head(name: str, source: Path, keep: bool, shift: float = 0.0) -> Path:
        folder = tmp_path / name
        shutil.copytree(source, folder)
        tensors = load_file(source / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + shift
        if not keep:
            del tensors["model.embed_tokens.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    both, only = with_head("both", long, True), with_head("only", short, False)
    for index, (one, two) in enumerate([(both, short), (long, only), (both, only), (only, both)]):
        report = merge(one, two, tmp_path / f"out{index}")
        assert (report.averaged, report.tied) == (expected.averaged, int(one == both))
        ours, wanted = state(tmp_path / f"out{index}"), state(tmp_path / "out")
        assert all(ours[key].equal(wanted[key]) for key in wanted)
    assert "tie_word_embeddings" in refusal(with_head("other", long, True, 1.0), short, tmp_path / "none")


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    long, out = model(tmp_path / "long", 0), tmp_path / "out"
    assert "num_hidden_layers is 3" in refusal(long, model(tmp_path / "deep", 1, num_hidden_layers=3), out)
    assert "rope_theta" in refusal(
        long, model(tmp_path / "rope", 1, rope_parameters={"rope_type": "default", "rope_theta": 5e5}), out
    )
    good = model(tmp_path / "good", 1)
    assert "between 0 and 1" in refusal(long, good, out, weight=1.5)

    def changed(name: str, **tensors: torch.Tensor | None) -> Path:
        folder = tmp_path / name
        shutil.copytree(good, folder)
        merged = {**load_file(good / "model.safetensors"), **{k.replace("__", "."): v for k, v in tensors.items()}}
        kept = {key: tensor for key, tensor in merged.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    assert "lacks the tensor 'model.norm.weight'" in refusal(long, changed("less", model__norm__weight=None), out)
    assert "'extra'" in refusal(long, changed("more", extra=torch.ones(2)), out)
    assert "shape [8]" in refusal(long, changed("shape", model__norm__weight=torch.ones(8)), out)
    assert "NaN" in refusal(long, changed("nan", model__norm__weight=torch.full((16,), float("nan"))), out)
    assert "NaN" in refusal(long, tmp_path / "nan", out, weight=0.0)
    assert "is I64" in refusal(long, changed("kind", model__norm__weight=torch.ones(16, dtype=torch.int64)), out)
    assert "quantised" in refusal(long, changed("f8", model__norm__weight=torch.ones(16).to(torch.float8_e5m2)), out)
    small = changed("small", model__norm__weight=torch.ones(16).half())
    large = changed("large", model__norm__weight=torch.full((16,), 1e6))
    assert "too large for torch.float16" in refusal(small, large, out)
    tree = json.loads((good / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**tree, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert "quantised (gptq)" in refusal(long, small, out)
    (large / "model.safetensors").write_bytes(b"rubbish")
    assert "cannot be read" in refusal(long, large, out)
    (good / "tokenizer.json").unlink()
    (good / "tokenizer_config.json").unlink()
    assert "no tokenizer" in refusal(long, good, out)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    long, out = model(tmp_path / "long", 0), tmp_path / "out"
    for name, file, change in (
        ("chat templates differ from character", "chat_template.jinja", lambda text: text + " "),
        ("token 10 is", "tokenizer.json", _swapped),
    ):
        other = tmp_path / name
        shutil.copytree(long, other)
        (other / file).write_text(change((other / file).read_text()))
        assert name in refusal(long, other, out)
    vocabulary = {piece: index for index, piece in enumerate(["a", "b", "c", "ab", "bc", "</s>"])}
    for name, merges, end in (
        ("bpe", [("a", "b"), ("b", "c")], "</s>"),
        ("merge 0", [("b", "c"), ("a", "b")], "</s>"),
        ("special token eos_token", [("a", "b"), ("b", "c")], "a"),
    ):
        shutil.copytree(long, tmp_path / name)
        core = Tokenizer(models.BPE(vocabulary, merges))
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end).save_pretrained(tmp_path / name)
        if name != "bpe":
            assert name in refusal(tmp_path / "bpe", tmp_path / name, out)


def _swapped(text: str) -> str:
    tree = json.loads(text)
    vocabulary = tree["model"]["vocab"]
    by_id = {index: token for token, index in vocabulary.items()}
    vocabulary[by_id[10]], vocabulary[by_id[11]] = 11, 10
    return json.dumps(tree)


def test_what_is_no_model_and_what_is_in_the_way(tmp_path: Path) -> None:
    long, short, out = model(tmp_path / "long", 0), model(tmp_path / "short", 1), tmp_path / "out"
    assert "no model" in refusal(long, tmp_path, out)
    torch.save(load_file(short / "model.safetensors"), short / "pytorch_model.bin")
    (short / "model.safetensors").unlink()
    assert "saved again with save_pretrained" in refusal(long, short, out)
    out.write_text("")
    assert "exists" in refusal(long, long, out)
    out.unlink()
    out.mkdir()
    (out / "mine").write_text("")
    assert "not empty" in refusal(long, long, out)


def _killed_at_the_third_file(long: Path, short: Path, out: Path) -> None:
    calls = []

    def killed(shard: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        save_file(shard, path, metadata=metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", killed)
        patch.setattr(merging, "SHARD", "4KB")
        merge(long, short, out)


def test_a_killed_merge_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    long, short, out = model(tmp_path / "long", 0), model(tmp_path / "short", 1), tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=_killed_at_the_third_file, args=(long, short, out))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    left = tmp_path / ".out.tmp"
    assert len([*left.rglob("*.safetensors")]) == 2
    assert not [*left.rglob("config.json")]
    assert merge(long, short, out).averaged
    assert not left.exists()


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short, out = model(tmp_path / "long", 0), model(tmp_path / "short", 1), tmp_path / "out"

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "_mean", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(long, short, out)
    assert {path.name for path in tmp_path.iterdir()} == {"long", "short"}


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    long = model(tmp_path / "long", 0)
    commit = "0" * 40
    model(cache / "models--org--short" / "snapshots" / commit, 1)
    (cache / "models--org--short" / "refs").mkdir()
    (cache / "models--org--short" / "refs" / "main").write_text(commit)
    merge(long, Path("org/short"), tmp_path / "out")
    key = "model.norm.weight"
    assert state(tmp_path / "out")[key].shape == state(long)[key].shape
    assert "no model of the hub" in refusal(long, Path("org/other"), tmp_path / "none")
    assert "no model of the hub" in refusal(long, tmp_path / "nowhere", tmp_path / "none")


def test_a_lora_adapter_is_merged_into_its_base_first(tmp_path: Path) -> None:
    import peft

    long, base = model(tmp_path / "long", 0), model(tmp_path / "base", 1)
    adapted = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    merge(long, tmp_path / "adapter", tmp_path / "out")
    key = "model.layers.0.self_attn.q_proj.weight"
    whole = adapted.merge_and_unload().state_dict()[key]
    assert not whole.equal(state(base)[key])
    assert torch.allclose(state(tmp_path / "out")[key], (state(long)[key] + whole) / 2, atol=1e-6)
    adapter = tmp_path / "adapter" / "adapter_config.json"
    tree = json.loads(adapter.read_text())
    adapter.write_text(json.dumps({**tree, "base_model_name_or_path": str(tmp_path / "gone")}))
    assert "cannot be merged into its base" in refusal(long, tmp_path / "adapter", tmp_path / "none")
