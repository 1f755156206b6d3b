"""Where a run comes from, as its loggers are told."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from cairn.hydra import command_line, provenance
from cairn.hydra.provenance import Start


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setenv(command_line.ROOT, str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_the_commit_says_whether_files_differ_from_it(repository):
    commit = provenance.git_commit()
    assert len(commit) == 40
    (repository / "file").write_text("two")
    assert provenance.git_commit() == f"{commit}+"


def test_outside_of_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv(command_line.ROOT, str(tmp_path))
    assert provenance.git_commit() == ""


def test_facts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "model=mlp", "tags=[a b]"])
    facts = provenance.facts(tmp_path, "abc+", 12, None)
    assert facts["command"].endswith("train.py model=mlp 'tags=[a b]'")
    assert (facts["git_commit"], facts["git_dirty"], facts["num_parameters"]) == ("abc", True, 12)
    assert "started_from" not in facts
    start = Start("ckpt_path", "wandb:e/p/m:best", "r", 7, "e/p/m:v3", "p/r")
    found = provenance.facts(tmp_path, "abc", 12, start, ("model=mlp",))
    told = {"how": "ckpt_path", "named": "wandb:e/p/m:best", "run": "r", "step": 7}
    told |= {"version": "e/p/m:v3", "known_as": "p/r"}
    assert (found["started_from"], found["overrides"]) == (told, ["model=mlp"])


@pytest.mark.parametrize(
    ("given", "contents", "expected"),
    [
        (
            {"ckpt_path": "a.ckpt"},
            {"cairn": {"run": "r", "position": {"step": 5}}},
            Start("ckpt_path", "a.ckpt", "r", 5),
        ),
        ({"ckpt_path": None, "init_weights": "b.ckpt"}, {}, Start("init_weights", "b.ckpt")),
    ],
)
def test_a_start_names_the_run_of_its_checkpoint(given, contents, expected):
    assert provenance.start(OmegaConf.create(given), contents) == expected
