"""Which processes can restore a checkpoint, and which loggers get their state back."""

from types import SimpleNamespace

import pytest

from cairn.errors import ResumeError, SaveError
from cairn.lightning import capture, state


class Remembers:
    def __init__(self):
        self.state = None

    def state_dict(self):
        return {"rows": 3}

    def load_state_dict(self, state):
        self.state = state


class AlsoRemembers(Remembers):
    pass


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_the_same_number_of_processes_can_restore(num_ranks):
    capture.check({"format": state.FORMAT, "ranks": [{}] * num_ranks}, num_ranks)


@pytest.mark.parametrize(("saved", "here"), [(1, 2), (2, 1), (4, 0)])
def test_a_different_number_of_processes_is_refused_with_both_numbers_and_a_solution(saved, here):
    message = rf"saved by {saved} processes, but this run has {here}\. .*devices or num_nodes.*weights alone"
    with pytest.raises(ResumeError, match=message):
        capture.check({"format": state.FORMAT, "ranks": [{}] * saved}, here)


def test_a_later_format_is_refused_with_both_numbers():
    message = rf"format {state.FORMAT + 1}, but this version of Cairn reads formats up to {state.FORMAT}"
    with pytest.raises(ResumeError, match=message):
        capture.check({"format": state.FORMAT + 1, "ranks": [{}]}, 1)


def test_loggers_are_synced_and_a_failed_sync_fails_the_save():
    synced = []
    one, forgetful, full = Remembers(), object(), AlsoRemembers()
    one.sync = lambda: synced.append(1)
    capture.sync_loggers(SimpleNamespace(loggers=[forgetful, one, full]))  # one of them has no `sync`
    assert synced == [1]

    def fail():
        raise OSError(28, "No space left on device")

    full.sync = fail
    with pytest.raises(SaveError, match="metrics up to this checkpoint could not be written: No space left"):
        capture.sync_loggers(SimpleNamespace(loggers=[full]))


def test_each_logger_gets_its_state_back_by_class_and_number():
    one, other, forgetful = Remembers(), AlsoRemembers(), object()
    trainer = SimpleNamespace(loggers=[forgetful, one, other])
    capture.restore_loggers(
        trainer, {"loggers": {"Remembers 0": {"rows": 1}, "Remembers 1": {"rows": 2}, "Gone 0": {"rows": 9}}}
    )
    assert (one.state, other.state) == ({"rows": 1}, None)
