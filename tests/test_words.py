"""Words: those that were retired occur nowhere in the package and its pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pmemheap

PACKAGE = Path(pmemheap.__file__).parent
DOCS = Path(__file__).parent.parent / "docs"
RETIRED = re.compile(
    r"limbo|undress|\bdress|virgin|asleep|\b_?rise\b|\b_?wakes?\b|lifeline|ph_held|ph_marks?\b",
    re.IGNORECASE,
)


def pages() -> list[Path]:
    source = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".pyi", ".c", ".h"}]
    return sorted([*source, *(path for path in DOCS.glob("*.md") if path.name != "words.md")])


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_no_retired_word_is_left(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if RETIRED.search(line)
    ]
    assert not found
