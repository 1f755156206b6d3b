"""`python -m cairn ls|verify|prune|show|sync|status|report`: what a run keeps, whether it is whole, what may go, what a
file holds, what W&B has of it, what the jobs of a sweep do, and what saving has cost them.

Imports torch only for `show`, which reads the file itself, and for `sync`; matplotlib only for `report`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from dotenv import load_dotenv
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from cairn.errors import CairnError, ConfigError, ResumeError
from cairn.policy.keep import Best, Latest, Rule
from cairn.policy.when import parse_duration_s
from cairn.runs import status as sweep_status
from cairn.runs import summary
from cairn.runs.directory import RunDirectory, newest
from cairn.runs.status import JobStatus
from cairn.store import audit, disk, names
from cairn.store.catalog import Catalog
from cairn.store.history import History
from cairn.study import choice, page, plots, reading, words
from cairn.types import Mode, Saved
from cairn.units import size
from cairn.wandb.deleted import Deleted

_STATES = {"finished": "green", "running": "cyan", "failed": "bold red", "dead": "bold red"}
_STYLES = {"whole": "green", "unfinished": "yellow", "broken": "bold red"}


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, 1 for an error or a broken checkpoint, 2 for a wrong command line."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except CairnError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cairn", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = {"metavar": "RUN", "help": "a run directory, its checkpoint directory, or latest: the newest below logs/"}

    def add(name: str, command: Any, text: str, **argument: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("named", **argument)
        sub.add_argument("--json", action="store_true", help="for machines")
        sub.set_defaults(command=command)
        return sub

    add("ls", ls, "list the checkpoints of a run: why, how good, how large, how old, at what cost", **run)
    add(
        "verify",
        verify,
        "compare every byte with its checksum; exit 1 if something is broken",
        metavar="RUN_OR_FILE",
        help="as for ls, or a checkpoint file",
    )
    pruning = add("prune", prune, "delete all checkpoints but the newest and the best; asks before", **run)
    pruning.add_argument("--keep-last", type=int, default=1, metavar="N", help="of the newest (default 1; -1: all)")
    pruning.add_argument("--keep-best", type=int, default=1, metavar="K", help="of the best (default 1; -1: all)")
    pruning.add_argument("--yes", action="store_true", help="do not ask")
    add("show", show, "show what a checkpoint file holds: its manifest and the run's configuration", metavar="FILE")
    syncing = add(
        "sync",
        sync_run,
        "send W&B what it lacks of a run's history and checkpoints, and see that it has these; exit 1 if not",
        **run,
    )
    syncing.add_argument("--limit", default="1h", metavar="TIME", help="wait no longer for uploads (default 1h)")
    add(
        "status",
        status,
        "what the jobs of a sweep do: running, waiting, failed, finished; how far they are; exit 1 if one has failed",
        metavar="SWEEP",
        help="the directory of a sweep, or of a run",
    )
    reporting = add(
        "report",
        report_sweep,
        "what saving costs at each interval of a sweep, or in one run, and which one to choose: table, plots, page",
        metavar="SWEEP",
        help="the directory of a sweep or of a run, or latest: that of the newest run below logs/",
    )
    reporting.add_argument("--out", metavar="DIR", help="where plots and page go (default SWEEP/report)")
    reporting.add_argument("--mtbf", metavar="TIME", help="mean time between failures, as 8h (default: measured)")
    return parser


@dataclass(frozen=True)
class _Place:
    """Where checkpoints lie, and the run that they belong to, if its directory is known."""

    folder: Path
    run: RunDirectory | None = None
    monitor: str | None = None
    mode: Mode | None = None


def _find(named: str) -> _Place:
    latest = newest(Path("logs")) if named == "latest" else None
    path = (latest.path if latest else Path(named)).absolute()
    if not path.is_dir():
        raise ResumeError(f"There is no directory {named}: name a run, or latest for the newest below logs/.")
    for run in (RunDirectory(path), RunDirectory(path.parent)):
        if run.record_file.is_file() and (run.path == path or run.checkpoints().resolve() == path.resolve()):
            group = run.config().checkpoint
            return _Place(run.checkpoints(), run, group.monitor, group.mode if group.monitor else None)
    if any(Catalog(path).all()):  # committed ones, or others
        return _Place(path)
    raise ResumeError(f"{named} is neither a run (it has no run.json) nor a directory with checkpoints.")


# ls


def ls(arguments: argparse.Namespace) -> int:
    """A row per checkpoint."""
    place = _find(arguments.named)
    catalog = Catalog(place.folder)
    good, rejected = catalog.all()
    best, last = catalog.linked(names.BEST), catalog.linked(names.LAST)
    record = place.run.record() if place.run else None
    if arguments.json:
        _print_json(
            {
                "run": str(place.run.path) if place.run else None,
                "status": record.status if record else None,
                "directory": str(place.folder),
                "checkpoints": [{**asdict(s), "best": s.name == best, "last": s.name == last} for s in good],
                "rejected": [{"name": item.path.name, "why": item.why} for item in rejected],
            }
        )
        return 0
    console = Console()
    if good:
        console.print(_listing(place, good, best, last, console.width))
    total = size(sum(item.num_bytes for item in good))
    console.print(f"{len(good)} checkpoint{'s' * (len(good) != 1)}, {total}", highlight=False)
    for item in rejected:
        console.print(f"[yellow]not usable[/]: {escape(item.path.name)}, {escape(item.why)}", highlight=False)
    if place.run and record:
        status = " ".join(filter(None, [record.status, f"({record.why})" if record.why else ""]))
        console.print(f"run {escape(summary.relative(place.run.path))}: {escape(status)}", highlight=False)
        if good:
            more = ["trainer.max_epochs=NUMBER"] if record.status == "finished" else []
            console.print(escape(f"go on: {summary.command(place.run.path, *more)}"), highlight=False, soft_wrap=True)
    return 0


def _listing(place: _Place, good: Sequence[Saved], best: str, last: str, width: int) -> Table:
    metrics = _metrics(place, good)[: 1 if width < 100 else 3]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.title, table.title_justify, table.title_style = escape(summary.relative(place.folder)), "left", "bold"
    for name in ("epoch", "batch", "step"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("saved because", min_width=14)
    for name in (*metrics, "size", "age", "pause"):
        table.add_column(escape(name), justify="right", no_wrap=True)
    table.add_column("link", no_wrap=True)
    for item in good:
        cost = summary.duration(item.stall_s)
        links = " ".join(["best"] * (item.name == best) + ["last"] * (item.name == last))
        # Dim: from a validation before this position, which is not what the checkpoint is ranked by.
        values = [f"{item.metrics[name]:.4g}" if name in item.metrics else "" for name in metrics]
        shown = values if item.score is not None or place.monitor is None else [f"[dim]{value}[/]" for value in values]
        where = [str(number) for number in (item.position.epoch, item.position.batch, item.position.step)]
        why = ", ".join(item.reasons)
        table.add_row(*where, why, *shown, size(item.num_bytes), _age(item.created), cost, links)
    return table


def _metrics(place: _Place, good: Sequence[Saved]) -> list[str]:
    """The monitored one first, then others that are no training metrics: what one chooses a checkpoint by."""
    logged = dict.fromkeys(name for item in good for name in sorted(item.metrics) if not name.startswith("train"))
    first = [place.monitor] if place.monitor in logged else []
    return [*first, *(name for name in logged if name != place.monitor)]


def _age(created: str) -> str:
    if not created:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    units = ((86400, "d"), (3600, "h"), (60, "min"))
    return next((f"{seconds / unit:.0f} {name}" for unit, name in units if seconds >= unit), f"{max(0, seconds):.0f} s")


# verify


def verify(arguments: argparse.Namespace) -> int:
    """A line per file; 1 if one of them is broken."""
    path = Path(arguments.named)
    is_file = path.is_symlink() or (path.exists() and not path.is_dir())
    found = [audit.look_at_file(path)] if is_file else audit.look_at_directory(_find(arguments.named).folder)
    if arguments.json:
        _print_json([{"file": str(item.path), "state": item.state, "why": item.why} for item in found])
    else:
        lines = Table.grid(padding=(0, 2))
        for item in found:
            lines.add_row(f"[{_STYLES[item.state]}]{item.state}[/]", escape(item.path.name), escape(item.why))
        Console().print(lines if found else "There is no checkpoint here yet.")
    return int(any(item.state == "broken" for item in found))


# prune


def prune(arguments: argparse.Namespace) -> int:
    """Delete what neither `--keep-last` nor `--keep-best` keeps; the newest and the best whole ones always stay."""
    place = _find(arguments.named)
    if place.run is None:
        raise ResumeError(f"{arguments.named} is not in a run directory, which says what is best: name the run.")
    try:
        rules: list[Rule] = [Latest(arguments.keep_last), Best(arguments.keep_best)]
    except ValueError as error:
        raise ConfigError(f"--keep-last and --keep-best: {error}") from error
    place.run.lock()
    try:
        return _prune(place, rules, arguments)
    finally:
        place.run.unlock()


def _prune(place: _Place, rules: list[Rule], arguments: argparse.Namespace) -> int:
    plan = audit.prune(place.folder, rules, place.mode)
    if plan.broken and not plan.kept:
        raise ResumeError(f"No checkpoint in {place.folder} is whole: nothing was deleted.")
    leftovers = Catalog(place.folder).leftovers()
    freed = sum(item.num_bytes for item in plan.dropped)
    if not arguments.json:
        _tell_pruning(plan)
        if place.mode is None:
            print("This run has no checkpoint.monitor: nothing is best, and --keep-best keeps nothing.")
    if go := arguments.yes or (bool(plan.dropped) and not arguments.json and _ask()):
        _let_go_of(place, plan.dropped)
        History(place.folder, rules, place.mode).keep(plan.kept, plan.dropped)
        for path in leftovers:
            disk.remove(path)
    if arguments.json:
        names = {"kept": plan.kept, "deleted" if go else "would_delete": plan.dropped}
        broken = [{"name": item.path.name, "why": item.why} for item in plan.broken]
        listed: dict[str, Any] = {key: [item.name for item in items] for key, items in names.items()}
        _print_json({**listed, "broken": broken, "leftovers": [path.name for path in leftovers], "freed_bytes": freed})
    elif go and plan.dropped:
        print(f"Deleted {len(plan.dropped)}, {size(freed)} are free again.")
    return 0


def _let_go_of(place: _Place, dropped: Sequence[Saved]) -> None:
    """The next start, or `sync`, takes them back from W&B, if the run is known there."""
    if place.run is not None and (place.run.path / "wandb").is_dir():
        for saved in dropped:
            Deleted(place.run.path / "wandb").note(saved.digest)


def _tell_pruning(plan: audit.Pruning) -> None:
    for item in plan.broken:
        print(f"broken  {item.path.name}: {item.why}; not counted, and left alone")
    for saved in plan.kept:
        print(f"keep    {saved.name}")
    for saved in plan.dropped:
        print(f"delete  {saved.name}  {size(saved.num_bytes)}")
    if not plan.dropped:
        print("There is nothing to delete.")


def _ask() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was deleted: prune asks first, and there is nobody to ask. Give --yes.")
    return input("Delete them? [y/N] ").strip().lower() in ("y", "yes")


# show


def show(arguments: argparse.Namespace) -> int:
    """The manifest, and the configuration that lies in the file itself."""
    from cairn.lightning import state
    from cairn.store import resume  # they import torch

    path = Path(arguments.named)
    contents = resume.load(path)
    proof = path.resolve().with_name(names.manifest_name(path.resolve().name))
    manifest = json.loads(proof.read_text()) if names.checkpoint_of(proof.name) and proof.is_file() else None
    config = contents.get(state.KEY, {}).get("config")
    if arguments.json:
        _print_json({"file": str(path.resolve()), "manifest": manifest, "config": config})
        return 0
    console = Console()
    console.print(f"[bold]{escape(summary.relative(path.resolve()))}[/]", highlight=False, soft_wrap=True)
    if manifest is None:
        print("It has no manifest beside it.")
    for title, part in {"manifest": manifest, "config": config}.items():
        if part is not None:
            console.print(f"\n[bold]{title}[/]")
            text = yaml.safe_dump(part, sort_keys=False, allow_unicode=True).rstrip()
            console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    return 0


# sync


def sync_run(arguments: argparse.Namespace) -> int:
    """A row per kept checkpoint with its version in W&B; 1 if one is missing."""
    from cairn.wandb.sync import sync  # it imports torch

    load_dotenv(Path(".env"))  # the API key
    place = _find(arguments.named)
    if place.run is None:
        raise ResumeError(
            f"{arguments.named} is not in a run directory, which says what W&B knows it by: name the run."
        )
    place.run.lock()
    try:
        found = sync(place.run.path, parse_duration_s(arguments.limit, name="--limit"))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        place.run.unlock()
    missing = [saved.name for saved, version in found.states if not version]
    is_there = found.has_history and not missing
    if arguments.json:
        versions = {saved.name: version or None for saved, version in found.states}
        sent = {"rows_sent": found.num_rows, "history": found.has_history}
        _print_json({"run": found.run, **sent, "versions": versions, "missing": missing})
        return int(not is_there)
    lines = Table.grid(padding=(0, 2))
    for saved, version in found.states:
        state = "[green]committed[/]" if version else "[bold red]missing[/]"
        lines.add_row(state, saved.name, version, size(saved.num_bytes))
    Console().print(lines)
    there = f"{len(found.states) - len(missing)} of {len(found.states)} checkpoints"
    history = f"{found.num_rows} rows of its history were sent"
    if not found.has_history:
        history = "its history was not sent, or not all of it: the same command tries it again"
    print(f"W&B has {there} of {found.run}; {history}.")
    return int(not is_there)


# status


def status(arguments: argparse.Namespace) -> int:
    """A row per job; 1 if one has failed or was killed and nobody runs it."""
    sweep = Path(arguments.named)
    if not sweep.is_dir():
        raise ResumeError(f"There is no directory {sweep}: name the directory of a sweep.")
    jobs, trouble = sweep_status.look(sweep)
    bad = [job for job in jobs if job.state in ("failed", "dead")]
    if trouble:
        print(f"Warning: the scheduler does not answer ({trouble}): what runs is told by its files.", file=sys.stderr)
    if arguments.json:
        _print_json([{**asdict(job), "num_restarts": job.num_restarts} for job in jobs])
        return int(bool(bad))
    Console().print(_jobs_table(jobs))
    counts = Counter(job.state for job in jobs)
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + f" of {len(jobs)}.")
    for job in bad:
        log = (sweep / job.name / "train.log").resolve()
        print(f"{job.name}: {job.why or 'it was killed, or never began'}. See {summary.relative(log)}")
    return int(bool(bad))


def _jobs_table(jobs: Sequence[JobStatus]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold")
    for name in ("state", "job"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "last checkpoint", "restarts", "batches lost"):
        table.add_column(name, justify="right")
    shared = set.intersection(*(set(job.name.split(",")) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        name = ",".join(part for part in job.name.split(",") if part not in shared)
        done = "" if job.share is None else f"{100 * job.share:.0f} %"
        last = f"{job.last.position.epoch}/{job.last.position.batch}, {_age(job.last.created)}" if job.last else ""
        state = f"[{_STATES.get(job.state, 'yellow')}]{job.state}[/]"
        table.add_row(
            escape(name or job.name), state, job.job, done, last, str(job.num_restarts), str(job.num_lost_batches)
        )
    return table


# report


def report_sweep(arguments: argparse.Namespace) -> int:
    """A row per run, the interval to choose, and a page with plots; for machines the figures alone."""
    path = reading.find(arguments.named, Path("logs"))
    study = choice.study(reading.read(path), _mtbf_s(arguments.mtbf))
    if arguments.json:
        _print_json(words.figures(study))
        return 0
    page = _draw(study, Path(arguments.out).absolute() if arguments.out else path / "report")
    console = Console()
    console.print(Text(summary.relative(path), style="bold"), soft_wrap=True)
    for text in words.terminal(study):
        console.print(text, highlight=False)
    console.print(Text(f"\npage: {summary.relative(page)}"), soft_wrap=True)
    return 0


def _mtbf_s(text: str | None) -> float | None:
    try:
        seconds = parse_duration_s(text, name="--mtbf") if text else None
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if seconds == 0:
        raise ConfigError("--mtbf=0: a time between failures is longer than nothing.")
    return seconds


def _draw(study: choice.Study, folder: Path) -> Path:
    """Write plots and page; returns the path of the page."""
    try:
        pictures = plots.pictures(study)
        plots.write(pictures, folder)
        return page.write(study, pictures, folder)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {folder}: {error.strerror}. Choose another: --out DIR."
        ) from error


def _print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(value, indent=2))
