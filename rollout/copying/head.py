"""The head that tells which tokens are copied, as a file beside the model's."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rollout.copying.labels import NAMES

FILE = "copy_head.safetensors"
"""``weight`` [3, d] and ``bias`` [3] in float32: logits of O, B and I from the last hidden state that predicts a
token."""


class HeadError(ValueError):
    """No copy head where one is looked for; one line."""


def save_head(weight: torch.Tensor, bias: torch.Tensor, folder: Path) -> None:
    """Write a head's ``weight`` [3, d] and ``bias`` [3] into the existing ``folder``. Raises ``OSError``."""
    tensors = {"weight": weight, "bias": bias}
    save_file(
        {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in tensors.items()}, folder / FILE
    )


def load_head(folder: Path) -> nn.Linear:
    """Return the head that was exported into ``folder``. Raises ``HeadError``."""
    path = folder / FILE
    try:
        tensors = load_file(path)
        weight, bias = tensors["weight"], tensors["bias"]
    except (OSError, KeyError, SafetensorError) as error:
        raise HeadError(f"{path}: no copy head ({error}); learner.copying trains one, and export writes it") from error
    if weight.ndim != 2 or len(weight) != len(NAMES) or bias.shape != (len(NAMES),):
        raise HeadError(
            f"{path}: weight {[*weight.shape]} and bias {[*bias.shape]}, not [{len(NAMES)}, d] and [{len(NAMES)}]"
        )
    head = nn.Linear(weight.shape[1], len(NAMES))
    head.load_state_dict(tensors)
    return head.requires_grad_(False)
