"""Ranks that share each sequence: outputs bitwise those of one rank, gradients that add up to those of one rank."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from rl.learner import probe
from rl.learner.batch import Batch, cumulative
from rl.learner.config import ModelConfig
from rl.learner.forward import PolicyModel, causal_lm, new_head, packed_inputs
from rl.learner.policy import PolicyError, prepare, use_attention
from rl.learner.rows import MULTIPLE, part_tokens
from rl.objectives.protocol import Head, Needs
from rollout.models.attention import AttentionConfig, BlockAttentionConfig
from tests.rank_kit import run_ranks

VOCABULARY = 32
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "initializer_range": 0.15, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA2 = {**WINDOWS, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None}
CPU = ModelConfig(threads=1)
SIX = {"num_attention_heads": 6}
BLOCKS = BlockAttentionConfig(block_size=8, top_k=2, full_last_layers=1)
LOGPROBS = Needs()
ROUNDING = 5e-6
GRADIENTS = 5e-6
"""Largest difference of a gradient, relative to that parameter's largest, or to a thousandth of all parameters'."""


@dataclass(frozen=True)
class Case:
    """A model, a batch, and what an objective needs of them."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Of ``SIZES``."""
    family: str = "Llama"
    blocks: BlockAttentionConfig | None = None
    version: int = 0
    checkpointing: bool = False
    lengths: tuple[int, ...] = (7, 11, 16, 23, 90)
    last: int = 1000
    """The last tokens of each sequence that carry loss."""
    needs: Needs = LOGPROBS
    sharded: bool = True
    """With FSDP2."""
    exact: bool = True
    """Outputs are bitwise those of one rank; otherwise to ``ROUNDING``, for a reason that stands beside the case."""


CASES: dict[int, dict[str, Case]] = {
    2: {
        "one key head": Case({"num_key_value_heads": 1}),
        "two key heads": Case(sharded=False),
        "four key heads, tied": Case({"num_key_value_heads": 4, "tie_word_embeddings": True}),
        "window": Case({"sliding_window": 8}, "Mistral"),
        # The last elements of tanh over the scores of all heads fill no vector: other instructions compute them.
        "windows, soft caps": Case(GEMMA2, "Gemma2", sharded=False, exact=False),
        "experts": Case(EXPERTS, "Mixtral"),
        "blocks": Case(blocks=BLOCKS),
        "blocks and nothing else": Case(blocks=BLOCKS, sharded=False),
        "blocks no more": Case(blocks=BLOCKS.model_copy(update={"full_from": 1}), version=1),
        "checkpointed": Case(checkpointing=True),
        "blocks, checkpointed": Case(blocks=BLOCKS, checkpointing=True),
        "heads and hidden states": Case(needs=Needs(hidden="ends", head=Head(2))),
        "ends only": Case(needs=Needs(logprobs=False, hidden="tokens", head=Head(1, "ends"))),
        "one sequence": Case(lengths=(121,)),
        "all loss on one rank": Case(lengths=(150,), last=20, needs=Needs(head=Head(1))),
    },
    3: {
        "one key head": Case(SIX | {"num_key_value_heads": 1}),
        "key heads that do not divide": Case(SIX, sharded=False),
        "all loss on one rank, tied": Case(SIX | {"tie_word_embeddings": True}, lengths=(9, 140), last=8),
        "blocks": Case(SIX | {"num_key_value_heads": 3}, blocks=BLOCKS),
        # Alone, one rank has two rows, and products of fewer than four are computed by other instructions.
        "fewer tokens than ranks": Case(SIX, lengths=(2,), needs=Needs(hidden="ends"), exact=False),
    },
    4: {
        "one key head": Case({"num_key_value_heads": 1}, lengths=(40, 90)),
        "two key heads, window": Case({"sliding_window": 8}, "Mistral", lengths=(40, 90)),
        "four key heads, blocks": Case(
            {"num_attention_heads": 8, "num_key_value_heads": 4}, blocks=BLOCKS, lengths=(40, 90)
        ),
    },
}


def policy_of(case: Case, group: dist.ProcessGroup | None = None) -> PolicyModel:
    torch.manual_seed(0)
    settings = getattr(transformers, f"{case.family}Config")(**SIZES | case.changes)
    attention = AttentionConfig(moba=case.blocks)
    config = CPU.model_copy(update={"gradient_checkpointing": case.checkpointing, "attention": attention})
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    policy = prepare(model, config, sequence=1 if group is None else group.size())
    use_attention(policy, config, case.version)
    head = None if case.needs.head is None else new_head(policy, case.needs.head, seed=1)
    return PolicyModel(policy, torch.float32, head, group)


def batch_of(case: Case) -> Batch:
    ends = cumulative(case.lengths)
    left = torch.cat([torch.arange(length, 0, -1) for length in case.lengths])
    mask = left <= case.last
    mask[ends[:-1].long()] = False
    tokens = torch.randint(VOCABULARY, left.shape, generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    n, zeros = len(case.lengths), torch.zeros(left.shape)
    return Batch(tokens, ends, mask, torch.zeros_like(mask), zeros, torch.zeros(n), ("",) * n, n)


def trained(policy: PolicyModel, case: Case) -> dict[str, torch.Tensor]:
    """The outputs, after the backward pass of a loss of all of them."""
    outputs = {name: part for name, part in vars(policy(batch_of(case), case.needs, 0.7)).items() if len(part)}
    generator = torch.Generator().manual_seed(3)
    sum((part * torch.randn(part.shape, generator=generator)).sum() for part in outputs.values()).backward()
    return {name: part.detach() for name, part in outputs.items()}


def cut_up(policy: PolicyModel) -> None:
    """As the learner does it: layers and root, gradients summed."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (*causal_lm(policy.policy).base_model.layers, policy):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def on_ranks(rank: int, ranks: int) -> dict[str, tuple[dict, dict]]:
    """Outputs and summed gradients, by case."""
    found = {}
    for name, case in CASES[ranks].items():
        policy = policy_of(case, dist.group.WORLD)
        if case.sharded:
            cut_up(policy)
        outputs = trained(policy, case)
        gradients = {}
        for of, parameter in policy.named_parameters():
            if case.sharded and parameter.grad is not None:
                gradients[of] = parameter.grad.full_tensor()
            elif parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                gradients[of] = parameter.grad
        found[name] = outputs, gradients
    return found


@functools.cache
def results(ranks: int) -> list[dict[str, tuple[dict, dict]]]:
    """What each rank found: all cases in one start."""
    return run_ranks(ranks, on_ranks, ranks)


@pytest.mark.parametrize(("ranks", "name"), [(ranks, name) for ranks in CASES for name in CASES[ranks]])
def test_ranks_that_share_sequences_compute_what_one_does(ranks, name):
    case = CASES[ranks][name]
    alone = policy_of(case)
    wanted = trained(alone, case)
    gradients = {of: parameter.grad for of, parameter in alone.named_parameters() if parameter.grad is not None}
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for outputs, of_ranks in (rank[name] for rank in results(ranks)):
        assert outputs.keys() == wanted.keys()
        for what, values in outputs.items():
            gap = (values - wanted[what]).abs().max().item()
            assert gap <= (0.0 if case.exact else ROUNDING), f"{what}: {gap:.1e}"
        assert of_ranks.keys() == gradients.keys()
        for of, gradient in of_ranks.items():
            gap = (gradient - gradients[of]).abs().max().item()
            assert gap <= GRADIENTS * max(gradients[of].abs().max().item(), 1e-3 * largest), f"{of}: {gap:.1e}"


@pytest.mark.parametrize("lengths", [(2,), (7, 11), (24, 24), (1, 2, 60)])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_parts_of_a_stream_are_the_stream_filled_up_with_sequences_of_one_token(ranks, lengths):
    ends, tokens = cumulative(lengths), torch.arange(1, sum(lengths) + 1)
    whole = packed_inputs(tokens, ends)
    parts = [packed_inputs(tokens, ends, rank, ranks) for rank in range(ranks)]
    filled = ranks * part_tokens(len(tokens), ranks)
    for name in ("input_ids", "position_ids"):
        joined = torch.cat([part[name] for part in parts], 1)
        assert joined.shape[1] == filled
        assert joined.shape[1] // ranks % MULTIPLE == 0
        assert torch.equal(joined[:, : len(tokens)], whole[name])
        assert not joined[:, len(tokens) :].any()
    for part in parts:  # of the whole stream, on every rank
        assert part["cu_seq_lens_q"].tolist() == ends.tolist() + list(range(len(tokens) + 1, filled + 1))
        assert part["max_length_q"] == max(lengths)


def test_heads_that_the_ranks_cannot_share_are_refused_before_the_first_step():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    with pytest.raises(PolicyError, match=r"^.*learner.ranks.sequence: 3 ranks cannot share 4 query heads.*$"):
        prepare(model, CPU, sequence=3)


LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
          "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
STATES = {"layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_state": 16, "mamba_d_head": 48,
          "num_local_experts": 0, "shared_intermediate_size": 32}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("Qwen3_5Text", LINEAR),
        ("GraniteMoeHybrid", STATES),
        ("Mamba", {}),
    ],
)
def test_convolutions_and_state_spaces_cannot_be_shared(family, changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    before = model.config._attn_implementation
    assert "learner.ranks.sequence 2: its tokens meet elsewhere than in attention" in probe.sharing(model, 2)
    assert model.config._attn_implementation == before


def shifted(module, args, options):
    """Adds to each token something of the one before it in its sequence: mixing that heeds packing."""
    (states,) = args
    before = states.roll(1, dims=1) * (options["position_ids"] > 0)[..., None]
    return (states + 0.1 * before,), options


def test_what_heeds_packing_but_needs_the_token_before_is_refused_for_several_ranks_only():
    def model():
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
        made.base_model.layers[0].register_forward_pre_hook(shifted, with_kwargs=True)
        return made

    prepare(model(), CPU)
    with pytest.raises(
        PolicyError, match=r"^LlamaForCausalLM cannot be trained: .*tokens meet elsewhere.*set it to 1$"
    ):
        prepare(model(), CPU, sequence=2)
