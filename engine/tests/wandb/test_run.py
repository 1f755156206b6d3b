"""A run and W&B: names, facts, which checkpoints it uploads, and how it ends."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import loggers

from cairn.store.listener import Listeners
from cairn.trackers.settings import ArtifactSettings
from cairn.wandb import client as wandb_client
from cairn.wandb import notes
from cairn.wandb import run as wandb_run
from cairn.wandb.logger import WandbLogger
from cairn.wandb.run import ExitStatus, SweepJob
from cairn.wandb.settings import WandbSettings

WAIT_S = 600.0


def test_a_run_outside_of_a_sweep_has_its_id_and_the_configured_names(tmp_path):
    (tmp_path / "wandb").mkdir()
    found = wandb_run.logger_arguments(WandbSettings(name="mine"), tmp_path, "r1")
    assert (found["id"], found["name"], found["group"]) == ("r1", "mine", None)
    later = wandb_run.logger_arguments(WandbSettings(id="own"), tmp_path, "r1")
    assert (later["id"], later["name"]) == ("own", "mine"), "the name that it had before"


@pytest.mark.parametrize(
    ("settings", "special", "expected"),
    [
        (WandbSettings(), ["seed=1", "model=mlp"], ("seed=1 model=mlp", "day-sweep")),
        (WandbSettings(), ["seed=" + "1" * 200], ("seed=" + "1" * 120 + "...", "day-sweep")),
        (WandbSettings(), [], ("run", "day-sweep")),
        (WandbSettings(name="mine", group="ours"), ["seed=1"], ("mine", "ours")),
    ],
)
def test_a_job_of_a_sweep_is_named_by_what_is_special(tmp_path, settings, special, expected):
    found = wandb_run.logger_arguments(settings, tmp_path / "run", "r", SweepJob(Path("/runs/day/sweep"), special))
    assert (found["name"], found["group"]) == expected


def started_from(**facts):
    return {"started_from": {"how": "ckpt_path", "named": "/runs/1/last.ckpt", "run": "r", "step": 3} | facts}


@pytest.fixture
def logger(tmp_path):
    made = WandbLogger(tmp_path, project="p", id="x")
    made.mode, made._experiment = "online", SimpleNamespace(entity="own", project="proj")
    return made


@pytest.mark.parametrize("which", ["none", "all"])
@pytest.mark.parametrize("deleted", ["keep", "untag", "delete"])
def test_what_a_run_starts_from_is_recorded_whatever_it_uploads(tmp_path, logger, which, deleted):
    found = wandb_run.artifacts(ArtifactSettings(which, deleted=deleted), [logger], tmp_path, started_from())
    assert found._uses == ["own/proj/model-r:step-3"]
    assert (found.settings.which, found.settings.deleted) == (which, deleted)


def test_a_version_names_its_commit_and_its_start(tmp_path, logger):
    facts = {**started_from(), "git_commit": "abc", "command": "x"}
    found = wandb_run.artifacts(ArtifactSettings(), [logger], tmp_path, facts)
    assert found._facts == {**started_from(), "git_commit": "abc"}


@pytest.mark.parametrize("has_logger", [True, False])
def test_no_listener_is_made_where_there_is_nothing_to_upload(tmp_path, has_logger):
    given = [WandbLogger(tmp_path, project="p", id="x")] if has_logger else []
    settings = ArtifactSettings("none" if has_logger else "all")
    assert wandb_run.artifacts(settings, given, tmp_path, {}) is None


def test_no_listener_is_made_where_wandb_refuses_the_run(tmp_path, monkeypatch):
    logger = WandbLogger(tmp_path, project="p", id="x", forget=lambda: None)
    monkeypatch.setattr(loggers.WandbLogger, "experiment", property(lambda self: 1 / 0))
    assert wandb_run.artifacts(ArtifactSettings(), [logger], tmp_path, {}) is None


def test_one_process_of_a_run_writes_the_notes(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(notes.rank_zero_only, "rank", 1)
    wandb_run.logger_arguments(WandbSettings(name="mine"), tmp_path, "r1")
    assert list((tmp_path / "wandb").iterdir()) == []
    monkeypatch.setattr(notes.rank_zero_only, "rank", 0)
    wandb_run.logger_arguments(WandbSettings(name="mine"), tmp_path, "r1")
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["run.json"]


def test_notes_that_cannot_be_written_do_not_stop_a_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "wandb").mkdir()

    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notes.disk, "put", fail)
    wandb_run.logger_arguments(WandbSettings(name="mine"), tmp_path, "r1")
    assert "run.json ([Errno 28] No space left on device)" in caplog.text


def test_what_a_run_started_from_is_remembered_when_it_resumes(tmp_path):
    (tmp_path / "wandb").mkdir()
    sent = []
    logger = WandbLogger(tmp_path, project="p", id="x")
    logger.log_hyperparams = sent.append
    wandb_run.log_run(tmp_path, [logger], {"seed": 1}, {"started_from": {"run": "r"}, "command": "a"})
    wandb_run.log_run(tmp_path, [logger], {"seed": 1}, {"command": "b"})
    assert sent[1] == {"seed": 1, "run": {"started_from": {"run": "r"}, "command": "b"}}


@pytest.mark.parametrize(
    ("stopped_by", "expected"),
    [
        ("", False),
        ("SIGINT", False),
        ("max_time", False),
        ("SIGTERM", True),
        ("SIGUSR2", True),
        ("job_time_limit", True),
    ],
)
def test_a_run_that_its_user_did_not_stop_is_preempted(stopped_by, expected):
    assert wandb_run.is_preempted(stopped_by) is expected


class Clock:
    """A clock that goes on when something waits."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Slow(WandbLogger):
    """Takes all the time that it is given."""

    def __init__(self, folder, seen, clock):
        super().__init__(folder, project="p", id="x")
        self.seen, self.clock = seen, clock

    def preempt(self):
        self.seen.append("preempted")

    def close(self, exit_code, limit_s=None):
        self.seen.append((exit_code, limit_s))
        self.clock.now_s += limit_s or 0


def waits(seen, clock, takes_s=1e9):
    def close(finished, limit_s):
        seen.append(("listeners", finished, limit_s))
        clock.now_s += min(limit_s, takes_s)

    return SimpleNamespace(close=close)


@pytest.mark.parametrize("stopped_by", ["SIGTERM", "SIGUSR1", "SIGINT", "job_time_limit"])
@pytest.mark.parametrize("takes_s", [0.0, 3.0, 1e9])
def test_a_stopped_run_ends_in_time_even_if_everything_hangs(tmp_path, stopped_by, takes_s):
    """The job is requeued only afterwards, and SIGKILL may come first."""
    seen, clock = [], Clock()
    given, status = [Slow(tmp_path, seen, clock)], ExitStatus(143, stopped_by)
    wandb_run.end(waits(seen, clock, takes_s), given, status, WAIT_S, clock)
    assert clock.now_s == 100.0 + wandb_run.STOP_S, "in all"
    assert seen[:-2] == (["preempted"] if stopped_by != "SIGINT" else []), "before anything that waits"
    (_, finished, first_s), (code, second_s) = seen[-2:]
    assert (finished, code) == (False, 143)
    assert second_s >= 2, "time is left for the history and the exit code"
    assert first_s + 2 == wandb_run.STOP_S


@pytest.fixture
def client(monkeypatch):
    seen = []
    process = SimpleNamespace(kill=lambda: seen.append("killed"))
    connection = SimpleNamespace(_proc=SimpleNamespace(_process=process))
    monkeypatch.setattr(wandb_client.wandb.sdk.wandb_setup, "_singleton", SimpleNamespace(_connection=connection))
    monkeypatch.setattr(wandb_client, "forget", lambda: seen.append("forgotten"))
    return seen


def test_a_stopped_run_does_not_wait_for_a_client_that_hangs(tmp_path, caplog, client):
    let_go, clock = threading.Event(), Clock()
    logger = WandbLogger(tmp_path, project="p", id="x")
    theirs = loggers.WandbLogger(project="p", experiment=SimpleNamespace(finish=lambda exit_code: let_go.wait()))
    logger._experiment = SimpleNamespace(finish=lambda exit_code: let_go.wait(), mark_preempting=lambda: None)

    def close(finished, limit_s):
        clock.now_s += wandb_run.STOP_S

    status = ExitStatus(143, "SIGTERM")
    wandb_run.end(SimpleNamespace(close=close), [logger, theirs], status, WAIT_S, clock)
    assert caplog.text.count("could not end its run (it did not answer in time)") == 2
    assert client == ["killed", "forgotten"], "the end of the process would wait for the client"
    let_go.set()


@pytest.mark.parametrize("stopped_by", ["SIGTERM", ""])
def test_a_client_that_ends_in_time_is_not_killed(tmp_path, client, stopped_by):
    logger = WandbLogger(tmp_path, project="p", id="x")
    logger._experiment = SimpleNamespace(finish=lambda exit_code: None, mark_preempting=lambda: None)
    wandb_run.end(Listeners(), [logger], ExitStatus(1, stopped_by), WAIT_S)
    assert client == []


def setup_of(*names, holds=None):
    """The private names of W&B's client that lead to its process."""
    for name in reversed(names):
        holds = SimpleNamespace(**{name: holds})
    return holds


@pytest.mark.parametrize("names", [(), ("_connection",), ("_connection", "_proc")])
def test_a_client_of_another_process_is_not_killed(monkeypatch, caplog, names):
    monkeypatch.setattr(wandb_client.wandb.sdk.wandb_setup, "_singleton", setup_of(*names))
    assert not wandb_client.kill()
    assert caplog.text == ""


@pytest.mark.parametrize("known", [None, (), ("_connection",), ("_connection", "_proc")])
def test_a_client_of_another_version_is_not_killed_and_that_is_logged(monkeypatch, caplog, known):
    """Another wandb may have other names, see `test_the_clients_process_is_where_this_wandb_has_it`."""
    if known is None:
        monkeypatch.delattr(wandb_client.wandb.sdk.wandb_setup, "_singleton")
    else:
        there = setup_of(*known, holds=SimpleNamespace(other="names"))
        monkeypatch.setattr(wandb_client.wandb.sdk.wandb_setup, "_singleton", there)
    assert not wandb_client.kill()
    assert caplog.text.count("could not end its client") == 1


@pytest.mark.parametrize("own", [True, False])
def test_a_finished_run_kills_a_client_that_did_not_end_in_time(tmp_path, caplog, client, own):
    """`finish` raises when W&B's limit is over; at the end of the process there would be no limit."""

    def finish(exit_code):
        raise TimeoutError("Timed out finishing run.")

    logger = WandbLogger(tmp_path, project="p", id="x") if own else loggers.WandbLogger(project="p")
    logger._experiment = SimpleNamespace(finish=finish)
    wandb_run.end(Listeners(), [logger], ExitStatus(0, finished=True), WAIT_S)
    assert caplog.text.count("could not end its run (Timed out finishing run)") == 1
    assert client == ["killed", "forgotten"]


def test_a_finished_run_waits_for_uploads(tmp_path):
    seen, clock = [], Clock()
    wandb_run.end(waits(seen, clock), [Slow(tmp_path, seen, clock)], ExitStatus(0, finished=True), WAIT_S, clock)
    assert seen == [("listeners", True, WAIT_S), (0, None)]


def test_a_run_is_ended_even_if_its_listeners_fail(tmp_path):
    seen, clock = [], Clock()
    fails = SimpleNamespace(close=lambda finished, limit_s: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wandb_run.end(fails, [Slow(tmp_path, seen, clock)], ExitStatus(1), WAIT_S, clock)
    assert seen == [(1, None)]


def test_lightnings_own_logger_is_ended_as_well():
    ended = []
    logger = loggers.WandbLogger(
        project="p", experiment=SimpleNamespace(finish=lambda exit_code: ended.append(exit_code))
    )
    wandb_run.end(Listeners(), [logger], ExitStatus(1), WAIT_S)
    assert ended == [1]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ExitStatus(0, finished=True), "finished"),
        (ExitStatus(0), "finished"),  # by `trainer.max_time`: as planned
        (ExitStatus(0, paused=True), "paused"),
        (ExitStatus(143, "SIGTERM"), "stopped"),
        (ExitStatus(1), "failed"),
    ],
)
def test_a_run_that_ended_as_planned_has_not_failed(status, expected):
    assert status.word == expected
