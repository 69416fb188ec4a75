"""Pages as a browser without a window makes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

PROBE = """
window.addEventListener("error", (event) => { document.body.dataset.error = event.message; });
"""
"""Put before a page's own script: what goes wrong is noted on the body, where ``noted`` finds it."""


def drawn(page: Path, profile: Path) -> str:
    """The document after its scripts have run. ``profile``: an empty folder for the browser's own files."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    flags += ["--disable-component-update", f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def body_of(document: str) -> str:
    """What the page shows, without its data and scripts."""
    return document.split('<div id="page">')[1].split('<script type="application/json"')[0]


def noted(document: str) -> dict[str, str]:
    """What scripts left on the body as ``data-`` attributes. Fails when one of them is an error."""
    found = re.search("<body([^>]*)>", document)
    assert found
    notes = {name: value.replace("&quot;", '"') for name, value in re.findall(r'data-(\w+)="([^"]*)"', found[1])}
    assert "error" not in notes, notes
    return notes
