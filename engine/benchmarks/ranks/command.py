"""The command `python -m benchmarks ranks`: measure, store, show a table and a plot."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, tables
from benchmarks.ranks import figures, floors, page
from benchmarks.ranks.training import BYTES_PER_LAYER, Blocks, train
from benchmarks.ranks.ways import WAYS

OUT = Path(__file__).parent.with_name("out")
STORED = "ranks.json"
_FLOOR_REPEATS, _PROBE_BATCHES = 5, 4


def main(argv: Sequence[str]) -> int:
    """Measure, or report a stored measurement."""
    options = _parse(argv)
    console, out = Console(width=None if sys.stdout.isatty() else 150), Path(options.out)
    stored = out / STORED
    if options.report or options.write_results:
        raw = json.loads(Path(options.report or stored).read_text())
    else:
        raw = _measure(options, out, console, argv)
    for size, found in figures.of_raw(raw).items():
        console.print(f"\n{size / 1e9:.2g} GB. {page.floor_line(raw, size)}")
        console.print(tables.terminal(page.HEADER, [page.cells(item) for item in found]))
    if options.write_results:
        page.write(raw)
        console.print(f"Written: {page.PAGE}", soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, out: Path, console: Console, argv: Sequence[str]) -> dict[str, Any]:
    work = Path(options.dir or out / "work" / "ranks").absolute()
    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "run", ignore_errors=True)  # of a benchmark that was killed
    raw: dict[str, Any] = {
        "machine": machine.describe(work, "cpu"),
        "settings": {"ranks": options.ranks, "rounds": options.rounds},
        "command": _repeat_command(argv),
        "floors": {},
        "runs": [],
    }
    for size_gb in options.sizes:
        num_layers = max(1, round(size_gb * 1e9 / BYTES_PER_LAYER))
        state_bytes = num_layers * BYTES_PER_LAYER
        raw["floors"][str(state_bytes)] = found = {
            "parts": floors.measure(state_bytes, options.ranks, work, _FLOOR_REPEATS),
            "whole": floors.measure(state_bytes, 1, work, _FLOOR_REPEATS),
        }
        probe = Blocks(_PROBE_BATCHES, 1)
        alone = figures.of_run(
            "none", state_bytes, probe, train(work / "run", WAYS["none"].make, options.ranks, num_layers, probe)
        )
        least_s = options.factor * statistics.median(found["whole"]["write_s"])
        blocks = Blocks(max(_PROBE_BATCHES, math.ceil(least_s / alone.batch_s)), options.pairs)
        for number in range(options.rounds):
            for way in options.ways[:: 1 if number % 2 == 0 else -1]:
                make, strategy = WAYS[way].make, WAYS[way].strategy(options.ranks)
                times = train(work / "run", make, options.ranks, num_layers, blocks, strategy)
                raw["runs"].append({"way": way, "state_bytes": state_bytes, "blocks": asdict(blocks), "times": times})
                one = figures.of_run(way, state_bytes, blocks, times)
                console.print(f"  {state_bytes / 1e9:.2g} GB, round {number + 1}: {page.cells(one)}", style="dim")
                out.mkdir(parents=True, exist_ok=True)  # keep what an interrupted benchmark has measured
                (out / STORED).write_text(json.dumps(raw))
    return raw


def _repeat_command(argv: Sequence[str]) -> str:
    kept, rest = ["ranks"], iter(argv)
    for word in rest:
        if word in ("--dir", "--out"):
            next(rest, None)
        else:
            kept.append(word)
    return f"make bench ARGS={shlex.quote(shlex.join(kept))}"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks ranks", description="What a save costs each rank of DDP and FSDP2."
    )
    add = parser.add_argument
    add("--sizes", nargs="+", type=float, default=[0.3, 1.0], metavar="GB", help="sizes of the state (default: 0.3 1)")
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="ways to save (default: all)")
    add("--ranks", type=int, default=2, help="number of processes (default: 2)")
    add("--rounds", type=int, default=2, help="number of rounds (default: 2)")
    add("--pairs", type=int, default=3, help="pairs of blocks in a training, with a save and without (default: 3)")
    add("--factor", type=float, default=5.0, help="length of a block, in times of a write (default: 5)")
    add("--dir", help="folder on the measured disk (default: benchmarks/out/work/ranks)")
    add("--out", default=str(OUT), help="folder for JSON")
    add("--report", metavar="FILE", help="report this JSON file; measure nothing")
    add("--write-results", action="store_true", help="write RANKS.md from the last JSON, or from --report's")
    return parser.parse_args(argv)
