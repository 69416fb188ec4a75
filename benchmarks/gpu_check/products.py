"""Newton-Schulz and log-probs against torch and Liger: time, memory, and the error of each against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec

import torch

from benchmarks.gpu_check.case import Case, Notes, Options, Row, run_cases
from benchmarks.kernels import chunked_logprobs, full_logprobs, torch_muon
from benchmarks.timing import side_by_side
from kernels.logprob import token_logprobs_reference
from kernels.newton_schulz import newton_schulz_reference, orthogonalize

NEEDS = ("torch", "triton", "numpy")
SECONDS = 2.0
"""Time for the rounds of one comparison."""
STEPS = 5
MODELS = {"Qwen3-0.6B": (28, 1024, 2048, 1024, 3072), "Qwen3-8B, 4 layers": (4, 4096, 4096, 1024, 12288)}
"""Layers, width, inner widths of queries, of keys and values, and of the MLP."""
DRY_MODELS = {"tiny": (1, 16, 32, 16, 48)}
MAX_NS_ERROR = 0.03
"""Relative error of an orthogonalised matrix in bfloat16: 0.011 to 0.015 on CPUs, torch.optim.Muon's the same."""
MAX_LOGPROB_ERROR = 0.05
"""Nats: logits of this size in bfloat16 are off by 0.02."""
MAX_GRADIENT_ERROR = 0.02

Logprobs = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], list[torch.Tensor]]


def matrices(model: tuple[int, ...], device: str) -> list[torch.Tensor]:
    """Gradients of a model's matrices, made up."""
    layers, width, queries, keys, inner = model
    shapes = [(queries, width), (keys, width), (keys, width), (width, queries)]
    shapes += [(inner, width), (inner, width), (width, inner)]
    return [torch.randn(shape, device=device) for _ in range(layers) for shape in shapes]


def plain(each: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One matrix after the other by torch's products, in bfloat16."""
    return [newton_schulz_reference(matrix.bfloat16(), STEPS) for matrix in each]


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the error over the norm of the truth, in float64."""
    return (torch.linalg.norm(found.double() - truth) / torch.linalg.norm(truth)).item()


def flops(shape: Sequence[int]) -> float:
    """Floating-point operations of the iteration without use of symmetry."""
    small, large = sorted(shape)
    return STEPS * (4 * small**2 * large + 2 * small**3)


def newton_schulz_row(model: tuple[int, ...], device: str, seconds: float) -> Row:
    """All matrices of a model; errors on one matrix of each shape."""
    found = matrices(model, device)
    ways = {"ours": partial(orthogonalize, dtype=torch.bfloat16), "torch.optim.Muon": torch_muon, "torch": plain}
    times = side_by_side([partial(way, found) for way in ways.values()], device, seconds)
    samples = [*{tuple(sorted(matrix.shape)): matrix for matrix in found}.values()]
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in samples]
    truths = [newton_schulz_reference(matrix.double(), STEPS) for matrix in wide]

    def error(results: Sequence[torch.Tensor]) -> float:
        pairs = zip(results, truths, strict=True)
        return max(distance(*pair) for pair in pairs)

    errors = {name: error(way(wide)) for name, way in ways.items()}
    errors["ours, float32"] = error(orthogonalize(wide, dtype=torch.float32))
    total = sum(flops(matrix.shape) for matrix in found)
    ours = times[0].median
    return {
        "matrices": len(found),
        "seconds": {name: measured.median for name, measured in zip(ways, times, strict=True)},
        "speedup": {name: measured.median / ours for name, measured in zip(ways, times, strict=True) if name != "ours"},
        "tflops": {name: total / measured.median / 1e12 for name, measured in zip(ways, times, strict=True)},
        "peak_mib": {name: round(measured.peak_mib, 1) for name, measured in zip(ways, times, strict=True)},
        "errors": errors,
        "ok": errors["ours"] <= MAX_NS_ERROR and errors["ours, float32"] <= 1e-3,
    }


def liger_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, backward: bool
) -> list[torch.Tensor]:
    """Liger's fused linear cross entropy: the sum of the log-probs, and the gradients of it."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    h, w = (part.detach().requires_grad_(backward) for part in (hidden, weight))
    total = -LigerFusedLinearCrossEntropyLoss(reduction="sum")(w, h, targets)
    return [total, *torch.autograd.grad(total, (h, w))] if backward else [total]


def logprob_ways(rows: int, vocabulary: int, device: str) -> dict[str, Logprobs]:
    """Ours, torch's where its logits fit into memory, Liger's where it is installed."""
    ways: dict[str, Logprobs] = {"ours": chunked_logprobs}
    room = torch.cuda.mem_get_info()[0] if device == "cuda" else 1 << 33
    if rows * vocabulary * 14 < 0.8 * room:  # bfloat16 products, float32 logits and log-probs, and their gradient
        ways["torch"] = full_logprobs
    return ways | ({"liger": liger_logprobs} if device == "cuda" and find_spec("liger_kernel") else {})


def logprob_inputs(rows: int, vocabulary: int, width: int, options: Options) -> tuple[torch.Tensor, ...]:
    """Hidden states and a head whose logits are of size 3 or so, as a trained model's are, and targets."""
    dtype = torch.float32 if options.dry else torch.bfloat16
    hidden = torch.randn(rows, width, device=options.device, dtype=dtype)
    weight = torch.randn(vocabulary, width, device=options.device, dtype=dtype) * (3 * width**-0.5)
    return hidden, weight, torch.randint(0, vocabulary, (rows,), device=options.device)


def logprob_row(rows: int, vocabulary: int, width: int, options: Options, backward: bool) -> Row:
    """Time and memory of ``rows`` tokens."""
    inputs = logprob_inputs(rows, vocabulary, width, options)
    ways = logprob_ways(rows, vocabulary, options.device)
    works = [partial(way, *inputs, backward) for way in ways.values()]
    times = side_by_side(works, options.device, 0.0 if options.dry else SECONDS)
    ours, products = times[0].median, 2 * rows * vocabulary * width * (4 if backward else 1)
    named = [*zip(ways, times, strict=True)]
    return {
        "tokens": rows,
        "vocabulary": vocabulary,
        "width": width,
        "seconds": {name: measured.median for name, measured in named},
        "speedup": {name: measured.median / ours for name, measured in named if name != "ours"},
        "tflops": {name: products / measured.median / 1e12 for name, measured in named},
        "peak_mib": {name: round(measured.peak_mib, 1) for name, measured in named},
    }


def logprob_errors(rows: int, vocabulary: int, width: int, options: Options) -> Row:
    """Largest error of a log-prob in nats, and the relative error of both gradients, against float64."""
    inputs = logprob_inputs(rows, vocabulary, width, options)
    exact = [part.double().requires_grad_() for part in inputs[:2]]
    logp, _ = token_logprobs_reference(*exact, inputs[2])
    grads = torch.autograd.grad(logp.sum(), exact)
    errors: Row = {}
    for name, way in logprob_ways(rows, vocabulary, options.device).items():
        found, *gradients = way(*inputs, True)
        off = (found.double() - logp).abs().max() if found.dim() else (found.double() - logp.sum()).abs() / rows
        relative = [distance(*pair) for pair in zip(gradients, grads, strict=True)]
        errors[name] = {"nats": off.item(), "hidden": relative[0], "weight": relative[1]}
    ours = errors["ours"]
    right = ours["nats"] <= MAX_LOGPROB_ERROR and max(ours["hidden"], ours["weight"]) <= MAX_GRADIENT_ERROR
    return {"errors": errors, "ok": right}


def cases(options: Options) -> Iterator[Case]:
    """Log-probs of a Qwen3-0.6B head, then Newton-Schulz."""
    rows, vocabulary, width = (64, 500, 32) if options.dry else (16_384, 151_936, 1024)
    yield Case("logprob right", partial(logprob_errors, min(rows, 512), vocabulary, width, options))
    for backward in (False, True):
        name = "forward+backward" if backward else "forward"
        yield Case(f"logprob {name}", partial(logprob_row, rows, vocabulary, width, options, backward))
    seconds = 0.0 if options.dry else SECONDS
    for name, model in (DRY_MODELS if options.dry else MODELS).items():
        yield Case(f"newton-schulz {name}", partial(newton_schulz_row, model, options.device, seconds))


def work(options: Options, notes: Notes) -> None:
    """Measure. Raises ``DeviceLost``."""
    torch.manual_seed(0)
    run_cases(cases(options), options, notes)
