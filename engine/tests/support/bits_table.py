"""A table of digests: runs on 1 to 4 processes, with DDP and FSDP2, for each level of `elastic`.

`python -m tests.support.bits_table`, in engine/, prints the table of docs/bits.md, with further options.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.bits_fit import start

Layout = tuple[str, int]
"""Strategy, and number of processes."""
LAYOUTS: tuple[Layout, ...] = tuple((strategy, number) for strategy in ("ddp", "fsdp") for number in (1, 2, 3, 4))
ROWS: Mapping[str, dict[str, Any]] = {
    "`samples`": {"elastic": "samples", "rare": False},  # FSDP2 needs the same layers in each batch
    "`bits`": {},
    "`bits`, clipping by value, `foreach=True`": {
        "gradient_clip_val": 0.02,
        "gradient_clip_algorithm": "value",
        "foreach": True,
    },
    "`bits`, 5 virtual ranks": {"size": 10, "val_size": 10},
    "`bits`, `bf16-mixed`, `activation_checkpointing`": {
        "precision": "bf16-mixed",
        "sharding": {"activation_checkpointing": True},
    },
}


def digests(folder: Path, layouts: Iterable[Layout] = LAYOUTS, **options: Any) -> dict[Layout, str]:
    """Return a digest of weights, optimizer states and metrics.csv for each layout, or its error.

    Args:
        folder: For the runs.
        layouts: Where they run.
        **options: See `bits_fit.fit`.
    """
    found = {}
    for strategy, processes in layouts:
        ended = start(folder / f"{strategy}-{processes}", processes, strategy=strategy, **options)
        found[strategy, processes] = ended.error or ended.digest
    return found


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    names = {"ddp": "DDP", "fsdp": "FSDP2"}
    print("| | " + " | ".join(f"{names[strategy]}, {number}" for strategy, number in LAYOUTS) + " |")
    print("| --- |" + " --- |" * len(LAYOUTS))
    for name, options in ROWS.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stderr(nothing),
        ):
            found = digests(Path(folder), **options)
        print(f"| {name} | " + " | ".join(found.values()) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
