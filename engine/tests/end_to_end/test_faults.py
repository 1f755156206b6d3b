"""Full disks, forbidden or removed directories, corrupt files: they are reported, and the run can be resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, train
from tests.support.equality import Outcome, differences, outcome
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.room import obedient, small_disk
from tests.support.values import flip_byte

from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

COMMAND = [
    *QUICK,
    RECORD,
    "model=mlp",
    "trainer.max_epochs=4",
    "data.augment=true",
    "checkpoint.save_interval=5",
    "checkpoint.when_busy=wait",  # otherwise the speed of the disk decides which checkpoints there are
]
FILL = "+callbacks.fill={{_target_: tests.support.callbacks.FillDisk, path: '{}', fill: {}, free: {}}}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of an undisturbed run; tests must not change it."""
    run = tmp_path_factory.mktemp("whole") / "run"
    run_with(run)
    return run


@pytest.fixture(scope="module")
def whole(undisturbed: Path) -> Outcome:
    return outcome(undisturbed, recorded(undisturbed))


def run_with(run: Path, *overrides: str, expect: int = 0, **env: str) -> str:
    """Train to the end, and return the output."""
    return train(run, *COMMAND, *overrides, expect=expect, **env)


def errors(output: str) -> list[str]:
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith(("[ERROR]", "Error:"))]


@pytest.mark.parametrize("way", ["sync", "thread", "process", "process checkpoint.overlap=true"])
def test_training_continues_while_the_disk_is_full_for_a_while(way: str, whole: Outcome, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        where = [f"checkpoint.dirpath={disk}/checkpoints", FILL.format(disk, 17, 27)]
        lines = errors(run_with(run, *where, *f"checkpoint.writer={way}".split()))
        (run / "checkpoints").symlink_to(disk / "checkpoints")
        assert len(lines) == 2, "one for each failed save, at batches 20 and 25"
        assert re.search(r"epoch_000_batch_000020\.ckpt could not be written: No space left on device", lines[0])
        assert re.search(
            r"\(it needs about \d+ kB, and \d+(\.\d+)? k?B are free there\)\. Failed save 1 of 3", lines[0]
        )
        assert "Failed save 2 of 3 in a row" in lines[1]
        found = differences(whole, outcome(run, recorded(run)))
        assert Catalog(disk / "checkpoints").leftovers() == []
    assert [entry for entry in found if not entry.startswith(("kept", "checkpoint['callbacks']"))] == []


@pytest.mark.parametrize(("place", "writer"), [("checkpoints", "process"), ("the whole run", "thread")])
def test_a_disk_that_stays_full_stops_the_run_which_can_be_resumed_later(
    place: str, writer: str, whole: Outcome, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "run"
    elsewhere.mkdir()
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        run = disk / "run" if place == "the whole run" else elsewhere
        record = f"+callbacks.record.folder={elsewhere}"  # the records of the test go elsewhere
        where = [record, *([] if run != elsewhere else [f"checkpoint.dirpath={disk}/checkpoints"])]
        where += [f"checkpoint.writer={writer}"]
        lines = errors(run_with(run, *where, FILL.format(disk, 17, -1), expect=1))
        (disk / "ballast").unlink()
        checkpoints = (run if place == "the whole run" else disk) / "checkpoints"
        assert any("Failed save 3 of 3 in a row" in line and "the run stops" in line for line in lines)
        assert "Newest checkpoint: epoch_000_batch_000015.ckpt. Resume with: python train.py resume=" in lines[-1]
        assert (checkpoints / "last.ckpt").readlink() == Path("epoch_000_batch_000015.ckpt")
        assert Catalog(checkpoints).leftovers() == []
        if place == "the whole run":
            assert sum("metrics.csv cannot be written" in line for line in lines) == 1
        run_with(run, *where)
        if place == "checkpoints":
            (run / "checkpoints").symlink_to(checkpoints)
        assert differences(whole, outcome(run, recorded(elsewhere))) == []


def test_a_run_that_cannot_fit_does_not_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 200_000) as disk:
        (message,) = errors(run_with(tmp_path / "run", f"checkpoint.dirpath={disk}/checkpoints", expect=1))
    assert re.search(
        r"A checkpoint of this run needs about \d+ kB, and only \d+ kB are free in checkpoint\.dirpath=", message
    )
    assert not (tmp_path / "run" / "batches-0.jsonl").exists()


@pytest.mark.parametrize("gone", ["checkpoints", "run"])
def test_a_removed_directory_is_created_again_but_not_its_parents(gone: str, tmp_path: Path) -> None:
    """The folder itself is created again, but not its parents, which may be a disk that is no longer mounted."""
    run, mount = tmp_path / "run", tmp_path / "mount"
    mount.mkdir()
    folder = mount / "checkpoints"
    away = f"+callbacks.away={{_target_: tests.support.callbacks.RemoveCheckpoints, folder: '{folder}'}}"
    if gone == "checkpoints":
        output = run_with(run, f"checkpoint.dirpath={folder}", away)
        assert "Something other than this run deleted" in output
        assert errors(output) == []
        assert (folder / "last.ckpt").exists()
    else:
        lines = errors(run_with(run, f"checkpoint.dirpath={folder}", away.replace(str(folder), str(mount)), expect=1))
        assert "is gone and cannot be made again" in lines[0]
        assert "Failed save 3 of 3" in lines[-1]
        assert not mount.exists()


def test_a_corrupt_newest_checkpoint_is_reported_and_the_one_before_is_used(whole: Outcome, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_with(run, "trainer.max_epochs=2")
    newest = Catalog(run / "checkpoints").committed()[-1].name
    flip_byte(run / "checkpoints", newest)
    (run / "checkpoints" / "best.ckpt").unlink()
    (run / "checkpoints" / "best.ckpt").symlink_to("nothing.ckpt")
    output = run_with(run)
    assert f"Skipped {newest}: the checksum of " in output
    assert "Resuming from" in output
    assert differences(whole, outcome(run, recorded(run))) == []


def test_a_corrupt_best_checkpoint_is_not_tested(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_with(run)
    best = (run / "checkpoints" / "best.ckpt").readlink().name
    flip_byte(run / "checkpoints", best)
    output = run_with(run, "train=false")
    assert re.search(rf"Not tested: .*{best} cannot be used: the checksum of ", output)
    assert "test/acc" in output


def test_a_corrupt_file_of_another_name_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes((undisturbed / "checkpoints" / "last.ckpt").read_bytes())
    run_with(tmp_path / "good", f"init_weights={tmp_path}/model.ckpt", "trainer.max_epochs=1")
    flip_byte(tmp_path, "model.ckpt")
    for way in ("ckpt_path", "init_weights"):
        (message,) = errors(run_with(tmp_path / way, f"{way}={tmp_path}/model.ckpt", expect=1))
        assert "model.ckpt cannot be used: " in message


def test_no_file_is_written_to_the_temporary_directory(whole: Outcome, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with small_disk(tmp_path / "disk", 4096) as disk:
        run_with(run, TMPDIR=str(disk))
        assert list(disk.iterdir()) == []
    assert differences(whole, outcome(run, recorded(run))) == []


@pytest.mark.parametrize("place", ["run directory", "checkpoint directory"])
def test_a_directory_without_write_permission_is_refused(place: str, tmp_path: Path) -> None:
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir(mode=0o555)
    where = {
        "run directory": [f"hydra.run.dir={forbidden}/run"],
        "checkpoint directory": [f"hydra.run.dir={tmp_path}/run", f"checkpoint.dirpath={forbidden}/checkpoints"],
    }
    command = [*obedient(), sys.executable, str(ROOT / "train.py"), *COMMAND, *where[place]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (message,) = errors(done.stdout + done.stderr)
    assert "cannot be written: Permission denied" in message
    assert not (tmp_path / "run" / "batches-0.jsonl").exists()
    shutil.rmtree(forbidden)
