"""How a run ends, and what of that its loggers are told."""

import signal
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from cairn.hydra import session
from cairn.hydra.session import Job, Plan
from cairn.jobs.signals import StopSignals
from cairn.store.listener import Listeners
from cairn.wandb import run as wandb_run


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (0, wandb_run.ExitStatus(1)),
        (signal.SIGTERM, wandb_run.ExitStatus(143, "SIGTERM")),
        (signal.SIGUSR2, wandb_run.ExitStatus(140, "SIGUSR2")),
        (signal.SIGINT, wandb_run.ExitStatus(1)),
    ],
)
def test_an_error_that_a_signal_has_caused_is_no_failure(monkeypatch, received, expected):
    """SIGTERM for a whole group ends the workers of the data first, so that an error comes before any boundary."""
    signals, ended = StopSignals(), []
    signals.received = received
    engine = SimpleNamespace(listeners=Listeners())
    parts = SimpleNamespace(signals=signals, engine=engine, trainer=SimpleNamespace(loggers=[]))

    def fail(*args):
        raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")

    monkeypatch.setattr(session, "build", lambda *args: parts)
    monkeypatch.setattr(session, "_introduce", lambda *args: None)
    monkeypatch.setattr(session, "_fit", fail)
    monkeypatch.setattr(wandb_run, "end", lambda listeners, loggers, status, wait_s: ended.append(status))
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        session._train(OmegaConf.create({}), None, "r", Plan(None), None, Job(signals))
    assert ended == [expected]
