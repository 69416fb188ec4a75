"""Merging methods of mergekit, by its names: slerp, ties, dare_ties, task_arithmetic, ...

mergekit is an optional dependency (``k15[merge]``), called in this process: 0.1.5 lives beside transformers 5. What it
writes is checked tensor by tensor.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from recipes.shorten.merge_checkpoint import Checkpoint, MergeError
from recipes.shorten.merge_checks import check_configs, check_tensors
from rollout.plain import first_line

DENSITY = 0.5
"""Share of each model's differences from the base that ties, dare and their kin keep; mergekit's 1.0 keeps all."""
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def merge_by_mergekit(long: Path, short: Path, base: Path | None, out: Path, weight: float, method: str) -> None:
    """Write the weights into ``out``, computed in float32, in the type of ``long``. Raises ``MergeError``."""
    plan = _plan(_spec(method), long, short, base, weight)
    with ExitStack() as stack:
        ours = Checkpoint(long, stack)
        for other in (short, base) if base is not None and plan.get("base_model") == str(base) else (short,):
            check_tensors(ours, Checkpoint(other, stack))
        for name, stored in ours.tensors.items():
            if not stored.floating:
                raise MergeError(f"{name!r} of {long} is {stored.dtype}, which mergekit cannot copy: use 'linear'")
        _run({**plan, "dtype": "float32", "out_dtype": _type(ours)}, out, method)
        made = Checkpoint(out, stack)
        check_tensors(ours, made)
        for name in made.tensors:
            if not made.read(name).isfinite().all():
                raise MergeError(f"mergekit's {method} made {name!r} NaN or infinite")


def _spec(method: str) -> Any:
    """Return mergekit's description of a method that takes two models and no setting but their weights."""
    try:
        from mergekit.merge_methods.registry import registered_methods
    except ImportError as error:
        raise MergeError(
            f"merge.method {method!r} is mergekit's, which is not installed: pip install 'k15[merge]'; 'linear' needs "
            f"nothing ({error})"
        ) from error
    specs = {one.spec.name: one.spec for one in registered_methods()}
    offered = {name for name, spec in specs.items() if spec.contract.max_inputs != 1 and _needed(spec) <= {"weight"}}
    if method not in offered | {"slerp"}:
        raise MergeError(f"no merge.method {method!r}; there are {', '.join(sorted(offered | {'slerp'}))}")
    return specs[method]


def _needed(spec: Any) -> set[str]:
    return {parameter.name for parameter in spec.parameters if parameter.required}


def _plan(spec: Any, long: Path, short: Path, base: Path | None, weight: float) -> dict[str, Any]:
    """Return mergekit's configuration, except for the types."""
    takes = {parameter.name for parameter in spec.parameters}
    if weight != 0.5 and not takes & {"weight", "t"}:
        raise MergeError(f"merge.method {spec.name!r} weighs the models itself: leave merge.weight at 0.5")
    pair = spec.contract.max_inputs == 2
    plan: dict[str, Any] = {
        "merge_method": spec.name,
        "models": [
            {"model": str(path), "parameters": {"weight": share, "density": DENSITY}}
            for path, share in ((long, 1 - weight), (short, weight))
        ],
        "parameters": {"t": weight} if "t" in takes else {},
    }
    if spec.contract.base.value != "required":
        return plan
    if pair:
        return {**plan, "base_model": str(long)}
    if base is None:
        raise MergeError(
            f"merge.method {spec.name!r} needs the model that both come from (a run's initial/), which is not known"
        )
    if base.resolve() in (long.resolve(), short.resolve()):
        raise MergeError(f"merge.method {spec.name!r} needs a model that both come from; {base} is one of the two")
    check_configs(long, base)
    return {**plan, "base_model": str(base)}


def _type(model: Checkpoint) -> str:
    kinds = {stored.dtype for stored in model.tensors.values()}
    if len(kinds) > 1:
        raise MergeError(f"{model.path} mixes {', '.join(sorted(kinds))}, mergekit writes one type: use 'linear'")
    return TYPES[kinds.pop()]


def _run(plan: dict[str, Any], out: Path, method: str) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, lazy_unpickle=True, random_seed=0)
    try:
        run_merge(MergeConfiguration.model_validate(plan), str(out), options)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MergeError(f"mergekit, {method}: {first_line(error)}") from error
