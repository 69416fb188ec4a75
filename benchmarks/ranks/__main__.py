"""A learner of 1, 2 and 3 ranks on one machine (gloo): ``python -m benchmarks.ranks``, some minutes on two cores.

JSON lines; the last one has every goal with its figure and whether it is met, and so has the exit code (0: all are).
``parity`` compares losses, gradients and log-probs with one process that takes the same micro-batches, bit for bit
where that is possible (``own_cut``: with those it would take itself). ``muon`` is given equal gradients. ``memory``:
bytes that a rank keeps, the peak of a step beyond them, and the collectives of a step. ``checkpoint``: written by 2
ranks, loaded by 1, written again, loaded by 3. ``publish``: what an engine reads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import emit, environment, say
from benchmarks.ranks import files, memory, muon, parity, waste
from benchmarks.ranks.cases import CASES, save_models
from benchmarks.ranks.goals import Row, judged
from benchmarks.ranks.group import Group
from rl.learner.config import RanksConfig

MESHES = (RanksConfig(shard=2), RanksConfig(replicate=2), RanksConfig(sequence=2), RanksConfig(shard=3))
STEPPED = ("untied", "fused", "mixtral", "large")
"""Models whose matrices Muon steps: plain, fused projections, stacks of experts, larger than one bucket's least."""


def shape(mesh: RanksConfig) -> dict[str, int]:
    """Return a mesh as part of a row."""
    return {"ranks": mesh.size, "replicate": mesh.replicate, "shard": mesh.shard, "sequence": mesh.sequence}


def train(group: Group, mesh: RanksConfig, models: dict[str, Path]) -> Iterator[Row]:
    """Compare every case."""
    for case in CASES:
        found = group.call(parity.on_ranks, case, models[case.model], mesh)
        agree = all(each.losses == found[0].losses and each.logprobs.equal(found[0].logprobs) for each in found)
        same = parity.compare(case, models[case.model], found[0])
        yield {"part": "parity", **shape(mesh), "case": case.name, "dtype": case.dtype, **same, "ranks_agree": agree}


def step_muon(group: Group, mesh: RanksConfig, models: dict[str, Path]) -> Iterator[Row]:
    """Step the matrices of some models with Newton-Schulz in either type."""
    for model in STEPPED:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            alone = muon.step(models[model], model, None, dtype)
            found = group.call(muon.step, models[model], model, mesh, dtype)
            row = {"part": "muon", **shape(mesh), "model": model, "dtype": dtype}
            yield row | muon.compare(alone, found, size, mesh)


def keep(group: Group, mesh: RanksConfig, models: dict[str, Path]) -> Iterator[Row]:
    """Measure the memory of every rank."""
    alone = mesh.size == 1
    yield memory.row(group.call(memory.measure, models["large"], None if alone else mesh)) | shape(mesh)


def publish(group: Group, mesh: RanksConfig, models: dict[str, Path]) -> Iterator[Row]:
    """Compare what engines read."""
    for model in ("tied", "mixtral"):
        first, *_ = group.call(files.published, models[model], model, mesh)
        equal = bool(first) and first == files.published(models[model], model, None)
        yield {"part": "publish", **shape(mesh), "model": model, "tensors": len(first), "equal": equal}


def reshard(models: dict[str, Path], folder: Path) -> Row:
    """Write with 2 ranks, load and write with 1, load with 3."""
    paths = [folder / name for name in ("of-2", "of-1", "of-3")]
    for path in paths:
        path.mkdir()
    sums = []
    with Group(2) as two:
        sums += two.call(files.train_and_save, models["mixtral"], RanksConfig(shard=2), paths[0])
    sums.append(files.load_and_save(models["mixtral"], None, *paths[:2]))
    with Group(3) as three:
        sums += three.call(files.load_and_save, models["mixtral"], RanksConfig(shard=3), *paths[1:])
    equal = all(each == sums[0] for each in sums)
    return {"part": "checkpoint", "ranks": [2, 1, 3], "tensors": len(sums[0]), "equal": equal}


PARTS = {"parity": train, "muon": step_muon, "memory": keep, "publish": publish}


def measured(chosen: Sequence[str], meshes: Sequence[RanksConfig], folder: Path) -> Iterator[Row]:
    """Yield the rows of the chosen parts."""
    models = save_models(folder / "models") | {"large": memory.save(folder / "large")}
    if "balance" in chosen:
        yield from (waste.measure(shares) for shares in (2, 3, 8, 64))
    if "memory" in chosen:
        with Group(1) as group:
            yield from keep(group, RanksConfig(), models)
    for mesh in meshes:
        say(f"mesh {shape(mesh)}")
        with Group(mesh.size) as group:
            for part in (part for part in PARTS if part in chosen):
                yield from PARTS[part](group, mesh, models)
    if "checkpoint" in chosen:
        yield reshard(models, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; see the module."""
    import torch

    torch.set_num_threads(1)
    names = [*PARTS, "balance", "checkpoint"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--ranks", default="2,3", help="sizes of the meshes")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts.split(",")) - {*names}:
        parser.error(f"no part called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    meshes = [mesh for mesh in MESHES if str(mesh.size) in options.ranks.split(",")]
    emit({"part": "environment", **environment()})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(options.parts.split(","), meshes, Path(folder)):
            emit(row)
            rows.append(row)
    verdict = judged(rows)
    emit(verdict)
    return 0 if verdict["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
