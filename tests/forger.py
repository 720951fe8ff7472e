"""Forge heap files: change fields, seal them again, and do everything with each in a process.

    number ── sample, fields, values ──► file ── fork ──► use ──► a clean end
                                                            │  a signal, a hang, another exception,
                                                            ▼  a wrong answer, a file touched beside
                                                           said, with the number that repeats it

A child uses a batch of files, one after the other; after an unclean end each of them has a child of
its own.

python tests/forger.py --count 500 --seed 0      make forge has 20000, make forge SANITIZE=1 too
python tests/forger.py --only 1234 --seed 0      one of them, in this process
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import io
import itertools
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from forged_fields import Field, Sample, forged_value, samples
from forged_use import Use

from pmemheap import cli

BATCH = 20
SECONDS_MOST = 30
FILE_MOST = 256 << 20
BYSTANDER = b"nobody's business"


@dataclass(frozen=True)
class Forgery:
    """A file with some fields changed."""

    number: int
    sample: Sample
    changes: tuple[tuple[Field, int], ...]

    @classmethod
    def make(cls, made: list[Sample], seed: int, number: int) -> Forgery:
        """Make the forgery of a number: kinds of fields take turns, the rest is chance."""
        chance = random.Random(f"{seed}/{number}")
        kinds = sorted({kind for sample in made for kind in sample.fields})
        kind = kinds[number % len(kinds)]
        sample = chance.choice([each for each in made if kind in each.fields])
        chosen = [chance.choice(sample.fields[kind])]
        if chance.random() < 0.2:  # two that may agree with each other
            chosen.append(chance.choice(sample.fields[chance.choice(list(sample.fields))]))
        if kind.startswith("superblock") and chance.random() < 0.7:  # in both copies
            chosen += [each for each in sample.fields[kind] if each not in chosen]
        value = forged_value(chance, sample, chosen[0])
        changes = [
            (each, value if each.kind == kind else forged_value(chance, sample, each))
            for each in chosen
        ]
        return cls(number, sample, tuple(changes))

    def image(self) -> bytes:
        """Return the file."""
        image = bytearray(self.sample.image)
        for forged, value in self.changes:
            forged.write(image, value)
        return bytes(image)

    def __str__(self) -> str:
        told = ", ".join(
            f"{forged.kind} at {forged.place:#x}: {forged.read(self.sample.image):#x} -> {value:#x}"
            for forged, value in self.changes
        )
        return f"{self.number} ({self.sample.name}): {told}"


def use(forgery: Forgery, home: Path, thin: int) -> Counter[str]:
    """Use a forged file in this process; anything unclean is raised."""
    path = home / "forged"
    path.write_bytes(forgery.image())
    (home / "bystander").write_bytes(BYSTANDER)
    used = Use(path)
    used.run(by_commands=forgery.number % thin == 0)
    left = {each.name for each in home.iterdir() if ".repair-" not in each.name}
    assert left == {"forged", "bystander"}, f"files left: {left}"
    assert (home / "bystander").read_bytes() == BYSTANDER
    return used.counts


def in_a_child(forgeries: list[Forgery], directory: Path, thin: int) -> str:
    """Use forged files in a child; return what was unclean, or nothing."""
    with tempfile.TemporaryDirectory(dir=directory) as home:
        told = Path(home) / "told"
        child = os.fork()
        if child == 0:
            os._exit(_child(forgeries, Path(home), told, thin))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        report = told.read_text(encoding="utf-8", errors="replace")
    if code == 0:
        return ""
    how = "hangs" if code == -signal.SIGALRM else f"signal {-code}" if code < 0 else "unclean"
    return f"{how}: {', '.join(map(str, forgeries))}\n{report[-3000:]}"


def _child(forgeries: list[Forgery], home: Path, told: Path, thin: int) -> int:
    """Use forged files under limits; standard error goes to a file."""
    with told.open("w", encoding="utf-8") as report:
        os.dup2(report.fileno(), 2)
        faulthandler.enable(2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MOST, FILE_MOST))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            for forgery in forgeries:
                faulthandler.dump_traceback_later(SECONDS_MOST - 2, file=2)
                signal.alarm(SECONDS_MOST)
                own = home / str(forgery.number)
                own.mkdir()
                use(forgery, own, thin)
        except BaseException:
            traceback.print_exc(file=report)
            return 1
    return 0


def unclean_of(batch: list[Forgery], directory: Path, thin: int) -> list[str]:
    """Use a batch of forged files; return what was unclean, if possible one by one."""
    together = in_a_child(batch, directory, thin)
    if not together:
        return []
    singly = [in_a_child([forgery], directory, thin) for forgery in batch]
    return [fault for fault in singly if fault] or [together]


def forge(made: list[Sample], options: argparse.Namespace, job: int, directory: Path) -> int:
    """Try the forgeries that are this job's; print what is unclean; return how many are."""
    forged = (Forgery.make(made, options.seed, number) for number in _numbers(options)[job])
    untouched = [Forgery(-1 - index, sample, ()) for index, sample in enumerate(made)]
    each = itertools.chain(untouched if job == 0 else [], forged)
    unclean = 0
    while batch := list(itertools.islice(each, BATCH)):
        for fault in unclean_of(batch, directory, options.thin):
            unclean += 1
            sys.stdout.write(fault + "\n")
            sys.stdout.flush()
    return unclean


def _numbers(options: argparse.Namespace) -> list[range]:
    """Return the numbers that each job tries."""
    first, step = map(int, options.share.split("/"))
    starts = range(first, first + step * options.jobs, step)
    return [range(start, options.count, step * options.jobs) for start in starts]


def main() -> int:
    """Forge as the options say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--share", default="0/1", help="only number 0, 2, 4 and so on: 0/2")
    parser.add_argument("--thin", type=int, default=1, help="commands for every n-th one alone")
    parser.add_argument("--home", default=".", help="on a file system that keeps files")
    parser.add_argument("--where", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.home) as home:
        made = samples(Path(home))
        _load_commands(made[0], Path(home))
    gc.freeze()  # children collect what is theirs
    with tempfile.TemporaryDirectory(dir=options.where) as directory:
        if options.only is not None:
            return _one(made, options, Path(directory))
        unclean = _in_parallel(made, options, Path(directory))
    seconds = time.monotonic() - began
    count = sum(map(len, _numbers(options)))
    sys.stdout.write(f"{count} forged, {unclean} unclean, {seconds:.0f} seconds\n")
    return int(unclean > 0)


def _load_commands(sample: Sample, home: Path) -> None:
    """Load what the commands load when they are called first, once and not in each child."""
    path = home / "untouched"
    path.write_bytes(sample.image)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.main(["info", str(path)])


def _one(made: list[Sample], options: argparse.Namespace, directory: Path) -> int:
    forgery = Forgery.make(made, options.seed, options.only)
    sys.stdout.write(f"{forgery}\n")
    sys.stdout.flush()
    home = directory / "home"
    home.mkdir()
    counts = use(forgery, home, 1)
    sys.stdout.write("".join(f"  {name}: {counts[name]}\n" for name in sorted(counts)))
    return 0


def _in_parallel(made: list[Sample], options: argparse.Namespace, directory: Path) -> int:
    """Share the numbers out among processes; return how many forgeries are unclean."""
    jobs = []
    for job in range(options.jobs):
        child = os.fork()
        if child == 0:
            own = directory / str(job)
            own.mkdir()
            found = forge(made, options, job, own)
            (own / "unclean").write_text(str(found), encoding="utf-8")
            os._exit(0)
        jobs.append(child)
    for child in jobs:
        assert os.waitpid(child, 0)[1] == 0, "a job ended in the middle"
    return sum(int(each.read_text(encoding="utf-8")) for each in directory.glob("*/unclean"))


if __name__ == "__main__":
    sys.exit(main())
