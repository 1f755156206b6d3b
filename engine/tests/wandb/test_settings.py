"""What a run says about W&B is checked when it is read."""

import pytest
import yaml
from tests.support.paths import ROOT

from cairn.errors import ConfigError
from cairn.targets import resolve
from cairn.trackers.settings import ArtifactSettings
from cairn.wandb import WandbLogger, settings
from cairn.wandb.settings import WandbSettings, logger_key, project_name, stored

OURS = "cairn.wandb.logger.WandbLogger"
BEFORE = "cairn.logging.wandb.WandbLogger"
LIGHTNINGS = "lightning.pytorch.loggers.WandbLogger"


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ({"wandb": {"_target_": OURS}}, "wandb"),
        ({"wandb": {"_target_": BEFORE}}, "wandb"),
        ({"csv": {"_target_": "x"}, "any_name": {"_target_": OURS}}, "any_name"),
        ({"wandb": {"_target_": LIGHTNINGS}}, None),
        ({"wandb": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_our_logger_is_known_by_its_class(logger, expected):
    assert logger_key({"logger": logger}) == expected


@pytest.mark.parametrize(
    ("task_name", "expected"),
    [("digits/cnn", "digits-cnn"), ("a:b#c%d?e\\f", "a-b-c-d-e-f"), ("x" * 200, "x" * 125 + "..."), ("train", "train")],
)
def test_a_task_name_becomes_a_project_that_wandb_accepts(task_name, expected):
    assert project_name(task_name) == WandbSettings(project=project_name(task_name)).project == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"project": "a/b"}, "project='a/b' must have at most 128 characters, and none of /"),
        ({"project": "x" * 129}, "project='x*' must have at most 128 characters"),
        ({"tags": ("dev", "x" * 65)}, "tags: 'x*' must have from 1 to 64 characters"),
        ({"tags": ("",)}, "tags: '' must have from 1 to 64 characters"),
    ],
)
def test_what_wandb_refuses_is_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        WandbSettings(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"which": "some"}, "which='some' must be all, best, final or none"),
        ({"deleted": "forget"}, "deleted='forget' must be delete, untag or keep"),
        ({"every": 0}, "every=0 must be an integer from 1"),
        ({"every": True}, "every=True must be an integer from 1"),
        ({"every": 1.5}, "every=1.5 must be an integer from 1"),
        ({"queue_bytes": -1}, "queue_bytes=-1 must be a size in bytes"),
        ({"wait_s": float("nan")}, "wait_s=nan must be a time in seconds"),
    ],
)
def test_a_value_that_cannot_work_is_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message):
        ArtifactSettings(**values)


@pytest.mark.parametrize(
    ("artifacts", "expected"),
    [
        (None, ArtifactSettings()),
        ({"which": "best", "every": 2, "pruned": "keep"}, ArtifactSettings("best", 2, "keep")),
        ({"which": "best", "every": 2, "deleted": "keep"}, ArtifactSettings("best", 2, "keep")),
    ],
)
def test_stored_settings_of_any_age_are_read(artifacts, expected):
    node = {"_target_": OURS, "tags": "one", "save_dir": "x", "notes": "n"}
    found = stored({"logger": {"wandb": node}, "checkpoint": {"artifacts": artifacts} if artifacts else {}})
    assert (found.artifacts, found.tags, found.more) == (expected, ("one",), {"notes": "n"})


@pytest.mark.parametrize("name", sorted(settings._TARGETS))
def test_each_name_of_our_logger_is_still_the_class(name):
    assert resolve(name) is WandbLogger


def test_the_logger_of_the_template_is_known_by_its_name():
    node = yaml.safe_load((ROOT / "configs" / "logger" / "wandb.yaml").read_text())
    assert settings.logger_key({"logger": node}) == "wandb"
