from __future__ import annotations

import importlib

import pytest
import torch

from kernels.newton_schulz import newton_schulz, newton_schulz_reference, orthogonalize
from kernels.newton_schulz.op import MAX_STACK, at_once
from kernels.newton_schulz.reference import COEFFICIENTS, EPS

SHAPES = [(8, 8), (16, 48), (48, 16), (1, 7), (7, 1)]


def gaussian(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 47), (64, 128), (96, 96), (128, 344)])
def test_a_matrix_comes_out_the_same_alone_and_among_others(shape, dtype):
    """Ranks share the matrices among themselves, and step as one process does that has them all."""
    torch.manual_seed(shape[0] * 100 + shape[1])
    matrices = list(torch.randn(5, *shape))
    together = orthogonalize(matrices, dtype=dtype)
    for first, last in ((0, 1), (1, 3), (2, 5)):
        for ours, theirs in zip(orthogonalize(matrices[first:last], dtype=dtype), together[first:last], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [*SHAPES[:2], (7, 47), (128, 344), (64, 192)])
def test_a_cpus_plain_products_are_those_of_a_stack(shape):
    """Those that bfloat16 takes, one matrix at a time, against the formula in batched products."""
    matrix = gaussian(*shape).to(torch.bfloat16)
    a, b, c = COEFFICIENTS
    (alone,) = newton_schulz(matrix[None])
    x = matrix[None] / (torch.linalg.vector_norm(matrix[None], dim=(1, 2), keepdim=True) + EPS)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    torch.testing.assert_close(alone, x[0], rtol=0, atol=0.05)  # bitwise with AMX; others may sum up otherwise


@pytest.mark.parametrize("shape", SHAPES)
def test_batched_op_equals_the_reference_in_float64(shape):
    # The Gram matrix of the transposed problem is another sum, so the last bits differ: 1e-10.
    matrices = [gaussian(*shape, seed=s) for s in range(3)]
    for matrix, result in zip(matrices, orthogonalize(matrices, dtype=torch.float64), strict=True):
        torch.testing.assert_close(result, newton_schulz_reference(matrix), rtol=0, atol=1e-10)


def test_mixed_shapes_keep_their_order_shape_and_dtype():
    matrices = [gaussian(4, 6), gaussian(6, 4, 1).float(), gaussian(4, 6, 2), gaussian(3, 3, 3)]
    results = orthogonalize(matrices, dtype=torch.float64)
    assert [(r.shape, r.dtype) for r in results] == [(m.shape, m.dtype) for m in matrices]
    torch.testing.assert_close(results[2], newton_schulz_reference(matrices[2]), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float64, 0.0), (torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_singular_values_land_in_the_published_band(dtype, slack):
    # Every normalised singular value of at least 1.5e-3 lands in [0.68, 1.203] after 5 steps [2502.16982 eq. 2].
    u, _ = torch.linalg.qr(gaussian(32, 32))
    v, _ = torch.linalg.qr(gaussian(64, 32, 1))
    spectrum = torch.logspace(-1.5, 0, 32, dtype=torch.float64)
    assert (spectrum / spectrum.norm()).min() >= 1.5e-3
    (result,) = orthogonalize([u @ spectrum.diag() @ v.T], dtype=dtype)
    values = torch.linalg.svdvals(result.double())
    assert values.min() >= 0.68 - slack
    assert values.max() <= 1.203 + slack


def test_singular_vectors_are_those_of_the_svd():
    # O = P f(S) Q^T: in the basis of the SVD the result is diagonal, up to rounding (1e-9).
    matrix = gaussian(12, 20)
    p, _, qt = torch.linalg.svd(matrix, full_matrices=False)
    inner = p.T @ newton_schulz_reference(matrix) @ qt.T
    off_diagonal = inner - inner.diag().diag()
    assert off_diagonal.abs().max() < 1e-9
    assert (inner.diag() > 0.65).all()


def test_transposition_commutes():
    matrix = gaussian(10, 30)
    (straight,), (turned,) = (
        orthogonalize([matrix], dtype=torch.float64),
        orthogonalize([matrix.T], dtype=torch.float64),
    )
    assert torch.equal(straight.T, turned)


def test_scale_does_not_matter_and_zero_stays_zero():
    matrix = gaussian(6, 9)
    (a,), (b,) = orthogonalize([matrix], dtype=torch.float64), orthogonalize([1e4 * matrix], dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # the epsilon of the normalisation is not scale-free
    assert not newton_schulz(torch.zeros(2, 3, 4)).any()


def test_what_is_no_matrix_of_floats_is_refused():
    for wrong in (torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="number 1 is"):
            orthogonalize([gaussian(2, 3), wrong])
    assert orthogonalize([]) == []


def test_large_stacks_are_cut():
    assert at_once("cuda", 45) * 45 <= MAX_STACK < (at_once("cuda", 45) + 1) * 45
    assert at_once("cuda", 2 * MAX_STACK) == 1
    matrices = [gaussian(4, 5, seed=s) for s in range(7)]
    stack = torch.stack(matrices)
    cut = torch.cat([newton_schulz(part) for part in stack.split(2)])
    for whole in (newton_schulz(stack), torch.stack(orthogonalize(matrices, dtype=torch.float64))):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("matrices", "rows", "columns"), [(1, 64, 64), (3, 70, 131), (2, 1, 5), (2, 130, 33)])
def test_symmetric_triton_kernel_interpreted(monkeypatch, matrices, rows, columns) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from kernels.newton_schulz import triton_kernel

    kernel = importlib.reload(triton_kernel)
    try:
        x = torch.randn(matrices, columns, rows).mT  # strides of a transposed matrix
        gram = kernel.symmetric_product(x)
        torch.testing.assert_close(gram, x @ x.mT, atol=1e-4, rtol=1e-5)
        assert torch.equal(gram, gram.mT)
        both = kernel.symmetric_product(gram, gram, alpha=2.0315, beta=-4.775)
        torch.testing.assert_close(both, 2.0315 * gram @ gram - 4.775 * gram, atol=1e-2, rtol=1e-4)
    finally:
        monkeypatch.undo()
        importlib.reload(triton_kernel)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_symmetric_products_on_the_device(dtype) -> None:
    stack = torch.randn(4, 512, 1024, device="cuda", dtype=dtype)
    ours, theirs = newton_schulz(stack), newton_schulz(stack.cpu().float())
    torch.testing.assert_close(ours.float().cpu(), theirs, atol=1e-3 if dtype == torch.float32 else 5e-2, rtol=0)
