"""The schemas of the library's own keys accept what its parser accepts, and nothing else."""

import jsonschema
import pytest
import yaml
from omegaconf import OmegaConf

from cairn.errors import CairnError
from cairn.hydra.parse import settings
from cairn.hydra.schema import files, library
from cairn.policy import pause

BASE = {**yaml.safe_load((files.LIBRARY / "checkpoint" / "base.yaml").read_text()), "save_interval": 50}
VALUES = {
    "mode": ["min", "max", "low", None, 1],
    "monitor": ["val/loss", None],
    "save_interval": [
        *(50, "50", "200ba", "100st", "90s", "10min", "2h", "0.25ep", "1.5h", "auto", " 5 st ", 0, -1, "0ep", "1.5ba"),
        *("1.5", "5x", "often", True, None, 2.5, []),
    ],
    "max_overhead": [0.01, 0.5, 0, 1, "0.1", -0.5, True],
    "mtbf": [None, 60, "8h", "90 s", "1:00:00:00", "0s2", "-1h", "soon"],
    "keep_last": [1, 5, -1, 0, -2, "3", 1.5],
    "save_top_k": [1, -1, 0, -2, "all"],
    "audit": ["warn", "error", "off", False, True, "on", None],
    "watchdog": ["auto", "off", False, None, "30min", 600, 0.5, "often", True],
    "max_failed_saves": [1, 3, -1, 0, "3", True],
    "writer": ["auto", "process", "thread", "sync", "none", None],
    "buffers": [1, 2, 0, 3, "2", True],
    "when_busy": ["skip", "wait", "stop"],
    "sharded": ["auto", True, False, "true", None],
    "overlap": [True, False, 1, "yes"],
    "mirror_every": [1, 3, 0, "1", True],
    "mirror_keep": [None, 1, -1, "all", 0, -2, "1"],
    "mirror_queue": [None, 100, "50GB", "1.5 gib", 0, "0 GB", "much", -1],
    "mirror_wait": ["10min", 30, 0, "later", None],
    "mirror_grace": ["10s", 30, "x"],
}
ARTIFACTS = {
    "which": ["all", "best", "final", "none", "some", None],
    "every": [1, 2, 0, "1"],
    "queue": [None, "50GB", 10, "x"],
    "wait": ["10min", 5, "x"],
}


def is_accepted(group):
    triggers = {"end": {"_target_": "cairn.AtEnd"}}
    cfg = OmegaConf.create({**group, "dirpath": "x", "triggers": triggers, "keep": {}})
    try:
        settings._checkpoint(cfg)
    except CairnError:
        return False
    return True


@pytest.mark.parametrize("key", VALUES)
def test_a_key_of_checkpoint(key):
    validator = jsonschema.Draft7Validator(library.CHECKPOINT[key])
    for value in VALUES[key]:
        accepted = is_accepted({**BASE, key: value})
        assert validator.is_valid(value) is accepted, f"{key}={value!r}"


@pytest.mark.parametrize("key", ARTIFACTS)
def test_a_key_of_artifacts(key):
    validator = jsonschema.Draft7Validator(library.ARTIFACTS[key])
    for value in ARTIFACTS[key]:
        accepted = is_accepted({**BASE, "artifacts": {**BASE["artifacts"], key: value}})
        assert validator.is_valid(value) is accepted, f"{key}={value!r}"


def test_each_key_of_the_files_has_a_schema():
    known = {*library.CHECKPOINT, *library.OBJECTS, "artifacts"}
    assert BASE.keys() <= known
    assert BASE["artifacts"].keys() <= library.ARTIFACTS.keys()


def test_each_key_that_has_a_schema_has_values_in_this_test():
    assert library.CHECKPOINT.keys() - VALUES.keys() == {"dirpath", "mirror"}


PAUSES = [
    None,
    "3ep",
    "0.5ep",
    " 200st ",
    500,
    "500",
    "500ba",
    "10min",
    "1.5h",
    0,
    "0ep",
    "1.5st",
    "3epp",
    1.5,
    True,
    "",
]


@pytest.mark.parametrize("value", PAUSES)
def test_where_a_run_pauses(value):
    try:
        accepted = value is None or bool(pause.parse(value))
    except CairnError:
        accepted = False
    assert jsonschema.Draft7Validator(library.TOP["pause_at"]).is_valid(value) is accepted
