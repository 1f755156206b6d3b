"""The command `cairn` on a run of the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.command import QUICK, Process, train
from tests.support.paths import ENGINE
from tests.support.values import flip_byte

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("looked after") / "run"
    train(run, *QUICK, "trainer.max_epochs=3", "checkpoint.save_interval=15", "checkpoint.keep_last=3")
    return run


def cairn(*args: object, expect: int = 0, fresh: bool = False) -> str:
    return Process(["-m", "cairn", *map(str, args)], fresh, cwd=ENGINE / "src").end(expect)


def test_a_run_can_be_listed_shown_verified_and_pruned(run: Path) -> None:
    listed = json.loads(cairn("ls", run, "--json", fresh=True))
    assert listed["status"] == "finished"
    (last,) = [item for item in listed["checkpoints"] if item["last"]]
    assert last["position"]["total_batches"] == 60
    assert set(last["metrics"]) >= {"val/loss", "val/acc"}
    table = cairn("ls", run)
    assert "end" in table
    assert "last" in table

    shown = json.loads(cairn("show", run / "checkpoints" / "last.ckpt", "--json", fresh=True))
    assert shown["manifest"]["name"] == last["name"]
    assert shown["config"]["checkpoint"]["save_interval"] == 15
    assert "save_interval: 15" in cairn("show", run / "checkpoints" / "last.ckpt")

    assert "corrupt" not in cairn("verify", run, fresh=True)
    cairn("prune", run, "--yes", "--keep-last", 1, fresh=True)
    left = json.loads(cairn("ls", run, "--json"))["checkpoints"]
    assert {item["name"] for item in left} == {
        item["name"] for item in listed["checkpoints"] if item["best"] or item["last"]
    }
    output = train(None, f"resume={run}", "trainer.max_epochs=4")
    assert f"Resuming from {run}/checkpoints/{last['name']}" in output
    assert "corrupt" not in cairn("verify", run)
    flip_byte(run / "checkpoints", json.loads(cairn("ls", run, "--json"))["checkpoints"][-1]["name"])
    assert "corrupt" in cairn("verify", run, expect=1)


def test_a_wrong_command_exits_with_2() -> None:
    assert "usage: cairn" in cairn("nothing", expect=2)
