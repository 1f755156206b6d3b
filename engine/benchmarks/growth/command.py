"""The command `python -m benchmarks growth`: measure the curves, store them, show a table and a plot."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, tables
from benchmarks.growth import page, plot
from benchmarks.growth.curve import Curve, Measured, curves, measured, modules

OUT = Path(__file__).parent.with_name("out")
STORED = "growth.json"


def main(argv: Sequence[str]) -> int:
    """Measure, or report stored measurements; the exit code is 0 whatever the verdicts are."""
    options = _parse(argv)
    console, out = Console(), Path(options.out)
    if options.report or options.write_results:
        raw = json.loads(Path(options.report or out / STORED).read_text())
    else:
        raw = _measure(options, out, console)
        out.mkdir(parents=True, exist_ok=True)
        (out / STORED).write_text(json.dumps(raw))
    found = [measured(item) for item in raw["curves"]]
    console.print(tables.terminal(page.SHORT, [page.short_cells(item) for item in found]))
    for item in found:
        if item.error:
            console.print(f"{item.name} failed at {item.error}", style="red", soft_wrap=True)
    plot.draw(found, out / "growth.png")
    console.print(f"Plot: {out / 'growth.png'}", soft_wrap=True)
    if options.write_results:
        page.write(raw, found)
        console.print(f"Written: {page.PAGE}", soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, out: Path, console: Console) -> dict[str, Any]:
    work = Path(options.dir or out / "work" / "growth").absolute()
    work.mkdir(parents=True, exist_ok=True)
    chosen = [(module, curve) for module in modules() for curve in curves(module) if _is_chosen(curve, options.only)]
    results = []
    for module, curve in chosen:
        if options.quick:
            small, middle, large = (max(1, size // 10) for size in curve.sizes)
            curve = replace(curve, sizes=(small, middle, large), goal_s=None)
        result = _one(module, curve, options.repeat, work, options.timeout_s)
        console.print(f"  {curve.name}: {[round(value, 4) for value in result.seconds]} s {result.error}", style="dim")
        results.append(asdict(result))
    return {"machine": machine.describe(work, "cpu"), "repeat": options.repeat, "curves": results}


def _is_chosen(curve: Curve, only: Sequence[str] | None) -> bool:
    return not only or any(text in curve.name for text in only)


def _one(module: str, curve: Curve, repeat: int, work: Path, timeout_s: float) -> Measured:
    done: list[tuple[int, float, int]] = []
    error = ""
    for size in curve.sizes:
        taken = []
        for number in range(repeat):
            folder = work / f"{curve.name}-{size}-{number}"
            command = [sys.executable, "-m", "benchmarks.growth.child", module, curve.name, str(size), str(folder)]
            try:
                ended = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                error = f"{size}: more than {timeout_s:g} s"
                break
            if ended.returncode:
                error = f"{size}: {(ended.stderr.strip() or 'no message').splitlines()[-1]}"
                break
            taken.append(json.loads(ended.stdout.splitlines()[-1]))
        if error:
            break
        done.append((size, min(item["seconds"] for item in taken), min(item["peak_bytes"] for item in taken)))
    sizes, seconds, peaks = zip(*done, strict=True) if done else ((), (), ())
    return Measured(curve.name, curve.what, curve.unit, curve.goal_s, sizes, seconds, peaks, error)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks growth", description="How costs grow: three sizes each.")
    add = parser.add_argument
    add("--only", nargs="+", metavar="TEXT", help="only curves with TEXT in their name")
    add("--quick", action="store_true", help="a tenth of the sizes, without verdicts: to see that it works")
    add("--repeat", type=int, default=3, help="repetitions, the best of which counts (default: 3)")
    add("--dir", help="folder on the measured disk (default: benchmarks/out/work/growth)")
    add("--out", default=str(OUT), help="folder for JSON and plot")
    add("--timeout-s", type=float, default=600.0, help="time limit of one measurement, in seconds")
    add("--report", metavar="FILE", help="report this JSON file; measure nothing")
    add("--write-results", action="store_true", help="write GROWTH.md from the last JSON, or from --report's")
    return parser.parse_args(argv)
