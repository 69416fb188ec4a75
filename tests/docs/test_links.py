"""Every relative link and every file that README and documentation name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from paths import ROOT

FOLDERS = ("benchmarks", "docs", "evals", "kernels", "recipes", "rewards", "rl", "rollout", "tests", "tools")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")))
)
HISTORY = ("CHANGELOG.md", "docs/log.md")
"""Pages that tell of files as they were."""
NAMES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")


def prose(page: str) -> str:
    """Without blocks of code."""
    return FENCE.sub("", (ROOT / page).read_text())


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: str) -> list[str]:
    """Targets of the page's links that do not exist."""
    broken = []
    for target in re.findall(r"\]\(([^()\s]+)\)", CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    return broken


def missing_files(page: str) -> list[str]:
    """Paths below one of our folders, names of Python files and ``python -m`` modules that do not exist."""
    missing = []
    for code in CODE.findall(prose(page)):
        text = code.strip("`")
        if "NAME" in text:
            continue
        module = re.match(r"python -m (benchmarks[\w.]*)", text)
        path = module[1].replace(".", "/") if module else text.partition("::")[0]
        if re.fullmatch(r"[\w./*-]+", path) and path.partition("/")[0] in FOLDERS and ("/" in path or module):
            found = any(any(ROOT.glob(name)) for name in ((f"{path}.py", f"{path}/__main__.py") if module else (path,)))
        elif re.fullmatch(r"\w+\.py", path):
            found = path in NAMES or path.startswith("my_")
        else:
            continue
        if not found:
            missing.append(text)
    return missing


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert not broken_links(page)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_files_that_are_named_exist(page: str) -> None:
    assert not missing_files(page)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_two_versions_of_itself(page: str) -> None:
    """As a merge leaves them where both sides have changed the same lines."""
    assert not re.findall(r"^(?:<{7}|>{7}) .*$", (ROOT / page).read_text(), re.MULTILINE)


def test_the_site_lists_every_page() -> None:
    def listed(node: object) -> set[str]:
        if isinstance(node, str):
            return {node}
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return set().union(*map(listed, children))

    nav = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    moved = {"README.md": "index.md", "recipes/README.md": "recipes.md"}
    moved |= {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    assert nav == {
        moved.get(page, page.removeprefix("docs/").replace("/README.md", ".md")) for page in PAGES
    }  # tools/docs_site.py moves them there


def test_what_is_broken_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.md").write_text("# A `heading`, here\n")
    (tmp_path / "page.md").write_text(
        "[a](there.md#a-heading-here) [b](there.md#no) [c](gone.md) [d](https://example.org/x)\n"
        "`docs/gone.md`, `gone_too.py`, `rollout/types.py::Problem`, `python -m benchmarks.gone`, `a/b.py`\n"
        "```\n[e](gone.md)\n```\n"
    )
    page = str(tmp_path / "page.md")
    assert broken_links(page) == ["there.md#no", "gone.md"]
    assert missing_files(page) == ["docs/gone.md", "gone_too.py", "python -m benchmarks.gone"]
