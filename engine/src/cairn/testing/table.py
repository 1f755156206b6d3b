"""The screen of a proof: a line for each boundary, then each difference with its likely cause and its cure."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cairn.testing.compare import Difference
from cairn.testing.proof import Proof, Trial
from cairn.units import format_ranges


def show(proof: Proof, console: Console, verb: str = "killed") -> None:
    """Print a proof; `verb` is how its runs ended."""
    if proof.trials:
        console.print(_table(proof, verb))
    for number, (found, trials) in enumerate(_groups(proof), 1):
        console.print(f"[bold]{number}. {escape(_title(found))}[/]", highlight=False)
        where = f"{verb.capitalize()} after batch {_listed(trials)}: " if trials else ""
        _paragraph(console, f"{where}{found.what}")
        if found.advice.cause:
            _paragraph(console, f"Likely cause: {found.advice.cause}")
        if found.advice.cure:
            _paragraph(console, f"Cure: {found.advice.cure}", "green")
        console.print()
    console.print(_verdict(proof), highlight=False)
    if proof.not_covered:
        console.print("[dim]Not covered:[/]", highlight=False)
        for item in proof.not_covered:
            _paragraph(console, f"- {item}", "dim")


def as_text(proof: Proof, width: int = 100, verb: str = "killed") -> str:
    """Return what `show` prints, without colors."""
    file = io.StringIO()
    show(proof, Console(file=file, width=width, color_system=None), verb)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def as_json(proof: Proof) -> dict[str, Any]:
    """Return a proof as JSON values."""
    return {
        "exact": proof.is_exact,
        "epochs": proof.num_epochs,
        "batches": proof.num_batches,
        "undisturbed": None if proof.unequal is None else _difference(proof.unequal),
        "stops": [
            {
                **asdict(trial.stop),
                "compared_batches": trial.num_batches,
                "equal": not trial.found,
                "differences": [_difference(found) for found in trial.found],
            }
            for trial in proof.trials
        ],
        "not_covered": list(proof.not_covered),
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "batch": found.batch,
        "kind": found.kind,
        "name": found.name,
        "what": found.what,
        "cause": found.advice.cause,
        "cure": found.advice.cure,
    }


def _table(proof: Proof, verb: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(f"{verb} after", justify="right", no_wrap=True)
    table.add_column("epoch/batch", justify="right", no_wrap=True)
    table.add_column("which is", no_wrap=True)
    table.add_column("resumed run")
    groups = [found for found, _ in _groups(proof)]
    for trial in proof.trials:
        stop, found = trial.stop, trial.found
        if not found:
            result = f"[green]equal[/]{f' for {_batches(trial.num_batches)}' if trial.num_batches else ''}"
        else:
            numbers = [index for index, other in enumerate(groups, 1) if any(_same(other, item) for item in found)]
            first = f"[bold red]{escape(_title(found[0]))}[/] at batch {found[0].batch}"
            result = f"see {format_ranges(numbers)}: {first}"
        table.add_row(f"batch {stop.after}", f"{stop.epoch}/{stop.batch}", stop.where, result)
    return table


def _groups(proof: Proof) -> list[tuple[Difference, list[Trial]]]:
    """Return the differences with the trials that have them, each only once."""
    groups: list[tuple[Difference, list[Trial]]] = [] if proof.unequal is None else [(proof.unequal, [])]
    # First differences before what else was lost.
    items = [(found, trial) for trial in proof.different for found in trial.found[:1]]
    items += [(found, trial) for trial in proof.different for found in trial.found[1:]]
    for found, trial in items:
        trials = next((trials for other, trials in groups if _same(other, found)), None)
        if trials is None:
            groups.append((found, [trial]))
        elif trial not in trials:
            trials.append(trial)
    return groups


def _same(one: Difference, other: Difference) -> bool:
    return (one.kind, one.name, one.advice) == (other.kind, other.name, other.advice) and (
        one.kind != "error" or one.what == other.what
    )


_TITLES = {
    "error": "fails",
    "start": "starts at another batch",
    "end": "has another length",
    "rows": "metrics.csv",
    "kept": "kept checkpoints",
}


def _title(found: Difference) -> str:
    return _TITLES.get(found.kind) or f"{found.kind} {found.name}".strip()


def _batches(number: int) -> str:
    return f"{number} batch{'es' * (number != 1)}"


def _listed(trials: list[Trial]) -> str:
    return format_ranges(sorted(trial.stop.after for trial in trials))


def _verdict(proof: Proof) -> str:
    length = f"{proof.num_batches} boundaries in {proof.num_epochs} epoch{'s' * (proof.num_epochs != 1)}"
    if proof.unequal is not None:
        return "[bold red]Not exact:[/] two undisturbed runs differ."
    if proof.is_exact:
        return (
            f"[bold green]Exact:[/] {len(proof.trials)} of {len(proof.trials)} resumed runs equal the undisturbed one "
            f"({length})."
        )
    return (
        f"[bold red]Not exact:[/] {len(proof.different)} of {len(proof.trials)} resumed runs differ from the "
        f"undisturbed one ({length})."
    )


def _paragraph(console: Console, text: str, style: str = "") -> None:
    console.print(Padding(escape(text), (0, 0, 0, 3)), style=style, highlight=False)
