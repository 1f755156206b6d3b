"""`cairn sync`: what it reports of W&B, and what it needs."""

import json

import pytest
from tests.support.cli import cairn

from cairn.store.catalog import Catalog
from cairn.wandb import sync as wandb_sync


@pytest.mark.parametrize(
    ("version", "has_history", "code", "message"),
    [
        ("v0", True, 0, "1 of 1 checkpoints of e/p/r; 7 rows of its history were sent."),
        ("", True, 1, "0 of 1 checkpoints of e/p/r; 7 rows of its history were sent."),
        ("v0", False, 1, "1 of 1 checkpoints of e/p/r; its history was not sent completely"),
    ],
)
def test_the_reported_state_is_that_of_wandb(run, monkeypatch, capsys, version, has_history, code, message):
    (saved, *_), limits = Catalog(run.checkpoints()).committed(), []

    def sync(directory, limit_s):
        limits.append(limit_s)
        return wandb_sync.Synced("e/p/r", 7, has_history, [(saved, version)])

    monkeypatch.setattr(wandb_sync, "sync", sync)
    cairn("sync", run.path, "--limit", "90s", expect=code)
    assert f"W&B has {message}" in capsys.readouterr().out
    cairn("sync", run.path, "--json", expect=code)
    found = json.loads(capsys.readouterr().out)
    assert (found["rows_sent"], found["history"], limits) == (7, has_history, [90.0, 3600.0])


def test_a_directory_without_a_run_is_refused(run, tmp_path, capsys):
    run.checkpoints().rename(tmp_path / "elsewhere")
    cairn("sync", "elsewhere", expect=1)
    assert "sync needs the W&B settings of the run: pass a run directory" in capsys.readouterr().err


def test_a_wrong_limit_is_refused(run, capsys):
    cairn("sync", run.path, "--limit", "soon", expect=1)
    assert "Error: Invalid duration --limit='soon'" in capsys.readouterr().err
