"""A policy's weights bucket by bucket: the names and bytes of one process, from shards on several ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
import transformers
from rank_kit import run_ranks
from tiny_models import tiny_llama
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from benchmarks.zoo_models import EXPERTS, HEADS, MODELS, SIZES
from rollout.models.shards import Weights, for_checkpoint, for_engine
from rollout.transfer.sender import sender
from rollout.transfer.weights import ShmReader, layout

DEEPSEEK = {
    **SIZES, "num_key_value_heads": 2, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{model.name: (model.family, model.settings) for model in MODELS},
    "DeepSeek V2": ("DeepseekV2", DEEPSEEK),
    "DeepSeek V3": ("DeepseekV3", DEEPSEEK),
    "Qwen 2 MoE": ("Qwen2Moe", {**HEADS, **EXPERTS, "shared_expert_intermediate_size": 32}),
}
SHARDED = ("Llama, tied", "Mixtral", "Qwen 2 MoE", "Qwen 3 MoE", "DeepSeek V3", "GPT-NeoX", "Phi 3", "Gemma 3")
TAKERS: dict[str, Callable[[torch.nn.Module], Weights]] = {
    "vllm": for_engine,
    "hf": lambda model: for_engine(model, "module"),
    "file": for_checkpoint,
}


def build(name: str, adapters: bool = False) -> Any:
    """The model of a family, the same in each process."""
    family, settings = FAMILIES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**settings), dtype=torch.float32)
    if not adapters:
        return model
    import peft

    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


class Around(torch.nn.Module):
    """The root that shards what is not in a layer: ``fully_shard`` changes a module's class, and names go by it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.model(tokens)


def shard(model: Any, shape: tuple[int, ...], **options: Any) -> Around:
    """A model under ``fully_shard``, by layer and as a whole; in place."""
    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in inner.base_model.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(Around(model), mesh=mesh, **options)


def walked(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for bucket in weights.buckets() for name, tensor in bucket}


def same(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    assert found.keys() == truth.keys()
    for name, tensor in truth.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_buckets_and_their_metadata_is_what_they_hold(name: str) -> None:
    model = build(name)
    for taker in TAKERS.values():
        weights = taker(model)
        assert len(weights.parts) > model.config.get_text_config().num_hidden_layers
        for told, held in zip(weights.metadata(), weights.buckets(), strict=True):
            assert [(key, a.dtype, a.shape) for key, a in told] == [(key, a.dtype, a.shape) for key, a in held]
            assert all(tensor.is_meta for _, tensor in told)
        told = [pair for bucket in weights.metadata() for pair in bucket]
        held = [pair for bucket in weights.buckets() for pair in list(bucket)]
        assert layout(told) == layout(held), "what shares memory is known before the bytes are"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_buckets_is_what_transformers_saves(name: str, tmp_path: Any) -> None:
    from safetensors.torch import load_file

    model = build(name)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    found = walked(for_checkpoint(model))
    same({key: found[key] for key in saved}, saved)


def across_layers(model: Any) -> Any:
    """``model`` with a checkpoint that keeps two layers' norms as one tensor."""
    from transformers.core_model_loading import Chunk, WeightConverter

    norms = [f"model.layers.{index}.input_layernorm.weight" for index in range(2)]
    model._weight_conversions = [WeightConverter(["model.norms.weight"], norms, [Chunk(0)])]
    return model


def test_names_that_depend_on_several_layers_are_still_right() -> None:
    model = across_layers(tiny_llama())
    weights = for_engine(model)
    assert len(weights.parts) == 1
    assert walked(weights)["model.norms.weight"].shape == (128,)


def _across_layers(rank: int) -> None:
    model = across_layers(tiny_llama())
    shard(model, (2,))
    with pytest.raises(ValueError, match=r"more than one layer.*learner\.ranks 1"):
        for_engine(model)


def test_names_that_depend_on_several_layers_are_refused_for_shards() -> None:
    run_ranks(2, _across_layers)


def _sharded(rank: int, names: Sequence[str], adapters: bool, shape: tuple[int, ...]) -> None:
    for name in names:
        truth = {taker: walked(TAKERS[taker](build(name, adapters))) for taker in TAKERS}
        model = build(name, adapters)
        shard(model, shape)
        for taker, expected in truth.items():
            weights = TAKERS[taker](model)
            told = {key: (tensor.dtype, tensor.shape) for bucket in weights.metadata() for key, tensor in bucket}
            found = walked(weights)
            assert told == {key: (tensor.dtype, tensor.shape) for key, tensor in found.items()}
            same(found, expected)


def test_shards_become_the_weights_of_one_process() -> None:
    run_ranks(2, _sharded, SHARDED, False, (2,))


def test_sharded_adapters_are_merged() -> None:
    pytest.importorskip("peft")
    run_ranks(2, _sharded, ("Llama, tied", "Qwen 3 MoE"), True, (2,))


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_rows_that_do_not_divide_and_replicas(shape: tuple[int, ...]) -> None:
    run_ranks(math.prod(shape), _sharded, ("Qwen 3 MoE",), False, shape)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors made inside of it that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._old: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        before = {s.untyped_storage()._cdata for s in _plain((args, kwargs))} - self._made.keys()
        for tensor in _plain(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in before and not tensor.is_meta:
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {key: each for key, each in self._made.items() if not each[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return made


def _plain(values: Any) -> Iterable[torch.Tensor]:
    from torch.distributed.tensor import DTensor

    for leaf in tree_leaves(values):
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DTensor):
            yield leaf


def _peak(rank: int) -> tuple[int, int, int]:
    """Return bytes: most held beside the shards, largest bucket, whole model."""
    config = {**HEADS, **EXPERTS, "num_hidden_layers": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(transformers.Qwen3MoeConfig(**config), dtype=torch.float32)
    shard(model, (2,))
    weights = for_engine(model)
    sizes = [sum(tensor.nbytes for _, tensor in bucket) for bucket in weights.metadata()]
    source = sender("shm", first=rank == 0)
    with Live() as live:
        source.send(model, 1)
    source.close()
    return live.peak, max(sizes), sum(sizes)


def test_a_publish_holds_at_most_two_buckets_beside_the_shards() -> None:
    for peak, bucket, whole in run_ranks(2, _peak):
        assert bucket < whole / 7
        assert bucket <= peak <= 2 * bucket, "an engine that gets the model from here costs two layers"


def _half_gathered(rank: int) -> None:
    model = tiny_llama()
    root = shard(model, (2,), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with torch.no_grad():
        root(torch.tensor([[1, 2, 3]]))  # FSDP leaves the root's parameters whole, in the type of the forward pass
    with pytest.raises(ValueError, match="reshard the model's FSDP modules"):
        for_engine(model)
    root.reshard()
    assert {tensor.dtype for tensor in walked(for_engine(model)).values()} == {torch.float32}
    renamed = fully_shard(tiny_llama())
    with pytest.raises(ValueError, match=r"became a FSDPLlamaForCausalLM.*around the model"):
        for_engine(renamed)


def test_what_a_forward_pass_left_gathered_is_refused() -> None:
    run_ranks(2, _half_gathered)


def _send(rank: int) -> Any:
    source, model = sender("shm", first=rank == 0), tiny_llama()
    shard(model, (2,))
    update = source.send(model, 7)
    with pytest.raises(TypeError, match=r"shard.*gather it first"):
        layout(list(model.named_parameters()))
    if rank:
        return update.payload
    same({name: tensor.clone() for name, tensor in ShmReader().read(update.payload)}, walked(for_engine(tiny_llama())))
    source.close()
    return update.version, len(update.payload["tensors"])


def test_the_first_rank_writes_what_all_gather() -> None:
    assert run_ranks(2, _send) == [(7, len(walked(for_engine(tiny_llama())))), {}]
