"""`cairn ls RUN`: the checkpoints of a run or of a directory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairn.cli.arguments import CheckpointDirectory, add_run, find_checkpoints
from cairn.cli.output import age, new_table, print_json, print_table
from cairn.run import summary, terminal
from cairn.run.directory import RunRecord
from cairn.store import earlier, names
from cairn.store.catalog import Catalog, Rejected
from cairn.types import Saved
from cairn.units import format_bytes, format_duration

HELP = "list the checkpoints of a run: reason, score, size, age and cost of each"
_WIDE = 100
"""Minimum width of the terminal, in columns, to show more than one metric."""


@dataclass(frozen=True)
class Listing:
    """Contents of a checkpoint directory."""

    directory: CheckpointDirectory
    record: RunRecord | None
    checkpoints: Sequence[Saved]
    """Oldest first."""
    rejected: Sequence[Rejected]
    best: str
    """File name that `best.ckpt` points to; empty without the link."""
    last: str
    """File name that `last.ckpt` points to; empty without the link."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the checkpoints and return 0."""
    listing = collect(arguments.named)
    if arguments.json:
        print_json(as_json(listing))
    else:
        show(listing, terminal.console())
    return 0


def collect(named: str) -> Listing:
    """Read the checkpoint directory that a user names."""
    directory = find_checkpoints(named)
    catalog = Catalog(directory.path)
    checkpoints, rejected = catalog.all()
    waiting = earlier.waiting(directory.path)  # the bytes under these names are those of an interrupted save
    checkpoints = [item for item in checkpoints if item.name not in waiting]
    rejected = [item for item in rejected if item.path.name not in waiting]
    rejected += [Rejected(directory.path / name, earlier.INTERRUPTED) for name in waiting]
    record = directory.run.record() if directory.run else None
    return Listing(directory, record, checkpoints, rejected, catalog.linked(names.BEST), catalog.linked(names.LAST))


def as_json(listing: Listing) -> dict[str, Any]:
    """Return the listing as JSON values."""
    run, mirror = listing.directory.run, listing.directory.mirror
    return {
        "run": str(mirror.address if mirror else run.path) if run else None,
        "status": listing.record.status if listing.record else None,
        "directory": listing.directory.shown if mirror else str(listing.directory.path),
        "checkpoints": [
            {**asdict(item), "best": item.name == listing.best, "last": item.name == listing.last}
            for item in listing.checkpoints
        ],
        "rejected": [{"name": item.path.name, "why": item.why} for item in listing.rejected],
    }


def show(listing: Listing, console: Console) -> None:
    """Print the listing as a table, with the command that resumes the run."""
    checkpoints, run = listing.checkpoints, listing.directory.run
    if checkpoints:
        print_table(console, _table(listing, console.width))
    total = format_bytes(sum(item.num_bytes for item in checkpoints))
    console.print(f"{len(checkpoints)} checkpoint{'s' * (len(checkpoints) != 1)}, {total}", highlight=False)
    for item in listing.rejected:
        console.print(f"[yellow]not usable[/]: {escape(item.path.name)}, {escape(item.why)}", highlight=False)
    if run is None or listing.record is None:
        return
    status = " ".join(filter(None, [listing.record.status, f"({listing.record.why})" if listing.record.why else ""]))
    console.print(f"run {escape(listing.directory.shown_run)}: {escape(status)}", highlight=False)
    if checkpoints:
        more = ["trainer.max_epochs=NUMBER"] if listing.record.status == "finished" else []
        named = listing.directory.shown_run
        console.print(
            escape(f"resume: {summary.command(run.path, *more, named=named)}"), highlight=False, soft_wrap=True
        )


def _table(listing: Listing, width: int) -> Table:
    monitor = listing.directory.monitor
    metrics = _metrics(monitor, listing.checkpoints)[: 1 if width < _WIDE else 3]
    table = new_table()
    title = escape(listing.directory.shown)
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    rows = []
    for item in listing.checkpoints:
        links = " ".join(["best"] * (item.name == listing.best) + ["last"] * (item.name == listing.last))
        values = [f"{item.metrics[name]:.4g}" if name in item.metrics else "" for name in metrics]
        if item.score is None and monitor is not None:
            # From a validation before this position: the checkpoint is not ranked by these values.
            values = [f"[dim]{value}[/]" for value in values]
        position = [str(number) for number in (item.position.epoch, item.position.batch, item.position.step)]
        cost = format_duration(item.stall_s)
        rows.append(
            [
                *position,
                ", ".join(item.reasons),
                *values,
                format_bytes(item.num_bytes),
                age(item.created),
                cost,
                links,
            ]
        )
    numbers = ["epoch", "batch", "step", *metrics, "size", "age", "pause"]
    headers = [*numbers[:3], "saved because", *numbers[3:], "link"]
    summary.fill(table, headers, rows, width, wrapped="saved because", cut=metrics, right=numbers)
    return table


def _metrics(monitor: str | None, checkpoints: Sequence[Saved]) -> list[str]:
    """Return the metrics to show: first the monitored one, then all others except training metrics."""
    found = (name for item in checkpoints for name in sorted(item.metrics) if not name.startswith("train"))
    logged = dict.fromkeys(found)
    first = [monitor] if monitor in logged else []
    return [*first, *(name for name in logged if name != monitor)]
