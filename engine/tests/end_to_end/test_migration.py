"""docs/migration.md, followed step by step on a project in the layout of lightning-hydra-template."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.support import page_steps
from tests.support.command import Process
from tests.support.equality import Outcome, differences, outcome
from tests.support.paths import ENGINE, ROOT
from tests.support.project import NAME

import cairn
from cairn.store.catalog import Catalog

LAYOUT = ENGINE / "tests" / "support" / "hydra_layout"
PAGE = (ENGINE / "docs" / "migration.md").read_text()
KEEP = page_steps.section(PAGE, "Keep the project, and add the library")
MOVE = page_steps.section(PAGE, "Move into the template")
KILL = "+callbacks.kill._target_=tests.support.callbacks.KillAt"
KILLED = {"CAIRN_TEST_KILL": "saved:60"}
"""In the third of four epochs of 24 batches."""


def train(
    project: Path, script: str, run: str, *more: str, expect: int = 0, fresh: bool = False, **variables: str
) -> str:
    """Run the command of the page with another run directory; its output."""
    (words,) = [words for words in page_steps.commands(KEEP + MOVE) if words[:2] == ["python", script]]
    assert words[-1] == "hydra.run.dir=logs/train/runs/mine"
    command = [str(project / script), *words[2:-1], f"hydra.run.dir=logs/train/runs/{run}", KILL, *more]
    return Process(command, fresh=fresh, cwd=project, **variables).end(expect)


def results(project: Path, run: str) -> Outcome:
    """Results of a run, without what depends on the disk: whether a save was dropped."""
    return replace(outcome(project / "logs" / "train" / "runs" / run, []), kept=[])


def checkpoints(project: Path, run: str) -> Path:
    return project / "logs" / "train" / "runs" / run / "checkpoints"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The old project, after the steps of "Keep the project"."""
    project = shutil.copytree(LAYOUT, tmp_path_factory.mktemp("kept") / "project")
    done = page_steps.perform(KEEP, project)
    assert done == [
        "configs/callbacks/model_checkpoint.yaml",
        "configs/callbacks/default.yaml",
        "src/train.py",
        "src/data/blobs_datamodule.py",
        "configs/logger/csv.yaml",
    ]
    return project


@pytest.mark.slow
def test_a_project_that_keeps_its_train_py_is_killed_and_ends_like_an_undisturbed_one(kept):
    def start(run, **options):
        return train(kept, "src/train.py", run, "callbacks.model_checkpoint.every=10", **options)

    start("killed", expect=-signal.SIGKILL, **KILLED)
    assert Catalog(checkpoints(kept, "killed")).committed()
    outputs = [start(run) for run in ("killed", "whole")]
    assert differences(results(kept, "whole"), results(kept, "killed")) == []
    assert all("test/acc" in output for output in outputs)
    doubts = [line for output in outputs for line in output.splitlines() if "may not be exact" in line]
    assert [line for line in doubts if "KillAt" not in line] == []
    assert results(kept, "whole").best

    evaluated = [str(kept / "src" / "eval.py"), f"ckpt_path={checkpoints(kept, 'whole') / 'best.ckpt'}"]
    evaluated += ["model.net.hidden_size=48", "+trainer.enable_progress_bar=false"]
    assert "test/acc" in Process(evaluated, fresh=False, cwd=kept).end()

    # Without callbacks there is no Checkpointer, and the changed line must not need one.
    Process([str(kept / "src" / "train.py"), "debug=default", "test=false"], fresh=False, cwd=kept).end()


@pytest.mark.slow
@pytest.mark.skipif(NAME != "project", reason="the page is about the template under its first name")
def test_a_project_that_moves_into_the_template_is_killed_and_ends_like_an_undisturbed_one(tmp_path):
    clone = tmp_path / "clone"
    for name in ("configs", "src"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copyfile(ROOT / name, clone / name)
    done = page_steps.perform(MOVE, clone, OLD=str(LAYOUT))
    assert done == ["bash", "src/project/data/blobs_datamodule.py", "configs/experiment/blobs.yaml"]
    short = ["checkpoint.save_interval=10", "logger=csv", "trainer=cpu", "trainer.enable_progress_bar=false"]

    def start(run, **options):
        return train(clone, "train.py", run, *short, fresh=True, **options)

    start("killed", expect=-signal.SIGKILL, **KILLED)
    outputs = [start(run) for run in ("killed", "whole")]
    assert "Resuming from" in outputs[0]
    assert differences(results(clone, "whole"), results(clone, "killed")) == []
    weights = torch.load(checkpoints(clone, "whole") / "best.ckpt", weights_only=True)["state_dict"]
    assert "net.model.0.weight" in weights


def test_each_argument_of_the_table_is_one_of_the_checkpointer():
    table = page_steps.section(PAGE, "Plain Lightning").splitlines()
    rows = [line.split("|")[1:3] for line in table if line.startswith("| `")]
    named = {name for cell, _ in rows for name in page_steps.names(cell)}
    assert set(signature(ModelCheckpoint.__init__).parameters) - {"self"} - named == set()
    ours = {name for _, cell in rows for name in page_steps.names(cell)}
    assert {"keep_best", "keep_last", "every"} <= ours
    assert {"keep_best", "keep_last", "every", "monitor", "mode"} <= set(signature(cairn.Checkpointer).parameters)


def test_a_change_that_does_not_fit_the_file_is_refused():
    assert page_steps.changed("a\nb\nc\n", " a\n-b\n+d\n+e\n") == "a\nd\ne\nc\n"
    for text in ("a\nx\n", "a\nb\na\nb\n"):
        with pytest.raises(AssertionError, match="not in the file once"):
            page_steps.changed(text, " a\n-b\n")
