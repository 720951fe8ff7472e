"""Work queue: jobs in the order in which they came, and memory for each that goes with it.

    put ──► ring: job, job, job ──► take ──► work in a scratch region ──► both gone

The ring keeps the order by itself, and gives its head back: a queue that runs for ever holds what
is in it. What the work of one job allocates dies together, in one call.
"""

from __future__ import annotations

from collections.abc import Callable

import pmemheap


class WorkQueue:
    """Jobs, which are bytes, first in and first out."""

    def __init__(self, heap: pmemheap.Heap) -> None:
        self.heap = heap
        self.jobs = heap.arena("jobs", strategy=pmemheap.Ring())

    def put(self, job: bytes) -> None:
        """Append a job: its length, and its bytes."""
        length = len(job).to_bytes(8, "little")
        with self.jobs.view(self.jobs.malloc(8 + len(job)), 8 + len(job)) as view:
            view[:8], view[8:] = length, job

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
    """Do a hundred thousand jobs, a thousand at a time, and say what that took."""
    done = 0

    def count_words(job: memoryview, scratch: pmemheap.Region) -> None:
        nonlocal done
        for word in bytes(job).split():
            with scratch.view(scratch.malloc(len(word)), len(word)) as copy:
                copy[:] = word
        done += 1

    with pmemheap.Heap.anonymous() as heap:
        queue = WorkQueue(heap)
        for number in range(100):
            for job in range(1000):
                queue.put(b"job %d of batch %d, with some words" % (job, number))
            while queue.work(count_words):
                pass
        held = heap.arena("jobs").stats().mapped >> 20
        print(f"{done} jobs done; the queue holds {held} MiB of addresses")


if __name__ == "__main__":
    main()
