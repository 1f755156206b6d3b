"""The function in train.py: what it may do between the steps, and what is done however it ends."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from cairn.errors import CairnError, ConfigError, SaveError
from cairn.hydra.run import build, ending, environment, session
from cairn.hydra.run.outcome import describe, outcome_of
from cairn.hydra.run.session import Run
from cairn.hydra.run.start import JobContext, Start
from cairn.jobs.signals import Interruption, Interrupts
from cairn.lightning.loops.calls import Stopped
from cairn.lightning.torchrun import Attempt, TorchrunEnvironment
from cairn.policy.patience import Patience
from cairn.run.directory import RunDirectory
from cairn.store.resume import ResumePoint
from cairn.types import PAUSE
from cairn.wandb import run as wandb_run


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A start whose body is all that is executed."""
    monkeypatch.setattr(build, "prepare", lambda start: None)
    checkpoint = SimpleNamespace(watchdog=Patience())
    settings = SimpleNamespace(
        checkpoint=checkpoint, config={}, train=True, test=True, optimized_metric="val/loss", predict=False
    )
    return Start(RunDirectory(tmp_path), settings, "r", ResumePoint(None), JobContext(Interrupts()))


@pytest.fixture
def built(monkeypatch):
    """The trainer that `run.trainer()` returns."""
    built = SimpleNamespace(
        trainer=SimpleNamespace(loggers=[], is_global_zero=False), checkpoints=SimpleNamespace(listeners=[])
    )
    monkeypatch.setattr(build, "trainer", lambda start, callbacks, options: built)
    return built


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (0, wandb_run.ExitStatus(1)),
        (signal.SIGTERM, wandb_run.ExitStatus(143, "SIGTERM")),
        (signal.SIGUSR2, wandb_run.ExitStatus(140, "SIGUSR2")),
        (signal.SIGINT, wandb_run.ExitStatus(1)),
    ],
)
def test_wandb_gets_the_end_of_a_run_that_an_error_has_ended(monkeypatch, start, built, received, expected):
    ended = []

    def body(run):
        run.trainer()
        start.context.signals.received = received
        raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")

    monkeypatch.setattr(wandb_run, "end", lambda listeners, loggers, status, *limits, **more: ended.append(status))
    outcome = session.execute(start, body)
    assert ended == [expected]
    named = "DataLoader worker (pid 7)" if expected.stopped_by else "A data worker (process 7)"
    assert str(outcome.error).startswith(named)


def test_trackers_learn_that_a_run_has_paused(monkeypatch, start, built):
    ended = []
    monkeypatch.setattr(wandb_run, "end", lambda listeners, loggers, status, *limits, **more: ended.append(status))

    def body(run):
        run.trainer()
        run._limit = PAUSE

    assert session.execute(start, body).status == "paused"
    assert ended == [wandb_run.ExitStatus(0, paused=True)]


def test_the_run_is_recorded_before_wandb_is_waited_for(monkeypatch, start, built):
    order = []
    monkeypatch.setattr(RunDirectory, "end", lambda self, *outcome: order.append(outcome))
    monkeypatch.setattr(wandb_run, "end", lambda *_, **more: order.append("W&B"))

    def body(run):
        run.trainer()
        run._metrics = {"val/loss": 0.5}
        return run.result()

    outcome = session.execute(start, body)
    assert order == [("finished", "", 0.5), "W&B"]
    assert (outcome.result, outcome.metrics) == (0.5, {"val/loss": 0.5})


def test_a_number_in_a_tensor_is_a_result(start):
    outcome = session.execute(start, lambda run: torch.tensor(0.5))
    assert (type(outcome.result), outcome.result) == (float, 0.5)


def test_an_error_before_the_trainer_is_built_is_recorded(monkeypatch, start):
    recorded = []
    monkeypatch.setattr(RunDirectory, "end", lambda self, *outcome: recorded.append(outcome))

    def body(run):
        raise ValueError("no such file")

    session.execute(start, body)
    assert recorded == [("failed", "ValueError: no such file", None)]


def test_another_trainer_than_that_of_the_run_is_refused(start, built):
    run = Run(start)
    run.trainer()
    with pytest.raises(CairnError, match=r"This trainer does not save .*run\.trainer\(\)"):
        run.fit(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), None)


def test_a_metric_that_was_not_logged_is_named(start):
    run = Run(start)
    run._metrics = {"val/acc": 1.0}
    with pytest.raises(CairnError, match=r"optimized_metric='val/loss' was not logged. Logged metrics: val/acc\."):
        run.result()


@pytest.mark.parametrize(
    ("error", "signal_name", "is_alone", "expected"),
    [
        (SaveError("disk full"), None, True, SystemExit),
        (SaveError("disk full"), None, False, SaveError),
        (ValueError("x"), None, True, ValueError),
        (ValueError("x"), "SIGTERM", True, Interruption),
        (Stopped("SIGTERM", None), "SIGTERM", True, Interruption),
        (SystemExit(3), None, True, SystemExit),
    ],
)
def test_how_the_process_exits(tmp_path, error, signal_name, is_alone, expected):
    with pytest.raises(expected) as left:
        ending.leave(outcome_of(error, signal_name), RunDirectory(tmp_path), is_alone)
    assert type(left.value) is expected
    if expected is SystemExit:
        assert left.value.code == (3 if isinstance(error, SystemExit) else 1)


@pytest.mark.parametrize("kind", [ConfigError, SaveError])
def test_a_job_of_a_sweep_raises_its_error_in_the_words_of_the_configuration(tmp_path, kind):
    error = kind("directory=/x holds checkpoints of another run.", parameter="directory")
    with pytest.raises(kind) as left:
        ending.leave(outcome_of(error, None), RunDirectory(tmp_path), is_alone=False)
    assert str(left.value) == describe(left.value) == "checkpoint.dirpath=/x holds checkpoints of another run."


@pytest.mark.parametrize(
    ("error", "received", "expected"),
    [
        (None, 0, None),
        (Stopped("SIGTERM", None), signal.SIGTERM, None),
        (SaveError("disk full"), 0, None),
        (KeyboardInterrupt(), signal.SIGTERM, Interruption),
        (ValueError("x"), signal.SIGTERM, ValueError),
        (ValueError("x"), 0, ValueError),
        (ConfigError("x"), 0, SystemExit),  # with a sentence in place of a stack trace
    ],
)
def test_another_process_of_the_run_exits_with_an_error_only_if_it_failed_alone(
    monkeypatch, start, error, received, expected
):
    start.context.signals.received = received
    monkeypatch.setattr(session, "follow", lambda *facts: start)

    def body(run):
        if error is not None:
            raise error

    def join():
        session.join(body, start.context, "config.yaml", "r", None)

    if expected is None:
        join()
    else:
        with pytest.raises(expected):
            join()


def test_the_next_job_of_a_sweep_meets_at_the_store_of_torchrun_again(monkeypatch):
    environ = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": "1"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with environment.restored():
        os.environ["MASTER_PORT"] = str(TorchrunEnvironment(Attempt("a", 5)).main_port)
        assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    assert {name: os.environ[name] for name in environ} == environ


def test_predictions_that_train_py_does_not_write_are_reported(start, caplog):
    start.settings.predict = True
    session.execute(start, lambda run: None)
    assert "predict=true has no effect, because train.py does not call run.predict(" in caplog.text
