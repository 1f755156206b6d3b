"""A checkpoint directory belongs to one run, and one start of it at a time writes there."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest
from tests.support.values import commit

from cairn.errors import ConfigError, SaveError
from cairn.store import claim, directory_lock, disk, names
from cairn.store.history import History
from cairn.store.resume import ResumePoint

HOLD = """
import sys
from pathlib import Path
from cairn.store import claim
claim.take(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
print("held", flush=True)
sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from cairn.errors import ConfigError
from cairn.store import claim
for line in sys.stdin:
    try:
        claim.take(Path(sys.argv[1]), line.strip(), patience_s=0.0)
        print("mine", flush=True)
    except ConfigError as error:
        print(error, flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(claim, "PATIENCE_S", 0.0)
    monkeypatch.setattr(claim, "WRITING_S", 0.0)


@pytest.fixture
def held(folder):
    """A process that trains the run `first`."""
    command = [sys.executable, "-c", HOLD, str(folder), "first", "/runs/first"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def listing(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# Another run


def test_an_empty_directory_belongs_to_the_run_that_claimed_it_also_after_its_end(folder):
    claim.take(folder, "first", "/runs/first").release()
    with pytest.raises(
        ConfigError, match=r"directory=.*checkpoints belongs to another run \(first, /runs/first, since .*\): give"
    ):
        claim.take(folder, "second")
    assert claim.read(folder).run == "first"


@pytest.mark.parametrize("spelling", ["relative", "through a link", "with dots"])
def test_every_spelling_of_a_directory_is_the_same_directory(folder, tmp_path, spelling, monkeypatch):
    claim.take(folder, "first").release()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    other = {"relative": "checkpoints", "through a link": "link", "with dots": "link/../checkpoints"}[spelling]
    with pytest.raises(ConfigError, match="belongs to another run"):
        claim.take(folder.parent / other if spelling != "relative" else folder.relative_to(tmp_path), "second")


def test_a_directory_in_another_one_is_a_directory_of_its_own(folder):
    claim.take(folder, "first")
    claim.take(folder / "deeper", "second")
    assert claim.read(folder / "deeper").run == "second"


def test_of_two_runs_that_start_at_the_same_instant_one_gets_the_directory(folder):
    starts, command = [], [sys.executable, "-c", TRY, str(folder)]
    for _ in range(2):
        starts.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for number, process in enumerate(starts):
        process.stdin.write(f"run{number}\n")
        process.stdin.flush()
    answers = sorted(process.stdout.readline() for process in starts)
    for process in starts:
        process.kill()
        process.communicate()
    assert answers[1] == "mine\n"
    assert "is in use: " in answers[0] or "belongs to another run" in answers[0]


def test_without_locks_the_claim_is_created_by_one_of_two_runs(folder, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(directory_lock, "_held", {})
    monkeypatch.setattr(claim, "WRITING_S", 60.0)
    gate, results = threading.Barrier(8), []

    def start(number):
        gate.wait()
        try:
            results.append(claim.take(folder, f"run{number}").permit.attempt)
        except ConfigError as error:
            results.append(str(error))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result for result in results if "belongs to" not in result] == [claim.read(folder).attempt]


# Two starts of one run


def test_a_run_that_trains_is_named_and_goes_on_when_its_process_has_died(folder, held):
    with pytest.raises(ConfigError, match=rf"in use: process {held.pid} on .* trains there \(run first, /runs/first\)"):
        claim.take(folder, "first")
    with pytest.raises(ConfigError, match=r"belongs to another run \(first, /runs/first, since"):
        claim.take(folder, "second", patience_s=60.0)
    held.kill()
    held.wait()
    claim.take(folder, "first", patience_s=60.0)


def test_a_process_may_hold_a_directory_twice(folder):
    outer = claim.take(folder, "first", "/runs/first")
    inner = claim.take(folder, "first", "train.py")
    assert inner.permit == outer.permit
    inner.release()
    with pytest.raises(ConfigError, match="belongs to another run"):
        claim.take(folder, "second")
    command = [sys.executable, "-c", TRY, str(folder)]
    found = subprocess.run(command, input="first\n", capture_output=True, text=True)
    assert "is in use" in found.stdout
    outer.release()
    assert subprocess.run(command, input="first\n", capture_output=True, text=True).stdout == "mine\n"


def test_without_locks_the_later_start_wins_and_the_earlier_one_saves_no_more(folder, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    first = claim.take(folder, "run")
    monkeypatch.setattr(directory_lock, "_held", {})  # as in another process
    second = claim.take(folder, "run")
    second.permit.check("a.ckpt")
    with pytest.raises(
        SaveError, match=r"a\.ckpt could not be written: process \d+ on .* has taken over the directory for run run "
    ):
        first.permit.check("a.ckpt")


def test_a_start_that_is_refused_does_not_undo_the_claim_of_a_later_one(folder, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    first = claim.take(folder, "run")
    monkeypatch.setattr(directory_lock, "_held", {})  # as in another process
    second = claim.take(folder, "run")
    first.withdraw()
    second.permit.check("a.ckpt")


def test_a_start_that_is_refused_changes_nothing_in_another_directory_at_its_path(folder):
    own = claim.take(folder, "run")
    folder.rename(folder.with_name("moved"))
    folder.mkdir()
    own.withdraw()
    assert listing(folder) == []


def test_a_crash_before_the_claim_was_written_does_not_lock_anyone_out(folder):
    folder.mkdir()
    (folder / names.CLAIM).touch()
    claim.take(folder, "first")
    assert claim.read(folder).run == "first"


@pytest.mark.parametrize("contents", ["{", "[]", "null", '{"run": 1}', "\x00" * 100, "[" * 100_000])
def test_a_damaged_claim_is_written_again(folder, contents):
    folder.mkdir()
    (folder / names.CLAIM).write_text(contents)
    claim.take(folder, "first").release()
    assert claim.read(folder).run == "first"


@pytest.mark.parametrize("name", [names.CLAIM, names.LOCK])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_file_of_another_kind_is_refused_and_not_followed(folder, tmp_path, name, kind):
    folder.mkdir()
    (tmp_path / "precious").write_text("precious")
    path = folder / name
    {"link": lambda: path.symlink_to(tmp_path / "precious"), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}[
        kind
    ]()
    if name == names.LOCK or kind == "directory":
        with pytest.raises(ConfigError, match="cannot be written"):
            claim.take(folder, "first")
    else:
        claim.take(folder, "first").release()  # a file takes its place
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_writer_of_a_killed_attempt_is_waited_for_before_the_claim_changes(folder, monkeypatch):
    """It would not commit once another attempt has the directory, and the newest checkpoint would be lost."""
    first = claim.take(folder, "first")
    first.release()
    asked = []

    def is_locked(directory):
        asked.append(claim.read(folder).attempt)
        return len(asked) < 3

    monkeypatch.setattr(disk, "is_locked", is_locked)
    second = claim.take(folder, "first")
    assert asked == [first.permit.attempt] * 3
    assert claim.read(folder).attempt == second.permit.attempt != first.permit.attempt


# Copies


def test_a_moved_or_copied_directory_goes_on_as_the_same_run(folder, tmp_path):
    claim.take(folder, "first", str(tmp_path)).release()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / names.CLAIM).write_bytes((folder / names.CLAIM).read_bytes())
    claim.take(copy, "first", str(copy)).release()
    assert claim.read(copy).directory == str(copy)
    assert claim.read(folder).directory == str(folder)


def test_a_copied_run_does_not_write_to_the_checkpoints_of_the_original(folder, tmp_path):
    original, copy = tmp_path / "run", tmp_path / "copy"
    for path in (original, copy):
        path.mkdir()
    claim.take(folder, "first", str(original)).release()
    with pytest.raises(ConfigError, match=r"belongs to the run first, .*/run, and .*/copy is a copy of it"):
        claim.take(folder, "first", str(copy))
    original.rmdir()  # it was moved, not copied
    claim.take(folder, "first", str(copy))


# A refused start


def test_a_start_that_is_refused_later_leaves_no_trace(folder):
    claim.take(folder, "first").withdraw()
    assert not folder.exists()
    claim.take(folder, "first").release()
    path = folder / names.CLAIM
    before = path.read_bytes(), path.stat().st_mtime_ns
    claim.take(folder, "first", "later").withdraw()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_an_old_directory_is_claimed_by_its_own_run(folder):
    saved = commit(folder, run="first")
    claim.take(folder, "first").release()
    own = History(folder, [], None)
    own.take_over("first", ResumePoint(folder / saved.name, saved))
    assert json.loads((folder / names.CLAIM).read_text())["run"] == "first"
    assert saved.name in listing(folder)


def test_the_directory_of_a_disk_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"directory=.*file/checkpoints cannot be written: Not a directory"):
        claim.take(tmp_path / "file" / "checkpoints", "first")
