"""Which loggers get their state back, and what a failure to write costs."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from cairn.errors import SaveError
from cairn.lightning.logs import loggers


class Remembers:
    def __init__(self):
        self.state = None

    def state_dict(self):
        return {"rows": 3}

    def load_state_dict(self, state):
        self.state = state


class AlsoRemembers(Remembers):
    pass


def test_loggers_are_synced_and_a_failed_sync_fails_the_save():
    synced = []
    one, forgetful, full = Remembers(), object(), AlsoRemembers()
    one.sync = lambda: synced.append(1)
    loggers.sync(SimpleNamespace(loggers=[forgetful, one, full]))  # one of them has no `sync`
    assert synced == [1]

    def fail():
        raise OSError(28, "No space left on device")

    full.sync = fail
    with pytest.raises(SaveError, match="metrics up to this checkpoint could not be written: No space left"):
        loggers.sync(SimpleNamespace(loggers=[full]))


def test_each_logger_gets_its_state_back_by_class_and_number():
    one, other, forgetful = Remembers(), AlsoRemembers(), object()
    trainer = SimpleNamespace(loggers=[forgetful, one, other])
    with pytest.warns(match="builtins's object has no state .* is logged again"):
        loggers.restore(trainer, {"Remembers 0": {"rows": 1}, "Remembers 1": {"rows": 2}, "Gone 0": {"rows": 9}})
    assert (one.state, other.state) == ({"rows": 1}, None)


def test_a_mock_of_a_logger_has_no_state_and_a_wrapper_of_one_has():
    wrapper = Mock()
    wrapper.state_dict.return_value = {"rows": 3}
    trainer = SimpleNamespace(loggers=[Mock(), wrapper])
    assert loggers.states(trainer) == {"Mock 1": {"rows": 3}}


def test_a_logger_that_cannot_resume_is_named_once_and_one_that_writes_nothing_is_not():
    first, second = (TableLogger() for _ in range(2))
    with pytest.warns(match=r"TableLogger has no state .* stays there, and is logged again") as caught:
        loggers.restore(SimpleNamespace(loggers=[first, second, DummyLogger(), Remembers()]), {})
    assert len(caught) == 1


class TableLogger(LightningCSVLogger):
    def __init__(self):
        super().__init__("unused")
