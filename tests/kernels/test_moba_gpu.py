"""``moba_triton_cases.py`` on a CUDA device, compiled."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu
if torch.cuda.is_available():
    from moba_triton_cases import *  # noqa: F403
else:

    def test_moba_needs_a_gpu():
        pytest.skip("no CUDA device")
