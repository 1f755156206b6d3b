"""What `cairn sync` reads of a run directory."""

import json

import pytest
import yaml

from cairn.errors import ResumeError
from cairn.wandb.sync import read_run

LOGGER = {"_target_": "cairn.wandb.logger.WandbLogger", "project": "digits/cnn", "offline": True, "notes": "mine"}


@pytest.fixture
def run(tmp_path):
    then = "/elsewhere/run"
    checkpoint = {"dirpath": f"{then}/checkpoints", "monitor": "val/loss", "mode": "min"}
    config = {"logger": {"mine": LOGGER}, "checkpoint": checkpoint, "paths": {"output_dir": then}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run.json").write_text(json.dumps({"id": "r", "task_name": "t", "overrides": []}))
    return tmp_path


def test_a_run_directory_that_was_moved_is_read(run):
    found = read_run(run)
    assert (found.id, found.checkpoints) == ("r", run / "checkpoints")
    assert (found.settings.project, found.settings.more) == ("digits-cnn", {"notes": "mine"})
    assert found.settings.artifacts.which == "all", "of a run from before there was a choice"


@pytest.mark.parametrize(
    ("status", "why", "expected"),
    [
        ("finished", "", 0),
        ("stopped", "SIGTERM", 143),
        ("stopped", "SIGINT", 130),
        ("stopped", "max_time", 0),
        ("stopped", "job_time_limit", 75),
        ("failed", "ValueError: x", 1),
        ("running", "", 1),  # it was killed
    ],
)
def test_the_exit_code_that_wandb_is_sent(run, status, why, expected):
    (run / "run.json").write_text(json.dumps({"id": "r", "status": status, "why": why}))
    assert read_run(run).exit_code == expected


def test_a_run_without_our_logger_is_refused(run):
    (run / "config.yaml").write_text(yaml.safe_dump({"logger": {"csv": {"_target_": "x"}}}))
    with pytest.raises(ResumeError, match="has no W&B logger in its configuration"):
        read_run(run)


@pytest.mark.parametrize("text", ["{", "[]", ""])
@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_damaged_run_directory_is_one_sentence(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(ResumeError, match="is not the directory of a run that can be read") as error:
        read_run(run)
    assert "\n" not in str(error.value)
