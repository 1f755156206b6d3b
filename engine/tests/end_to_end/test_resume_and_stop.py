"""The three ways to continue a run, the signals that stop one, and what a resume refuses."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, num_checkpoints, start, train, wait_for
from tests.support.equality import Outcome, differences, outcome

pytestmark = pytest.mark.slow

COMMAND = [
    *QUICK,
    RECORD,
    "trainer.max_epochs=10",
    "data.augment=true",
    "checkpoint.save_interval=15",
    "checkpoint.when_busy=wait",
]
LONG = [*QUICK, "trainer.max_epochs=5000"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, *COMMAND)
    return outcome(run, recorded(run))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped by SIGTERM."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    process = start(run, *COMMAND)
    assert wait_for(lambda: num_checkpoints(run) > 1, process)
    process.send_signal(signal.SIGTERM)
    output = process.end(143)
    assert f"resume={run}" in output.replace("\n", "").replace(" ", "")
    manifest = json.loads((run / "checkpoints" / "last.ckpt").resolve().with_suffix(".json").read_text())
    assert manifest["reasons"] == ["signal"] or "signal" not in manifest["reasons"], "due without a signal as well"
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """The stopped run in another directory: nothing in it depends on its location."""
    shutil.copytree(stopped, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_resume_is_exact(run: Path, whole: Outcome) -> None:
    train(None, f"resume={run}")
    assert differences(whole, outcome(run, recorded(run))) == []
    assert "finished" in train(None, f"resume={run}"), "a finished run says so and exits with 0"


def test_repeating_the_command_is_exact(run: Path, whole: Outcome) -> None:
    train(run, *COMMAND)
    assert differences(whole, outcome(run, recorded(run))) == []


def test_a_new_run_from_the_full_state_is_exact(stopped: Path, whole: Outcome, tmp_path: Path) -> None:
    new = tmp_path / "new"
    train(new, *COMMAND, f"ckpt_path={stopped / 'checkpoints' / 'last.ckpt'}")
    samples = [entry for entry in recorded(stopped) if entry[0] < recorded(new)[0][0]] + recorded(new)
    assert differences(whole, outcome(new, samples), same_directory=False) == []


def test_extending_a_run_is_exact(tmp_path: Path, whole: Outcome) -> None:
    run = tmp_path / "run"
    train(run, *[override.replace("max_epochs=10", "max_epochs=4") for override in COMMAND])
    train(None, f"resume={run}", "trainer.max_epochs=10")
    assert differences(whole, outcome(run, recorded(run))) == []


def test_a_change_that_is_not_allowed_is_refused_by_key(run: Path) -> None:
    before = (run / "checkpoints" / "last.ckpt").resolve()
    output = train(None, f"resume={run}", "data.batch_size=32", "model.net.dropout=0.5", expect=1)
    assert "data.batch_size (64 to 32)" in output
    assert "model.net.dropout (0.1 to 0.5)" in output
    assert "Traceback" not in output
    assert (run / "checkpoints" / "last.ckpt").resolve() == before


def files(run: Path) -> dict[Path, bytes]:
    """Contents of each file of a run, except the log, which says why a start was refused."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "train.log"}


def test_a_refusal_does_not_change_the_run(run: Path, whole: Outcome) -> None:
    before = files(run)
    assert "beyond trainer.max_epochs=0" in train(None, f"resume={run}", "trainer.max_epochs=0", expect=1)
    wrong = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, mode: wrong}"
    output = train(None, f"resume={run}", "trainer.max_epochs=11", f"+callbacks.wrong={wrong}", expect=1)
    assert "mode" in output.split("[ERROR] ")[1], output
    assert files(run) == before
    train(None, f"resume={run}")
    assert differences(whole, outcome(run, recorded(run))) == []


def test_edited_files_do_not_change_a_run(run: Path, whole: Outcome) -> None:
    """A run uses its stored configuration, and the log names what differs in the files of the project."""
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("max_shift: 1", "max_shift: 0"))
    output = train(None, f"resume={run}")
    assert "data.max_shift (0 to 1)" in output
    assert differences(whole, outcome(run, recorded(run))), "the run uses the stored max_shift"


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *LONG, "checkpoint=interval", "checkpoint.save_interval=100000")
    assert wait_for((run / "csv" / "metrics.csv").is_file, process)
    process.send_signal(signal.SIGINT)
    output = process.end(130)
    assert "Traceback" not in output
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0
    assert json.loads((run / "run.json").read_text())["why"] == "SIGINT"


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *LONG, "+callbacks.slow._target_=tests.support.callbacks.SlowBatches")
    assert wait_for((run / "slow").is_file, process), process.output
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the current batch is completed first"
    process.send_signal(signal.SIGINT)
    process.end(130)
    assert num_checkpoints(run) == 0


@pytest.mark.parametrize("place", ["sanity", "test"])
def test_sigterm_outside_of_training_stops_at_once(place: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = f"+callbacks.slow={{_target_: tests.support.callbacks.SlowEvaluation, place: {place}}}"
    process = start(run, *QUICK, "trainer.max_epochs=1", slow)
    assert wait_for((run / "slow").is_file, process), process.output
    process.send_signal(signal.SIGTERM)
    output = process.end(143)
    assert "Traceback" not in output
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    if place == "test":
        assert "finished" in train(run, *QUICK, "trainer.max_epochs=1")


def test_only_one_process_trains_in_a_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, *LONG, "checkpoint.save_interval=20")
    assert wait_for(lambda: num_checkpoints(run) > 0, process)
    output = train(run, *LONG, "checkpoint.save_interval=20", expect=1)
    assert "Another process trains in" in output
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    process.send_signal(signal.SIGTERM)
    process.end(143)


def test_testing_alone_does_not_change_the_run(run: Path, tmp_path: Path) -> None:
    record = (run / "run.json").read_text()
    trained = train(None, f"resume={run}", "train=false")
    assert "tested" in trained
    assert (run / "run.json").read_text() == record, "the record of the run does not change"
    best = run / "checkpoints" / "best.ckpt"
    for weights in ("ckpt_path", "init_weights"):
        output = train(tmp_path / weights, *QUICK, "train=false", f"{weights}={best}")
        assert _test_line(output) == _test_line(trained)
    assert "has no weights to test" in train(tmp_path / "none", *QUICK, "train=false", expect=1)


def _test_line(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("test ")]
    return line.strip()


def test_an_exception_names_the_newest_checkpoint_and_the_command(tmp_path: Path) -> None:
    run = tmp_path / "run"
    output = train(
        run, *LONG, "checkpoint.save_interval=5", "+callbacks.fail._target_=tests.support.callbacks.FailAt", expect=1
    )
    assert "epoch_000_batch_000010.ckpt" in output
    assert f"python train.py resume={run}" in output
    assert (run / "checkpoints" / "last.ckpt").readlink() == Path("epoch_000_batch_000010.ckpt")
    assert json.loads((run / "run.json").read_text())["status"] == "failed"


EARLY = [*QUICK[:1], "trainer=cpu", "callbacks=early_stopping", "model=mlp", "test=false", "trainer.max_epochs=-1"]
EARLY += ["trainer.limit_train_batches=4", "trainer.limit_val_batches=2", "trainer.enable_progress_bar=false"]


def test_a_run_that_has_stopped_early_trains_on_by_the_command_that_it_prints(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # No improvement is as large as min_delta: the third epoch is the last one.
    first = train(run, *EARLY, "callbacks.early_stopping.min_delta=10", "callbacks.early_stopping.patience=2")
    assert f"resume={run} callbacks.early_stopping.patience=4" in " ".join(first.split())
    second = train(None, f"resume={run}", "callbacks.early_stopping.patience=4")
    assert "The run had stopped early, and now trains on." in second
    third = train(None, f"resume={run}", "callbacks.early_stopping=null", "trainer.max_epochs=6")
    assert "Nothing remains" not in third
    position = json.loads((run / "checkpoints" / "last.ckpt").resolve().with_suffix(".json").read_text())["position"]
    assert position["total_batches"] == 24
    last = train(None, f"resume={run}", "trainer.log_every_n_steps=3")
    assert "Nothing remains to be trained: the checkpoint has completed 6 epochs, and max_epochs=6" in last


def test_a_new_run_from_the_full_state_follows_its_own_configuration(stopped: Path, tmp_path: Path) -> None:
    manifest = (stopped / "checkpoints" / "last.ckpt").resolve().with_suffix(".json")
    new, epoch = tmp_path / "new", 1 + json.loads(manifest.read_text())["position"]["epoch"]
    changed = ["trainer.accumulate_grad_batches=2", "model.optimizer.lr=0.003", "model.scheduler.scheduler.patience=7"]
    start_from = f"ckpt_path={stopped / 'checkpoints' / 'last.ckpt'}"
    output = train(new, *COMMAND, start_from, *changed, f"trainer.max_epochs={epoch + 1}")
    assert "AdamW: lr=0.003 (0.01 in the checkpoint)" in output
    assert "ReduceLROnPlateau: patience=7 (2 in the checkpoint)" in output
    contents = torch.load(new / "checkpoints" / "last.ckpt", weights_only=True)
    assert contents["cairn"]["accumulate_grad_batches"] == 2
    assert contents["lr_schedulers"][0]["patience"] == 7
