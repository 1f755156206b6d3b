"""Calls the command line of `cairn` in this process, on a run with four checkpoints."""

from __future__ import annotations

from pathlib import Path

from tests.support.values import commit

from cairn.cli import main
from cairn.run.directory import RunDirectory
from cairn.store import names
from cairn.store.catalog import Catalog
from cairn.store.commit import move_links_and_delete

SCORES = [0.5, 0.3, None, 0.4]


def config(run: RunDirectory, folder: Path, monitor: str = "val/loss") -> str:
    """What the commands read of a run's config.yaml."""
    group = f"checkpoint: {{dirpath: {folder}, monitor: {monitor}, mode: min}}"
    return f"{group}\npaths: {{output_dir: {run.path}}}\n"


def stopped_run(path: Path) -> RunDirectory:
    """A run that was stopped and keeps four checkpoints, of which the third has no score of its own."""
    run = RunDirectory(path)
    folder = run.path / "checkpoints"
    run.start("train", (), config(run, folder))
    run.end("stopped", "SIGTERM")
    for number, score in enumerate(SCORES):
        metrics = {"val/loss": score or 0.3, "val/acc": 0.9, "train/loss": 0.1}
        item = commit(folder, number, score, metrics=metrics, reasons=("interval", "best") if score else ("interval",))
    move_links_and_delete(folder, {names.LAST: item.name, names.BEST: Catalog(folder).committed()[1].name}, ())
    return run


def cairn(*args: object, expect: int = 0) -> None:
    """Run one command and check its exit code."""
    assert main.main([str(arg) for arg in args]) == expect


def left(run: RunDirectory) -> list[int]:
    """Numbers of the checkpoints that the run still has."""
    return [item.number for item in Catalog(run.checkpoints()).committed()]
