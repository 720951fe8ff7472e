"""Take the pictures of docs/pictures.md: the page of a heap that has been used for a while.

python tests/screenshots.py docs/pictures
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from browser import browser, set_dark

import pmemheap
from pmemheap import Heap, Track
from pmemheap.pictures import report

WIDTH, HEIGHT = 1000, 880
SIZES = (48, 100, 300, 700, 1500, 5000, 20_000, 60_000)
NEAR = 60


def used_heap() -> tuple[Heap, int]:
    """Return a heap of some arenas, in which a third was freed, and an offset of interest."""
    heap, dice = Heap.anonymous(decay=None), random.Random(7)
    offsets = [heap.malloc(dice.choice(SIZES)) for _ in range(6000)]
    dice.shuffle(offsets)
    for offset in offsets[:1500]:
        heap.free(offset)
    heap.trim()
    for offset in offsets[1500:2400]:
        heap.free(offset)
    queue = heap.arena("queue", strategy=pmemheap.Ring())
    for _ in range(3000):
        queue.malloc(700)
    small = [offset for offset in offsets[2400:] if heap.usable_size(offset) == 320]
    return heap, small[NEAR]


def main() -> None:
    """Take them."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("folder", type=Path, help="where the pictures go")
    folder = words.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    heap, near = used_heap()
    with heap, tempfile.TemporaryDirectory() as directory, browser(WIDTH, HEIGHT) as driver:
        with heap.install(Track()):
            report(heap, f"{directory}/heap.html")
        driver.get(f"file://{directory}/heap.html")
        for name, dark, offset in (("heap", False, None), ("block", True, near)):
            set_dark(driver, dark)
            if offset is not None:
                driver.find_element("id", "offset").send_keys(f"{offset:#x}\n")
            driver.execute_async_script("requestAnimationFrame(arguments[0])")
            driver.save_screenshot(str(folder / f"{name}.png"))


if __name__ == "__main__":
    main()
