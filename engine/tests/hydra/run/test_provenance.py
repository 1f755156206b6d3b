"""Origin of a run, as its loggers record it."""

import subprocess
import sys

import pytest

from cairn.hydra.run import provenance
from cairn.hydra.run.provenance import StartedFrom


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_the_commit_is_marked_when_files_differ_from_it(repository):
    commit = provenance.git_commit(repository)
    assert len(commit) == 40
    (repository / "file").write_text("two")
    assert provenance.git_commit(repository) == f"{commit}+"


def test_outside_of_a_repository_the_commit_is_empty(tmp_path):
    assert provenance.git_commit(tmp_path) == ""


def test_loggers_get_the_facts_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "model=mlp", "tags=[a b]"])
    facts = provenance.facts(tmp_path, "abc+", 12, None)
    assert facts["command"].endswith("train.py model=mlp 'tags=[a b]'")
    assert (facts["git_commit"], facts["git_dirty"], facts["num_parameters"]) == ("abc", True, 12)
    assert "started_from" not in facts
    start = StartedFrom("ckpt_path", "wandb:e/p/m:best", "r", 7, "e/p/m:v3", "p/r")
    found = provenance.facts(tmp_path, "abc", 12, start, ("model=mlp",))
    expected = {"how": "ckpt_path", "named": "wandb:e/p/m:best", "run": "r", "step": 7}
    expected |= {"version": "e/p/m:v3", "known_as": "p/r"}
    assert (found["started_from"], found["overrides"]) == (expected, ["model=mlp"])


@pytest.mark.parametrize(
    ("ckpt_path", "init_weights", "contents", "expected"),
    [
        ("a.ckpt", None, {"cairn": {"run": "r", "position": {"step": 5}}}, StartedFrom("ckpt_path", "a.ckpt", "r", 5)),
        (None, "b.ckpt", {}, StartedFrom("init_weights", "b.ckpt")),
    ],
)
def test_a_run_names_the_checkpoint_that_it_started_from(ckpt_path, init_weights, contents, expected):
    assert provenance.started_from(ckpt_path, init_weights, contents) == expected
