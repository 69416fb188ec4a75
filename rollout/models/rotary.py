"""Context extension inside models: the same frequencies into transformers' rotary embedding and into vLLM's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kernels.rope import Rotary, frequencies, tables
from rollout.models.attention import RotaryStage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""transformers' types whose frequencies follow the current length."""


def rotary_of(stage: RotaryStage, dim: int, base: float) -> Rotary:
    """Return the embedding of a stage for ``dim`` rotary channels; ``base`` is the model's own."""
    scaling = stage.scaling if stage.scaling != "dynamic" else "none"  # the configuration has refused it
    return Rotary(dim, stage.base or base, scaling, stage.factor, stage.trained)


def check(model: PreTrainedModel) -> None:
    """Raises ``ValueError`` for a rotary embedding that RL cannot work with."""
    kind = (getattr(model.config.get_text_config(), "rope_parameters", None) or {}).get("rope_type", "default")
    if kind in LENGTH_DEPENDENT:
        raise ValueError(
            f"{type(model).__name__} has rotary embeddings of type {kind!r}, whose frequencies follow the current "
            "length: a token's log-prob would change after it was sampled. Set rope_parameters in its config.json to "
            "yarn, linear or default"
        )


def use(model: PreTrainedModel, stage: RotaryStage | None) -> None:
    """Give a transformers model the rotary embedding of ``stage``; ``None`` leaves the model's own.

    Its configuration then says so too, in transformers' words, and an exported model keeps the extension. Raises
    ``ValueError`` for a model without exactly one table of frequencies.
    """
    if stage is None:
        return
    owners: list[Any] = [module for name, module in model.named_modules() if name.endswith("rotary_emb")]
    if len(owners) != 1 or not isinstance(getattr(owners[0], "inv_freq", None), torch.Tensor):
        raise ValueError(f"{type(model).__name__} has no single rotary embedding that could be extended")
    (owner,) = owners
    text = model.config.get_text_config()
    own = text.rope_parameters
    rotary = rotary_of(stage, 2 * owner.inv_freq.shape[0], own["rope_theta"])
    inverse, owner.attention_scaling = frequencies(rotary)
    owner.inv_freq.copy_(inverse)
    # The kept parts (a partial rotary factor, say) are those that do not belong to a scaling.
    kept = {name: own[name] for name in ("partial_rotary_factor",) if name in own}
    text.rope_parameters = kept | rotary.parameters
    owner.rope_type = text.rope_parameters["rope_type"]


def fill(cos_sin: torch.Tensor, rotary: Rotary) -> None:
    """Write an embedding's tables into vLLM's cache [positions, dim] (cos, then sin), in place."""
    cos, sin = tables(*frequencies(rotary), torch.arange(cos_sin.shape[0]))
    cos_sin.copy_(torch.cat([cos, sin], dim=1))
