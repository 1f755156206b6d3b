"""What differs between two runs."""

import pytest
from tests.support.listed_runs import make

from cairn.errors import ResumeError
from cairn.overview import difference
from cairn.overview.facts import RunFacts
from cairn.overview.run_config import ABSENT


def facts(path, **what):
    return RunFacts(make(path, **what))


def test_equal_runs_in_two_directories_do_not_differ(tmp_path):
    code = {"git": "abc", "torch": "2.13.0"}
    rows = [{"step": 1, "val/loss": "nan"}]
    first = facts(tmp_path / "1", rows=rows, score=0.5, provenance=code)
    second = facts(tmp_path / "2", rows=rows, score=0.5, provenance=code)
    found = difference.between(first, second)
    assert {*found.result} <= {"duration_s", "goodput"}  # until now, for both
    assert (found.config, found.versions, found.code) == ({}, {}, ("abc", "abc"))


def test_keys_versions_and_results_that_differ_are_named(tmp_path):
    group = {"dirpath": str(tmp_path / "elsewhere"), "monitor": None, "mode": "min"}
    config = {"model": {"optimizer": {"lr": 0.5}, "net": {"bias": 0}}, "checkpoint": group}
    rows = [{"step": 1, "val/loss": 0.5, "val/acc": 0.25}]
    first = facts(tmp_path / "1", rows=rows, score=0.5, provenance={"git": "abc+", "torch": "2.13.0"})
    second = facts(tmp_path / "2", rows=[{"step": 1, "val/loss": 1.5}], config=config, status="failed", why="NaN")
    found = difference.between(first, second)
    assert found.config == {
        "model.optimizer.lr": (1e-3, 0.5),
        "model.net.channels": ([16, 32], ABSENT),
        "model.net.bias": (False, 0),
        "checkpoint.dirpath": ("RUN/checkpoints", str(tmp_path / "elsewhere")),
        "checkpoint.monitor": ("val/loss", None),
    }
    assert found.code == ("abc+", "")
    assert found.versions == {}  # of the second, none are known
    wanted = {"status": ("finished", "failed"), "why": (ABSENT, "NaN"), "best": (0.5, ABSENT)}
    assert {name: found.result[name] for name in wanted} == wanted
    assert (found.result["val/loss"], found.result["val/acc"]) == ((0.5, 1.5), (0.25, ABSENT))


def test_the_commit_is_that_of_the_newest_start(tmp_path):
    without_checkpoint = facts(tmp_path / "1", git="abc+")
    resumed = facts(tmp_path / "2", score=0.5, provenance={"git": "abc"}, git="def")
    assert difference.between(without_checkpoint, resumed).code == ("abc+", "def")


def test_a_configuration_that_cannot_be_read_is_an_error(tmp_path):
    first, second = facts(tmp_path / "1"), facts(tmp_path / "2")
    (second.path / "config.yaml").write_text("a: [")
    with pytest.raises(ResumeError, match=r"2/config\.yaml cannot be read"):
        difference.between(first, second)
