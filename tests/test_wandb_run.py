"""What of a run's configuration W&B goes by."""

from types import SimpleNamespace

import pytest
from lightning.pytorch import loggers
from omegaconf import OmegaConf

from cairn import wandb_run
from cairn.checkpoint.tracker import UNTRACKED
from cairn.logging.wandb import WandbLogger
from cairn.rundir import Record, RunDirectory

OURS = "cairn.logging.wandb.WandbLogger"
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


def test_our_logger_is_told_how_it_ended(tmp_path):
    logger = WandbLogger(tmp_path, project="p", id="x")
    seen = []
    logger.close = lambda code, preempted: seen.append((code, preempted))
    wandb_run.close([logger], 143, preempted=True)
    assert seen == [(143, True)]


def test_lightnings_own_logger_is_ended_too():
    ended = []
    logger = loggers.WandbLogger(
        project="p", experiment=SimpleNamespace(finish=lambda exit_code: ended.append(exit_code))
    )
    wandb_run.close([logger], 1, preempted=False)
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
