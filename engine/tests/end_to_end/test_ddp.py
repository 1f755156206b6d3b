"""Runs of two processes on the CPU are exact too, with one writer and one run directory."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.end_to_end.test_hangs import members
from tests.support.callbacks import recorded
from tests.support.command import PATIENT_S, QUICK, RECORD, newest, num_checkpoints, start, train, wait_for
from tests.support.equality import Outcome, differences, outcome
from tests.support.forks import OBSERVED_S, RANKS

from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.store.catalog import Catalog
from cairn.writing.load import load

pytestmark = pytest.mark.slow

COMMAND = [
    *QUICK,
    "trainer=ddp_sim",
    RECORD,
    "trainer.max_epochs=6",
    "trainer.val_check_interval=0.5",
    "trainer.accumulate_grad_batches=2",
    "data.augment=true",
    "checkpoint.save_interval=4",
    "checkpoint.when_busy=wait",
]
FORKED = {RANKS: "1"}
"""Fork the second process as well, which saves its imports."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, *COMMAND)  # the second process, which Lightning starts, is a new interpreter
    return outcome(run, recorded(run, 0) + recorded(run, 1))


@pytest.mark.parametrize("sharded", ["true", "false"])
def test_a_killed_run_of_two_processes_is_exact(whole: Outcome, tmp_path: Path, sharded: str) -> None:
    run, command = tmp_path / "run", [*COMMAND, f"checkpoint.sharded={sharded}"]
    for _ in range(2):
        before, process = newest(run), start(run, *command, **FORKED)
        assert wait_for(lambda before=before: newest(run) != before, process), "the run ended before it was killed"
        process.kill()
    train(run, *command, **FORKED)
    assert (run / "checkpoints" / "last.ckpt").is_dir() == (sharded == "true")
    assert differences(whole, outcome(run, recorded(run, 0) + recorded(run, 1))) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


ALONE = ["setup:1@0", "batch:6@1", "fsync:5@0", "validation:3@1"]
"""Where one of the two ranks is killed: at the start, in training, in a save (only rank 0 writes), in a validation."""


def test_a_rank_that_is_killed_takes_the_other_one_with_it_and_the_next_start_goes_on(
    whole: Outcome, tmp_path: Path
) -> None:
    run, kills = tmp_path / "run", "+callbacks.kill._target_=tests.support.callbacks.KillAt"
    for place in ALONE:
        more = {"CAIRN_TEST_KILL": place, OBSERVED_S: "0.2"}
        process = start(run, *COMMAND, kills, "checkpoint.writer=thread", **more, **FORKED)
        assert process.wait() != 0, process.output
        limit = time.monotonic() + PATIENT_S
        while left := members(process.pid):
            assert time.monotonic() < limit, f"{place}: these processes survive: {left}"
            time.sleep(0.05)
    train(run, *COMMAND, kills, "checkpoint.writer=thread", **FORKED)
    assert [item.before is None for item in attempts.read(RunDirectory(run))] == [True, False, False, False, False]
    assert differences(whole, outcome(run, recorded(run, 0) + recorded(run, 1))) == []


def test_each_rank_has_its_own_generators_and_half_of_the_data(whole: Outcome) -> None:
    ranks = whole.final["cairn"]["ranks"]
    assert len(ranks) == 2
    assert not torch.equal(ranks[0]["rng"]["torch"], ranks[1]["rng"]["torch"])
    assert len({entry[3] for entry in whole.samples}) == len(whole.samples), "no batch was trained on twice"


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *COMMAND[:-1], "trainer.max_epochs=1", "test=false", **FORKED)
    output = train(None, f"resume={run}", "trainer.devices=1", "trainer.max_epochs=2", expect=1)
    assert "trainer.devices (2 to 1)" in output
    new = train(tmp_path / "new", *QUICK, f"ckpt_path={run}/checkpoints/last.ckpt", expect=1)
    assert "was saved by 2 processes" in new


GLOBAL = [
    *QUICK,
    "trainer.max_epochs=3",
    "trainer.val_check_interval=3",
    "data.global_batch_size=120",
    "data.augment=true",
    "model=mlp",
    "model.net.dropout=0",
    "checkpoint.save_interval=4",
    "checkpoint.when_busy=wait",
    "checkpoint.keep_last=-1",
    "+callbacks.kill._target_=tests.support.callbacks.KillAt",
    "test=false",
]


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(whole, *GLOBAL)
    start(run, *GLOBAL, "trainer=ddp_sim", CAIRN_TEST_KILL="validation:20", **FORKED).end(-signal.SIGKILL)
    assert 0 < num_checkpoints(run) < num_checkpoints(whole)
    train(None, f"resume={run}", "trainer.devices=1")
    expected, found = (Catalog(folder / "checkpoints").committed() for folder in (whole, run))
    assert [(saved.name, saved.position) for saved in found] == [(saved.name, saved.position) for saved in expected]
    last = [load(folder / "checkpoints" / found[-1].name)["state_dict"] for folder in (whole, run)]
    torch.testing.assert_close(*last, rtol=1e-4, atol=1e-5)


def test_sigterm_stops_both_with_one_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *QUICK, "trainer=ddp_sim", "trainer.max_epochs=2000")
    assert wait_for(lambda: num_checkpoints(run) > 0, process)
    process.send_signal(signal.SIGTERM)
    process.end(143)
    last = json.loads((run / "checkpoints" / "last.ckpt").resolve().with_suffix(".json").read_text())
    assert last["reasons"] == ["signal"] or "signal" not in last["reasons"], "due without a signal as well"
    limit = time.monotonic() + PATIENT_S
    while left := _processes(run):
        assert time.monotonic() < limit, f"these processes survive: {left}"
        time.sleep(0.05)


def test_a_sweep_of_runs_of_two_processes(tmp_path: Path) -> None:
    short = [*QUICK, "trainer=ddp_sim", "trainer.max_epochs=1", "trainer.limit_train_batches=4", "test=false"]
    command = ["-m", *short, "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep", "hydra.sweep.subdir=${hydra.job.num}"]
    train(None, *command, **{RANKS: "2"})
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0", "1", "multirun.yaml"]
    for job in ("0", "1"):
        assert (tmp_path / "sweep" / job / "checkpoints" / "last.ckpt").is_file()
    assert train(None, *command).count("This run is finished") == 2, "a repeated sweep finds its jobs"


def _processes(run: Path) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().decode().replace("\0", " "))
        except OSError:
            continue
    return [command for command in commands if str(run) in command and "train.py" in command]


def test_rank_0_chooses_the_interval_for_all(tmp_path: Path) -> None:
    """The clocks of the ranks differ, so each would choose another interval; a save by only one rank would hang."""
    run = tmp_path / "run"
    auto = [
        "checkpoint=interval",
        "checkpoint.save_interval=auto",
        "checkpoint.max_overhead=0.2",
        "trainer.max_epochs=2",
    ]
    output = train(run, *COMMAND, *auto, **FORKED)
    chosen = [json.loads(path.read_text())["interval_batches"] for path in (run / "checkpoints").glob("epoch*.json")]
    assert chosen
    assert all(chosen)
    assert "Interval 'auto': every" in output
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
