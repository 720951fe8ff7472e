"""Array table: how arrays are shown, as lines of text and as a table of HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import islice

from pmemheap.containers.arrayentry import Entry
from pmemheap.containers.arraystore import ArrayStore
from pmemheap.units import counted, format_bytes

__all__ = ["as_html", "as_text"]

_LINES_MOST = 10
_ROWS_MOST = 50


def as_text(store: ArrayStore, count: int) -> str:
    """Return name, shape, type and bytes of the first arrays, in columns."""
    rows = [*_rows(store, _LINES_MOST)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = [f"<Arrays {store.name!r}: {counted(count, 'array')}>"]
    for *cells, last in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(["", *padded, last]))
    return "\n".join([*lines, *_more(count - len(rows))])


def as_html(store: ArrayStore, count: int) -> str:
    """Return the same as a table, in which everything is escaped."""
    rows = [*_rows(store, _ROWS_MOST)]
    title = html.escape(f"Arrays {store.name!r}: {counted(count, 'array')}")
    head = "".join(f"<th>{each}</th>" for each in ("name", "shape", "dtype", "size"))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    foot = "".join(f"<p>{each.strip()}</p>" for each in _more(count - len(rows)))
    return (
        f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{foot}"
    )


def _more(count: int) -> list[str]:
    return [f"  and {count} more"] if count > 0 else []


def _rows(store: ArrayStore, most: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield the cells of the first arrays."""
    for key, value in islice(store.entries(), most):
        name = key.decode("utf-8", "backslashreplace")
        yield (name if name.isprintable() else repr(name), *_cells(store.entry(name, value)))


def _cells(entry: Entry) -> tuple[str, str, str]:
    return str(entry.shape), str(entry.dtype), format_bytes(entry.nbytes)
