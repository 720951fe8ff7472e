r"""Metrics: the statistics of heaps, arena by arena, and as text that Prometheus reads.

    # HELP pmemheap_blocks Live blocks.
    # TYPE pmemheap_blocks gauge
    pmemheap_blocks{heap="cache",arena=""} 3
    pmemheap_blocks{heap="cache",arena="names"} 1

The default arena has the name "". Figures of whole files have no arena. A program that serves
metrics answers with the text of its heaps, with the content type ``text/plain; version=0.0.4``.

Examples
--------
>>> heap = Heap.anonymous()
>>> offset = heap.malloc(100)
>>> for line in exposition({"cache": heap}).splitlines()[:3]:
...     print(line)
# HELP pmemheap_allocated_bytes In live blocks, as rounded up.
# TYPE pmemheap_allocated_bytes gauge
pmemheap_allocated_bytes{heap="cache",arena=""} 112
>>> heap.close()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pmemheap.heap import totals
from pmemheap.heap.heap import Heap
from pmemheap.heap.insight import HeapStats
from pmemheap.heap.space import space_of

__all__ = ["by_arena", "exposition", "exposition_of"]

Looks = Mapping[str, Mapping[str, HeapStats]]
Labels = dict[str, str]
Sample = tuple[Labels, float]


class _Metric(NamedTuple):
    """One metric: its name behind `pmemheap_`, the attribute it shows, and what is said of it."""

    name: str
    attribute: str
    text: str

    @property
    def kind(self) -> str:
        return "counter" if self.name.endswith("_total") else "gauge"


_OF_ARENAS = (
    _Metric("allocated_bytes", "allocated", "In live blocks, as rounded up."),
    _Metric("reserved_bytes", "reserved", "In blocks of open transactions and of numpy arrays."),
    _Metric("quarantined_bytes", "quarantined", "In blocks that were freed and must wait."),
    _Metric("active_bytes", "active", "In runs and large blocks."),
    _Metric("resident_bytes", "resident", "Of memory in use, tables included."),
    _Metric("touched_bytes", "touched", "Of memory as the kernel counts it for this process."),
    _Metric("mapped_bytes", "mapped", "Of address space with something behind it."),
    _Metric("metadata_bytes", "metadata", "Of tables, mapped."),
    _Metric("metadata_resident_bytes", "metadata_resident", "Of tables, in memory."),
    _Metric("blocks", "blocks", "Live blocks."),
    _Metric("free_bytes", "free", "In free units."),
    _Metric("largest_free_bytes", "largest_free", "In the longest range of free units."),
    _Metric("internal_waste_bytes", "internal_waste", "In live blocks beyond what was asked for."),
    _Metric(
        "external_fragmentation_ratio", "external_fragmentation",
        "0 when all free units are in one range, towards 1 when they are scattered.",
    ),
    _Metric("headroom_bytes", "headroom", "Of address space kept free for growth."),
    _Metric("live_views", "live_views", "Views and arrays of this process."),
    _Metric("growths_total", "growths", "Segments added since the heap was opened."),
    _Metric("shrinks_total", "shrinks", "Segments given back since the heap was opened."),
)  # fmt: skip
_OF_CLASSES = (
    _Metric("class_blocks", "blocks", "Live blocks of a size class."),
    _Metric("class_runs", "runs", "Runs of a size class."),
    _Metric("class_mallocs_total", "mallocs", "Blocks of a size class that were given out."),
)
_OF_FILES = (
    _Metric("file_bytes", "file_bytes", "Length of the file; 0 in anonymous memory."),
    _Metric("file_disk_bytes", "file_blocks", "Of the disk that the file takes."),
)


def by_arena(heap: Heap) -> dict[str, HeapStats]:
    """Return the statistics of each arena by its name; the default one is first, and named "".

    Exceptions as of `Heap.stats`.
    """
    return totals.by_arena(space_of(heap))


def exposition(heaps: Mapping[str, Heap]) -> str:
    """Return the metrics of heaps in the text format of Prometheus.

    Parameters
    ----------
    heaps : mapping of str to Heap
        Open heaps, by what is to stand in the label `heap`.

    Raises
    ------
    UsageError, HeapBusyError
        As `Heap.stats`.
    """
    return exposition_of({name: by_arena(heap) for name, heap in heaps.items()})


def exposition_of(looks: Looks) -> str:
    """Return the same of statistics that were taken before, by heap and arena."""
    lines: list[str] = []
    for metrics, samples in (
        (_OF_ARENAS, _arena_samples), (_OF_CLASSES, _class_samples), (_OF_FILES, _file_samples),
    ):  # fmt: skip
        for metric in metrics:
            lines += (
                f"# HELP pmemheap_{metric.name} {metric.text}",
                f"# TYPE pmemheap_{metric.name} {metric.kind}",
            )
            lines += (
                f"pmemheap_{metric.name}{_labels(labels)} {value}"
                for labels, value in samples(looks, metric.attribute)
            )
    return "\n".join(lines) + "\n"


def _arena_samples(looks: Looks, attribute: str) -> Iterator[Sample]:
    for heap, arenas in looks.items():
        for arena, stats in arenas.items():
            yield {"heap": heap, "arena": arena}, getattr(stats, attribute)


def _class_samples(looks: Looks, attribute: str) -> Iterator[Sample]:
    for heap, arenas in looks.items():
        for arena, stats in arenas.items():
            for row in stats.classes:
                labels = {"heap": heap, "arena": arena, "size": str(row.size)}
                yield labels, getattr(row, attribute)


def _file_samples(looks: Looks, attribute: str) -> Iterator[Sample]:
    for heap, arenas in looks.items():
        yield {"heap": heap}, getattr(arenas[""], attribute)


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    r"""Return what may stand between the quotes of a label; bytes that are no text as escapes.

    Examples
    --------
    >>> print(_escaped('a "b"\n\\c'), _escaped("\udcff"))
    a \"b\"\n\\c \\udcff
    """
    text = value.encode(errors="backslashreplace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
