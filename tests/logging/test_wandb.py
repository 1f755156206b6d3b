"""W&B's history on a made-up run: a row per step, whatever comes again, and nothing of a journal lost or doubled."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cairn.logging import wandb
from cairn.logging.wandb import Journal, WandbLogger, journal_path, read, send


class Run:
    """What W&B keeps: rows by step, merged; it has had those before `starting_step`."""

    def __init__(self, starting_step=0):
        self.starting_step, self.rows, self.ended = starting_step, {}, []

    def log(self, row, step):
        assert step >= max(self.rows, default=self.starting_step), "W&B would drop it"
        self.rows.setdefault(step, {}).update(row)

    def mark_preempting(self):
        self.ended.append("preempting")

    def finish(self, exit_code):
        self.ended.append(exit_code)


def make(folder, run):
    logger = WandbLogger(folder, project="p", id="x")
    logger._experiment = run
    return logger


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


def losses(run):
    return {step: row["loss"] for step, row in run.rows.items() if "loss" in row}


def test_a_step_is_a_row_and_what_a_save_has_cost_goes_to_the_row_of_then(tmp_path):
    run = Run()
    logger = make(tmp_path, run)
    logger.log_metrics({"loss": 3.0}, 4)
    logger.log_metrics({"val/loss": torch.tensor(2.0)}, 4)
    logger.log_metrics({"loss": 1.0}, 5)
    logger.log_metrics({"checkpoint/stall_s": 0.5}, 9)
    logger.log_metrics({"epoch/loss": 7.0}, 4)
    assert run.rows == {
        4: {"trainer/global_step": 4, "loss": 3.0, "val/loss": 2.0},
        5: {"trainer/global_step": 5, "loss": 1.0, "checkpoint/stall_s": 0.5, "epoch/loss": 7.0},
    }


def test_what_is_no_number_is_sent_and_not_noted(tmp_path):
    run, picture = Run(), object()
    logger = make(tmp_path, run)
    logger.log_metrics({"picture": picture, "loss": math.inf}, 0)
    assert run.rows[0]["picture"] is picture
    (row,) = read(journal_path(tmp_path))
    assert (row["loss"], "picture" in row) == (math.inf, False)


@given(stop=st.integers(0, 12), late=st.integers(0, 12), has=st.integers(0, 12))
def test_a_run_that_goes_on_has_each_step_once_whatever_wandb_has_already(tmp_path_factory, stop, late, has):
    """It was killed after `late` steps more than its checkpoint knew, and W&B had got `has` rows."""
    folder = tmp_path_factory.mktemp("run")
    first = make(folder, Run())
    for step in range(stop):
        first.log_metrics({"loss": float(step)}, step)
    state = first.state_dict()
    for step in range(stop, stop + late):
        first.log_metrics({"loss": float(step)}, step)
    before = {step: row for step, row in first._experiment.rows.items() if step < has}
    run = Run(starting_step=len(before))
    second = make(folder, run)
    second.load_state_dict(state)
    for step in range(stop, 20):
        second.log_metrics({"loss": float(step)}, step)
    found = {**{step: row["loss"] for step, row in before.items()}, **losses(run)}
    assert found == {step: float(step) for step in range(20)}
    assert [row["_step"] for row in read(journal_path(folder))] == list(range(20))


def test_a_run_without_a_checkpoint_begins_its_journal_anew(tmp_path):
    make(tmp_path, Run()).log_metrics({"loss": 1.0}, 0)
    make(tmp_path, Run()).log_metrics({"loss": 2.0}, 0)
    assert [row["loss"] for row in read(journal_path(tmp_path))] == [2.0]


def test_rows_that_are_gone_are_told(tmp_path):
    logger = make(tmp_path, Run())
    with pytest.warns(UserWarning, match="has 0 rows, and the checkpoint knew 3"):
        logger.load_state_dict({"rows": 3, "step": 2})


def test_a_line_that_a_kill_has_cut_off_is_left_out(tmp_path):
    path = tmp_path / "journal"
    path.write_text(json.dumps({"_step": 0}) + "\n" + '{"_step": 1, "lo')
    assert list(read(path)) == [{"_step": 0}]
    journal = Journal(path)
    assert journal.cut(5) == [{"_step": 0}]
    journal.add({"_step": 1})
    assert list(read(path)) == [{"_step": 0}, {"_step": 1}]


def test_what_wandb_has_is_not_sent_again():
    run = Run(starting_step=2)
    assert send(run, [{"_step": step, "loss": step} for step in range(4)]) == 2
    assert run.rows == {2: {"loss": 2}, 3: {"loss": 3}}


@pytest.mark.parametrize(("preempted", "expected"), [(True, ["preempting", 143]), (False, [143])])
def test_how_it_ended(tmp_path, preempted, expected):
    run = Run()
    logger = make(tmp_path, run)
    logger.close(143, preempted)
    logger.close(0)
    assert run.ended == expected


@pytest.mark.parametrize(
    ("environment", "offline", "expected"),
    [(None, True, "offline"), (None, False, "online"), ("online", True, "online"), ("offline", False, "offline")],
)
def test_the_environment_wins(tmp_path, monkeypatch, environment, offline, expected):
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert WandbLogger(tmp_path, offline=offline, project="p", id="x").mode == expected


def test_a_journal_that_cannot_be_written_is_told_once(tmp_path, caplog):
    logger = make(tmp_path / "file", Run())
    (tmp_path / "file").write_text("in the way")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    assert caplog.text.count("history.jsonl cannot be written") == 1
    assert len(losses(logger._experiment)) == 3


def test_files_stay_with_the_run_and_the_user_wins(tmp_path, monkeypatch):
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ERROR_REPORTING", "SILENT", "INIT_TIMEOUT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    monkeypatch.setenv("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "3")
    wandb.prepare(tmp_path, offline=True)
    found = {name: wandb.os.environ[f"WANDB_{name}"] for name in ("DATA_DIR", "CACHE_DIR", "MODE", "FINISH_TIMEOUT")}
    own = tmp_path / "wandb"
    assert found == {
        "DATA_DIR": str(own),
        "CACHE_DIR": str(own / "cache"),
        "MODE": "offline",
        "FINISH_TIMEOUT": "7",
    }
    for name in [name for name in wandb.os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
