"""What can be refused before Ray starts."""

from __future__ import annotations

import pytest

from rl.launch import LaunchError, check_interpreter


def test_a_path_with_a_space_is_refused_at_once() -> None:
    with pytest.raises(LaunchError, match="has a space"):
        check_interpreter("/home/me/my projects/k15/.venv/bin/python")
    check_interpreter("/home/me/k15/.venv/bin/python")
