"""States of torch's (CPU), Python's and numpy's global generators, as plain values and tensors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Return the states, for ``restore``."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpy_state = [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest]
    return {"torch": torch.get_rng_state(), "python": [version, list(words), gauss], "numpy": numpy_state}


def restore(states: dict[str, Any]) -> None:
    """Set all three generators to the states that ``random_states`` returned."""
    version, words, gauss = states["python"]
    kind, keys, *rest = states["numpy"]
    torch.set_rng_state(states["torch"])
    random.setstate((version, tuple(words), gauss))
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
