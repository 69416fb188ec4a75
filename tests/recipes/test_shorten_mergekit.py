"""mergekit's methods by name: computed as they say, in the long model's type; what cannot be done is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from recipes.shorten.merge import merge
from tests.merge_kit import model, refusal, state


def test_slerp_of_mergekit(tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    long, short = (model(tmp_path / name, i) for i, name in enumerate(("long", "short")))
    report = merge(long, short, tmp_path / "slerp", 0.3, "slerp")
    assert report == merge(long, short, tmp_path / "linear", 0.3)
    one, two, made = state(long), state(short), state(tmp_path / "slerp")
    for key in made:
        left, right = one[key].double().flatten(), two[key].double().flatten()
        angle = torch.arccos((left @ right / (left.norm() * right.norm())).clamp(-1, 1))
        shares = (0.7, 0.3) if angle < 0.03 else (torch.sin(share * angle) / torch.sin(angle) for share in (0.7, 0.3))
        expected = sum(share * side for share, side in zip(shares, (left, right), strict=True))
        assert torch.allclose(made[key].double().flatten(), expected, atol=1e-6), key
    bf16 = tmp_path / "bf16"
    LlamaForCausalLM.from_pretrained(long, dtype=torch.bfloat16).save_pretrained(bf16)
    AutoTokenizer.from_pretrained(long).save_pretrained(bf16)
    merge(bf16, short, tmp_path / "mixed", 0.3, "slerp")
    with safe_open(tmp_path / "mixed" / "model.safetensors", "pt") as file:
        assert file.get_tensor("model.norm.weight").dtype is torch.bfloat16


def test_task_arithmetic_and_ties_of_mergekit(tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    long, short, base = (model(tmp_path / name, i) for i, name in enumerate(("long", "short", "base")))
    tree = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**tree, "max_position_embeddings": 8}))
    merge(long, short, tmp_path / "ties", 0.25, "ties", base)
    assert (tmp_path / "ties" / "config.json").read_text() == (long / "config.json").read_text()
    one, two, old, made = (state(folder) for folder in (long, short, base, tmp_path / "ties"))
    for key in made:  # keep the larger half of each difference; of a number, the sign with more weight; mean of those
        deltas = torch.stack([(side[key] - old[key]).flatten() for side in (one, two)])
        kept = torch.zeros_like(deltas)
        for row, delta in zip(kept, deltas, strict=True):
            top = delta.abs().topk(int(0.5 * len(delta))).indices
            row[top] = delta[top]
        shares = torch.tensor([[0.75], [0.25]])
        sign = (kept * shares).sum(0).sign()
        agree = (kept.sign() == sign) * shares
        expected = old[key].flatten() + (kept * agree).sum(0) / agree.sum(0).clamp(min=1e-8)
        assert torch.allclose(made[key].flatten(), expected, atol=1e-6), key
    merge(long, short, tmp_path / "sum", 0.5, "della_linear", base)
    merge(long, short, tmp_path / "again", 0.5, "della_linear", base)
    first, second = state(tmp_path / "sum"), state(tmp_path / "again")
    assert all(first[key].equal(second[key]) for key in first)


def test_what_mergekit_cannot_do_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    long, short, out = model(tmp_path / "long", 0), model(tmp_path / "short", 1), tmp_path / "out"
    assert "needs the model that both come from" in refusal(long, short, out, method="ties")
    assert "one of the two" in refusal(long, short, out, method="ties", base=short)
    assert "leave merge.weight at 0.5" in refusal(long, short, out, method="karcher", weight=0.4)
    for method in ("average", "passthrough", "nearswap"):
        assert "dare_ties" in refusal(long, short, out, method=method)
    other = model(tmp_path / "other", 2, hidden_size=32)
    assert "hidden_size" in refusal(long, short, out, method="ties", base=other)
    tensors = load_file(short / "model.safetensors")
    save_file({**tensors, "extra": torch.ones(1)}, short / "model.safetensors", metadata={"format": "pt"})
    assert "'extra'" in refusal(long, short, out, method="slerp")


def test_without_mergekit_its_methods_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = model(tmp_path / "long", 0), model(tmp_path / "short", 1)
    monkeypatch.setitem(sys.modules, "mergekit.merge_methods.registry", None)
    assert "pip install 'k15[merge]'" in refusal(long, short, tmp_path / "out", method="slerp")
