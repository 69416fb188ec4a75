"""The Triton kernels compile for an A100 and an H100, with the tiles that those get, and fit into their shared memory.

No GPU is needed: the interpreter of the other tests passes what the compiler does not, and takes smaller tiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from paths import ROOT, TESTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "dtype", "capability", "which", "kernels"),
    [
        (128, "bfloat16", 90, "all", ()),
        (128, "bfloat16", 80, "first", ()),
        (64, "bfloat16", 90, "first", ()),
        # A float32 kernel takes ten times as long to compile; this one has the most in shared memory.
        (128, "float32", 80, "first", ("_current_queries_kernel",)),
    ],
)
def test_each_kernel_has_tiles_that_fit(
    dim: int, dtype: str, capability: int, which: str, kernels: tuple[str, ...], tmp_path: Path
) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(ROOT)])
    command = [sys.executable, str(TESTS / "kernels" / "compile_kit.py"), str(dim), dtype, str(capability), which]
    command += kernels
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    spare = defaultdict(list)
    for number, name, shared, limit, size in map(str.split, done.stdout.splitlines()):
        spare[number, name].append(int(limit) - int(shared))
        assert int(size) > 0
    assert len(spare) == (21 if not kernels else 2 * len(kernels)), "every kernel, some of them in two forms"
    assert not [kernel for kernel, each in spare.items() if max(each) < 0]
