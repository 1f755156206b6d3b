"""The first commands of a new user."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support.command import QUICK, newest, train
from tests.support.paths import ROOT

from cairn import load_model


@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"]])
def test_asking_for_help_imports_no_torch(flag: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *flag], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0
    assert "save_interval" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "numpy", "wandb"}


@pytest.mark.slow
def test_the_first_run(tmp_path: Path) -> None:
    """The output and the run directory with the default settings, among them W&B offline."""
    output = train(tmp_path / "run", "trainer.max_epochs=3", "trainer.accelerator=cpu", fresh=True)
    for shown in ("data", "checkpoints", "saved because", "val/loss", "test/acc", "overhead", "at risk", "resume="):
        assert shown in output.replace("\n", "")  # the title of a table breaks a long path anywhere
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    records = {"run.json", "starts.jsonl", "progress.json"}
    assert {".hydra", ".lock", "train.log", "config.yaml", *records, "csv", "wandb", "checkpoints"} == names
    assert {path.name for path in (run / ".hydra").iterdir()} == {"config.yaml", "overrides.yaml", "hydra.yaml"}
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert list((run / "wandb").glob(f"offline-run-*-{record['id']}/*.wandb")), "the W&B run has the run's id"

    model = load_model(run / "checkpoints" / "best.ckpt")
    assert not model.training
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_starting_from_weights_alone(tmp_path: Path) -> None:
    train(tmp_path / "first", *QUICK, "trainer.max_epochs=2")
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "model.optimizer.lr=0", "test=false"]
    train(tmp_path / "second", *QUICK, *short, f"init_weights={best}")
    first, second = (
        torch.load(path, weights_only=True) for path in (best, best.parents[2] / "second/checkpoints/last.ckpt")
    )
    assert torch.equal(first["state_dict"]["net.layers.5.weight"], second["state_dict"]["net.layers.5.weight"])
    assert second["global_step"] == 1

    output = train(tmp_path / "third", *QUICK, "model=mlp", f"init_weights={best}", expect=1)
    assert "holds the weights of another model" in output
    assert "net.layers.0 (6 weights) is only in the file" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_sweep_returns_its_metric_and_names_its_jobs(tmp_path: Path) -> None:
    short = [*QUICK, "trainer.max_epochs=1", "test=false"]
    sweep = ["-m", "checkpoint=interval", "checkpoint.save_interval=5,20", f"hydra.sweep.dir={tmp_path}/sweep", *short]
    train(None, *sweep, "optimized_metric=train/acc")
    (by_five,) = (tmp_path / "sweep").glob("*save_interval=5,*/")
    (by_twenty,) = (tmp_path / "sweep").glob("*save_interval=20,*/")
    assert sorted(path.stem for path in (by_five / "checkpoints").glob("epoch*.ckpt")) == [
        "epoch_000_batch_000015",
        "epoch_000_batch_000020",
    ]
    assert [path.stem for path in (by_twenty / "checkpoints").glob("epoch*.ckpt")] == ["epoch_000_batch_000020"]
    assert 0 < json.loads((by_five / "run.json").read_text())["result"] <= 1


@pytest.mark.slow
def test_a_job_of_a_sweep_experiment_can_be_resumed_alone(tmp_path: Path) -> None:
    short = ["callbacks=none", "trainer=cpu", "trainer.max_epochs=3", "test=false", f"hydra.sweep.dir={tmp_path}/sweep"]
    train(None, "experiment=save_interval_sweep", *short)
    jobs = {
        path.parent.name.split("save_interval=")[1].split(",")[0]: path.parent for path in tmp_path.rglob("run.json")
    }
    assert set(jobs) == {"50", "100", "200"}
    train(None, f"resume={jobs['50']}", "trainer.max_epochs=6")
    assert set(tmp_path.rglob("run.json")) == {job / "run.json" for job in jobs.values()}, "no new sweep was started"
    assert newest(jobs["50"]) == "epoch_005_batch_000020.ckpt"


@pytest.mark.slow
def test_a_bad_value_is_one_sentence(tmp_path: Path) -> None:
    """In a new interpreter. test_bad_input.py checks all wrong inputs, in forked processes."""
    output = train(tmp_path / "run", *QUICK, "ckpt_path=README.md", expect=1, fresh=True)
    assert "is not a checkpoint" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("debug", ["default", "fdr", "limit", "profiler"])
def test_each_debug_preset_finishes(debug: str, tmp_path: Path) -> None:
    output = train(tmp_path / "run", f"debug={debug}", "trainer.enable_progress_bar=false")
    assert "finished" in output
