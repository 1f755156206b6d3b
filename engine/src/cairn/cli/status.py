"""`cairn status SWEEP`: state and progress of the jobs of a sweep."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairn.cli.arguments import LOGS, load_dotenv
from cairn.cli.output import STATUS_STYLES, age, new_table, print_json, print_table
from cairn.errors import ResumeError
from cairn.remote import origin, view
from cairn.remote.address import is_address
from cairn.remote.view import View
from cairn.run import status, summary, terminal, time_table
from cairn.run.directory import RunDirectory
from cairn.run.goodput import TimeSpent
from cairn.run.status import JobStatus
from cairn.study import reading

HELP = "show the jobs of a sweep: running, waiting, failed or finished, and their progress; exit code 1 if one failed"
_SILENT = "killed, or between two checkpoints"


@dataclass(frozen=True)
class SweepStatus:
    """Status of all jobs of a sweep."""

    sweep: Path
    jobs: Sequence[JobStatus]
    trouble: str
    """Why the scheduler did not answer; empty if it did."""
    mirror: View | None = None
    """The mirror that the directory stands for."""

    @property
    def failed(self) -> list[JobStatus]:
        """Jobs that failed, or that hung or were killed and are not queued."""
        return [job for job in self.jobs if job.state in ("failed", "dead", "hung")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "directory of a sweep or of a run, address of a run, or latest for the newest one below logs/"
    parser.add_argument("named", metavar="SWEEP", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print a row per job and return 1 if one failed."""
    named = arguments.named
    found = _of_address(named) if is_address(named) else collect(reading.find(named, LOGS))
    if found.trouble:
        terminal.error(f"Warning: the scheduler does not answer ({found.trouble}): states are read from files.")
    if arguments.json:
        print_json(as_json(found))
    else:
        show(found, terminal.console())
    return int(bool(found.failed))


def collect(sweep: Path) -> SweepStatus:
    """Read the files of a sweep and query its scheduler."""
    if not sweep.is_dir():
        raise ResumeError(f"There is no directory {sweep}: pass the directory of a sweep.")
    return SweepStatus(sweep, *status.look(sweep))


def _of_address(text: str) -> SweepStatus:
    """Read the status of a run as its mirror knows it: as of its newest checkpoint there."""
    load_dotenv()
    mirror = view.of(origin.parse(text).run)
    if not RunDirectory(mirror.run).record_file.is_file():
        raise ResumeError(
            f"{mirror.address} holds checkpoints, and no run.json of a run: cairn ls shows what is there."
        )
    found = collect(mirror.run)
    # A run that saves once an hour shows no other sign of life there.
    jobs = [replace(job, state="unknown", why=_SILENT) if job.state == "dead" else job for job in found.jobs]
    return replace(found, jobs=jobs, mirror=mirror)


def as_json(found: SweepStatus) -> list[dict[str, Any]]:
    """Return the jobs as JSON values; times in seconds."""
    return [{**asdict(job), "num_restarts": job.num_restarts, "spent": _as_json(job.spent)} for job in found.jobs]


def _as_json(spent: TimeSpent | None) -> dict[str, Any] | None:
    return None if spent is None else {"goodput": spent.goodput, "wall_s": spent.wall_s, **asdict(spent)}


def show(found: SweepStatus, console: Console) -> None:
    """Print the jobs as a table, and the errors of those that failed."""
    print_table(console, _table(found.jobs))
    counts = Counter(job.state for job in found.jobs)
    terminal.line(", ".join(f"{count} {state}" for state, count in counts.items()) + f" of {len(found.jobs)}.")
    if len(found.jobs) == 1 and found.jobs[0].spent is not None:
        _show_time(found.jobs[0].spent, console)
    for job in found.jobs:
        if found.mirror and job.state == "unknown":
            terminal.line(f"{found.mirror.address}: {job.why}. Its newest checkpoint is its last sign of life there.")
    for job in found.failed:
        log = summary.relative((found.sweep / job.name / "train.log").resolve())
        shown = f"{found.mirror.address}: its train.log" if found.mirror else log
        terminal.line(f"{job.name}: {job.why or 'killed, or never started'}. See {shown}")


def _show_time(spent: TimeSpent, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("[dim]goodput", time_table.headline(spent))
    for name, value in time_table.parts(spent):
        table.add_row("", f"{value} {name}")
    for sentence in time_table.caveats(spent):
        table.add_row("", sentence)
    console.print(table, highlight=False)


def _table(jobs: Sequence[JobStatus]) -> Table:
    table = new_table()
    table.add_column("run", overflow="fold")
    for name in ("state", "job"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "last checkpoint", "restarts", "batches lost", "goodput"):
        table.add_column(name, justify="right")
    # Overrides that all jobs share do not distinguish them.
    shared = set.intersection(*(set(job.name.split(",")) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        name = ",".join(part for part in job.name.split(",") if part not in shared)
        done = "" if job.share is None else f"{100 * job.share:.0f} %"
        last = f"{job.last.position.epoch}/{job.last.position.batch}, {age(job.last.created)}" if job.last else ""
        good = f"{100 * job.spent.goodput:.0f} %" if job.spent else ""
        state = f"[{STATUS_STYLES.get(job.state, 'yellow')}]{escape(job.state)}[/]"
        table.add_row(
            *(escape(name or job.name), state, escape(job.job), done, last),
            *(str(job.num_restarts), str(job.num_lost_batches), good),
        )
    return table
