"""mkdocs hook: the Markdown files outside of ``docs/`` are pages too, and links between all of them hold.

Links are written for the files as they lie in the repository. A link to a file that is no page (a source file) shows
its text alone; one to a file that does not exist stays as it is, and the strict build fails on it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "recipes/README.md": "recipes.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{
        f"kernels/{page.parent.name}/README.md": f"kernels/{page.parent.name}.md"
        for page in (ROOT / "kernels").glob("*/README.md")
    },
}
"""Path in the repository -> path in the site; what lies in ``docs/`` keeps its own."""
LINK = re.compile(r"\[([^\[\]]*)\]\((?!\w+:|#)([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page's text with its links changed to those of the site."""
    place = page.file.src_uri
    source = next((source for source, known in OUTSIDE.items() if known == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = OUTSIDE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if inside is not None:
            return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(place) or '.')}{anchor})"
        return text if (ROOT / target).exists() else link[0]

    return LINK.sub(moved, markdown)
