"""The policy's weights, gradients and optimiser state cut over the learner's ranks (FSDP2)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from rl.learner.forward import causal_lm
from rl.learner.policy import PolicyError

if TYPE_CHECKING:
    from rl.learner.forward import PolicyModel
    from rl.learner.ranks import Ranks


def layers(policy: nn.Module) -> list[nn.Module]:
    """Return the layers that are gathered, computed and freed one at a time: those that transformers never splits."""
    model = causal_lm(policy)
    whole = set(model._no_split_modules or ())
    found: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for module in model.base_model.modules():
        if type(module).__name__ in whole and module not in inner:
            found.append(module)
            inner |= set(module.modules())
    return found


def check(policy: nn.Module) -> None:
    """Raise ``PolicyError`` for a parameter that cannot be cut over ranks."""
    for name, parameter in policy.named_parameters():
        if parameter.ndim == 0:
            raise PolicyError(f"{name} is a single number, which learner.ranks cannot share out; use one rank")
        if not parameter.is_floating_point():
            raise PolicyError(f"{name} is {parameter.dtype}, which learner.ranks cannot share out; use one rank")
    owners = Counter(id(parameter) for layer in layers(policy) for parameter in set(layer.parameters()))
    for name, parameter in policy.named_parameters():
        if owners[id(parameter)] > 1:
            raise PolicyError(f"{name} belongs to several layers, which learner.ranks cannot share out; use one rank")


def shard(policy: PolicyModel, ranks: Ranks, offload: bool = False) -> None:
    """Cut the parameters of ``policy`` over ``ranks``, in place: they become DTensors, float32, cut along dimension 0.

    Layers are whole while they are computed, in ``policy.compute_dtype``; gradients are summed over all ranks in
    float32, since each has divided its loss by what counts for all. Raises ``PolicyError``; see ``check``.
    """
    check(policy.policy)
    dtype = None if policy.compute_dtype == torch.float32 else policy.compute_dtype
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offloading = CPUOffloadPolicy() if offload else OffloadPolicy()
    for module in (*layers(policy.policy), policy):
        # The root, too, is freed after each pass: between passes every parameter is then what the optimiser changes.
        fully_shard(
            module, mesh=ranks.weights, reshard_after_forward=True, mp_policy=precision, offload_policy=offloading
        )
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sum that divides, and none is wanted
