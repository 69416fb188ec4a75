"""Triton: the two symmetric products of a Newton-Schulz step at half their work [2502.16982 eq. 2].

S = X Xᵀ and c S² + b S are symmetric, so only tiles on and below the diagonal are computed; each element on or
below it is stored twice, which makes the result symmetric to the last bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 64
"""Rows and columns of an output tile."""
DEPTH = 32
"""Columns multiplied at a time."""


@triton.jit  # type: ignore[misc]
def _symmetric_kernel(  # type: ignore[no-untyped-def]
    x, add, out, rows, columns, alpha, beta,
    stride_xn, stride_xr, stride_xc,
    TILE: tl.constexpr, DEPTH: tl.constexpr, ADDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row_tile, column_tile, matrix = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if row_tile >= column_tile:
        row = row_tile * TILE + tl.arange(0, TILE)
        column = column_tile * TILE + tl.arange(0, TILE)
        left = x + matrix * stride_xn + row[:, None] * stride_xr
        right = x + matrix * stride_xn + column[None, :] * stride_xr
        total = tl.full([TILE, TILE], 0.0, tl.float32)
        for start in range(0, columns, DEPTH):
            inner = start + tl.arange(0, DEPTH)
            a = tl.load(
                left + inner[None, :] * stride_xc, mask=(row < rows)[:, None] & (inner < columns)[None, :], other=0
            )
            b = tl.load(
                right + inner[:, None] * stride_xc, mask=(inner < columns)[:, None] & (column < rows)[None, :], other=0
            )
            total = tl.dot(a, b, total, input_precision=PRECISION)
        total *= alpha
        # Of the diagonal's own tiles the upper half is dropped: its sums may differ from the lower's in the last bit.
        inside = (row < rows)[:, None] & (column < rows)[None, :] & (row[:, None] >= column[None, :])
        at = matrix * rows * rows + row[:, None] * rows + column[None, :]
        if ADDS:
            total += beta * tl.load(add + at, mask=inside, other=0).to(tl.float32)
        value = total.to(out.dtype.element_ty)
        tl.store(out + at, value, mask=inside)
        mirrored = matrix * rows * rows + column[None, :] * rows + row[:, None]
        tl.store(out + mirrored, value, mask=inside)


def symmetric_product(
    x: torch.Tensor, add: torch.Tensor | None = None, alpha: float = 1.0, beta: float = 0.0
) -> torch.Tensor:
    """alpha X Xᵀ + beta A for every matrix of x [n, R, C] and of the symmetric ``add`` [n, R, R] -> [n, R, R]."""
    matrices, rows, columns = x.shape
    out = torch.empty((matrices, rows, rows), dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(rows, TILE)
    _symmetric_kernel[(tiles, tiles, matrices)](
        x, out if add is None else add.contiguous(), out, rows, columns, alpha, beta, *x.stride(),
        TILE=TILE, DEPTH=DEPTH, ADDS=add is not None, PRECISION="ieee",
    )  # fmt: skip
    return out
