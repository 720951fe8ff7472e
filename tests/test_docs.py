"""Documentation: links lead somewhere, pages are in the index, public names in the reference."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import pmemheap
from pmemheap import (
    containers,
    kvstore,
    layers,
    metrics,
    pictures,
    pmem2,
    protocols,
    testing,
    traces,
)
from pmemheap.kvstore import arrow

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(pmemheap.__file__).parent  # elsewhere, where it is installed
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = [*PAGES, *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
MODULES = [pmemheap, arrow, containers, kvstore, layers, metrics, pictures, pmem2, protocols]
MODULES += [testing, traces]
DIAGRAMS = sorted((DOCS / "diagrams").glob("*.svg"))


def prose(text: str) -> str:
    """Return a text without its code."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def links(path: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text()))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#{1,3} (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def fault(page: Path, link: str) -> str:
    """Say what is wrong with a link, or nothing; links to other hosts are not followed."""
    if "://" in link:
        return ""
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    if target.is_relative_to(ROOT / "pmemheap"):
        target = PACKAGE / target.relative_to(ROOT / "pmemheap")
    if not target.exists():
        return f"{page.relative_to(ROOT)}: {link}: no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{page.relative_to(ROOT)}: {link}: no such heading"
    return ""


def test_links_lead_to_files_and_headings() -> None:
    faults = [fault(page, link) for page in TEXTS for link in links(page)]
    assert len(faults) > 100
    assert [each for each in faults if each] == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    page = DOCS / "index.md"
    assert "no such file" in fault(page, "nowhere.md")
    assert "no such heading" in fault(page, "layers.md#nowhere")
    assert fault(page, "layers.md#one-of-your-own") == ""


def test_every_page_is_in_the_index_once() -> None:
    index = (DOCS / "index.md").read_text()
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.M | re.S)
    assert len(trees) == 4, "tutorial, guides, explanation, reference"
    listed = Counter(
        line for tree in trees for line in tree.splitlines() if line and line[0] != ":"
    )
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES} - {"index"} | {"api"}
    assert set(listed) == pages
    assert set(listed.values()) == {1}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.__name__))
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    """By its own name, wherever it is listed, or among the members of its module."""
    listed = set(re.findall(r"[\w]+", (DOCS / "api.rst").read_text()))
    errors = {name for name in dir(pmemheap.errors) if name.endswith("Error")}
    names = {name for name in module.__all__ if not name.startswith("_")}
    assert names - listed - errors == set()


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: str(path.stem))
def test_a_diagram_fits_a_phone_and_both_themes(path: Path) -> None:
    text = path.read_text()
    view = re.search(r'<svg class="diagram" viewBox="0 0 (\d+) \d+" role="img" aria-label=', text)
    assert view is not None
    assert int(view.group(1)) <= 360
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', text))
    assert colours <= {"currentColor", "none"}
    assert not re.search(r"style=|<style|#[0-9a-f]{3,6}\b", text)
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)"', text)]
    assert min(sizes) >= 10
