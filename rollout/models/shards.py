"""A policy's weights as engines and checkpoints take them, bucket by bucket, gathered where ranks hold shards of them.

The one place where a learner's names become those of an engine or a checkpoint. A bucket is one decoder layer, or one
module outside of the layers: what adapters, conversions and ties connect lies within one. Where FSDP2 has cut the
parameters, all ranks walk together and hold one whole bucket at a time, beside their shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

Names = Literal["checkpoint", "module"]
"""The names of an engine's weights: vLLM uses those of checkpoints, transformers those of its modules."""

Bucket = list[tuple[str, "torch.Tensor"]]
"""Names and tensors that belong together."""


@dataclass(frozen=True)
class _Part:
    """One tensor of the model."""

    name: str
    """Without peft's wrappers."""
    tensor: torch.Tensor
    """The parameter or buffer itself; a shard of it in a model of many ranks."""
    adapter: Any = None
    """peft's layer that adapts it, if one does."""


@dataclass(frozen=True)
class Weights:
    """The weights of a model under the names that somebody takes them by; see ``for_engine``, ``for_checkpoint``.

    ``metadata`` needs no other rank; ``buckets`` is collective where the model is sharded.
    """

    model: Any
    """The transformers model, without adapters around it."""
    parts: tuple[tuple[_Part, ...], ...]
    """By bucket."""
    converted: bool
    """Whether a checkpoint of the model names or cuts anything otherwise than its modules do."""

    def metadata(self) -> list[Bucket]:
        """Return what ``buckets`` yields with tensors on the device ``meta``: names, types and shapes, no data.

        Those of one storage share one here, too.
        """
        return [self._bucket(parts, _described) for parts in self.parts]

    def buckets(self) -> Iterator[Bucket]:
        """Yield whole tensors on the model's device, never a gradient's part; those of a plain model are its own.

        A bucket is emptied when the next one is asked for, so that one exists at a time. On a sharded model every
        rank must walk to the end.
        """
        for parts in self.parts:
            bucket = self._bucket(parts, gathered)
            yield bucket
            bucket.clear()

    def _bucket(self, parts: Iterable[_Part], take: Callable[[torch.Tensor], torch.Tensor]) -> Bucket:
        taken: dict[int, torch.Tensor] = {}
        merged: dict[str, torch.Tensor] = {}
        for part in parts:
            if part.adapter is not None:
                merged[part.name] = _merged(part, take)
                continue
            if id(part.tensor) not in taken:  # a tied tensor has two names
                taken[id(part.tensor)] = take(part.tensor)
            merged[part.name] = taken[id(part.tensor)]
        return list(self._named(merged).items())

    def _named(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return ``weights`` as they are called and cut there: transformers stacks experts, for example."""
        if not self.converted:
            return weights
        from transformers.core_model_loading import revert_weight_conversion

        reverted: dict[str, torch.Tensor] = revert_weight_conversion(self.model, weights)
        return reverted


def for_engine(policy: nn.Module, names: Names = "checkpoint") -> Weights:
    """Return every weight that an engine must receive, adapters merged, and the buffers that a checkpoint has: they
    may be what training moves, too (the biases by which experts are chosen).

    An ``hf`` engine is the same architecture, so it has the learner's own names; a checkpoint may name, fuse and stack
    otherwise (GPT-NeoX, experts, the text model of Gemma 3). It also gets a tied LM head although the model stores it
    only once: vLLM packs it separately, and without it a publish reports success and serves a stale head.
    """
    model = _without_peft(policy)
    parts = _parameters(model) + _buffers(model)
    head = model.get_output_embeddings() if names == "checkpoint" else None
    if head is not None:
        prefix = next(name for name, module in model.named_modules() if module is head)
        if all(part.name != f"{prefix}.weight" for part in parts):
            parts.append(_Part(f"{prefix}.weight", head.weight))
    return _weights(model, parts, names)


def for_checkpoint(policy: nn.Module) -> Weights:
    """Return every tensor of a checkpoint of ``policy``, under its name there, adapters merged, tied ones once."""
    model = _without_peft(policy)
    return _weights(model, _parameters(model) + _buffers(model), "checkpoint")


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether ``tensor`` is one rank's part of a tensor that several ranks hold."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _weights(model: Any, parts: list[_Part], names: Names) -> Weights:
    """Cut ``parts`` into buckets, and check that what they become does not depend on the cut.

    Raises ``ValueError`` for a sharded model where it does (each bucket would be the whole model), for one whose
    parameters are partly gathered (their types are then those of the forward pass), and for one whose class is not
    transformers' any more: its names go by the class.
    """
    _check_class(model)
    sharded = {is_sharded(part.tensor) for part in parts if _is_parameter(part.tensor)}
    if len(sharded) == 2:
        whole = next(part.name for part in parts if _is_parameter(part.tensor) and not is_sharded(part.tensor))
        raise ValueError(
            f"{type(model).__name__}: parameter {whole} is whole on this rank while others are sharded; reshard the "
            "model's FSDP modules before its weights are sent or saved"
        )
    cut = tuple(tuple(bucket) for bucket in _by_bucket(parts))
    entire = Weights(model, (tuple(parts),), names == "checkpoint")
    if not entire.converted or _unchanged(entire):
        return Weights(model, cut, False)
    by_bucket = Weights(model, cut, True)
    if _shapes(by_bucket) == _shapes(entire):
        return by_bucket
    if True not in sharded:
        return entire
    raise ValueError(
        f"{type(model).__name__}: transformers names its checkpoint's tensors by more than one layer at a time, which "
        "cannot be gathered layer by layer; train it with learner.ranks 1"
    )


def _check_class(model: Any) -> None:
    from torch.distributed.fsdp import FSDPModule
    from transformers import PreTrainedModel

    for name, module in model.named_modules():
        if isinstance(module, FSDPModule) and isinstance(module, PreTrainedModel):
            raise ValueError(
                f"{name or 'the model'} became a {type(module).__name__}, which transformers knows no checkpoint of: "
                "call fully_shard on its layers and on a module around the model instead"
            )


def _unchanged(weights: Weights) -> bool:
    """Return whether a checkpoint has just the model's own tensors: nothing then has to be looked up by each."""
    given = {part.name: _described(part.tensor) for parts in weights.parts for part in parts}
    found = weights._named(given)
    return found.keys() == given.keys() and all(found[name] is tensor for name, tensor in given.items())


def _shapes(weights: Weights) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for bucket in weights.metadata() for name, tensor in bucket}


def _by_bucket(parts: Iterable[_Part]) -> Iterable[list[_Part]]:
    """Group ``parts`` by decoder layer and, outside of layers, by module; two names of one tensor stay together."""
    buckets: dict[str, list[_Part]] = {}
    where: dict[int, str] = {}
    for part in parts:
        key = where.setdefault(id(part.tensor), _place(part.name))
        buckets.setdefault(key, []).append(part)
    return buckets.values()


def _place(name: str) -> str:
    """Return the layer that a tensor belongs to (its name up to the first number), or else its module."""
    steps = name.split(".")
    number = next((index for index, step in enumerate(steps) if step.isdigit()), None)
    return ".".join(steps[:-1] if number is None else steps[: number + 1])


def _parameters(model: Any) -> list[_Part]:
    """Return the parameters of the model under their names without peft, each with what adapts it.

    An adapter of a linear layer adapts its ``weight``; one of a stack of experts names the parameter, and wraps the
    adapter of another one of the same module.
    """
    adapters: dict[str, Any] = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            adapters[f"{_plain(name)}.{getattr(module, 'parameter_name', 'weight')}"] = module
    named = [(_plain(name), parameter) for name, parameter in model.named_parameters() if ".lora_" not in name]
    return [_Part(name, parameter, adapters.get(name)) for name, parameter in named]


def _buffers(model: Any) -> list[_Part]:
    """Return the persistent buffers of the model."""
    kept = set(model.state_dict())
    return [_Part(_plain(name), buffer) for name, buffer in model.named_buffers() if name in kept]


def _merged(part: _Part, take: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return a tensor with the updates of its active adapters added, all of them as ``take`` returns them."""
    import torch
    from torch import nn

    class Delta(nn.Module):
        """The adapter as a module whose parameters can be replaced for one call."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, adapter: str) -> torch.Tensor:
            return self.layer.get_delta_weight(adapter)  # type: ignore[no-any-return]

    base = take(part.tensor)
    whole = {
        f"layer.{name}": base if parameter is part.tensor else take(parameter)
        for name, parameter in part.adapter.named_parameters()
        if parameter is part.tensor or name.startswith("lora_")
    }
    with torch.no_grad():
        deltas = [
            torch.func.functional_call(Delta(part.adapter), whole, (name,)) for name in part.adapter.active_adapters
        ]
        return base + sum(deltas)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor; collective where it is sharded. CPU shards of a GPU model are gathered there."""
    if not is_sharded(tensor):
        return tensor.detach()
    shard: Any = tensor.detach()
    return shard.to(shard.device_mesh.device_type).full_tensor()  # type: ignore[no-any-return]


def _described(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor without its data."""
    import torch

    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _is_parameter(tensor: torch.Tensor) -> bool:
    from torch import nn

    return isinstance(tensor, nn.Parameter)


def _without_peft(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _plain(name: str) -> str:
    """Return a module's or parameter's name without peft's wrappers around it."""
    return ".".join(part for part in name.split(".") if part != "base_layer")
