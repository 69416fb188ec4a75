"""The choice of Muon or AdamW for each parameter, and the split of fused projections [2502.16982 §2.2]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Role = Literal["matrix", "embedding", "head", "vector", "lora"]
Split = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""Cuts a parameter, or its update, into views of its matrices; all dimensions of a view but the last are its rows. Each
matrix is some rows and neighbouring columns of [R, C], the parameter with all dimensions but the first as one.
"""

QKV_NAMES = ("qkv_proj", "Wqkv", "c_attn", "query_key_value")
INTERLEAVED_QKV = "query_key_value"
"""GPT-NeoX, Bloom and Falcon store [groups, queries + key + value, head_dim] rows under this name."""
UNSPLIT_MODELS = ("codegen", "minimax", "gpt_oss")
"""Architectures with their own layout under the usual names, whose fused matrices stay whole."""


@dataclass(frozen=True)
class Route:
    """The optimiser of one parameter."""

    name: str
    """Its name in the model."""
    parameter: nn.Parameter
    role: Role
    """``matrix`` goes to Muon, everything else to AdamW; ``vector``: norms, biases and other 1-D parameters."""
    split: Split
    """The matrices that a ``matrix`` consists of."""


@dataclass(frozen=True)
class Part:
    """Where one matrix of a split lies in its parameter, seen as [R, C]."""

    rows: tuple[range, ...]
    """Runs of neighbouring rows, in the order of the matrix."""
    columns: range

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return sum(map(len, self.rows)), len(self.columns)

    def within(self, rows: range) -> tuple[range, ...]:
        """Return the runs as far as they lie in ``rows``, counted from its start."""
        cut = [range(max(run.start, rows.start), min(run.stop, rows.stop)) for run in self.rows]
        return tuple(range(run.start - rows.start, run.stop - rows.start) for run in cut if run)


def is_stack(shape: Sequence[int], split: Split) -> bool:
    """Whether a parameter is a stack of experts [n, A, B], of which any slice falls into matrices by itself."""
    return len(shape) == 3 and split is not convolution


def parts(shape: Sequence[int], split: Split) -> list[Part]:
    """Return where the matrices of a parameter lie; never makes a tensor of its size."""
    columns = torch.arange(math.prod(shape[1:])).view(*shape[1:])
    rows = torch.arange(shape[0]).view(-1, *[1] * columns.ndim)
    found = []
    for row, column in zip(split(rows.expand(*shape)), split(columns.expand(*shape)), strict=True):
        here, there = row.select(-1, 0).flatten(), column[(0,) * (column.ndim - 1)]
        runs = here.tensor_split((here.diff() != 1).nonzero().flatten() + 1)
        spans = tuple(range(int(run[0]), int(run[-1]) + 1) for run in runs)
        found.append(Part(spans, range(int(there[0]), int(there[-1]) + 1)))
    return found


def whole(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return a plain matrix as one; a stack of experts [n, A, B] is n matrices."""
    return tensor.unbind(0) if tensor.ndim == 3 else (tensor,)


def convolution(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return a convolution kernel [out, in, ...] as the matrix [out, in * ...]."""
    return (tensor.flatten(1),)


def along(dim: int, sizes: Sequence[int]) -> Split:
    """Return a split into parts of the given sizes along ``dim`` (0 or 1) of a matrix, or of every matrix of a
    stack.
    """
    return lambda tensor: [part for matrix in whole(tensor) for part in matrix.split(list(sizes), dim)]


def interleaved(groups: int, queries: int, head_dim: int) -> Split:
    """Return a split of rows [groups, queries + 2, head_dim]: a key-value group holds its query heads, then its key,
    then its value.
    """

    def cut(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        rows = tensor.unflatten(0, (groups, queries + 2, head_dim))
        return rows[:, :queries], rows[:, queries], rows[:, queries + 1]

    return cut


def routes(model: nn.Module) -> list[Route]:
    """Return the route of every trainable parameter, each exactly once; a tied head counts as the embedding.

    Muon takes all matrices but embeddings, the LM head and adapters; a router of experts is a matrix like any other.
    """
    head = _head_parameters(model)
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        role = _role(name, parameter, owner, head)
        split = fused_split(name, owner, parameter, text) if role == "matrix" else whole
        found.append(Route(name, parameter, role, split))
    return found


def head_routes(head: nn.Module) -> list[Route]:
    """Return the routes of a head beside the model."""
    return [Route(f"head.{name}", parameter, "head", whole) for name, parameter in head.named_parameters()]


def _head_parameters(model: nn.Module) -> set[nn.Parameter]:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    return set(head.parameters()) if isinstance(head, nn.Module) else set()


def _role(name: str, parameter: nn.Parameter, owner: nn.Module, head: set[nn.Parameter]) -> Role:
    if "lora_" in name:
        return "lora"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    # Expert stacks hold biases as [n, A]: two dimensions, and still no matrix.
    if parameter.ndim < 2 or name.endswith("bias"):
        return "vector"
    return "head" if parameter in head else "matrix"


def fused_split(name: str, owner: nn.Module, parameter: nn.Parameter, config: Any) -> Split:
    """Return the split of a projection into matrices, by its name and the head counts in ``config``.

    Fused query-key-value and gate-up projections are orthogonalised part by part: they are separate maps that only
    share storage. A fused projection whose size does not match the head counts stays whole.
    """
    if isinstance(owner, nn.modules.conv._ConvNd) or parameter.ndim > 3:
        return convolution
    *_, parent, leaf = ("", *name.split("."))
    projection = parent if leaf == "weight" else leaf
    if config is None or getattr(config, "model_type", "") in UNSPLIT_MODELS:
        return whole
    # By the names of all bases: FSDP2 gives the modules that it wraps classes of their own.
    out_dim = 1 if any(base.__name__ == "Conv1D" for base in type(owner).__mro__) else 0
    if projection in QKV_NAMES:
        return _qkv_split(projection, parameter, out_dim, config)
    if projection == "gate_up_proj":
        return _gate_up_split(owner, parameter)
    return whole


def _qkv_split(projection: str, parameter: nn.Parameter, out_dim: int, config: Any) -> Split:
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "multi_query", False):
        kv_heads = 1
    if getattr(config, "new_decoder_architecture", False):
        kv_heads = config.num_kv_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if parameter.shape[out_dim] != (heads + 2 * kv_heads) * head_dim:
        return whole
    if projection == INTERLEAVED_QKV:
        return interleaved(kv_heads, heads // kv_heads, head_dim)
    return along(out_dim, [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim])


def _gate_up_split(owner: nn.Module, parameter: nn.Parameter) -> Split:
    """Return the split into halves of the outputs. Expert stacks come as [n, out, in] or [n, in, out]; their
    ``down_proj`` tells which.
    """
    if parameter.ndim == 2:
        return along(0, [parameter.shape[0] // 2] * 2)
    down = getattr(owner, "down_proj", None)
    if not isinstance(down, nn.Parameter):
        return whole
    for dim in (0, 1):
        if parameter.shape[1 + dim] == 2 * down.shape[2 - dim]:
            return along(dim, [down.shape[2 - dim]] * 2)
    return whole
