"""Measures one size of one curve in a process of its own, so that nothing is warm and the peak of memory is its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth.curve import curves


def main(argv: Sequence[str]) -> int:
    """Print seconds and peak memory of `MODULE NAME SIZE FOLDER` as JSON."""
    module, name, size, folder = argv
    (curve,) = (item for item in curves(module) if item.name == name)
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)  # what an interrupted measurement left
    path.mkdir(parents=True)
    try:
        seconds = curve.measure(path, int(size))
    finally:
        shutil.rmtree(path, ignore_errors=True)
    print("\n" + json.dumps({"seconds": seconds, "peak_bytes": _peak_bytes()}))
    return 0


def _peak_bytes() -> int:
    """Return the peak of this program alone; that of `getrusage` begins with that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
