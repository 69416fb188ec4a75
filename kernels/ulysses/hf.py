"""The exchange inside transformers models: around whichever attention implementation a model is set to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kernels.ulysses.op import ulysses_attention
from kernels.varlen import one_dtype, refuse_unknown

if TYPE_CHECKING:
    import torch.distributed as dist
    from transformers import PreTrainedModel

ARGUMENT = "sequence_group"
"""Keyword of a model's forward pass: the process group whose ranks have the stream's tokens, contiguous parts in their
order and of one length. ``cu_seq_lens_q`` and its like then describe the whole stream."""


@dataclass(frozen=True)
class Exchanged:
    """An attention implementation of transformers; with ``sequence_group`` it gets whole sequences of fewer heads."""

    attend: Callable[..., tuple[torch.Tensor, Any]]
    """The implementation: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D]."""

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        sequence_group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, Any]:
        """Without the group nothing but ``attend``; with it, t of T = n t tokens on each rank."""
        if sequence_group is None:
            return self.attend(module, query, key, value, attention_mask, **options)
        if attention_mask is not None or query.shape[0] != 1:
            raise ValueError(
                f"ranks that share sequences take packed input only (batch size 1, no attention mask), and "
                f"{type(module).__name__} hands on something else"
            )
        refuse_unknown("ulysses", module, options)  # what has a value per head, such as attention sinks
        options.pop("position_ids", None)  # they are those of this rank's tokens

        def attend(*parts: torch.Tensor) -> torch.Tensor:
            q, k, v = (part.transpose(0, 1)[None] for part in parts)
            return self.attend(module, q, k, v, None, **options)[0][0]

        q, k, v = (part[0].transpose(0, 1) for part in one_dtype(query, key, value))
        return ulysses_attention(attend, q, k, v, sequence_group)[None], None


def install(model: PreTrainedModel) -> None:
    """Let the attention implementation that ``model`` is set to take ``sequence_group``, in this process. Idempotent.

    Raises ``ValueError`` for one that transformers does not look up by name.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = model.config.get_text_config()._attn_implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        raise ValueError(
            f"attention {name!r} of {type(model).__name__} cannot be shared by ranks: transformers does not look it up "
            "by name"
        )
    attend = ALL_ATTENTION_FUNCTIONS[name]
    if not isinstance(attend, Exchanged):
        ALL_ATTENTION_FUNCTIONS.register(name, Exchanged(attend))
