"""What `cairn sync` reads of a run directory."""

import json
import os
from types import SimpleNamespace

import pytest
import yaml
from tests.support.values import commit

from cairn.errors import ConfigError, ResumeError
from cairn.store import names
from cairn.wandb import sync as syncing
from cairn.wandb.environment import prepare
from cairn.wandb.sync import read_run

LOGGER = {"_target_": "cairn.wandb.logger.WandbLogger", "project": "digits/cnn", "offline": True, "notes": "mine"}


@pytest.fixture
def run(tmp_path):
    then = "/elsewhere/run"
    checkpoint = {"dirpath": f"{then}/checkpoints", "monitor": "val/loss", "mode": "min"}
    config = {"logger": {"mine": LOGGER}, "checkpoint": checkpoint, "paths": {"output_dir": then}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run.json").write_text(json.dumps({"id": "r", "task_name": "t", "overrides": []}))
    return tmp_path


def test_a_run_directory_that_was_moved_is_read(run):
    found = read_run(run)
    assert (found.id, found.checkpoints) == ("r", run / "checkpoints")
    assert (found.settings.project, found.settings.more) == ("digits-cnn", {"notes": "mine"})
    assert found.settings.artifacts.which == "all", "of a run from before there was a choice"


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
def test_the_exit_code_that_wandb_is_sent(run, status, why, expected):
    (run / "run.json").write_text(json.dumps({"id": "r", "status": status, "why": why}))
    assert read_run(run).exit_code == expected


def test_a_run_without_our_logger_is_refused(run):
    (run / "config.yaml").write_text(yaml.safe_dump({"logger": {"csv": {"_target_": "x"}}}))
    with pytest.raises(ResumeError, match="has no W&B logger in its configuration"):
        read_run(run)


@pytest.mark.parametrize("text", ["{", "[]", ""])
@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_damaged_run_directory_is_one_sentence(run, name, text):
    (run / name).write_text(text)
    with pytest.raises(ResumeError, match="is not the directory of a run that can be read") as error:
        read_run(run)
    assert "\n" not in str(error.value)


def changed(run, change):
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_run_directory_names_no_server_that_gets_the_api_key(run):
    more = {"settings": {"base_url": "http://x"}, "dir": "/else", "self": 1, "prefix": 5}
    changed(run, lambda config: config["logger"]["mine"].update(more))
    assert read_run(run).settings.more == {"notes": "mine"}


PLACES = {
    "a file": (lambda path: path.write_text(""), "cannot be made"),
    "a FIFO": (os.mkfifo, "cannot be made"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "is a link"),
    "a link to a folder": (lambda path: path.symlink_to(path.parent.parent), "is a link"),
}


@pytest.mark.parametrize(("make", "why"), PLACES.values(), ids=PLACES)
def test_what_is_in_the_place_of_the_folder_of_wandb_is_one_sentence(tmp_path, make, why):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / "wandb")
    with pytest.raises(ConfigError, match=rf"run/wandb {why}"):
        prepare(tmp_path / "run", offline=True)


@pytest.mark.parametrize(("mode", "best"), [("min", 0), ("max", 1), ("odd", None), (["min"], None), (None, 0)])
@pytest.mark.parametrize("facts", [{"git_commit": "abc"}, 5, None])
def test_odd_values_of_a_run_directory_do_not_end_in_a_traceback(run, monkeypatch, mode, best, facts):
    def change(config):
        config["checkpoint"].update(mode=mode)
        if mode is None:
            del config["checkpoint"]["mode"]

    changed(run, change)
    (run / "wandb").mkdir()
    (run / "wandb" / "run.json").write_text(json.dumps({"facts": facts}))
    saved = [commit(run / "checkpoints", number, score).name for number, score in enumerate([0.1, 0.2])]
    seen, sent = [], []

    class Artifacts:
        def __init__(self, *_, facts, **__):
            sent.append(facts)

        def opened(self, directory, kept, links, deleted):
            seen.append(links[names.BEST])

        def close(self, *_):
            pass

    client = SimpleNamespace(entity="e", project="p", id="r")
    logger = SimpleNamespace(experiment=client, close=lambda code: True, deliver=lambda row: True)
    monkeypatch.setattr(syncing, "Artifacts", Artifacts)
    monkeypatch.setattr(syncing.client, "versions", lambda artifact: [])
    found = syncing._sync_checkpoints(read_run(run), logger, 0, syncing._facts(run), 1.0)
    assert (found.run, len(found.states), sent) == ("e/p/r", 2, [facts if isinstance(facts, dict) else {}])
    assert seen == [None if best is None else saved[best]]
