"""What Hydra's configuration says about W&B becomes values, and an error names its key."""

import pytest
from omegaconf import OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.parse import wandb_settings
from cairn.trackers.settings import ArtifactSettings
from cairn.wandb import run as wandb_run
from cairn.wandb.logger import WandbLogger

OURS = "cairn.wandb.logger.WandbLogger"
ARTIFACTS = {"which": "all", "every": 1, "pruned": "delete", "queue": "1GB", "wait": "2min"}


def config(logger=None, artifacts=ARTIFACTS, triggers=None, **more):
    checkpoint = {"triggers": {"end": {}} if triggers is None else triggers, "artifacts": artifacts}
    node = {"_target_": OURS, "project": "${task_name}", **(logger or {})}
    return OmegaConf.create(
        {"task_name": "digits/cnn", "train": True, "logger": {"mine": node}, "checkpoint": checkpoint, **more}
    )


def test_values_are_read():
    found = wandb_settings.read(config({"name": "n", "tags": ["a"], "offline": False}))
    assert (found.project, found.name, found.tags, found.offline) == ("digits-cnn", "n", ("a",), False)
    assert found.artifacts == ArtifactSettings("all", 1, "delete", 10**9, 120.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"artifacts": {**ARTIFACTS, "pruned": "keep"}}, "keep"),
        ({"artifacts": {**ARTIFACTS, "pruned": None, "deleted": "untag"}}, "untag"),
        ({"artifacts": {**ARTIFACTS, "pruned": "keep", "deleted": "untag"}}, "keep"),
    ],
)
def test_the_old_key_of_deleted_is_read(changes, expected):
    assert wandb_settings.read(config(**changes)).artifacts.deleted == expected


def test_the_old_key_logs_a_warning(tmp_path, caplog):
    wandb_settings.prepare(config(artifacts={**ARTIFACTS, "pruned": "keep", "deleted": "delete"}), tmp_path)
    assert caplog.text.count("checkpoint.artifacts.pruned is the old name") == 1


@pytest.mark.parametrize("changes", [{"triggers": {}}, {"artifacts": None}])
def test_a_run_that_saves_nothing_uploads_nothing(changes):
    assert wandb_settings.read(config(**changes)).artifacts.which == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logger": {"project": "a/b"}}, "logger.mine.project='a/b' must have at most 128 characters"),
        ({"logger": {"tags": ["x" * 65]}}, "logger.mine.tags: 'x*' must have from 1 to 64 characters"),
        ({"artifacts": {**ARTIFACTS, "which": "some"}}, "checkpoint.artifacts.which='some' must be all, best, final"),
        ({"artifacts": {**ARTIFACTS, "every": 0}}, "checkpoint.artifacts.every=0 must be"),
        ({"artifacts": {**ARTIFACTS, "queue": "many"}}, "checkpoint.artifacts.queue"),
        ({"artifacts": {**ARTIFACTS, "wait": "long"}}, "checkpoint.artifacts.wait"),
    ],
)
def test_a_value_that_cannot_work_is_reported_with_its_key(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        wandb_settings.read(config(**changes))
    assert "\n" not in str(error.value)


def test_only_our_logger_gets_arguments(tmp_path):
    cfg = config(logger={"id": "own"})
    cfg.logger.csv = {"_target_": "x"}
    assert wandb_settings.logger_arguments(cfg, "mine", tmp_path, "r")["id"] == "own"
    assert wandb_settings.logger_arguments(cfg, "csv", tmp_path, "r") == {}
    del cfg.logger["mine"]
    assert wandb_settings.logger_arguments(cfg, "csv", tmp_path, "r") == {}


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"train": False}, True),
        ({"triggers": {}}, True),
        ({"artifacts": {**ARTIFACTS, "which": "none"}}, True),
        ({}, False),
    ],
)
def test_there_is_no_listener_where_there_is_nothing_to_upload(tmp_path, changes, given):
    loggers = [WandbLogger(tmp_path, project="p", id="x")] if given else []
    assert wandb_settings.listeners(config(**changes), loggers, tmp_path, {}) == []


def test_the_time_to_wait():
    assert wandb_settings.wait_s(config()) == 120
    assert wandb_settings.wait_s(config(artifacts=None)) == wandb_run.STOP_S, "of a run from before there was a choice"


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ({"project": "digits/cnn"}, "digits-cnn/r"),
        ({"project": "p", "entity": "e", "id": "named"}, "e/p/named"),
        ({"project": None, "entity": "e"}, "r"),  # whether W&B has put it into a project is not known
    ],
)
def test_what_wandb_calls_the_run_of_a_checkpoint(logger, expected):
    loggers = {"csv": {"_target_": "x"}, "w": {"_target_": OURS, **logger}}
    assert wandb_settings.known_as({"cairn": {"run": "r", "config": {"logger": loggers}}}) == expected


@pytest.mark.parametrize(
    "contents", [{}, {"cairn": {"run": "r", "config": {}}}, {"cairn": {"run": "r", "config": {"logger": None}}}]
)
def test_a_checkpoint_of_a_run_without_wandb_has_no_name_there(contents):
    assert wandb_settings.known_as(contents) == ""
