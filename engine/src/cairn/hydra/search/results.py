"""What a search prints at its end, and `optimization_results.yaml`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cairn.run import summary
from cairn.search.schedule import ranking
from cairn.search.space import Space
from cairn.search.state import Search, Trial
from cairn.store import disk

NAME = "optimization_results.yaml"
_MOST_ROWS = 20
_MOST_ERRORS = 5


def ranked(search: Search) -> list[Trial]:
    """Return the trials that have a score and have not failed, best first; those that have come further come first."""
    by_rung: dict[int, dict[int, float | None]] = {}
    for trial in search.trials:
        if trial.rungs and trial.state != "failed":
            by_rung.setdefault(trial.rungs[-1].rung, {})[trial.number] = trial.score
    trials = {trial.number: trial for trial in search.trials}
    return [trials[number] for rung in sorted(by_rung, reverse=True) for number in ranking(by_rung[rung], search.mode)]


def best(search: Search) -> Trial | None:
    """Return the best trial; None if none has a score."""
    return next(iter(ranked(search)), None)


def batches(search: Search) -> tuple[int, int | None]:
    """Return the batches that were trained, and those of training all trials to their end; None: not known."""
    trained = sum(trial.total_batches for trial in search.trials)
    known = [trial.full_batches for trial in search.trials if trial.full_batches is not None]
    if not known:
        return trained, None
    mean = sum(known) / len(known)
    failed = sum(trial.total_batches for trial in search.trials if trial.state == "failed")  # as in a full run
    others = [trial.full_batches for trial in search.trials if trial.state != "failed"]
    return trained, round(failed + sum(mean if full is None else full for full in others))


def write(directory: Path, search: Search) -> None:
    """Write the best parameters and their score, as other sweepers of Hydra do."""
    if (winner := best(search)) is not None:
        found = {"name": search.sweeper, "best_params": dict(winner.parameters), "best_value": winner.score}
        disk.put(directory / NAME, yaml.safe_dump(found, sort_keys=False, allow_unicode=True).encode())


def show(directory: Path, search: Search, space: Space, shared: Sequence[str], console: Console) -> None:
    """Print the trials as a table, the best parameters, what was trained, and the commands that go on from there.

    Args:
        directory: Directory of the search.
        search: The search.
        space: What it varies.
        shared: Overrides of all trials.
        console: The terminal.
    """
    order = ranked(search)
    rest = [trial for trial in search.trials if trial not in order]
    console.print(_table(search, order, rest, console.width))
    if (num_hidden := len(order) + len(rest) - _MOST_ROWS) > 0:
        console.print(f"{num_hidden} more: sweep.json in {summary.relative(directory)}", soft_wrap=True)
    facts = _facts(directory, search, order)
    if order:
        winner = order[0]
        facts.append(("resume", summary.command(directory / winner.directory)))
        facts.append(("again", summary.new_run(directory, *shared, *space.overrides(winner.parameters))))
    for name, value in facts:  # each in a line of its own, however long, so that it can be copied
        console.print(Text(f"{name:<9}{value}"), soft_wrap=True)


def _table(search: Search, order: Sequence[Trial], rest: Sequence[Trial], width: int) -> Table:
    names = _short_names(list(search.parameters))
    table = Table(title="trials", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    headers = ["rank", "trial", *names, search.metric, "until", "state"]
    rows = []
    for rank, trial in [*enumerate(order, start=1), *((None, trial) for trial in rest)][:_MOST_ROWS]:
        score = "" if trial.score is None else f"{trial.score:.4g}"
        until = search.rungs[trial.rungs[-1].rung] if trial.rungs else ""
        values = [escape(_shown(trial.parameters[key])) for key in search.parameters]
        rows.append([str(rank or ""), str(trial.number), *values, score, until, trial.state])
    summary.fill(table, headers, rows, width, wrapped="state", cut=[*names, search.metric], right=headers[:-1])
    return table


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short_names(keys: Sequence[str]) -> list[str]:
    """Return the shortest ends of keys that are different."""
    parts = [key.lstrip("+~").split(".") for key in keys]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = [".".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(keys)


def _facts(directory: Path, search: Search, order: Sequence[Trial]) -> list[tuple[str, str]]:
    facts = [("search", f"{summary.relative(directory)} ({search.state})")]
    if order:
        winner = order[0]
        values = ", ".join(f"{key.lstrip('+')}={_shown(value)}" for key, value in winner.parameters.items())
        facts.append(("best", f"{search.metric} {winner.score:.6g} of trial {winner.number}: {values}"))
    counts = Counter(trial.state for trial in search.trials)
    facts.append(("trials", ", ".join(f"{count} {state}" for state, count in counts.items())))
    trained, full = batches(search)
    if full:
        saved = f"{1 - trained / full:.0%} saved"
        facts.append(("trained", f"{trained} batches; all trials to their end: {full} ({saved})"))
    failed = [trial for trial in search.trials if trial.error]
    for trial in failed[:_MOST_ERRORS]:
        log_file = summary.relative(directory / trial.directory / "train.log")
        facts.append((f"trial {trial.number}", f"failed: {trial.error.rstrip('.')}. See {log_file}"))
    return facts
