"""What a run starts from: a checkpoint in W&B is fetched once, and the version is recorded."""

import os

import pytest

from cairn.wandb import client, start


def test_a_checkpoint_in_wandb_is_fetched_once_and_its_version_is_kept(tmp_path, monkeypatch):
    asked = []

    def download(named, into):
        asked.append(named)
        into.mkdir(parents=True)
        (into / "a.ckpt").write_text("x")
        return into / "a.ckpt", "e/p/model-r:v3"

    monkeypatch.setattr(client, "download", download)
    named = "wandb:e/p/model-r:best"
    assert start.fetched_version(named, tmp_path) == start.fetched_version("/a/file.ckpt", tmp_path) == ""
    paths = {start.local_file(named, tmp_path) for _ in range(2)}
    assert [path.read_text() for path in paths] == ["x"]
    assert (asked, start.fetched_version(named, tmp_path)) == (["e/p/model-r:best"], "e/p/model-r:v3")
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb")


def test_a_path_is_itself(tmp_path):
    assert str(start.local_file("/a/file.ckpt", tmp_path)) == "/a/file.ckpt"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"version": "e/p/model-r:v3"}, "e/p/model-r:v3"),  # whatever `best` is today
        ({}, "e/p/model-r:best"),  # of a run from before versions were noted
        ({"named": "/runs/1/last.ckpt"}, "own/proj/model-r:step-3"),
        ({"named": "/runs/1/last.ckpt", "known_as": "named"}, "own/proj/model-named:step-3"),
        ({"named": "/runs/1/last.ckpt", "known_as": "their/r"}, "own/their/model-r:step-3"),
        ({"named": "/runs/1/last.ckpt", "known_as": "a/their/r"}, "a/their/model-r:step-3"),
        ({"named": "/somewhere/theirs.ckpt", "run": ""}, ""),
    ],
)
def test_the_artifact_that_a_run_has_started_from(facts, expected):
    started_from = {"how": "ckpt_path", "named": "wandb:e/p/model-r:best", "run": "r", "step": 3} | facts
    assert start.used_artifact(started_from, "own", "proj") == expected
