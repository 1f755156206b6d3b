"""A run resumes from its own config.yaml, whatever happens to the project's `configs/`; from any directory."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, Process, newest, start
from tests.support.equality import differences, outcome
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import cairn.hydra


@cairn.hydra.main(config_path="configs", config_name="train")
def main(run: cairn.hydra.Run) -> float | None:
    data, model, trainer = run.data(), run.model(), run.trainer()
    run.fit(trainer, model, data)
    return run.result()


if __name__ == "__main__":
    main()
"""
MINE = """# @package _global_
# A recipe that is deleted later.
defaults:
  - override /checkpoint: interval
task_name: mine
trainer: { max_epochs: 2, limit_train_batches: 6, limit_val_batches: 1, limit_test_batches: 1 }
checkpoint: { save_interval: 4, when_busy: wait }
"""
COMMAND = [*QUICK, RECORD, "experiment=mine", "data.augment=true"]
KILL = "+callbacks.kill._target_=tests.support.callbacks.KillAt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a finished run, which works in its own directory."""
    folder = tmp_path_factory.mktemp("made") / "project"
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "configs" / "experiment" / "mine.yaml").write_text(MINE)
    (folder / "train.py").write_text(SCRIPT)
    output = call(folder, *COMMAND, "hydra.job.chdir=true", "hydra.run.dir=logs/whole").end()
    assert "resume   python train.py resume=logs/whole trainer.max_epochs=4" in output
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of the project: a run may be moved."""
    return shutil.copytree(made, tmp_path / "project", symlinks=True)


def call(project: Path, *overrides: str, cwd: Path | None = None, **env: str) -> Process:
    """Start the project's train.py."""
    return start(None, *overrides, script=project / "train.py", cwd=cwd or project, **env)


def shown(project: Path, *arguments: str) -> str:
    """Return what a command prints that does not train."""
    return call(project, *arguments).end()


def test_a_killed_run_continues_exactly_without_its_recipe(project: Path) -> None:
    whole, run = project / "logs/whole", project / "logs/run"
    call(project, *COMMAND, f"hydra.run.dir={run}", KILL, CAIRN_TEST_KILL="fsync:3").end(-signal.SIGKILL)
    (project / "configs/experiment/mine.yaml").unlink()
    (project / "configs/model/cnn.yaml").write_text("broken: [")
    # A job that is requeued repeats its command; a person names the run.
    again = call(project, *COMMAND, f"hydra.run.dir={run}", KILL, CAIRN_TEST_KILL="fsync:4").end(-signal.SIGKILL)
    assert "configs/ does not compose the overrides of this run any more" in again
    shutil.rmtree(project / "configs")
    call(project, f"resume={run}").end()
    assert differences(outcome(whole, recorded(whole)), outcome(run, recorded(run))) == []
    output = call(project, f"resume={run}", "trainer.max_epochs=3", "checkpoint.save_interval=5").end()
    assert "trainer.max_epochs (2 to 3), checkpoint.triggers.interval.interval (4 to 5)" in output
    assert newest(run) == "epoch_002_batch_000006.ckpt"
    assert "model.optimizer.lr (" in call(project, f"resume={run}", "model.optimizer.lr=7").end(1)
    assert json.loads((run / "run.json").read_text())["status"] == "finished", "a refused command changes nothing"


def test_flags_of_hydra_stand_before_and_behind_resume(project: Path) -> None:
    (project / "logs/whole").rename(project / "logs/a b")
    (project / "more/logger").mkdir(parents=True)
    (project / "more/logger/extra.yaml").write_text("# More.\nextra: { name: added }\n")
    key = ["--package", "trainer.max_epochs"]
    assert shown(project, "--cfg", "job", *key, "resume=logs/a b", "trainer.max_epochs=5") == "5\n"
    (project / "configs/experiment/mine.yaml").unlink()
    assert shown(project, "--cfg", "job", *key, "resume=logs/a b", "trainer.max_epochs=5") == "5\n"
    assert shown(project, "resume=logs/a b", "--cfg=job", *key) == "2\n"
    more = ["--config-dir", "more", "logger=extra", "-p", "logger.extra.name"]
    assert shown(project, "resume=logs/a b", *more, "-c", "job") == "added\n"
    assert shown(project, *more, "-c", "job", "resume=logs/a b") == "added\n"


@pytest.mark.parametrize("name", ["it's'\\", "${x}"])
def test_a_run_directory_of_any_name_is_resumed_from_any_directory(project: Path, name: str) -> None:
    """The run works in its own directory; commands are printed for the shell, which does not."""
    (project / "logs/whole").rename(project / "logs" / name)
    output = call(project, f"resume={name}", "trainer.max_epochs=3", cwd=project / "logs").end()
    assert newest(project / "logs" / name) == "epoch_002_batch_000006.ckpt"
    assert {path.name for path in (project / "logs").iterdir()} == {name}, "Hydra leaves no other directory"
    (line,) = [line for line in output.splitlines() if line.startswith("resume ")]
    _, _, script, resume, more = shlex.split(line)
    assert (project / "logs" / script).samefile(project / "train.py")
    output = call(project, resume, more.replace("=6", "=3"), cwd=project / "logs").end()
    assert "This run is finished" in output
    file = f"{name}/checkpoints/last.ckpt"
    output = call(
        project, *COMMAND, "hydra.job.chdir=true", f"ckpt_path={file}", "trainer.max_epochs=4", cwd=project / "logs"
    ).end()
    assert "Starting from" in output


def test_a_repeated_sweep_continues_without_its_recipe(project: Path) -> None:
    many = [f"+note_{number:02}=value_{number:02}" for number in range(20)]
    command = ["-m", *COMMAND, *many, "seed=1,2", "hydra.sweep.dir=logs/sweep", "trainer.max_epochs=1"]
    call(project, *command).end()
    jobs = sorted(path.parent for path in project.glob("logs/sweep/*/run.json"))
    assert len(jobs) == 2, "their names have more than 255 characters"
    (project / "configs/experiment/mine.yaml").unlink()
    assert call(project, *command).end().count("This run is finished") == 2
    call(project, f"resume={jobs[0]}", "trainer.max_epochs=2").end()
    assert newest(jobs[0]) == "epoch_001_batch_000006.ckpt"
