"""The command `python -m benchmarks search`: measure, store, show a table and a plot."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import machine, tables
from benchmarks.search import figures, page
from benchmarks.search.schedule import WAYS, Plan, Way, search
from benchmarks.search.training import Trials

OUT = Path(__file__).parent.with_name("out")
STORED, PLOT = "search.json", "search.png"


def main(argv: Sequence[str]) -> int:
    """Measure, or report a stored measurement."""
    options = _parse(argv)
    console, out = Console(width=None if sys.stdout.isatty() else 150), Path(options.out)
    if options.report or options.write_results:
        raw = json.loads(Path(options.report or out / STORED).read_text())
    else:
        raw = _measure(options, console, argv)
        out.mkdir(parents=True, exist_ok=True)
        (out / STORED).write_text(json.dumps(raw))
    console.print(tables.terminal(page.HEADER, [page.cells(raw, item) for item in figures.rows(raw)]))
    page.draw(raw, out / PLOT)
    console.print(f"Plot: {out / PLOT}", soft_wrap=True)
    if options.write_results:
        page.write(raw)
        console.print(f"Written: {page.PAGE}", soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, console: Console, argv: Sequence[str]) -> dict[str, Any]:
    rungs = tuple(options.rungs or ((1, 3, 9) if options.quick else (1, 3, 9, 27)))
    num_full = options.full_runs or (9 if options.quick else 36)
    plan = Plan(rungs, options.eta, num_full * rungs[-1])
    torch.set_num_threads(1)
    runs, num_batches = [], 0
    for seed in range(options.seeds or (2 if options.quick else 10)):
        trials = Trials(seed, plan.full)
        num_batches = trials.num_batches
        runs.append(of_seed(plan, trials, seed))
        console.print(f"  seed {seed}: {_line(runs[-1])}", style="dim", highlight=False)
    return {
        "machine": machine.describe(Path.cwd(), "cpu"),
        "settings": {
            "rungs": rungs,
            "eta": plan.eta,
            "budget": plan.budget,
            "batches_per_epoch": num_batches,
        },
        "command": f"make bench ARGS={shlex.quote(shlex.join(['search', *_kept(argv)]))}",
        "runs": runs,
    }


def of_seed(plan: Plan, trials: Trials, seed: int) -> dict[str, Any]:
    """Search in each way, with the same trials.

    Returns:
        The trials that each way has trained to the end, in the form of the stored measurement.
    """
    ways, num_started = {}, {}
    for way in WAYS:
        asked = set[int]()

        def score(trial: int, epochs: int, asked: set[int] = asked) -> float:
            asked.add(trial)
            return trials.score(trial, epochs)

        ways[way] = [
            {
                "spent": item.spent,
                "trial": item.trial,
                "score": item.score,
                **dict(zip(("test_loss", "test_accuracy"), trials[item.trial].test(), strict=True)),
            }
            for item in search(plan, way, score)
        ]
        num_started[way] = len(asked)
    return {"seed": seed, "ways": ways, "num_started": num_started}


def _line(run: dict[str, Any]) -> str:
    found: dict[Way, list[dict[str, float]]] = run["ways"]
    return ", ".join(
        f"{way} {min((item['score'] for item in found[way]), default=float('nan')):.4f}"
        f" ({run['num_started'][way]} trials)"
        for way in WAYS
    )


def _kept(argv: Sequence[str]) -> list[str]:
    """Return the arguments without folders of this machine."""
    kept, rest = [], iter(argv)
    for word in rest:
        if word == "--out":
            next(rest, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks search", description="What a search finds for the same number of batches."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two seeds and short runs: to see that it works, not for publication")
    add("--seeds", type=_positive, help="number of seeds (default: 10)")
    add("--rungs", type=_positive, nargs="+", help="epochs at each stop and of a full run (default: 1 3 9 27)")
    add("--eta", type=_positive, default=3, help="one of this many trials goes on (default: 3)")
    add("--full-runs", type=_positive, help="batches of each search, in full runs (default: 36)")
    add("--out", default=str(OUT), help="folder for JSON and plot")
    add("--report", metavar="FILE", help="report this JSON file; measure nothing")
    add("--write-results", action="store_true", help="write SEARCH.md from the last JSON, or from --report's")
    options = parser.parse_args(argv)
    if options.rungs and options.rungs != sorted(set(options.rungs)):
        parser.error("--rungs: each stop must come after the one before")
    return options


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number
