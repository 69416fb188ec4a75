"""GPUs by their data sheets, and the few constants that no data sheet has, each with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2.0**30
NODE = 8
"""GPUs of a node, each with a network card of its own."""


@dataclass(frozen=True)
class Gpu:
    """Peaks a GPU; bandwidths in one direction."""

    name: str
    flops: float
    """Dense bfloat16 FLOPs a second."""
    memory: float
    """Bytes."""
    memory_bandwidth: float
    """Bytes a second."""
    nvlink: float
    """Bytes a second to the other GPUs of its node."""
    network: float = 50e9
    """Bytes a second out of its node: 400 Gbit/s."""
    sustained: float = 0.60
    """Assumed share of peak FLOPs that large matrix products reach."""


H100 = Gpu("H100", 989e12, 79 * GIB, 3.35e12, 450e9)
H200 = Gpu("H200", 989e12, 139 * GIB, 4.8e12, 450e9)
H800 = Gpu("H800", 989e12, 79 * GIB, 3.35e12, 200e9)
H20 = Gpu("H20", 148e12, 95 * GIB, 4.0e12, 450e9, sustained=0.85)
"""An H100 with a sixth of its units: neither power nor memory holds those back."""


@dataclass(frozen=True)
class Constants:
    """What is not on a data sheet. ``SOURCES`` says where each value is from."""

    experts: float = 0.23
    attention: float = 0.97
    traffic: float = 1050.0
    bandwidth: float = 0.80
    link: float = 0.95
    micro_batch: float = 0.25
    decode_step: float = 1.0e-3
    decode_sequence: float = 30e-6
    all_reduce: float = 15e-6
    publish: float = 0.15
    publish_tensor: float = 30e-6
    files: float = 1.67e9


SOURCES = {
    "experts": "fitted: prime-rl, SFT of Qwen3-30B-A3B, 16K, 8 H200 (3.74 s); speed of expert matrices against "
    "large ones",
    "attention": "fitted: prime-rl, Qwen3-0.6B, 65K, 1 H100 (6.46 s); speed against large matrix products",
    "traffic": "fitted: prime-rl, Qwen3-0.6B, 16K, 1 H100 (1.38 s); bfloat16 values a token, layer and unit of width "
    "that all that is no matrix product reads and writes in a step",
    "bandwidth": "assumed: share of peak memory bandwidth",
    "link": "assumed: share of link bandwidth that NCCL reaches",
    "micro_batch": "fitted: the same two; seconds a micro-batch outside of the GPU's work",
    "decode_step": "fitted: verl, generation of the synchronous run (177.85 s); seconds a decoding step",
    "decode_sequence": "fitted: between NeMo RL, 30B-A3B, synchronous (6e-5 would meet it) and AReaL, 1.5B (less "
    "would); seconds a sequence and step for scheduling, sampling, log-probs",
    "all_reduce": "assumed: seconds of a small all-reduce inside a node",
    "publish": "fitted: TRL, Qwen3-0.6B (0.18 s); seconds to pause, control and resume",
    "publish_tensor": "fitted: NeMo RL, 30B to engines of eight (0.87 s); seconds a matrix",
    "files": "fitted: prime-rl, Qwen3-30B-A3B, 16K, RL against SFT (22.06 and 3.74 s a micro-batch): bytes a second at "
    "which each step seems to write the weights",
}

DEFAULT = Constants()
