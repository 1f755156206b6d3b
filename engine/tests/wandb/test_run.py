"""What of a run's configuration W&B goes by."""

import os
import threading
from types import SimpleNamespace

import pytest
from lightning.pytorch import loggers
from omegaconf import OmegaConf

from cairn.runs.directory import Record, RunDirectory
from cairn.store.listener import UNTRACKED
from cairn.wandb import run as wandb_run
from cairn.wandb.logger import WandbLogger

OURS = "cairn.wandb.logger.WandbLogger"
THEIRS = "lightning.pytorch.loggers.WandbLogger"


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ({"wandb": {"_target_": OURS}}, OURS),
        ({"csv": {"_target_": "x"}, "any_name": {"_target_": OURS}}, OURS),
        ({"wandb": {"_target_": THEIRS}}, None),  # one from before there was ours, or somebody's choice
        ({}, None),
    ],
)
def test_our_logger_is_known_by_its_class(logger, expected):
    found = wandb_run.node(OmegaConf.create({"logger": logger}))
    assert (found and found._target_) == expected


def test_a_run_without_a_sweep_has_its_id_and_what_is_configured(tmp_path):
    directory = RunDirectory(tmp_path)
    (tmp_path / "wandb").mkdir()
    found = wandb_run.own(OmegaConf.create({"id": None, "name": "mine", "group": None}), "r1", directory)
    assert (found["id"], found["name"], found["group"]) == ("r1", "mine", None)
    later = wandb_run.own(OmegaConf.create({"id": "own", "name": None}), "r1", directory)
    assert (later["id"], later["name"]) == ("own", "mine"), "what it was called before"


@pytest.mark.parametrize(
    ("task_name", "expected"),
    [("digits/cnn", "digits-cnn"), ("a:b#c%d?e\\f", "a-b-c-d-e-f"), ("x" * 200, "x" * 125 + "..."), ("train", "train")],
)
def test_a_project_that_is_called_like_the_task_is_one_that_wandb_takes(tmp_path, task_name, expected):
    found = wandb_run.own(OmegaConf.create({"project": task_name}), "r1", RunDirectory(tmp_path))
    assert found["project"] == expected


def started_from(**facts):
    return {"started_from": {"how": "ckpt_path", "named": "wandb:e/p/model-r:best", "run": "r", "step": 3} | facts}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (started_from(version="e/p/model-r:v3"), ["e/p/model-r:v3"]),  # whatever `best` is today
        (started_from(), ["e/p/model-r:best"]),  # of a run from before that was noted
        (started_from(named="/runs/1/last.ckpt"), ["own/proj/model-r:step-3"]),
        (started_from(named="/runs/1/last.ckpt", known_as="named"), ["own/proj/model-named:step-3"]),
        (started_from(named="/runs/1/last.ckpt", known_as="their/r"), ["own/their/model-r:step-3"]),
        (started_from(named="/runs/1/last.ckpt", known_as="a/their/r"), ["a/their/model-r:step-3"]),
        (started_from(named="/somewhere/theirs.ckpt", run=""), []),
    ],
)
@pytest.mark.parametrize("triggers", [{"end": {}}, {}])
@pytest.mark.parametrize("which", ["none", "all"])
def test_where_a_run_starts_from_is_noted_whatever_it_tracks(tmp_path, monkeypatch, facts, expected, triggers, which):
    from cairn.wandb import artifacts as tracking

    made = []
    monkeypatch.setattr(tracking, "WandbTracker", lambda *args: made.append(args))
    group = {"triggers": triggers, "artifacts": {"which": which, "every": 1, "pruned": "delete", "queue": None}}
    cfg = OmegaConf.create({"train": True, "checkpoint": {**group, "dirpath": str(tmp_path)}})
    logger = WandbLogger(tmp_path, project="p", id="x")
    logger.mode, logger._experiment = "online", SimpleNamespace(entity="own", project="proj")
    wandb_run.tracker(cfg, [logger], RunDirectory(tmp_path), facts)
    ((_, _, wishes, uses),) = made
    assert uses == expected
    assert wishes.which == (which if triggers else "none")


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ({"project": "digits/cnn"}, "digits-cnn/r"),
        ({"project": "p", "entity": "e", "id": "named"}, "e/p/named"),
        ({"project": None, "entity": "e"}, "r"),  # there is no telling whether W&B has put it into one
    ],
)
def test_what_wandb_calls_the_run_of_a_checkpoint(logger, expected):
    contents = {
        "cairn": {"run": "r", "config": {"logger": {"csv": {"_target_": "x"}, "w": {"_target_": OURS, **logger}}}}
    }
    assert wandb_run.known_as(contents) == expected


@pytest.mark.parametrize(
    "contents", [{}, {"cairn": {"run": "r", "config": {}}}, {"cairn": {"run": "r", "config": {"logger": None}}}]
)
def test_of_a_checkpoint_that_wandb_never_heard_of_there_is_no_name(contents):
    assert wandb_run.known_as(contents) == ""


@pytest.mark.parametrize("changes", [{"triggers": {}}, {"artifacts": {"which": "none"}}])
@pytest.mark.parametrize("pruned", ["keep", "untag", "delete"])
def test_a_resume_that_tracks_nothing_does_with_what_is_there_what_was_wished(tmp_path, monkeypatch, changes, pruned):
    from cairn.wandb import artifacts as tracking

    made = []
    monkeypatch.setattr(tracking, "WandbTracker", lambda *args: made.append(args))
    artifacts = {"which": "all", "every": 1, "pruned": pruned, "queue": None} | changes.get("artifacts", {})
    group = {"triggers": changes.get("triggers", {"end": {}}), "artifacts": artifacts, "dirpath": str(tmp_path)}
    logger = WandbLogger(tmp_path, project="p", id="x")
    logger.mode, logger._experiment = "online", SimpleNamespace(entity="own", project="proj")
    cfg = OmegaConf.create({"train": True, "checkpoint": group})
    wandb_run.tracker(cfg, [logger], RunDirectory(tmp_path), started_from())
    ((_, _, wishes, _),) = made
    assert (wishes.which, wishes.pruned) == ("none", pruned)


def test_what_lies_in_wandb_is_fetched_once_and_its_version_is_kept(tmp_path, monkeypatch):
    from cairn.wandb import artifacts as tracking

    asked, directory = [], RunDirectory(tmp_path)

    def download(named, into):
        asked.append(named)
        into.mkdir(parents=True)
        (into / "a.ckpt").write_text("x")
        return into / "a.ckpt", "e/p/model-r:v3"

    monkeypatch.setattr(tracking, "download", download)
    named = "wandb:e/p/model-r:best"
    assert wandb_run.version(named, directory) == wandb_run.version("/a/file.ckpt", directory) == ""
    paths = {wandb_run.local(named, directory) for _ in range(2)}
    assert [path.read_text() for path in paths] == ["x"]
    assert (asked, wandb_run.version(named, directory)) == (["e/p/model-r:best"], "e/p/model-r:v3")
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)


def test_one_process_of_a_run_notes_what_wandb_is_told(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    given = OmegaConf.create({"id": None, "name": "mine", "project": "p"})
    monkeypatch.setattr(wandb_run.rank_zero_only, "rank", 1)
    wandb_run.own(given, "r1", RunDirectory(tmp_path))
    assert list((tmp_path / "wandb").iterdir()) == []
    monkeypatch.setattr(wandb_run.rank_zero_only, "rank", 0)
    wandb_run.own(given, "r1", RunDirectory(tmp_path))
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["run.json"]


def test_a_note_that_cannot_be_written_does_not_stop_a_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "wandb").mkdir()

    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb_run.disk, "put", fail)
    wandb_run.own(OmegaConf.create({"name": "mine"}), "r1", RunDirectory(tmp_path))
    assert "run.json cannot be written (No space left on device)" in caplog.text


def test_nobody_tracks_where_wandb_does_not_take_the_run(tmp_path, monkeypatch):
    logger = WandbLogger(tmp_path, project="p", id="x", forget=lambda: None)
    monkeypatch.setattr(loggers.WandbLogger, "experiment", property(lambda self: 1 / 0))
    cfg = OmegaConf.create({"train": True, "checkpoint": {"triggers": {"end": {}}, "artifacts": {"which": "all"}}})
    assert wandb_run.tracker(cfg, [logger], RunDirectory(tmp_path), {}) is UNTRACKED


def test_where_a_run_started_from_is_not_forgotten_at_a_resume(tmp_path):
    (tmp_path / "wandb").mkdir()
    told = []
    logger = WandbLogger(tmp_path, project="p", id="x")
    logger.log_hyperparams = told.append
    wandb_run.introduce(RunDirectory(tmp_path), [logger], {"seed": 1}, {"started_from": {"run": "r"}, "command": "a"})
    wandb_run.introduce(RunDirectory(tmp_path), [logger], {"seed": 1}, {"command": "b"})
    assert told[1] == {"seed": 1, "run": {"started_from": {"run": "r"}, "command": "b"}}


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
def test_who_was_stopped_by_somebody_else_is_preempted(stopped_by, expected):
    assert wandb_run.is_preempted(stopped_by) is expected


class Clock:
    """Time passes when somebody waits."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Slow(WandbLogger):
    """Of W&B, which takes all the time that it is given."""

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
        seen.append(("tracker", finished, limit_s))
        clock.now_s += min(limit_s, takes_s)

    return SimpleNamespace(close=close)


WAITS = OmegaConf.create({"checkpoint": {"artifacts": {"wait": "10min"}}})


@pytest.mark.parametrize("stopped_by", ["SIGTERM", "SIGUSR1", "SIGINT", "job_time_limit"])
@pytest.mark.parametrize("takes_s", [0.0, 3.0, 1e9])
def test_who_was_stopped_ends_in_time_whatever_hangs(tmp_path, stopped_by, takes_s):
    """The job is requeued only after it, and SIGKILL may come first."""
    seen, clock = [], Clock()
    given, how = [Slow(tmp_path, seen, clock)], wandb_run.Ending(143, stopped_by)
    wandb_run.end(WAITS, waits(seen, clock, takes_s), given, how, clock)
    assert clock.now_s == 100.0 + wandb_run.STOP_S, "in all"
    assert seen[:-2] == (["preempted"] if stopped_by != "SIGINT" else []), "before anything is waited for"
    (_, finished, first_s), (code, second_s) = seen[-2:]
    assert (finished, code) == (False, 143)
    assert second_s >= 2, "something is left for the history, and the exit code"
    assert first_s + 2 == wandb_run.STOP_S


@pytest.fixture
def client(monkeypatch):
    from cairn.wandb import artifacts as tracking

    seen = []
    process = SimpleNamespace(kill=lambda: seen.append("killed"))
    connection = SimpleNamespace(_proc=SimpleNamespace(_process=process))
    monkeypatch.setattr(tracking.wandb.sdk.wandb_setup, "_singleton", SimpleNamespace(_connection=connection))
    monkeypatch.setattr(tracking, "forget", lambda: seen.append("forgotten"))
    return seen


def test_who_was_stopped_does_not_wait_for_a_client_that_hangs(tmp_path, caplog, client):
    let_go, clock = threading.Event(), Clock()
    logger = WandbLogger(tmp_path, project="p", id="x")
    theirs = loggers.WandbLogger(project="p", experiment=SimpleNamespace(finish=lambda exit_code: let_go.wait()))
    logger._experiment = SimpleNamespace(finish=lambda exit_code: let_go.wait(), mark_preempting=lambda: None)

    def close(finished, limit_s):
        clock.now_s += wandb_run.STOP_S

    how = wandb_run.Ending(143, "SIGTERM")
    wandb_run.end(WAITS, SimpleNamespace(close=close), [logger, theirs], how, clock)
    assert caplog.text.count("could not be ended (there was no more time)") == 2
    assert client == ["killed", "forgotten"], "the end of the process would wait for it"
    let_go.set()


@pytest.mark.parametrize("stopped_by", ["SIGTERM", ""])
def test_a_client_that_ends_in_time_is_left_in_peace(tmp_path, client, stopped_by):
    logger = WandbLogger(tmp_path, project="p", id="x")
    logger._experiment = SimpleNamespace(finish=lambda exit_code: None, mark_preempting=lambda: None)
    wandb_run.end(WAITS, UNTRACKED, [logger], wandb_run.Ending(1, stopped_by))
    assert client == []


def setup_of(*names, holds=None):
    """What W&B's client keeps of itself, as far as these private names lead."""
    for name in reversed(names):
        holds = SimpleNamespace(**{name: holds})
    return holds


@pytest.mark.parametrize("names", [(), ("_connection",), ("_connection", "_proc")])
def test_a_client_that_somebody_else_has_started_is_not_killed(monkeypatch, caplog, names):
    from cairn.wandb import artifacts as tracking

    monkeypatch.setattr(tracking.wandb.sdk.wandb_setup, "_singleton", setup_of(*names))
    assert not tracking.kill()
    assert caplog.text == ""


@pytest.mark.parametrize("known", [None, (), ("_connection",), ("_connection", "_proc")])
def test_a_client_that_cannot_be_told_is_left_alone_with_a_sentence(monkeypatch, caplog, known):
    """A later wandb may call all of it differently; see `test_the_clients_process_is_where_this_wandb_has_it`."""
    from cairn.wandb import artifacts as tracking

    if known is None:
        monkeypatch.delattr(tracking.wandb.sdk.wandb_setup, "_singleton")
    else:
        there = setup_of(*known, holds=SimpleNamespace(other="names"))
        monkeypatch.setattr(tracking.wandb.sdk.wandb_setup, "_singleton", there)
    assert not tracking.kill()
    assert caplog.text.count("its client could not be ended") == 1


@pytest.mark.parametrize("own", [True, False])
def test_a_finished_run_does_not_wait_for_a_client_that_did_not_end_in_its_time(tmp_path, caplog, client, own):
    """W&B's limit was over, which `finish` tells; at the end of the process there would be none."""

    def finish(exit_code):
        raise TimeoutError("Timed out finishing run.")

    logger = WandbLogger(tmp_path, project="p", id="x") if own else loggers.WandbLogger(project="p")
    logger._experiment = SimpleNamespace(finish=finish)
    wandb_run.end(WAITS, UNTRACKED, [logger], wandb_run.Ending(0, finished=True))
    assert caplog.text.count("could not be ended (Timed out finishing run)") == 1
    assert client == ["killed", "forgotten"]


def test_a_run_that_comes_to_its_end_waits_for_uploads(tmp_path):
    seen, clock = [], Clock()
    how = wandb_run.Ending(0, finished=True)
    wandb_run.end(WAITS, waits(seen, clock), [Slow(tmp_path, seen, clock)], how, clock)
    assert seen == [("tracker", True, 600.0), (0, None)]


def test_a_tracker_that_fails_does_not_keep_a_run_from_being_ended(tmp_path):
    seen, clock = [], Clock()
    with pytest.raises(ZeroDivisionError):
        wandb_run.end(
            WAITS,
            SimpleNamespace(close=lambda finished, limit_s: 1 / 0),
            [Slow(tmp_path, seen, clock)],
            wandb_run.Ending(1),
            clock,
        )
    assert seen == [(1, None)]


def test_lightnings_own_logger_is_ended_too():
    ended = []
    logger = loggers.WandbLogger(
        project="p", experiment=SimpleNamespace(finish=lambda exit_code: ended.append(exit_code))
    )
    wandb_run.end(WAITS, UNTRACKED, [logger], wandb_run.Ending(1))
    assert ended == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": False},
        {"checkpoint": {"triggers": {}}},
        {"checkpoint": {"artifacts": {"which": "none"}}},
        {"loggers": []},
    ],
)
def test_nobody_tracks_where_there_is_nothing_to_track(tmp_path, changes):
    given = changes.pop("loggers", [WandbLogger(tmp_path, project="p", id="x")])
    cfg = {"train": True, "checkpoint": {"triggers": {"end": {}}, "artifacts": {"which": "all"}}}
    cfg = OmegaConf.merge(cfg, changes)
    if changes.get("checkpoint", {}).get("triggers") == {}:
        cfg.checkpoint.triggers = {}
    assert wandb_run.tracker(cfg, given, RunDirectory(tmp_path), {}) is UNTRACKED


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
def test_a_sync_says_how_the_run_ended(status, why, expected):
    assert wandb_run._exit_code(Record("r", "t", status=status, why=why)) == expected


def test_who_was_stopped_waits_less(tmp_path):
    cfg = OmegaConf.create({"checkpoint": {"artifacts": {"wait": "10min"}}})
    assert (wandb_run.wait_s(cfg, stopped=False), wandb_run.wait_s(cfg, stopped=True)) == (600, 10)
