"""Notebook: small tables of HTML, for what a notebook shows of an object.

    heap ──► rows of text ──► table() ──► _repr_html_      no library, no style sheet, no script

Everything that comes in is text, and is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["bar", "listed", "table"]

_PART = "display:inline-block;height:.8em;width:{:.1f}%;background:{}"
_COLOURS = ("#2f5fc4", "#1f9aa8", "#8fcf8b")


def escape(text: str) -> str:
    """Return a text as HTML has it."""
    import html  # noqa: PLC0415 -- slow to import

    return html.escape(text)


def table(title: str, rows: Mapping[str, str], *, under: str = "") -> str:
    """Return a table of names and what they are; `under` is HTML to stand below it.

    Examples
    --------
    >>> table("a heap", {"name": "<b>"})
    '<table><caption>a heap</caption><tr><th scope="row">name</th><td>&lt;b&gt;</td></tr></table>'
    """
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(told)}</td></tr>'
        for name, told in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption>{body}</table>{under}"


def listed(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a row of heads."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in row)}</tr>" for row in rows
    )
    return (
        f"<table><caption>{escape(title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def bar(shares: Mapping[str, int]) -> str:
    """Return a bar of three parts at most, each as wide as its share of all of them."""
    whole = sum(shares.values()) or 1
    parts = "".join(
        f'<span title="{escape(name)}" style="{_PART.format(100 * part / whole, colour)}"></span>'
        for (name, part), colour in zip(shares.items(), _COLOURS, strict=False)
    )
    label = ", ".join(f"{name} {part / whole:.0%}" for name, part in shares.items())
    return (
        f'<div role="img" aria-label="{escape(label)}" style="max-width:30em;white-space:nowrap">'
        f"{parts}</div>"
    )
