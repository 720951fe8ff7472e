"""Baselines: what `make bench` measures, as files that a later run is compared with.

    python benchmarks/baselines.py benchmarks/results/pyperf            all layers
    python benchmarks/baselines.py benchmarks/results/pyperf heap       one of them
    python -m pyperf compare_to benchmarks/results/pyperf/heap.json new.json

The files have what says how a value came about, and nothing else of the machine: no name of it, no
path, no state of the moment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = "bench_"
KEPT = frozenset((
    "name", "unit", "loops", "inner_loops", "calibrate_loops", "recalibrate_loops", "tags", "layer",
    "date", "duration", "cpu_model_name", "cpu_count", "cpu_affinity", "platform", "perf_version",
    "python_implementation", "python_version", "python_cflags", "timer", "aslr",
))  # fmt: skip


def layers() -> dict[str, Path]:
    """Return the programs, by the name of what they measure."""
    found = sorted(Path(__file__).parent.glob(f"{PREFIX}*.py"))
    return {path.stem.removeprefix(PREFIX): path for path in found}


def _metadata_of(suite: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (suite, *suite["benchmarks"]):
        yield from (
            each["metadata"] for each in (part, *part.get("runs", ())) if "metadata" in each
        )


def cleaned(suite: dict[str, Any]) -> dict[str, Any]:
    """Return a suite, as pyperf writes it, without what names the machine; the same object."""
    for metadata in _metadata_of(suite):
        for name in metadata.keys() - KEPT:
            del metadata[name]
    return suite


def measure(program: Path, options: list[str]) -> dict[str, Any]:
    """Run a program; return what pyperf has written."""
    with tempfile.TemporaryDirectory() as home:
        made = Path(home) / "suite.json"
        command = [sys.executable, str(program), "--quiet", "-o", str(made), *options]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    return cleaned(found)


def main() -> None:
    """Measure the layers that are named, or all of them."""
    known = layers()
    parser = argparse.ArgumentParser(description="Write baselines for `pyperf compare_to`.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("layers", nargs="*", choices=[[], *known], metavar="layer")
    parser.add_argument("--options", default="--fast", help="for pyperf; --fast is the default")
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    for layer in asked.layers or known:
        suite = measure(known[layer], asked.options.split())
        text = json.dumps(suite, separators=(",", ":"), sort_keys=True)
        (asked.directory / f"{layer}.json").write_text(f"{text}\n", encoding="utf-8")
        sys.stdout.write(f"{layer}: {len(suite['benchmarks'])} benchmarks\n")


if __name__ == "__main__":
    main()
