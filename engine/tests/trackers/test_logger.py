"""A logger with a journal: what its tracker has after kills, resumes, refused starts and rows before the training."""

import argparse

import pytest
import torch
from tests.support.trackers import MemoryStore, values

from cairn.trackers.identity import Identity
from cairn.trackers.logger import RowLogger

LIMIT_S = 60.0


class Logger(RowLogger):
    tracker = name = "It"

    def __init__(self, folder, store):
        super().__init__(folder, store, Identity(folder, "x"))


@pytest.fixture
def store():
    return MemoryStore()


def start(folder, store, position=None):
    """Return the logger of an attempt whose training has begun."""
    logger = Logger(folder / "it", store)
    if position is not None:
        logger.load_state_dict(position)
    logger.training_begins()
    return logger


def log(logger, *steps):
    for step in steps:
        logger.log_metrics({"loss": torch.tensor(1.0 / (step + 1), dtype=torch.float64)}, step)


def steps(store):
    return [step for step, _ in values(store.rows)]


def end(logger, status="finished"):
    logger.is_closed_by_run = True
    logger.finalize("success")  # by Lightning
    logger.close(status, LIMIT_S)


def kill(logger):
    """What was logged has been sent: the worst case for the next attempt."""
    assert logger.connected(LIMIT_S)


def test_each_call_is_a_row_with_its_step(tmp_path, store):
    logger = start(tmp_path, store)
    logger.log_metrics({"loss": torch.tensor(3.0), "picture": object(), "epoch": 0}, 4)
    logger.log_metrics({"val/loss": 2.0})
    end(logger)
    assert values(store.rows) == [(4, {"loss": 3.0, "epoch": 0}), (None, {"val/loss": 2.0})]
    assert store.ended == ["finished"]


@pytest.mark.parametrize("saved", range(5))
def test_a_resumed_run_has_each_row_once(tmp_path, store, saved):
    first = start(tmp_path, store)
    log(first, *range(saved))
    position = first.state_dict()
    log(first, *range(saved, 5))
    kill(first)
    second = start(tmp_path, store, position)
    log(second, *range(saved, 7))
    end(second)
    assert steps(store) == list(range(7))
    assert second.state_dict()["rows"] == 7


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path, store):
    first = start(tmp_path, store)
    log(first, 0, 1, 2)
    kill(first)
    second = start(tmp_path, store)
    log(second, 0, 1)
    end(second)
    assert steps(store) == [0, 1]


def test_a_start_that_is_refused_changes_nothing(tmp_path, store):
    first = start(tmp_path, store)
    log(first, 0, 1, 2)
    end(first, "stopped")
    before, content = store.num_connected, first.journal.path.read_bytes()
    refused = Logger(tmp_path / "it", store)
    refused.load_state_dict({"rows": 1})
    refused.log_hyperparams({"a": 1})
    end(refused, "failed")
    assert (steps(store), store.ended, store.num_connected) == ([0, 1, 2], ["stopped"], before)
    assert first.journal.path.read_bytes() == content


def test_rows_before_the_training_stay_in_a_new_run_and_go_in_a_resumed_one(tmp_path, store):
    first = Logger(tmp_path / "it", store)
    first.log_metrics({"val/loss": 5.0}, 0)
    first.finalize("success")  # trainer.validate() has ended
    assert values(store.rows) == [(0, {"val/loss": 5.0})]
    first.training_begins()
    log(first, 1)
    position = first.state_dict()
    log(first, 2)
    kill(first)
    second = Logger(tmp_path / "it", store)
    second.log_metrics({"val/loss": 4.0}, 1)
    second.finalize("success")
    second.load_state_dict(position)
    second.training_begins()
    log(second, 2)
    end(second)
    assert values(store.rows) == [(0, {"val/loss": 5.0}), (1, {"loss": 0.5}), (2, {"loss": 1 / 3})]


def test_without_a_checkpointer_rows_are_sent_during_the_training_as_well(tmp_path, store):
    logger = Logger(tmp_path / "it", store)
    log(logger, *range(150))
    assert logger.connected(LIMIT_S)
    assert steps(store) == list(range(150))
    logger.finalize("success")


def test_a_position_that_is_given_twice_removes_what_was_logged_in_between(tmp_path, store):
    first = start(tmp_path, store)
    log(first, 0)
    position = first.state_dict()
    kill(first)
    second = Logger(tmp_path / "it", store)
    second.load_state_dict(position)  # when it is built
    second.log_metrics({"val/loss": 4.0}, 1)
    assert second.connected(LIMIT_S)
    second.load_state_dict(position)  # by fit
    second.training_begins()
    log(second, 1)
    end(second)
    assert values(store.rows) == [(0, {"loss": 1.0}), (1, {"loss": 0.5})]


def test_without_a_run_around_it_the_end_of_a_fit_ends_the_run(tmp_path, store):
    logger = start(tmp_path, store)
    log(logger, 0)
    logger.log_hyperparams(argparse.Namespace(width=3))
    logger.finalize("failed")
    assert (steps(store), store.ended, store.config) == ([0], ["failed"], {"width": 3})


def test_a_row_that_cannot_be_written_is_named_and_training_continues(tmp_path, store, caplog, monkeypatch):
    logger = start(tmp_path, store)

    def full(row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logger.journal, "add", full)
    log(logger, 0, 1)
    end(logger)
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        f"It: could not write {logger.journal.path} (No space left on device). Training continues; this message is "
        f"logged once."
    ]


def test_rows_that_did_not_arrive_are_named_at_the_end_and_sent_by_the_next_start(tmp_path, store, caplog):
    first = start(tmp_path, store)
    store.fails = -1
    log(first, 0, 1)
    position = first.state_dict()
    end(first, "stopped")
    assert "It does not have all rows of this run" in caplog.text
    assert steps(store) == []
    store.fails = 0
    second = start(tmp_path, store, position)
    log(second, 2)
    end(second)
    assert steps(store) == [0, 1, 2]
