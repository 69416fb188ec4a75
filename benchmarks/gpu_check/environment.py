"""The facts that all figures depend on, and what the device can do at most: products and copies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.common import environment
from benchmarks.gpu_check.case import Case, Notes, Options, Row, run_cases
from benchmarks.timing import side_by_side

NEEDS = ("torch",)
PACKAGES = (
    *("torch", "triton", "numpy", "transformers", "safetensors", "pydantic", "pytest", "hypothesis"),
    *("peft", "pyarrow", "psutil", "ray", "vllm", "flash-attn", "liger-kernel"),
)
"""What the parts need, then what they use or could; ``null`` in the JSON is not installed."""
PEAKS = (("H200", 989.4), ("H100 PCIe", 756.0), ("H100", 989.4), ("B200", 2250.0), ("A100", 312.0), ("L40S", 362.0))
"""Dense bfloat16 TFLOP/s of the makers' data sheets; the first name that fits counts."""
QUERY = "driver_version,name,memory.total,clocks.sm,clocks.max.sm,power.limit"


def peak_flops(name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by its data sheet; ``None`` for one that is not listed."""
    return next((tera * 1e12 for part, tera in PEAKS if part in name), None)


def facts(options: Options) -> Row:
    """Versions, the GPU and its driver."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    row: Row = environment() | {"packages": packages, "cuda": torch.version.cuda, "gpu": None, "driver": None}
    if options.device == "cuda":
        device = torch.cuda.get_device_properties(0)
        row |= {
            "gpu": device.name,
            "gpus": torch.cuda.device_count(),
            "gpu_memory_gib": round(device.total_memory / 2**30, 1),
            "multiprocessors": device.multi_processor_count,
            "capability": f"{device.major}.{device.minor}",
            "cudnn": torch.backends.cudnn.version(),
            "peak_tflops": (peak_flops(device.name) or 0) / 1e12 or None,
            "driver": driver(),
        }
    return row


def driver() -> dict[str, str] | None:
    """What nvidia-smi says; ``None`` where there is none."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(QUERY.split(","), map(str.strip, done.stdout.split(",")), strict=True))


def products(options: Options) -> Row:
    """Rate of a large bfloat16 product."""
    size = 128 if options.dry else 8192
    a, b = (torch.randn(size, size, device=options.device, dtype=torch.bfloat16) for _ in "ab")
    (found,) = side_by_side([partial(torch.mm, a, b)], options.device, 0.3, most=20)
    return {"size": size, "tflops": 2 * size**3 / found.median / 1e12}


def copies(options: Options) -> Row:
    """Rate of a large copy, bytes read and bytes written."""
    size = 1 << 16 if options.dry else 1 << 32
    source = torch.empty(size, dtype=torch.uint8, device=options.device).random_()
    (found,) = side_by_side([partial(torch.empty_like(source).copy_, source)], options.device, 0.3, most=20)
    return {"bytes": size, "gb_per_s": 2 * size / found.median / 1e9}


def cases(options: Options) -> Iterator[Case]:
    for name, measure in (("facts", facts), ("product", products), ("copy", copies)):
        yield Case(name, partial(measure, options))


def work(options: Options, notes: Notes) -> None:
    """Look around. Raises ``DeviceLost``."""
    run_cases(cases(options), options, notes)
