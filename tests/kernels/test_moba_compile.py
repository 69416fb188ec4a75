"""The Triton kernels compile for an H100 (no GPU needed): the interpreter passes what the compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import ROOT, TESTS

POINTERS = {
    "*bf16": {"q", "k", "v", "grad", "out", "key_pages", "value_pages"},
    "*fp32": {"means", "lse", "delta", "part_lse", "grad_q", "grad_k", "grad_v", "sums", "scores"},
    "*i64": {"position", "slots"},
    "*i32": {
        "tile_row", "tile_count", "tile_block", "tile_base", "tile_offset", "block_row", "block_keys", "block_query",
        "block_queries", "order", "ends", "owner", "first_chunk", "chosen", "tables",
    },
}  # fmt: skip
CONSTANTS = {
    "ROWS": 64, "COLUMNS": 64, "KEYS": 64, "KEY_TILE": 64, "PRECISION": "tf32", "BLOCKS": 64, "KEPT": 8, "SPLIT": 512,
    "SLOTS": 64, "PARTS": True,
}  # fmt: skip
SHARED_MEMORY = 227 << 10  # bytes that a program may have on an H100


def compile_all():
    """Print one line per kernel: name and shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile  # noqa: A004
    from triton.runtime.autotuner import Autotuner

    from kernels.moba import triton_backward, triton_decode, triton_forward, triton_gate

    types = {name: type_ for type_, names in POINTERS.items() for name in names} | {"scale": "fp32"}
    for module in (triton_gate, triton_forward, triton_backward, triton_decode):
        part = "*bf16" if module is triton_forward else "*fp32"
        for kernel in (value.fn for value in vars(module).values() if isinstance(value, Autotuner)):
            names = kernel.arg_names
            for atomic in (True, False) if "ATOMIC" in names else (None,):
                constants = {name: value for name, value in CONSTANTS.items() if name in names}
                constants |= {} if atomic is None else {"ATOMIC": atomic}
                signature = {name: types.get(name, part if name == "part" else "i32") for name in names}
                signature |= dict.fromkeys(constants, "constexpr")
                fixed = {(names.index(name),): value for name, value in constants.items()}
                source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
                done = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 2})
                print(kernel.__name__, done.metadata.shared, len(done.asm["cubin"]), flush=True)


@pytest.mark.slow
def test_all_kernels_compile_for_an_h100(tmp_path):
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", "import test_moba_compile as t; t.compile_all()"]
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS / "kernels"), str(TESTS), str(ROOT)])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 16  # every kernel, one of them in both of its forms
    assert max(int(shared) for _, shared, _ in lines) <= SHARED_MEMORY
    assert all(int(size) > 0 for _, _, size in lines)
