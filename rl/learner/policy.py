"""The policy model: building it, loading it, and making it trainable."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kernels.rope import install as install_rotary
from kernels.varlen import NAME as PACKED_ATTENTION
from kernels.varlen import WATCH
from kernels.varlen import register as register_packed_attention
from rl.learner import probe
from rl.learner.config import LoraConfig, ModelConfig, ScratchModel
from rl.learner.forward import causal_lm
from rl.learner.movement import as_one
from rollout.models import architecture, moba, rotary
from rollout.models.attention import AttentionConfig
from rollout.models.pretrained import ModelPathError, resolve_model
from rollout.types import WeightVersion

if TYPE_CHECKING:
    from transformers import DeepseekV3Config, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class PolicyError(ValueError):
    """A model or tokenizer that cannot be trained: what, where, what to do."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse a tokenizer without an end token; give one without a padding token the end token, and say so."""
    if tokenizer.eos_token_id is None:
        raise PolicyError(f"tokenizer of {where} has no eos_token, so no response could end; set one and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        logger.warning("tokenizer of %s has no pad_token; using its eos_token %r", where, tokenizer.eos_token)


def scratch_config(base: ScratchModel, words: int, **changes: Any) -> LlamaConfig:
    """Return the architecture of a Llama from scratch with ``words`` tokens: tied embeddings, float32, and no special
    tokens but those of ``changes``.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        **{
            "vocab_size": words,
            "hidden_size": base.width,
            "intermediate_size": base.mlp_width,
            "num_hidden_layers": base.layers,
            "num_attention_heads": base.heads,
            "num_key_value_heads": base.kv_heads,
            "head_dim": base.head_dim or base.width // base.heads,
            "max_position_embeddings": base.context,
            "rope_parameters": {"rope_type": "default", "rope_theta": base.rope_theta},
            "tie_word_embeddings": base.tied,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            "dtype": "float32",
            **changes,
        }
    )


def experts_config(base: ScratchModel, words: int, **changes: Any) -> DeepseekV3Config:
    """Return the architecture of a DeepSeek-V3 from scratch, as ``scratch_config`` does for a dense model.

    A head's queries and keys are as wide as a dense model's; half of each is rotated.
    """
    from transformers import DeepseekV3Config

    experts = base.experts
    assert experts is not None
    shared = scratch_config(base, words, **changes).to_dict()
    kept = {
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rope_parameters", "tie_word_embeddings"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "dtype"),
    }
    head = base.width // base.heads
    rotated = head // 4 * 2
    return DeepseekV3Config(
        **{name: value for name, value in shared.items() if name in kept},
        n_routed_experts=experts.routed,
        num_experts_per_tok=experts.active,
        n_shared_experts=experts.shared,
        moe_intermediate_size=experts.width,
        first_k_dense_replace=experts.dense_layers,
        routed_scaling_factor=experts.scaling or gate_scaling(experts.routed, experts.active),
        norm_topk_prob=True,
        n_group=1,
        topk_group=1,
        topk_method="noaux_tc",  # these two for readers other than transformers, which knows no other gate
        scoring_func="sigmoid",
        kv_lora_rank=experts.latent,
        q_lora_rank=None,
        qk_rope_head_dim=rotated,
        qk_nope_head_dim=head - rotated,
        v_head_dim=head,
    )


def gpt_config(base: ScratchModel, words: int, **changes: Any) -> PreTrainedConfig:
    """Return the architecture of a GPT-2 or a GPT-NeoX from scratch: the same layers, which differ in their positions.

    One block after the other, LayerNorms, an MLP with GELU, no dropout.
    """
    from transformers import GPT2Config, GPTNeoXConfig

    shared = {"vocab_size": words, "tie_word_embeddings": base.tied, "dtype": "float32", **changes}
    if base.architecture == "gpt2":
        return GPT2Config(
            n_positions=base.context,
            n_embd=base.width,
            n_layer=base.layers,
            n_head=base.heads,
            n_inner=base.mlp_width,
            activation_function="gelu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **shared,
        )
    return GPTNeoXConfig(
        hidden_size=base.width,
        num_hidden_layers=base.layers,
        num_attention_heads=base.heads,
        intermediate_size=base.mlp_width,
        max_position_embeddings=base.context,
        hidden_act="gelu",
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": base.rope_theta, "partial_rotary_factor": 1.0},
        **shared,
    )


@functools.cache
def gate_scaling(routed: int, active: int, draws: int = 100_000) -> float:
    """Return the factor on the routed experts of a gate of sigmoids: E[1 / |p|] of its normed weights p
    [2502.16982 App. C].

    The weights of the ``active`` largest of ``routed`` scores are divided by their sum. A sum of so many experts, of
    outputs alike in size, is smaller than one of them by |p|. Scores are sigmoids of normal logits. Paper: 2.446 for 6
    of 64.
    """
    logits = torch.randn(draws, routed, generator=torch.Generator().manual_seed(0))
    chosen = logits.topk(active).values.sigmoid()
    return (chosen.sum(1) / chosen.norm(dim=1)).mean().item()


def create_model(base: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Return a model with random weights drawn from ``seed``, and the words and special tokens of ``tokenizer``."""
    from transformers import AutoModelForCausalLM

    check_tokenizer(tokenizer, "the scratch model")
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    described = {"llama": scratch_config, "gpt2": gpt_config, "gpt_neox": gpt_config}[base.architecture]
    config = (described if base.experts is None else experts_config)(base, len(tokenizer), **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def load_model(path: str | Path) -> PreTrainedModel:
    """Load a causal LM, or an encoder without its head for masked words, in float32 (master weights).

    ``path``: a directory, hub name or ``package:NAME``. Raises ``ModelPathError`` when there is no such model and
    ``PolicyError`` when it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    try:
        found = resolve_model(str(path))
        kind = AutoModel if architecture.is_encoder(AutoConfig.from_pretrained(found)) else AutoModelForCausalLM
        return kind.from_pretrained(found, dtype=torch.float32)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelPathError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise PolicyError(f"model {path} cannot be loaded as a causal LM or encoder: {reason}") from error


def prepare(
    model: PreTrainedModel,
    config: ModelConfig,
    seed: int = 0,
    longest: int | None = None,
    sequence: int = 1,
    logprobs: bool = True,
) -> nn.Module:
    """Make a model trainable by k15: device, packed or block attention, no dropout, adapters, checkpointing.

    ``longest``: tokens of the longest sequence that it will be trained on; ``None``: any length. ``sequence``: ranks
    that will share each sequence. ``logprobs``: whether any will be asked for; an encoder has none. Dropout is switched
    off because the log-ratio must be exactly 0 at an iteration's first step (invariant 5), which needs the same
    function twice. Raises ``PolicyError`` for a model that k15 would compute differently from transformers.
    """
    model.to(config.device)
    switch_off_dropout(model)
    if model.get_output_embeddings() is None:
        _check_encoder(model, config, sequence, logprobs)
    _check_attention(model, config, longest)
    policy: nn.Module = model
    if config.lora is not None:
        policy = _add_lora(model, config.lora, seed)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    _use_packed_attention(policy, longest, sequence)
    use_attention(model, config, version=0)
    return policy.train()


def switch_off_dropout(model: PreTrainedModel) -> None:
    """Set every probability of dropping something to 0: of modules, and those that a forward pass reads by name.

    Some architectures keep them as attributes of a layer (OPT, StarCoder2), some read them from the configuration
    (Falcon).
    """
    configs = {id(owner): owner for owner in (model.config, model.config.get_text_config())}
    for owner in [*model.modules(), *configs.values()]:
        if isinstance(owner, nn.modules.dropout._DropoutNd):
            owner.p = 0.0
        for name, value in list(vars(owner).items()):
            if "drop" in name and isinstance(value, float):
                setattr(owner, name, 0.0)


def _check_encoder(model: PreTrainedModel, config: ModelConfig, sequence: int, logprobs: bool) -> None:
    """Refuse a model without an LM head, unless it is an encoder of which only classes are wanted."""
    name = type(model).__name__
    if logprobs or not architecture.is_encoder(model.config):
        raise PolicyError(f"{name} has no LM head; k15 trains causal LMs, which have one, and encoders as classifiers")
    for key, chosen in (
        ("model.lora", config.lora is not None),
        ("model.attention", config.attention != AttentionConfig()),
        ("learner.ranks.sequence", sequence > 1),
    ):
        if chosen:
            raise PolicyError(f"{key}: not for encoders such as {name}; leave it out")


def _check_attention(model: PreTrainedModel, config: ModelConfig, longest: int | None) -> None:
    """Refuse attention that RL cannot work with, and full attention for a model trained with block attention."""
    name, text = type(model).__name__, model.config.get_text_config()
    try:
        rotary.check(model)
    except ValueError as error:
        raise PolicyError(str(error)) from error
    trained_with = moba.read(text)
    if config.attention.moba is None:
        if trained_with is not None:
            raise PolicyError(
                f"this {name} was trained with block attention ({trained_with}): set model.attention.moba "
                f"to the same, or remove {moba.NAME!r} from its config.json to go on with full attention"
            )
        return
    narrow = [window for window in architecture.windows(text) if longest is None or window < longest]
    if narrow or architecture.softcap(text) is not None:
        what = f"a sliding window of {narrow[0]} tokens" if narrow else "soft-capped attention scores"
        raise PolicyError(f"{name} has {what}, which block attention has not: set model.attention.moba to null")


def use_attention(policy: nn.Module, config: ModelConfig, version: WeightVersion) -> None:
    """Set the attention of RL iteration ``version``: block or full attention
    [2502.13189 §2.2, §3.2], and the context stage.

    transformers' flash attention takes windows and soft-capping from the model as ours does. It tells nobody its
    logits, so a model whose logits are watched has ours.
    """
    from transformers.utils import is_flash_attn_2_available

    flash = config.device == "cuda" and config.compute_dtype == "bfloat16" and is_flash_attn_2_available()
    flash = flash and not any(WATCH in vars(module) for module in policy.modules())
    full = "flash_attention_2" if flash else PACKED_ATTENTION
    try:
        rotary.use(causal_lm(policy), config.attention.stage(version))
        moba.use(causal_lm(policy), config.attention.block(version), otherwise=full)
    except ValueError as error:
        raise PolicyError(f"model.attention: {error}") from error


def _use_packed_attention(policy: nn.Module, longest: int | None, sequence: int) -> None:
    """Switch to packed attention and our rotation, and check that they compute what the model's own do, and
    whether ``sequence`` ranks can share it.

    What the model's own forward pass never reaches (the vision tower of a multimodal model) is frozen.
    """
    model = causal_lm(policy)
    try:
        if whole := architecture.own_attention(model.config.get_text_config()):
            model.set_attn_implementation(whole)
        own = probe.own_pass(policy.eval(), longest)
        reached = {as_one(name) for name in own.gradients}
        for name, parameter in policy.named_parameters():
            if as_one(name) not in reached:
                parameter.requires_grad_(False)
        install_rotary(model)
        register_packed_attention()
        model.set_attn_implementation(PACKED_ATTENTION)
        fault = probe.difference(own, probe.packed_pass(policy.train(), longest))
        if not fault and sequence > 1:
            fault = probe.sharing(policy, sequence)
    except ValueError as error:
        fault = str(error)
    except (RuntimeError, AttributeError, KeyError, TypeError) as error:  # from deep inside of somebody's forward pass
        fault = f"{type(error).__name__}: {error}"
    if fault:
        raise PolicyError(f"{type(model).__name__} cannot be trained: {fault.splitlines()[0]}")


def _add_lora(model: PreTrainedModel, lora: LoraConfig, seed: int) -> nn.Module:
    import peft

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    adapters = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            policy = peft.get_peft_model(model, adapters)
        except ValueError as error:
            raise PolicyError(f"model.lora.target_modules {targets}: {error}") from error
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if tied and any(hasattr(end, "get_delta_weight") for end in ends):
        raise PolicyError(
            f"model.lora.target_modules {targets}: {type(model).__name__} ties its LM head to the embeddings, and an "
            "adapter on one of them would part them; leave both out"
        )
    return policy
