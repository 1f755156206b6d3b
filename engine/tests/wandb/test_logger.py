"""W&B's history, on a stand-in for W&B's run: each row once, however often a run is resumed."""

import json
import math
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.disk import Disk, room_for

from cairn.trackers.lines import Lines, read
from cairn.wandb import logger as wandb
from cairn.wandb.environment import prepare
from cairn.wandb.logger import WandbLogger


class Run:
    """The rows that W&B has; those before `starting_step` are from before this start."""

    def __init__(self, before=()):
        self.rows, self.ended = list(before), []
        self.starting_step = self.step = len(self.rows)

    def log(self, row, step=None, commit=True):
        assert step is None or step == self.step, "W&B would drop it, or leave a gap"
        self.rows.append(row)
        self.step += 1

    def mark_preempting(self):
        self.ended.append("preempting")

    def finish(self, exit_code):
        self.ended.append(exit_code)


def make(folder, run, mode="online"):
    logger = WandbLogger(folder, project="p", id="x")
    logger._experiment, logger.mode = run, mode
    return logger


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


def rows_of(run):
    return [{name: value for name, value in row.items() if name != "_timestamp"} for row in run.rows]


def test_each_call_is_a_row_with_its_step(tmp_path):
    run = Run()
    logger = make(tmp_path, run)
    logger.log_metrics({"loss": 3.0}, 4)
    logger.log_metrics({"val/loss": torch.tensor(2.0)}, 4)
    logger.log_metrics({"checkpoint/stall_s": 0.5}, 3)
    assert rows_of(run) == [
        {"trainer/global_step": 4, "loss": 3.0},
        {"trainer/global_step": 4, "val/loss": 2.0},
        {"trainer/global_step": 3, "checkpoint/stall_s": 0.5},
    ]


def test_rows_that_the_user_logs_directly_count(tmp_path):
    run = Run()
    logger = make(tmp_path, run)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.experiment.log({"own": 1})
    logger.log_metrics({"loss": 2.0}, 1)
    assert len(run.rows) == 3


def test_a_picture_is_sent_and_not_written_to_the_journal(tmp_path):
    run, picture = Run(), object()
    logger = make(tmp_path, run)
    logger.log_metrics({"picture": picture, "loss": math.inf, "array": np.float32(0.5)}, 0)
    assert run.rows[0]["picture"] is picture
    (row,) = read(logger.journal.path)
    assert (row["loss"], row["array"], "picture" in row) == (math.inf, 0.5, False)


def train(logger, steps, cost_at=frozenset()):
    """Log what a run logs: a loss at each step, a validation every third step, costs of saves at any time.

    There are pictures as well, in a row with numbers and in a row of their own; a journal holds none of them.
    """
    for step in steps:
        if step % 4 == 1:
            logger.log_metrics({"picture": object(), "num_seen": step}, step)
        if step % 5 == 2:
            logger.log_metrics({"table": object()}, step)
        logger.log_metrics({"loss": float(step), "epoch": step // 6}, step)
        if step in cost_at:
            logger.log_metrics({"checkpoint/stall_s": 0.1}, step - 1)
        if step % 3 == 2:
            logger.log_metrics({"val/loss": float(step)}, step)
        if step % 6 == 5:
            logger.log_metrics({"loss_epoch": float(step), "epoch": step // 6}, step)


def names(rows):
    """The rows by what a journal holds of them, without the costs of saves, which come at any time."""
    own = {"_timestamp", "_step", "picture", "table"}
    found = [(row["trainer/global_step"], *sorted(set(row) - own)) for row in rows]
    return sorted(item for item in found if "checkpoint/stall_s" not in item)


@given(
    starts=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 9), st.booleans()), max_size=4),
    cost_at=st.sets(st.integers(0, 30)),
)
def test_a_run_has_each_row_once_however_often_it_was_killed(tmp_path_factory, starts, cost_at):
    """Each start saves a checkpoint after some steps, trains on, and loses what W&B did not have yet."""
    folder, server, state, at = tmp_path_factory.mktemp("run"), [], None, 0
    for steps, more, lost, has_a_test in starts:
        run = Run(server)
        logger = make(folder, run)
        if state is not None:
            logger.load_state_dict(state)
            logger.training_begins()
        train(logger, range(at, at + steps), cost_at)
        state, at = logger.state_dict(), at + steps
        train(logger, range(at, at + more))
        if has_a_test:
            logger.log_metrics({"test/loss": 1.0}, at + more)
        server = run.rows[: max(len(server), len(run.rows) - lost)]
    run = Run(server)
    last = make(folder, run)
    if state is not None:
        last.load_state_dict(state)
        last.training_begins()
    train(last, range(at, 36))
    whole = Run()
    train(make(tmp_path_factory.mktemp("whole"), whole), range(36))
    found = [row for row in run.rows if "test/loss" not in row]
    assert names(found) == names(whole.rows)
    assert names(read(last.journal.path)) == names(whole.rows)


def test_a_run_without_a_checkpoint_starts_a_new_journal(tmp_path):
    make(tmp_path, Run()).log_metrics({"loss": 1.0}, 0)
    make(tmp_path, Run()).log_metrics({"loss": 2.0}, 0)
    assert [row["loss"] for row in read(tmp_path / "wandb" / "history.jsonl")] == [2.0]


def test_missing_rows_are_a_warning(tmp_path):
    logger = make(tmp_path, Run())
    logger.load_state_dict({"rows": 3, "step": 2})
    with pytest.warns(UserWarning, match="has 0 rows, and the checkpoint had 3"):
        logger.training_begins()


def test_a_line_that_a_kill_has_cut_off_is_skipped_and_logged(tmp_path, caplog):
    path = tmp_path / "journal"
    path.write_text(json.dumps({"a": 0}) + "\n" + '{"a": 1, "lo')
    assert list(read(path)) == [{"a": 0}]
    assert f"{path} has a line that was cut off: it is skipped." in caplog.text
    lines = Lines(path)
    assert lines.cut(5) == [{"a": 0}]
    lines.add({"a": 1})
    assert list(read(path)) == [{"a": 0}, {"a": 1}]


def test_an_item_that_cannot_be_written_leaves_no_part(tmp_path):
    lines = Lines(tmp_path / "journal")
    lines.add(["first"])
    with pytest.raises(TypeError):
        lines.add([object()])
    with room_for(20), pytest.raises(OSError, match="No space left"):
        lines.add(list(range(100)))
    lines.add(["second"])
    assert lines.path.read_bytes() == b'["first"]\n["second"]\n'
    assert lines.count == 2


def test_a_row_with_a_picture_is_not_sent_again_without_it(tmp_path):
    run, picture = Run(), object()
    logger = make(tmp_path, run)
    logger.log_metrics({"picture": picture, "loss": 1.0}, 0)
    state = logger.state_dict()
    again = Run(run.rows)
    resumed = make(tmp_path, again)
    resumed.load_state_dict(state)
    resumed.training_begins()
    resumed.log_metrics({"loss": 2.0}, 1)
    assert [row.get("picture") for row in again.rows] == [picture, None]
    assert [row["loss"] for row in again.rows] == [1.0, 2.0]


def test_a_deleted_journal_is_logged_and_stops_no_save(tmp_path, caplog):
    """`rm -rf RUN/wandb` during training."""
    run = Run()
    logger = make(tmp_path, run)
    train(logger, range(6))
    shutil.rmtree(tmp_path / "wandb")
    logger.sync()
    assert logger.state_dict() == {"rows": 0}
    train(logger, range(6, 9))
    state = logger.state_dict()
    logger.sync()
    assert caplog.text.count("history.jsonl was deleted, and not by this run") == 1
    resumed = make(tmp_path, Run(run.rows))
    resumed.load_state_dict(state)
    resumed.training_begins()
    train(resumed, range(9, 12))
    whole = Run()
    train(make(tmp_path / "whole", whole), range(12))
    assert names(resumed.experiment.rows) == names(whole.rows), "W&B has each row once"


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    logger = make(tmp_path, Run())
    train(logger, range(3))
    disk = Disk(tmp_path / "wandb", monkeypatch)
    logger.state_dict()
    assert disk.steps == []
    logger.sync()
    assert disk.steps == ["fsync history.jsonl", "fsync sent.jsonl"]


def test_a_shortened_journal_is_on_the_disk_before_it_replaces_the_longer_one(tmp_path, monkeypatch):
    lines = Lines(tmp_path / "journal.jsonl")
    for number in range(3):
        lines.add(number)
    disk = Disk(tmp_path, monkeypatch)
    lines.cut(2)
    assert disk.steps == ["fsync .journal.jsonl.tmp", "replace .journal.jsonl.tmp journal.jsonl", "fsync ."]


def test_an_offline_run_is_sent_later_and_only_once(tmp_path):
    offline = Run()
    train(make(tmp_path, offline), range(7))
    server = Run()
    later = make(tmp_path, server, mode="online")
    rows = list(read(later.journal.path))
    assert sum(later.deliver(row) for row in rows) == len(rows)
    again = make(tmp_path, Run(server.rows), mode="online")
    assert sum(again.deliver(row) for row in rows) == 0


@pytest.mark.parametrize("line", ["{}", "[]", "3", '["0", 4, "loss"]', '[0, [4], "loss"]', "null"])
def test_a_line_about_sent_rows_that_is_damaged_is_skipped(tmp_path, caplog, line):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "sent.jsonl").write_text(line + "\n")
    run = Run(before=[{"loss": 0.0}])
    make(tmp_path, run).log_metrics({"loss": 1.0}, 4)
    assert rows_of(run)[1:] == [{"loss": 1.0, "trainer/global_step": 4}]
    assert not caplog.records


def test_a_row_that_cannot_be_sent_is_logged_once_and_training_continues(tmp_path, caplog):
    class Dead(Run):
        def log(self, *args, **kwargs):
            raise ConnectionResetError("Connection lost")

    logger = make(tmp_path, Dead())
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    assert caplog.text.count("Connection lost") == 1
    assert logger.journal.count == 3


@pytest.mark.parametrize(("preempted", "expected"), [(True, ["preempting", 143]), (False, [143])])
@pytest.mark.parametrize("limit_s", [None, 60.0])
def test_the_exit_code_is_sent(tmp_path, preempted, expected, limit_s):
    run = Run()
    logger = make(tmp_path, run)
    if preempted:
        logger.preempt()
    assert logger.close(143, limit_s)
    assert logger.close(0)
    logger.preempt()
    assert run.ended == expected


def test_an_end_that_times_out_is_logged_with_the_command_that_sends_the_rest(tmp_path, caplog):
    class Slow(Run):
        def finish(self, exit_code):
            raise TimeoutError("Timed out finishing run.")  # as WANDB_FINISH_TIMEOUT_RAISES makes it

    assert not make(tmp_path, Slow()).close(0)
    assert "could not end its run (Timed out finishing run)" in caplog.text
    assert f"Send it with: python -m cairn sync {tmp_path}" in caplog.text


def test_an_end_that_hangs_is_abandoned(tmp_path, caplog):
    let_go, ended = threading.Event(), threading.Event()

    class Hangs(Run):
        def finish(self, exit_code):
            let_go.wait()
            ended.set()

    assert not make(tmp_path, Hangs()).close(0, limit_s=0.01)
    assert not ended.is_set()
    assert "could not end its run (it did not answer in time)" in caplog.text
    let_go.set()


def test_a_lost_row_means_that_not_everything_was_sent(tmp_path):
    class Deaf(Run):
        def log(self, *args, **kwargs):
            raise ConnectionResetError("Connection lost")

    logger = make(tmp_path, Deaf())
    assert not logger.deliver({"loss": 1.0, "trainer/global_step": 0})
    assert not logger.close(0)


@pytest.mark.parametrize(
    ("environment", "offline", "expected"),
    [(None, True, "offline"), (None, False, "online"), ("online", True, "online"), ("offline", False, "offline")],
)
def test_the_environment_wins(tmp_path, monkeypatch, environment, offline, expected):
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert WandbLogger(tmp_path, offline=offline, project="p", id="x").mode == expected


def test_a_run_that_wandb_refuses_goes_on_without_it(tmp_path, caplog, monkeypatch):
    """The client refuses a value, with and without a network."""
    tried, cleared = [], []
    logger = WandbLogger(tmp_path, offline=False, forget=lambda: cleared.append(1), project="p", id="x")

    def refuse(self):
        tried.append(self.mode)
        raise ValueError("Invalid project name 'a/b'.")

    monkeypatch.setattr(wandb.loggers.WandbLogger, "experiment", property(refuse))
    logger.log_hyperparams({"a": 1})
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    logger.load_state_dict(logger.state_dict())
    logger.training_begins()
    before = logger.version, logger.name
    logger.close(0)
    assert (tried, logger.mode, len(cleared)) == (["online", "offline"], "disabled", 2)
    assert caplog.text.count("W&B refuses this run (Invalid project name 'a/b')") == 1
    assert logger.journal.count == 3, "`cairn sync` may send it when the value is corrected"
    assert (before, logger.version, logger.name) == (("x", "p"), "x", "p")
    monkeypatch.delenv("WANDB_MODE")


def test_a_journal_that_cannot_be_written_is_logged_once(tmp_path, caplog):
    logger = make(tmp_path / "file", Run())
    (tmp_path / "file").write_text("in the way")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    assert caplog.text.count("could not write") == 1
    assert len(logger._experiment.rows) == 3


def test_files_are_in_the_run_directory_and_the_users_variables_win(tmp_path, monkeypatch):
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ERROR_REPORTING", "SILENT", "INIT_TIMEOUT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    monkeypatch.setenv("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "3")
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT_RAISES", raising=False)
    prepare(tmp_path, offline=True)
    assert os.environ["WANDB_FINISH_TIMEOUT_RAISES"] == "true"
    found = {name: os.environ[f"WANDB_{name}"] for name in ("DATA_DIR", "CACHE_DIR", "MODE", "FINISH_TIMEOUT")}
    own = tmp_path / "wandb"
    assert found == {
        "DATA_DIR": str(own),
        "CACHE_DIR": str(own / "cache"),
        "MODE": "offline",
        "FINISH_TIMEOUT": "7",
    }
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT")
    prepare(tmp_path, offline=False, finish_s=3600)
    assert os.environ["WANDB_FINISH_TIMEOUT"] == "3600"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
