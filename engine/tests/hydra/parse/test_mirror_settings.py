"""What Hydra's configuration says about the mirror becomes values, and an error names its key."""

import pytest
from omegaconf import OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.parse import mirror_settings
from cairn.remote.settings import MirrorSettings

KEYS = {"mirror_every": 3, "mirror_keep": 5, "mirror_queue": "1GB", "mirror_wait": "2min", "mirror_grace": "30s"}


def group(**changes):
    return OmegaConf.create({"triggers": {"end": {}}, **changes})


def config(tmp_path, train=True, **changes):
    paths = {"log_dir": str(tmp_path)}
    return OmegaConf.create({"train": train, "paths": paths, "checkpoint": group(**changes)})


def test_values_are_read():
    assert mirror_settings.read(group(**KEYS)) == MirrorSettings(3, 5, 10**9, 120.0, 30.0)


@pytest.mark.parametrize(("value", "expected"), [(None, None), (-1, -1), ("all", -1), (2, 2)])
def test_what_the_mirror_keeps(value, expected):
    assert mirror_settings.read(group(mirror_keep=value)).keep == expected


def test_a_run_from_before_there_were_mirrors_has_none(tmp_path):
    assert mirror_settings.read(group()) == MirrorSettings()
    assert mirror_settings.listeners(config(tmp_path), tmp_path / "a") == []
    assert mirror_settings.limits_s(config(tmp_path)) == (0.0, 0.0)
    assert mirror_settings.limits_s(OmegaConf.create({})) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mirror_every": 0}, "checkpoint.mirror_every=0 must be an integer from 1"),
        ({"mirror_keep": "some"}, "checkpoint.mirror_keep='some' must be an integer from 1, -1 for all, or None"),
        ({"mirror_queue": "much"}, "checkpoint.mirror_queue: "),
        ({"mirror_wait": "long"}, "checkpoint.mirror_wait"),
        ({"mirror_grace": -1}, "checkpoint.mirror_grace"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes, words):
    with pytest.raises(ConfigError) as caught:
        mirror_settings.read(group(**changes))
    assert words in str(caught.value)


def test_the_address_of_a_run_follows_from_its_directory(tmp_path):
    made = config(tmp_path, mirror="memory://bucket/mine", **KEYS)
    (found,) = mirror_settings.listeners(made, tmp_path / "train" / "runs" / "a")
    assert str(found.address) == "memory://bucket/mine/train/runs/a"
    assert found.run_directory == tmp_path / "train" / "runs" / "a"
    assert found.settings == MirrorSettings(3, 5, 10**9, 120.0, 30.0)
    assert found.grace_s == 30.0
    assert mirror_settings.limits_s(made) == (120.0, 30.0)


@pytest.mark.parametrize("changes", [{"train": False}, {"triggers": {}}])
def test_a_run_that_saves_nothing_mirrors_nothing(tmp_path, changes):
    made = config(tmp_path, mirror="memory://bucket", **changes)
    assert mirror_settings.listeners(made, tmp_path / "a") == []
