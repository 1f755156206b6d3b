"""A search through the command line: killed and repeated, and on local processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.support.command import train, wait_for
from tests.support.search_runs import (
    COMMAND,
    assert_as_undisturbed,
    assert_nothing_is_trained_twice,
    finished,
    go,
    halted,
    search,
)

from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.search import state
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow
pytest.importorskip("optuna")


def test_a_search_that_was_killed_goes_on_and_its_winner_is_exact(tmp_path: Path) -> None:
    logs = f"paths.log_dir={tmp_path}"
    folders = tmp_path / "train" / "multiruns"
    process = search(logs, halts=True)
    assert wait_for(lambda: any(halted(folder) for folder in folders.glob("*")), process)
    (folder,) = folders.iterdir()
    process.kill()
    known = state.read(folder)
    assert [trial.state for trial in known.trials].count("stopped") == 2
    for run in (folder / trial.directory for trial in known.trials):
        go(run)
    output = search(logs, halts=True).end()
    assert "This search goes on:" in output
    assert list(folders.iterdir()) == [folder]
    found, winner = finished(folder)
    assert_nothing_is_trained_twice(folder, found)
    assert_as_undisturbed(folder / winner.directory, winner, tmp_path / "whole")
    assert [len(attempts.read(RunDirectory(folder / trial.directory))) for trial in found.trials].count(1) == 2
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert best["best_params"] == winner.parameters
    for trial in found.trials:
        if trial.state == "stopped":
            saved = Catalog(folder / trial.directory / "checkpoints").committed()
            assert [item.score is not None for item in saved] == [True], "its best checkpoint"


def test_a_search_on_local_processes(tmp_path: Path) -> None:
    few = ["hydra.sweeper.num_trials=2", "hydra.sweeper.rungs=[1ep]", "hydra.sweeper.losers=all"]
    output = search(f"hydra.sweep.dir={tmp_path}", "hydra/launcher=submitit_local", *few).end()
    found = state.read(tmp_path)
    assert sorted((trial.state, trial.total_batches) for trial in found.trials) == [("finished", 60), ("stopped", 20)]
    assert output.count("submitted as job") == 2 + 1
    assert_nothing_is_trained_twice(tmp_path, found)
    loser = next(trial for trial in found.trials if trial.state == "stopped")
    train(None, f"resume={tmp_path / loser.directory}")
    assert RunDirectory(tmp_path / loser.directory).record().status == "finished", "a pause is not recorded"


def test_a_pause_by_hand(tmp_path: Path) -> None:
    run = tmp_path / "run"
    output = train(run, *COMMAND, "pause_at=1.5ep")
    record = RunDirectory(run).record()
    assert (record.status, record.why) == ("paused", "1.5ep")
    assert record.result is not None
    assert not any("pause_at" in item for item in record.overrides)
    assert "paused at 1.5ep" in " ".join(output.split())
    killed = {**json.loads((run / "run.json").read_text()), "status": "running", "why": "", "result": None}
    (run / "run.json").write_text(json.dumps(killed))  # as a kill right after the save leaves it
    again = train(run, *COMMAND, "pause_at=1.5ep")
    assert RunDirectory(run).record() == record, "it is there already"
    assert "paused at 1.5ep" in " ".join(again.split())
    assert Catalog(run / "checkpoints").newest().position.total_batches == 30
