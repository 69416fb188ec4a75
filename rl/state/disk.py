"""One error for a full or failing disk, whichever library reports it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SIGNS = ("(os error ", "inline_container", "iostream error")
"""Signs of a failed write in the messages of safetensors and tokenizers (Rust's I/O errors), and of torch's archive
writer."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Wrap the saving into the existing ``folder``: raises ``OSError`` for the various errors of a failed write.

    safetensors has an error type of its own, tokenizers raises a bare ``Exception``, torch complains about positions.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        reason = str(error).partition("\n")[0]
        free = shutil.disk_usage(folder).free / 2**20
        raise OSError(
            f"cannot write {folder}: {reason}, {free:.1f} MiB free there; with more space the same command goes on"
        ) from error
