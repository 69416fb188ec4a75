"""Model merging: the average is the average, whatever the shards; what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.shorten import merge as merging
from recipes.shorten.merge import MergeError, merge
from rollout.problems.arithmetic import TOKENS
from rollout.tokenizer import build_tokenizer


def model(folder: Path, seed: int, shard: str = "5GB", **changes: Any) -> Path:
    tokenizer = build_tokenizer(TOKENS, 64)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**{**shape, **changes}))
    made.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return dict(loaded.state_dict())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_it_is_the_average(tmp_path: Path, tied: bool, weight: float) -> None:
    long, short = (model(tmp_path / name, i, tie_word_embeddings=tied) for i, name in enumerate(("long", "short")))
    report = merge(long, short, tmp_path / "out", weight)
    ours, one, two = state(tmp_path / "out"), state(long), state(short)
    assert ours.keys() == one.keys()
    for key, tensor in ours.items():
        expected = ((1 - weight) * one[key].double() + weight * two[key].double()).float()
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-9)
        assert weight not in (0.0, 1.0) or tensor.equal(expected), key
    assert report.averaged == len(load_file(long / "model.safetensors"))
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == AutoTokenizer.from_pretrained(long).get_vocab()
    )


def test_shards_of_any_size_give_the_same(tmp_path: Path) -> None:
    long, short = model(tmp_path / "long", 0), model(tmp_path / "short", 1)
    cut, fine = model(tmp_path / "cut", 0, "4KB"), model(tmp_path / "fine", 1, "2KB")
    assert merge(cut, fine, tmp_path / "sharded").shards > 2
    merge(long, short, tmp_path / "whole")
    one, two = state(tmp_path / "sharded"), state(tmp_path / "whole")
    assert all(one[key].equal(two[key]) for key in two)


def test_at_most_one_shard_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = model(tmp_path / "long", 0, "4KB"), model(tmp_path / "short", 1, "4KB")
    written: list[int] = []

    def watched(shard: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        written.append(sum(tensor.nbytes for tensor in shard.values()))
        save_file(shard, path, metadata=metadata)

    monkeypatch.setattr("safetensors.torch.save_file", watched)
    merge(long, short, tmp_path / "out")
    biggest = max(tensor.nbytes for tensor in state(long).values())
    assert len(written) > 2
    assert max(written) <= max(4096, biggest)


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


def test_a_head_that_only_one_file_stores(tmp_path: Path) -> None:
    long, short = model(tmp_path / "long", 0), model(tmp_path / "short", 1)
    tensors = load_file(short / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    merge(long, short, tmp_path / "one")
    merge(short, long, tmp_path / "two")
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert all(torch.allclose(one[key], two[key], atol=1e-7) for key in one)


def refusal(long: Path, short: Path, out: Path, **changes: Any) -> str:
    with pytest.raises(MergeError) as caught:
        merge(long, short, out, **changes)
    assert not out.exists() or [*out.iterdir()]
    assert not [*out.parent.glob(".*.tmp")]
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    long, out = model(tmp_path / "long", 0), tmp_path / "out"
    for name, file, change in (
        ("chat template", "chat_template.jinja", lambda text: text + " "),
        ("token 1", "tokenizer.json", _swapped),
    ):
        other = tmp_path / name
        shutil.copytree(long, other)
        (other / file).write_text(change((other / file).read_text()))
        assert name in refusal(long, other, out)


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
    assert "save it again" in refusal(long, short, out)
    out.mkdir()
    (out / "mine").write_text("")
    assert "not empty" in refusal(long, long, out)


def test_an_interrupted_merge_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short, out = model(tmp_path / "long", 0, "4KB"), model(tmp_path / "short", 1), tmp_path / "out"
    calls = []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return original(*given)

    original = merging._mean
    monkeypatch.setattr(merging, "_mean", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(long, short, out)
    assert not out.exists()
    monkeypatch.undo()
    assert merge(long, short, out).averaged


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


def test_methods_of_mergekit_by_name(tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    long, short, base = (model(tmp_path / name, i) for i, name in enumerate(("long", "short", "base")))
    merge(long, short, tmp_path / "slerp", 0.3, "slerp")
    key = "model.layers.1.mlp.up_proj.weight"
    one, two, made = (state(folder)[key].double().flatten() for folder in (long, short, tmp_path / "slerp"))
    angle = torch.arccos(one @ two / (one.norm() * two.norm()))
    expected = (torch.sin(0.7 * angle) * one + torch.sin(0.3 * angle) * two) / torch.sin(angle)
    assert torch.allclose(made, expected, atol=1e-5)
    merge(long, short, tmp_path / "sum", 0.5, "task_arithmetic", base)
    for name, tensor in state(tmp_path / "sum").items():
        assert torch.allclose(tensor, (state(long)[name] + state(short)[name]) / 2, atol=1e-5)
    merge(long, short, tmp_path / "ties", 0.5, "ties", base)
    assert all(tensor.isfinite().all() for tensor in state(tmp_path / "ties").values())
    assert "needs the model that both come from" in refusal(long, short, tmp_path / "none", method="ties")
    assert "no method 'average'" in refusal(long, short, tmp_path / "none", method="average")
