"""Newton-Schulz orthogonalisation of many matrices at once [2502.16982 eq. 2]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from kernels.newton_schulz.reference import COEFFICIENTS, EPS

MAX_STACK = 1 << 27
"""Elements stacked at once; bounds the extra memory at four buffers of half a GiB (float32) on large models."""

SYMMETRIC_ROWS = 256
"""Fewer rows than this are a few tiles, and cuBLAS does them faster than a kernel that skips half of them."""


def newton_schulz(stack: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Orthogonalise every matrix of ``stack`` [n, A, B] with A <= B, in the dtype given; returns [n, A, B]."""
    a, b, c = COEFFICIENTS
    x = stack / (torch.linalg.vector_norm(stack, dim=(1, 2), keepdim=True) + EPS)
    if len(x) == 1 and x.device.type == "cpu" and x.dtype == torch.bfloat16:
        return _single(x[0], steps).unsqueeze(0)
    for _ in range(steps):
        polynomial = _polynomial(x, b, c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _single(x: torch.Tensor, steps: int) -> torch.Tensor:
    """Do to one matrix what is done to a stack. A CPU's plain products of bfloat16 are faster than batched ones (1.5 to
    1.7 times with AMX, to the same bits); those of float32 are as fast either way.
    """
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _polynomial(x: torch.Tensor, b: float, c: float) -> torch.Tensor:
    """b S + c S^2 of S = X X^T [n, A, A]: symmetric products, on GPUs at half the work where that has tiles enough."""
    if x.device.type == "cuda" and x.dtype != torch.float64 and x.shape[1] >= SYMMETRIC_ROWS:
        from kernels.newton_schulz.triton_kernel import symmetric_product

        gram = symmetric_product(x)
        return symmetric_product(gram, gram, alpha=c, beta=b)
    gram = x @ x.mT
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def at_once(device: str, elements: int) -> int:
    """Return how many matrices of so many elements share one stack on a kind of device."""
    return 1 if device == "cpu" else max(1, MAX_STACK // elements)


def orthogonalize(
    matrices: Sequence[torch.Tensor], steps: int = 5, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Orthogonalise matrices [A_i, B_i] of any shapes; results keep order, shape and dtype of their inputs.

    Matrices of equal shape (up to transposition, which makes the Gram matrix min(A, B) squared) share batched products
    on GPUs. On CPUs each has its own: the order in which a stack is summed up depends there on how many are in it, and
    ranks that share the matrices among themselves have to step as one process does that has them all. ``dtype`` is the
    type of the iteration: bfloat16 where it is native, float32 elsewhere. ``ValueError`` for what is not a matrix of
    floats.
    """
    buckets: dict[tuple[torch.device, int, int], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        if matrix.dim() != 2 or not matrix.is_floating_point():
            raise ValueError(
                f"Newton-Schulz wants matrices of floats; number {index} is {matrix.dtype} {list(matrix.shape)}"
            )
        rows, columns = sorted(matrix.shape)
        buckets[matrix.device, rows, columns].append(index)
    results: dict[int, torch.Tensor] = {}
    for (device, rows, columns), members in buckets.items():
        width = at_once(device.type, rows * columns)
        for start in range(0, len(members), width):
            part = members[start : start + width]
            wide = [matrices[i] if matrices[i].shape[0] == rows else matrices[i].mT for i in part]
            outputs = newton_schulz(torch.stack([matrix.to(dtype) for matrix in wide]), steps)
            for i, output in zip(part, outputs, strict=True):
                upright = output if matrices[i].shape[0] == rows else output.mT
                results[i] = upright.to(matrices[i].dtype)
    return [results[i] for i in range(len(matrices))]
