"""A small search through the real command line: four trials, three rungs, of the digits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, Process, start, train
from tests.support.equality import differences
from tests.support.sweeps import ends_of

from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.search import state
from cairn.search.state import Search, Trial

COMMAND = [
    *QUICK,
    RECORD,
    "model=mlp",
    "trainer.max_epochs=3",
    "checkpoint.save_interval=15",
    "checkpoint.when_busy=wait",
    "checkpoint.writer=thread",
    "optimized_metric=val/loss",
]
"""Sixty batches."""
SEARCH = [
    *COMMAND,
    "hydra/sweeper=halving",
    "hydra.sweeper.sampler=grid",
    "hydra.sweeper.num_trials=4",
    "hydra.sweeper.rungs=[1ep,2ep]",
    "hydra.sweeper.eta=2",
    "model.optimizer.lr=1e-3,3e-3",
    "model.net.dropout=0.1,0.3",
]
HALT = "batch:25"
"""In the second epoch, which two trials train."""


def search(*overrides: str, halts: bool = False, **more: Any) -> Process:
    """Start the search; with `halts`, its trials wait at `HALT` until `go` is called for them."""
    halt = f"+callbacks.halt={{_target_: tests.support.callbacks.Halt, _args_: ['{HALT}'], value: 0}}"
    return start(None, "-m", *SEARCH, *([halt] if halts else []), *overrides, **more)


def halted(folder: Path) -> list[Path]:
    """Return the directories of the trials that wait."""
    return [path.parent for path in folder.glob(f"*/at-{HALT}") if not (path.parent / f"go-{HALT}").exists()]


def go(run: Path) -> None:
    """Let a trial continue."""
    (run / f"go-{HALT}").touch()


def finished(folder: Path) -> tuple[Search, Trial]:
    """Return a search that has ended as it should, and its winner."""
    found = state.read(folder)
    assert found is not None
    assert found.state == "finished"
    states = sorted(trial.state for trial in found.trials)
    assert states == ["finished", "stopped", "stopped", "stopped"], [trial.error for trial in found.trials]
    assert sorted(trial.total_batches for trial in found.trials) == [20, 20, 40, 60]
    return found, next(trial for trial in found.trials if trial.state == "finished")


def assert_nothing_is_trained_twice(folder: Path, found: Search) -> None:
    """Assert that each trial has trained each of its batches once, apart from those that a kill has undone."""
    for trial in found.trials:
        run = folder / trial.directory
        counts = Counter(json.loads(line)[0] for line in (run / "batches-0.jsonl").read_text().splitlines())
        assert len(counts) == trial.total_batches
        tried = attempts.read(RunDirectory(run))
        killed = [item.begins.total_batches for item in tried if item.before and item.before.status == "running"]
        repeated = [number for number, count in counts.items() if count > 1]
        assert all(number >= min(killed, default=trial.total_batches) for number in repeated), (trial.number, repeated)


def assert_as_undisturbed(run: Path, trial: Trial, folder: Path) -> None:
    """Assert that a trial, which was paused twice, ends like a run of its parameters that was never paused."""
    values = [f"{key}={value}" for key, value in trial.parameters.items()]
    train(folder, *COMMAND, *values)
    assert differences(ends_of(folder), ends_of(run)) == []
    assert recorded(run) == recorded(folder)
