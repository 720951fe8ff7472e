"""The notebook of the examples, run by a kernel: what its cells show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

REASON = "nbclient and nbformat expected: make pictures"
NOTEBOOK = Path(__file__).parent.parent / "examples" / "heap.ipynb"


def html_of(cell: Any) -> str:
    """Return what a cell shows in a browser."""
    return "".join(each["data"].get("text/html", "") for each in cell.outputs if "data" in each)


def printed(cell: Any) -> str:
    return "".join(each.get("text", "") for each in cell.outputs)


@pytest.mark.slow
def test_the_notebook_shows_a_heap_and_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason=REASON)
    nbformat = pytest.importorskip("nbformat", reason=REASON)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells), "a notebook without outputs is kept"
    nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    made, array, notes, stats, explained, checked, page, _, refused, closed = cells
    assert "notes.heap" in html_of(made)
    assert "text/plain" in array.outputs[0]["data"]
    assert "30 entries, the first 10 here" in html_of(notes)
    assert "external fragmentation" in html_of(stats)
    assert "would be served" in html_of(explained)
    assert "sound" in html_of(checked)
    assert "heap.html" in html_of(page)
    [html] = tmp_path.glob("*/heap.html")
    assert html.stat().st_size > 20_000
    assert "no live views expected at close, 1 found" in printed(refused)
    assert "IPython keeps Out[8], until %xdel _8" in printed(refused)
    assert "closed" in html_of(closed)
