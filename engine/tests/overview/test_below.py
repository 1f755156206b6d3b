"""Which directories are runs."""

import os

from cairn.overview import below


def record(folder):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found.runs]


def test_runs_and_jobs_of_multiruns_are_found_and_what_they_wrote_is_not_searched(tmp_path):
    own = ("wandb", "mlflow/x", "trackio/x", "checkpoints/x")
    for name in ("a/runs/1", "a/multiruns/2/lr=1,x=2", *(f"a/runs/1/{item}" for item in own), "b/.hidden/3"):
        record(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = below.find(tmp_path)
    assert names(found, tmp_path) == ["a/multiruns/2/lr=1,x=2", "a/runs/1"]
    assert found.trouble == ()


def test_a_task_may_be_named_wandb_and_a_run_may_hold_runs(tmp_path):
    for name in ("wandb/runs/1", "."):
        if name == ".":
            (tmp_path / "run.json").write_text("{}")
        else:
            record(tmp_path / name)
    record(tmp_path / "more" / "inner")
    # `wandb` in a run directory is W&B's.
    assert names(below.find(tmp_path), tmp_path) == [".", "more/inner"]
    (tmp_path / "run.json").unlink()
    assert names(below.find(tmp_path), tmp_path) == ["more/inner", "wandb/runs/1"]


def test_the_artifacts_of_mlflow_are_not_searched(tmp_path):
    for name in ("a/runs/1", "artifacts/x"):
        record(tmp_path / name)
    assert names(below.find(tmp_path), tmp_path) == ["a/runs/1", "artifacts/x"]
    (tmp_path / "mlflow.db").touch()
    assert names(below.find(tmp_path), tmp_path) == ["a/runs/1"]


def test_a_directory_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    record(tmp_path / "a")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refused(path):
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = below.find(tmp_path)
    assert names(found, tmp_path) == ["a"]
    assert found.trouble == (f"{tmp_path / 'locked'} cannot be read: Permission denied.",)
