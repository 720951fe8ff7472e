"""Work queue: jobs in a file in the order in which they came, and memory that goes with each.

    put ──► ring: job, job, job ──► take ──► work in a scratch region ──► both gone

The ring keeps the order by itself, also over the end of the process, and gives its head back: a
queue that runs for ever holds what is in it. What the work of one job allocates dies together, in
one call. A process that is killed does the job again that it was at; none is lost, none is half
there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pmemheap


class WorkQueue:
    """Jobs, which are bytes, first in and first out."""

    def __init__(self, heap: pmemheap.Heap) -> None:
        self.heap = heap
        self.jobs = heap.arena("jobs", strategy=pmemheap.Ring())

    def put(self, job: bytes) -> None:
        """Append a job: its length, and its bytes, or nothing of it."""
        with self.heap.transaction() as tx:
            offset = tx.malloc(8 + len(job), arena=self.jobs)
            tx.write(offset, len(job).to_bytes(8, "little") + job)

    def work(self, function: Callable[[memoryview, pmemheap.Region], None]) -> bool:
        """Do the oldest job, and forget it once that is done; tell whether there was one.

        The function has the job as a view, and a region for whatever it needs on the way.
        """
        offset = self.jobs.first()
        if offset is None:
            return False
        with self.jobs.view(offset) as view, self.heap.scratch() as scratch:
            length = int.from_bytes(view[:8], "little")
            with view[8 : 8 + length] as job:
                function(job, scratch)
        self.jobs.free(offset)
        return True


def main() -> None:
    """Do ten thousand jobs, of which each process leaves some to the next one."""
    done = 0

    def count_words(job: memoryview, scratch: pmemheap.Region) -> None:
        nonlocal done
        for word in bytes(job).split():
            with scratch.view(scratch.malloc(len(word)), len(word)) as copy:
                copy[:] = word
        done += 1

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "queue"
        pmemheap.Heap.create(path, durability="process").close()
        for batch in range(10):
            with pmemheap.Heap.open(path) as heap:
                queue = WorkQueue(heap)
                for number in range(1000):
                    queue.put(b"job %d of batch %d, with some words" % (number, batch))
                while done < batch * 1000 + 500 and queue.work(count_words):
                    pass
        with pmemheap.Heap.open(path) as heap:
            while WorkQueue(heap).work(count_words):
                pass
            print(f"{done} jobs done; the file takes {heap.stats().file_bytes >> 20} MiB")


if __name__ == "__main__":
    main()
