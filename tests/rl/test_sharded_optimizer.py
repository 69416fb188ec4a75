"""The optimiser of a policy on shards of real architectures: routed, stepped and measured as on one process."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from rl.learner.config import OptimizerConfig
from rl.optim.build import build_optimizer
from rl.optim.distributed import ShardedMuon
from rl.optim.muon import Muon
from rl.optim.routing import routes, whole
from rl.optim.shards import ShardingError
from tests.rank_kit import run_ranks
from tests.tiny_models import tiny_llama

SMALL = {
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": 31,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 18, "num_key_value_heads": 3}


def llama(tied=True, **changes):
    return tiny_llama(tied, **{"num_attention_heads": 2, **changes})


def adapted():
    import peft

    target = ["q_proj", "down_proj"]
    return peft.get_peft_model(llama(), peft.LoraConfig(r=3, target_modules=target, task_type="CAUSAL_LM"))


def of(kind, **settings):
    """A function that makes a tiny model of transformers' class ``kind``ForCausalLM."""

    def make():
        import transformers

        config = getattr(transformers, f"{kind}Config")(**SMALL | settings)
        return getattr(transformers, f"{kind}ForCausalLM")(config).float()

    return make


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=33, n_layer=1, n_head=3, n_positions=16))


MODELS = {
    "tied": llama,
    "untied": lambda: llama(tied=False),
    "lora": adapted,
    "phi3": of("Phi3", num_key_value_heads=1),
    "neox": of("GPTNeoX"),
    "gpt2": gpt2,
    "mixtral": of("Mixtral", num_local_experts=3, num_key_value_heads=1),
    "qwen3-moe": of("Qwen3Moe", num_experts=5, **EXPERTS),
    "deepseek": of(
        "DeepseekV3",
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=10,
        kv_lora_rank=12,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        **EXPERTS,
    ),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]()


def sharded(model, mesh):
    """``model`` with its layers and the rest of it sharded, as for training."""
    for layer in [
        m for m in model.modules() if type(m).__name__.endswith(("DecoderLayer", "GPT2Block", "GPTNeoXLayer"))
    ]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def described(model):
    """Name, role, global shape and the matrices' shapes of each route."""
    found = []
    for route in routes(model):
        like = torch.empty(route.parameter.shape, device="meta")
        matrices = [tuple(m.shape) for m in route.split(like)] if route.role == "matrix" else []
        found.append((route.name, route.role, tuple(like.shape), matrices))
    return found


def compared(rank, world, settings):
    """What differs between two steps of a whole and of a sharded model, by the model's name."""
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for name in MODELS:
        whole_model, model = made(name), sharded(made(name), mesh)
        found[name] = report = {"routes": described(model) == described(whole_model), "differ": []}
        one, many = (build_optimizer(m, OptimizerConfig(lr=1e-2, **settings)) for m in (whole_model, model))
        pairs = [(n, p, dict(model.named_parameters())[n]) for n, p in whole_model.named_parameters()]
        g = torch.Generator().manual_seed(1)
        for _ in range(2):
            for _, p, q in pairs:
                if p.requires_grad:
                    p.grad = torch.randn(p.shape, generator=g)
                    q.grad = distribute_tensor(p.grad, mesh, [Shard(0)])
            one.step()
            many.step()
        stepped_by_muon = set(many.muon.state) if many.muon else set()
        for n, p, q in pairs:
            ours, theirs = q.to_local(), distribute_tensor(p.detach(), mesh, [Shard(0)]).to_local()
            # torch's fused AdamW rounds the last few elements of a tensor, which fill no vector register, otherwise.
            same = torch.equal if q in stepped_by_muon else partial(torch.allclose, rtol=1e-6, atol=1e-8)
            if not same(ours, theirs):
                report["differ"].append(n)
        report["kinds"] = type(one.muon), type(many.muon)
        report["rms"] = one.update_rms(), many.update_rms()
        both = {"muon": many.muon, "adamw": many.adamw}
        report["state"] = {part: held(optimizer) for part, optimizer in both.items() if optimizer is not None}
    return found


def held(optimizer):
    """Bytes of state and of parameters that a rank holds, but for AdamW's counts of steps."""
    moments = [v for state in optimizer.state.values() for key, v in state.items() if key != "step"]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return tuple(sum(t.to_local().nbytes for t in tensors) for tensors in (moments, params))


@pytest.mark.parametrize(
    ("world", "settings"),
    [(2, {}), (3, {"ns_dtype": "bfloat16", "momentum_dtype": "bfloat16"}), (2, {"kind": "adamw"})],
)
def test_architectures_are_stepped_as_on_one_process(world, settings):
    for report in run_ranks(world, compared, world, settings):
        for name, model in report.items():
            assert model["routes"], name
            assert model["differ"] == [], name
            has_muon = settings.get("kind") != "adamw" and name != "lora"
            assert model["kinds"] == ((Muon, ShardedMuon) if has_muon else (type(None), type(None))), name
            one, many = model["rms"]
            assert many == pytest.approx(one, rel=1e-2 if settings.get("ns_dtype") else 1e-5), name
            share = {"muon": 0.5 if settings.get("momentum_dtype") else 1, "adamw": 2}
            for part, (state, params) in model["state"].items():
                assert state == share[part] * params, (name, part)


def refusals(rank):
    """What building an optimiser says to models that are not sharded as they should be."""
    line = init_device_mesh("cpu", (2,))
    other = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))

    def refused(placed):
        model = llama(num_hidden_layers=1)
        owner = model.model.layers[0].mlp.up_proj
        for p_owner, leaf, p in [(m, n, p) for m in model.modules() for n, p in m.named_parameters(recurse=False)]:
            p_owner._parameters[leaf] = nn.Parameter(distribute_tensor(p.detach(), line, [Shard(0)]))
        owner.weight = nn.Parameter(placed(torch.ones(96, 64)))
        try:
            build_optimizer(model, OptimizerConfig())
        except ShardingError as error:
            return str(error)
        return "taken"

    return {
        "plain": refused(lambda t: t),
        "columns": refused(lambda t: distribute_tensor(t, line, [Shard(1)])),
        "copies": refused(lambda t: distribute_tensor(t, line, [Replicate()])),
        "sums": refused(lambda t: DTensor.from_local(t, line, [Partial()])),
        "mesh": refused(lambda t: distribute_tensor(t, other, [Replicate(), Shard(0)])),
        "rows": refused(
            lambda t: DTensor.from_local(t[: 50 - 4 * rank], line, [Shard(0)], shape=t.shape, stride=(64, 1))
        ),
        "right": refused(lambda t: distribute_tensor(t, line, [Shard(0)])),
    }


def test_a_parameter_that_is_not_sharded_by_rows_is_refused_by_name():
    for refused in run_ranks(2, refusals):
        assert refused.pop("right") == "taken"
        for kind, message in refused.items():
            assert message.startswith("parameter model.layers.0.mlp.up_proj.weight [96, 64] "), kind
            assert message.endswith(
                "give fully_shard every module that has parameters, one mesh, and no shard_placement_fn"
            )
        assert "is whole on every rank while model.embed_tokens.weight is sharded" in refused["plain"]
        for kind in ("columns", "copies", "sums"):
            assert "not [Shard(0)] or [Replicate(), Shard(0)]" in refused[kind]
        assert "rows here where torch.chunk leaves 48" in refused["rows"]


def one_silent(rank):
    """Gradients that only one rank has, or that are not reduced."""
    mesh = init_device_mesh("cpu", (2,))
    p = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
    optimizer = ShardedMuon([p], [whole], lr=0.1, weight_decay=0.0, names=["the matrix"])
    messages = []
    right = distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])
    for gradient in (
        right if rank else None,
        DTensor.from_local(torch.ones(4, 4), mesh, [Partial()]),
    ):
        p.grad = gradient
        try:
            optimizer.step()
        except ShardingError as error:
            messages.append(str(error))
    return messages


def test_gradients_of_some_ranks_or_not_reduced_are_refused():
    assert (
        run_ranks(2, one_silent)
        == [
            [
                "the matrix has a gradient on 1 of 2 ranks; make every rank use it",
                "gradient of the matrix is not sharded as the parameter is; reduce it first",
            ]
        ]
        * 2
    )


def restored(rank, momentum_dtype):
    """Whether a new optimiser goes on from a state dict as the old one does, and the dtype of what it loaded."""
    mesh = init_device_mesh("cpu", (2,))
    config = OptimizerConfig(momentum_dtype=momentum_dtype)
    models = [sharded(made("tied"), mesh) for _ in range(2)]
    g = torch.Generator().manual_seed(1)

    def stepped(optimizer, gradients):
        for p, gradient in zip(optimizer_params[optimizer], gradients, strict=True):
            p.grad = distribute_tensor(gradient, mesh, [Shard(0)])
        optimizer.step()

    first, second = (build_optimizer(model, config) for model in models)
    optimizer_params = {first: list(models[0].parameters()), second: list(models[1].parameters())}
    gradients = [[torch.randn(p.shape, generator=g) for p in models[0].parameters()] for _ in range(2)]
    stepped(first, gradients[0])
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    kept = {state["momentum_buffer"].dtype for state in second.muon.state.values()}
    for optimizer in (first, second):
        stepped(optimizer, gradients[1])
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    return kept, all(torch.equal(p.to_local(), q.to_local()) for p, q in pairs)


@pytest.mark.parametrize("momentum_dtype", ["float32", "bfloat16"])
def test_state_survives_a_round_trip_on_shards(momentum_dtype):
    assert run_ranks(2, restored, momentum_dtype) == [({getattr(torch, momentum_dtype)}, True)] * 2
