"""The command: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import figures, machine, plot, results, startup, tables, tracking
from benchmarks.bars import bars
from benchmarks.contenders import CONTENDERS, DEFAULT, WITH_WANDB
from benchmarks.growth import command as growth
from benchmarks.rounds import Bench, Settings
from benchmarks.workload import SIZES

PARTS = ("compare", "memory", "auto", "startup")
OUT = Path(__file__).with_name("out")
LATEST = "latest.json"
_FOLDERS = ("--dir", "--out")


def main(argv: Sequence[str]) -> int:
    """Measure, or report stored measurements; the exit code is 0 whatever the verdicts are."""
    if list(argv[:1]) == ["growth"]:
        return growth.main(argv[1:])
    if list(argv[:1]) == ["ranks"]:
        from benchmarks.ranks import command as ranks  # imports torch, which the other parts need in children only

        return ranks.main(argv[1:])
    if list(argv[:1]) == ["search"]:
        from benchmarks.search import command as search  # imports torch

        return search.main(argv[1:])
    if list(argv[:1]) == ["remote"]:
        from benchmarks.remote import command as remote

        return remote.main(argv[1:])
    options = _parse(argv)
    wide = max(Console().width, 230) if not sys.stdout.isatty() else None
    console = Console(width=wide, soft_wrap=False)
    out = Path(options.out)
    if options.write_results or options.report:
        raw = together([json.loads(Path(path).read_text()) for path in options.report or [out / LATEST]])
    else:
        raw = _measure(options, out, console, argv)
    _report(raw, console)
    if options.write_results:
        results.write(raw, Path(options.results), Path(options.results).with_name(results.PLOT.name))
        console.print(f"Written: {options.results}")
    return 0


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the results of several commands on one machine."""
    return {
        **parts[0],
        "settings": {**parts[0]["settings"], "rounds": max(part["settings"]["rounds"] for part in parts)},
        "command": "\n".join(part["command"] for part in parts),
        "runs": [{**run, "command": number} for number, part in enumerate(parts) for run in part.get("runs", [])],
        **{
            key: [item for part in parts for item in part.get(key, [])]
            for key in ("floors", "startup", "tracking")
            if any(key in part for part in parts)
        },
    }


def _measure(options: argparse.Namespace, out: Path, console: Console, argv: Sequence[str]) -> dict[str, Any]:
    settings = _settings(options, out)
    settings.directory.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "machine": machine.describe(settings.directory, settings.device),
        "settings": asdict(settings) | {"directory": ""},
        "command": repeat_command(argv),
        "startup": [],
    }
    bench = Bench(settings, lambda line: console.print(line, style="dim", highlight=False))
    raw |= {"floors": bench.floors, "runs": bench.runs}
    try:
        if "compare" in options.part:
            bench.compare()
        if "memory" in options.part:
            bench.memory()
        if "auto" in options.part:
            bench.auto(options.auto_size)
        if "startup" in options.part:
            raw["startup"] = startup.Startup(settings, tuple(options.startup_sizes), bench.say).run()
        if options.wandb:
            raw["tracking"] = tracking.run(settings.directory, settings.timeout_s, bench.say)
    finally:  # keep what an interrupted benchmark has measured
        _store(raw, out, console)
        for folder in ("job", "startup", "text"):
            shutil.rmtree(settings.directory / folder, ignore_errors=True)
    return raw


def repeat_command(argv: Sequence[str]) -> str:
    """Return the command that repeats it elsewhere, without folders of this machine."""
    kept, rest = [], iter(argv)
    for word in rest:
        if word in _FOLDERS:
            next(rest, None)
        elif word.partition("=")[0] not in _FOLDERS:
            kept.append(word)
    return f"make bench ARGS={shlex.quote(shlex.join(kept))}" if kept else "make bench"


def _store(raw: dict[str, Any], out: Path, console: Console) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stored = out / f"{datetime.now():%Y-%m-%d_%H-%M-%S}.json"
    stored.write_text(json.dumps(raw))
    shutil.copyfile(stored, out / LATEST)
    plot.draw(figures.comparisons(raw), figures.floors(raw), stored.with_suffix(".png"))
    console.print(f"Stored: {stored}")


def _report(raw: dict[str, Any], console: Console) -> None:
    comparisons, floors, autos = figures.comparisons(raw), figures.floors(raw), figures.autos(raw)
    verdicts = bars(comparisons, floors, autos) if comparisons or autos else []
    tables.show(comparisons, floors, autos, verdicts, console)
    if raw["startup"]:
        console.print(tables.terminal(startup.HEADER, startup.rows(raw["startup"])))
    if raw.get("tracking"):
        console.print(tracking.line(raw["tracking"]))


def _settings(options: argparse.Namespace, out: Path) -> Settings:
    quick = options.quick
    return Settings(
        sizes=tuple(options.sizes or (["0.1"] if quick else ["0.1", "0.5", "1.5", "tensors"])),
        contenders=tuple(dict.fromkeys(["none", *_contenders(options)])),  # the baseline, and the noise
        rounds=options.rounds or (1 if quick else 5),
        threads=tuple(options.threads),
        factors=tuple(options.factors or ([5.0] if quick else [5.0, 20.0])),
        saves=options.saves or (2 if quick else 4),
        pairs=options.pairs or (2 if quick else 3),
        device=options.device,
        directory=Path(options.dir or out / "work").absolute(),
        timeout_s=options.timeout_s,
        auto_s=options.auto_s or (15.0 if quick else 120.0),
        memory=not options.no_memory,
    )


def _contenders(options: argparse.Namespace) -> Sequence[str]:
    return WITH_WANDB if options.wandb else options.contenders or DEFAULT


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="What a checkpoint costs, side by side. `growth` instead shows how costs grow, `ranks` what "
        "the ranks of a DDP training lose, `remote` what a mirror costs, `search` what a search finds.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one small size, one round: to see that it works, not for publication")
    add("--part", nargs="+", choices=PARTS, default=["compare"], help="what to measure (default: compare)")
    add("--sizes", nargs="+", choices=list(SIZES), help="size of the state in GB; tensors: 60,000 small ones")
    add("--contenders", nargs="+", choices=list(CONTENDERS), help="contenders; `none` always takes part")
    add("--wandb", action="store_true", help="contenders that show what W&B adds, and log_model='all'")
    add("--rounds", type=_count, help="number of rounds")
    add("--threads", nargs="+", type=_count, default=[1], help="threads of torch; `1 2` measures both")
    add("--factors", nargs="+", type=float, help="write times between two saves (default: 5 20)")
    add("--saves", type=_count, help="saves in a block of a run, at the smallest factor")
    add("--pairs", type=_count, help="pairs of blocks in a run: one with saves and one without")
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="device that trains (default: cpu)",
    )
    add("--auto-size", choices=list(SIZES), default="0.5", help="size for `--part auto`")
    add("--auto-s", type=float, help="duration of `--part auto`, in seconds")
    add("--startup-sizes", nargs="+", choices=list(SIZES), default=["tiny", "0.5"], help="sizes for `--part startup`")
    add("--no-memory", action="store_true", help="skip the runs that measure memory")
    add("--dir", help="folder on the measured disk (default: benchmarks/out/work)")
    add("--out", default=str(OUT), help="folder for JSON and plot")
    add("--timeout-s", type=float, default=900.0, help="time limit of one training, in seconds")
    add("--report", metavar="FILE", nargs="+", help="report these JSON files together; measure nothing")
    add("--write-results", action="store_true", help="write RESULTS.md from the last JSON, or from --report's")
    add("--results", default=str(results.RESULTS), help="file for --write-results")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
