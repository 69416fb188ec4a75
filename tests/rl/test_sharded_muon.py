"""Muon on shards: bit for bit what one process computes, and what that puts on the wire."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from rl.optim.distributed import ShardedMuon
from rl.optim.muon import MOMENTUM, Matching, Muon
from rl.optim.routing import along, convolution, interleaved, whole
from tests.rank_kit import run_ranks

CASES = {
    "square": ((64, 64), whole),
    "wide": ((32, 64), whole),
    "rows do not divide": ((33, 64), whole),
    "tall": ((96, 64), whole),
    "odd columns": ((13, 37), whole),
    "one row": ((1, 64), whole),
    "fewer rows than ranks": ((2, 40), whole),
    "qkv": ((96, 64), along(0, [64, 16, 16])),
    "qkv in the second dimension": ((33, 96), along(1, [64, 16, 16])),
    "interleaved qkv": ((36, 24), interleaved(3, 2, 3)),
    "gate-up": ((66, 37), along(0, [33, 33])),
    "convolution": ((10, 3, 2), convolution),
    "experts": ((4, 24, 32), whole),
    "experts do not divide": ((3, 16, 20), whole),
    "fewer experts than ranks": ((1, 16, 20), whole),
    "experts' gate-up": ((3, 32, 24), along(0, [16, 16])),
    "experts' gate-up, transposed": ((2, 24, 32), along(1, [16, 16])),
}
SETTINGS = {"lr": 1e-2, "weight_decay": 0.1}
SILENT = ("tall", "experts")
"""No gradient in the second of three steps, on any rank."""


def gradients(seed):
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g) for name, (shape, _) in CASES.items()}


def mesh_of(replicas, shards):
    if replicas == 1:
        return init_device_mesh("cpu", (shards,), mesh_dim_names=("shard",)), [Shard(0)]
    mesh = init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("replicate", "shard"))
    return mesh, [Replicate(), Shard(0)]


def steps(rank, replicas, shards, settings):
    """Three steps of both; what differs, what was sent, what was counted."""
    mesh, placements = mesh_of(replicas, shards)

    def cut(tensor):
        return distribute_tensor(tensor, mesh, placements)

    splits = [split for _, split in CASES.values()]
    single = {name: nn.Parameter(0.05 * value) for name, value in gradients(0).items()}
    sharded = {name: nn.Parameter(cut(p.detach().clone())) for name, p in single.items()}
    bucket = settings.pop("bucket")
    one = Muon(list(single.values()), splits, **SETTINGS, **settings)
    many = ShardedMuon(
        list(sharded.values()), splits, **SETTINGS, **settings, names=list(sharded), bucket=bucket
    )  # fmt: skip
    report = {"differ": set(), "rms": [], "traffic": [], "seen": []}
    for step in range(3):
        for name, gradient in gradients(1 + step).items():
            silent = step == 1 and name in SILENT
            single[name].grad = None if silent else gradient.clone()
            sharded[name].grad = None if silent else cut(gradient)
        one.step()
        with CommDebugMode() as debug:
            many.step()
        report["seen"].append(Counter({op.__name__: n for op, n in debug.get_comm_counts().items()}))
        report["traffic"].append(many.traffic)
        report["rms"].append((one.update_rms, many.update_rms))
        for name, p in single.items():
            if not torch.equal(sharded[name].to_local(), cut(p.detach()).to_local()):
                report["differ"].add((step, name))
    report["differ"] |= {
        (MOMENTUM, name)
        for name, p in sharded.items()
        if not torch.equal(many.state[p][MOMENTUM].to_local(), cut(one.state[single[name]][MOMENTUM]).to_local())
    }
    report["state"] = sum(many.state[p][MOMENTUM].to_local().nbytes for p in sharded.values())
    report["rows"] = sum(p.to_local().nbytes for p in sharded.values())
    report["layouts"] = [layout for _, layout in many._plan.rounds]
    return report


@pytest.mark.parametrize(
    ("replicas", "shards", "settings"),
    [
        (1, 2, {"dtype": torch.float32, "bucket": 1 << 27}),
        (1, 2, {"dtype": torch.bfloat16, "bucket": 1 << 12}),
        (1, 3, {"dtype": torch.float32, "bucket": 1 << 12}),
        (1, 3, {"dtype": torch.bfloat16, "bucket": 1 << 27, "momentum_dtype": torch.bfloat16}),
        (2, 2, {"dtype": torch.bfloat16, "bucket": 1 << 27}),
        (2, 1, {"dtype": torch.float32, "bucket": 1 << 27}),
        (1, 2, {"dtype": torch.float32, "bucket": 1 << 27, "matching": Matching("measured", 0.3)}),
        (1, 3, {"dtype": torch.bfloat16, "bucket": 1 << 12, "matching": Matching("measured")}),
        (1, 2, {"dtype": torch.float32, "bucket": 1 << 12, "matching": Matching("width", 0.2, 64)}),
        (1, 2, {"dtype": torch.float32, "bucket": 1 << 27, "matching": Matching("none")}),
    ],
)
def test_bitwise_the_single_process(replicas, shards, settings):
    """Every shape, three steps, one with gradients missing; traffic as planned and few collectives."""
    width = settings["dtype"].itemsize
    for rank, report in enumerate(run_ranks(replicas * shards, steps, replicas, shards, dict(settings))):
        assert report["differ"] == set()
        for one, many in report["rms"]:
            assert many == pytest.approx(one, rel=1e-2 if width == 2 else 1e-5)
        layouts = report["layouts"]
        assert (len(layouts) > 1) == (settings["bucket"] < 1 << 27)
        elements = sum(layout.sent(rank % shards) for layout in layouts)
        for traffic, seen in zip(report["traffic"], report["seen"], strict=True):
            assert traffic.bytes == elements * width + 8 * (1 + len(CASES))
            assert traffic.collectives == 2 * len(layouts) + 1 == seen.total()
        narrow = settings.get("momentum_dtype") is torch.bfloat16
        assert report["state"] == report["rows"] // (2 if narrow else 1)
