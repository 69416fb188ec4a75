"""What pages of the documentation hold: files to save, commands to run."""

from __future__ import annotations

import re
from pathlib import Path

from paths import ROOT

LONGEST = 20
"""Lines of an example, the line with its name aside."""


class Page:
    """A page of ``docs/``: its examples begin with a comment that is their file's name."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / "docs" / name).read_text()
        self.files: dict[str, str] = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", self.text, re.DOTALL))
        self.commands: list[str] = re.findall(r"^    (k15 .*)$", self.text, re.MULTILINE)

    def save(self, folder: Path) -> None:
        """Write every example to a file of its name."""
        for name, text in self.files.items():
            (folder / name).write_text(text)

    def block(self, language: str) -> str:
        """The one block of another language."""
        (found,) = re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)
        return found
