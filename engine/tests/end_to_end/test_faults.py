"""Full disks, forbidden or removed directories, corrupt files: they are reported, and the run can be resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, train
from tests.support.equality import Outcome, differences, outcome
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.room import obedient, small_disk
from tests.support.values import flip_byte

from cairn.run.directory import RunDirectory
from cairn.store import links
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


LOSE = "+callbacks.lose={{_target_: tests.support.callbacks.LoseDirectory, path: '{}', way: {}}}"


@pytest.mark.parametrize("way", ["unmount", "replace"])
def test_a_directory_that_vanishes_stops_the_run_and_is_not_created_again(way: str, tmp_path: Path) -> None:
    """An unmounted disk leaves a bare mount point, where the logger and the checkpoints would be lost."""
    elsewhere = tmp_path / "records"
    elsewhere.mkdir()
    record = f"+callbacks.record.folder={elsewhere}"
    with small_disk(tmp_path / "disk", 4_000_000) if way == "unmount" else nullcontext(tmp_path / "disk") as disk:
        run = disk if way == "unmount" else disk / "run"
        lines = errors(run_with(run, record, "trainer.log_every_n_steps=1", LOSE.format(run, way), expect=1))
        lost = "has been replaced or removed since the run started (renamed, deleted or unmounted)"
        assert "metrics.csv cannot be written" in lines[0]
        assert all(lost in line for line in lines)
        assert [line for line in lines if "Failed save 1 of 3 in a row" in line and "training continues" in line]
        assert "Failed save 3 of 3 in a row" in lines[-1]
        assert "the run stops" in lines[-1]
        assert list(run.iterdir()) == [], "nothing is written to the directory that is there now"
        if way == "unmount":  # the lazy unmount at the end of the block needs something to unmount
            subprocess.run(["mount", "-t", "tmpfs", "none", str(run)], check=True)
    if way == "replace":
        run.rmdir()
        run.with_name("run moved").rename(run)
        assert Catalog(run / "checkpoints").committed()[-1].name == "epoch_000_batch_000010.ckpt"
        run_with(run, record)


def test_a_file_system_without_links_locks_and_syncs_of_directories(whole: Outcome, tmp_path: Path) -> None:
    """As on exFAT, or on some network shares; fresh interpreters run `sitecustomize` first."""
    run, site = tmp_path / "run", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NOTHING_BUT_FILES)
    env = {"PYTHONPATH": os.pathsep.join([str(site), PYTHONPATH])}
    signal = "+callbacks.signal={_target_: tests.support.callbacks.SendSignal, name: SIGTERM}"
    output = train(run, *COMMAND, signal, expect=143, fresh=True, **env)
    assert output.count("has no symbolic links: last.ckpt and best.ckpt are small text files there.") == 1
    assert output.count("has no file locks: a second start of this run is noticed only at the next save.") == 1
    assert errors(output) == []
    assert (run / "checkpoints" / "last.ckpt").read_text() == "Cairn link to epoch_000_batch_000013.ckpt\n"
    output = train(None, f"resume={run}", "~callbacks.signal", fresh=True, **env)
    assert "Resuming from" in output
    assert errors(output) == []
    for link in (run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"):
        target = links.named(link)
        assert not link.is_symlink()
        link.unlink()
        link.symlink_to(target)  # for the comparison, which loads it with torch
    assert differences(whole, outcome(run, recorded(run))) == []


NOTHING_BUT_FILES = """
import errno, fcntl, os, stat

def refuse(*arguments, **options):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))

def no_locks(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fsync = os.fsync

def fsync_of_files(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    fsync(descriptor)

os.symlink = os.link = os.chmod = refuse
fcntl.flock = fcntl.lockf = no_locks
os.fsync = fsync_of_files
"""


@pytest.mark.parametrize("reader", ["| head -1 >/dev/null", ">&- 2>&-"])
def test_output_that_nothing_reads_does_not_decide_how_a_run_ends(reader: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hangup = "+callbacks.signal={_target_: tests.support.callbacks.SendSignal, name: SIGHUP}"
    overrides = [*QUICK, hangup, "checkpoint.save_interval=13", "trainer.max_epochs=2", f"hydra.run.dir={run}"]
    command = f'"$@" {reader}; exit ${{PIPESTATUS[0]}}'
    shell = ["bash", "-c", command, "bash", sys.executable, str(ROOT / "train.py"), *overrides]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(shell, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert found.returncode == 129, found.stderr
    assert "Traceback" not in found.stderr
    (saved,) = Catalog(run / "checkpoints").committed()
    assert (saved.position.batch, saved.reasons) == (13, ("interval",)), "as in an undisturbed run"
    assert RunDirectory(run).record().status == "stopped"


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
