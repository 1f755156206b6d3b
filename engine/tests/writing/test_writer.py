"""A writer process commits what a thread would; the checkpoint is committed whichever of the two processes dies."""

import gc
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.disk import room_for
from tests.support.paths import ENGINE
from tests.support.values import at, draft

from cairn.errors import SaveError
from cairn.store import disk, names
from cairn.store.catalog import Catalog, verify
from cairn.store.commit import CommitPlan
from cairn.writing import writer
from cairn.writing.buffers import BufferPool
from cairn.writing.copying import Copier
from cairn.writing.encode import encode
from cairn.writing.writer import InlineWriter, WriterProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd_create"),
]
SAVED_KEYS = ("name", "position", "number", "reasons", "num_bytes", "digest")
GENEROUS_S = 300
FIRST = names.checkpoint_name(at(1))
TEMP = names.temp_name(FIRST)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def pool():
    pool = BufferPool(2)
    yield pool
    pool.close()


@pytest.fixture
def separate(pool):
    separate = WriterProcess(pool)
    yield separate
    separate.close()


def staged(pool, number=0, size=3):
    """A buffer that holds a state."""
    buffer = pool.buffers[number % 2]
    Copier().copy(encode({"state_dict": {"weight": torch.full((size,), float(number))}}), buffer)
    return buffer


def plan_of(folder, number=0, **changes):
    return CommitPlan(folder, draft(number), {"world_size": 1}, **changes)


def facts(result):
    return {key: getattr(result.saved, key) for key in SAVED_KEYS}


class PendingSave:
    """A save that a thread waits for."""

    def __init__(self, writer, plan, buffer):
        self._given = []
        self._thread = threading.Thread(target=self._write, args=(writer, plan, buffer))
        self._thread.start()

    def _write(self, *request):
        own, *request = request
        try:
            self._given.append(own.write(*request))
        except Exception as error:
            self._given.append(error)

    @property
    def is_alive(self):
        return self._thread.is_alive()

    def result(self):
        self._thread.join(GENEROUS_S)
        (given,) = self._given
        if isinstance(given, Exception):
            raise given
        return given


class InTheMiddle:
    """Stops a writer in the middle of a file.

    Nothing holds it there: it is caught while the file grows. If it was faster, the folder is emptied for another try.
    """

    SIZE = 10_000_000

    def __init__(self, folder):
        self._folder, self._last = folder, None

    def save(self, writer, pool, plan, times=1):
        """Return a save whose writer was stopped in the middle of its file; the ones before it were killed there.

        Args:
            writer: A `WriterProcess`.
            pool: Its buffers.
            plan: What to write.
            times: How many writers to stop.
        """
        while True:
            save = PendingSave(writer, plan, staged(pool, size=self.SIZE))
            for number in range(times):
                if number > 0:
                    os.kill(writer.pid, signal.SIGKILL)
                if not self._stop(writer, save):
                    break
            else:
                return save
            save.result()
            for path in self._folder.iterdir():
                path.unlink()

    def _stop(self, writer, save):
        while save.is_alive:
            if (found := self._state()) in (None, self._last) or (pid := writer.pid) is None:
                continue
            os.kill(pid, signal.SIGSTOP)
            while not _is_stopped(pid):
                os.sched_yield()
            if (now := self._state()) is not None and now[0] == found[0]:
                self._last = now
                return True
            os.kill(pid, signal.SIGCONT)
            return False
        return False

    def _state(self):
        """Identity of the temporary file, which changes as long as it grows; None: there is none."""
        try:
            found = os.stat(self._folder / TEMP)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_ctime_ns


def _is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def middle(folder):
    return InTheMiddle(folder)


def ended(pid):
    """Wait for the end of a process that is not a child of this one."""
    handle = os.pidfd_open(pid)
    try:
        assert select.select([handle], [], [], GENEROUS_S)[0], "it still runs"
    finally:
        os.close(handle)


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# One save after the other


@pytest.mark.parametrize("size", [3, 2_500_000], ids=["small", "several chunks"])
def test_a_writer_process_writes_the_same_bytes_as_an_inline_writer(folder, pool, separate, size, tmp_path):
    links = {names.LAST: FIRST, names.BEST: None}
    buffer = staged(pool, size=size)
    theirs = separate.write(plan_of(folder, links=links), buffer)
    (tmp_path / "inline").mkdir()
    ours = InlineWriter().write(plan_of(tmp_path / "inline", links=links), buffer)
    assert facts(theirs) == facts(ours)
    assert (folder / FIRST).read_bytes() == (tmp_path / "inline" / FIRST).read_bytes()
    assert verify(folder / names.LAST, theirs.saved) is None
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (tmp_path / "inline").iterdir()
    )


def test_a_writer_process_follows_buffers_that_change_and_grow(folder, pool, separate):
    pids = set()
    for number, size in enumerate([3, 3, 500_000, 500_000, 3, 3]):
        gone = [names.checkpoint_name(at(number))] if number else []
        result = separate.write(plan_of(folder, number, to_delete=gone), staged(pool, number, size))
        found = torch.load(folder / result.saved.name, weights_only=True)["state_dict"]["weight"]
        assert torch.equal(found, torch.full((size,), float(number)))
        assert Catalog(folder).committed() == [result.saved]
        pids.add(separate.pid)
    assert len(pids) == 1


def test_progress_is_reported_while_writing(folder, pool, separate, monkeypatch):
    separate.write(plan_of(folder), staged(pool, size=2_500_000))
    assert separate.progress_bytes > 0
    here = InlineWriter()
    buffer = staged(pool, size=2_500_000)
    here.write(plan_of(folder), buffer)
    assert here.progress_bytes == buffer.num_bytes


# Errors


@pytest.mark.parametrize("kind", ["inline", "separate"])
def test_an_error_of_the_disk_is_one_sentence(folder, pool, separate, kind):
    folder.rmdir()
    folder.parent.rmdir()
    own = separate if kind == "separate" else InlineWriter()
    with pytest.raises(SaveError) as error:
        own.write(plan_of(folder), staged(pool))
    assert str(error.value) == (f"The checkpoint {folder / FIRST} could not be written: No such file or directory.")
    folder.mkdir(parents=True)
    assert own.write(plan_of(folder), staged(pool)).saved.name == FIRST


def test_a_link_that_cannot_be_moved_is_reported_with_the_result(folder, pool, separate):
    (folder / names.LAST).mkdir()
    result = separate.write(plan_of(folder, links={names.LAST: FIRST}), staged(pool))
    assert result.cleanup_error == f"The link {folder / names.LAST} could not be moved to {FIRST}: Is a directory."
    assert verify(folder / FIRST, result.saved) is None


def test_a_bug_in_the_writer_process_is_an_error_of_the_save_and_the_process_survives(folder, pool, separate):
    buffer = staged(pool)
    with pytest.raises(SaveError, match=r"epoch_000_batch_000001\.ckpt could not be written: .*Error"):
        separate.write(replace(plan_of(folder), links={"last.ckpt": 7}), buffer)
    pid = separate.pid
    separate.write(plan_of(folder), buffer)
    assert separate.pid == pid


def test_a_disk_that_does_not_respond_is_reported_and_waited_for(folder, pool, separate, caplog, monkeypatch):
    monkeypatch.setattr(writer, "SILENCE_S", 0.01)
    told = threading.Event()
    caplog.handler.addFilter(lambda record: told.set() or True)
    with disk.locked(folder), caplog.at_level(logging.WARNING):
        asked = PendingSave(separate, plan_of(folder), staged(pool))
        assert told.wait(GENEROUS_S)
    assert asked.result().saved.name == FIRST
    message = f"The disk does not respond: no progress on {FIRST} for 0.01 s. Still waiting."
    assert caplog.records[0].getMessage() == message


# Death of the writer


def test_a_writer_that_is_killed_between_two_saves_is_replaced(folder, pool, separate, caplog):
    separate.write(plan_of(folder), staged(pool))
    first = separate.pid
    os.kill(first, signal.SIGKILL)
    result = separate.write(plan_of(folder, 1), staged(pool, 1))
    assert separate.pid != first
    assert verify(folder / result.saved.name, result.saved) is None
    told = "The process that writes checkpoints was killed by SIGKILL. A new one retries the save."
    assert errors(caplog) == [told]


def test_a_writer_that_is_killed_during_a_save_is_replaced_and_repeats_it(folder, pool, separate, middle, caplog):
    separate.start()
    asked = middle.save(separate, pool, plan_of(folder, links={names.LAST: FIRST}))
    os.kill(separate.pid, signal.SIGKILL)
    result = asked.result()
    assert verify(folder / names.LAST, result.saved) is None
    assert len(errors(caplog)) == 1
    assert sorted(path.suffix for path in folder.iterdir()) == [".ckpt", ".ckpt", ".json"]


def test_the_death_of_a_writer_is_noticed_although_another_process_holds_its_end_of_the_pipe(
    folder, pool, separate, middle, monkeypatch
):
    monkeypatch.setattr(writer, "POLL_S", 0.01)
    kept, pipe = [], writer.Pipe

    def shared_pipe():
        ours, theirs = pipe()
        kept.append(os.dup(theirs.fileno()))  # as a worker that is forked at this moment does
        return ours, theirs

    monkeypatch.setattr(writer, "Pipe", shared_pipe)
    separate.start()
    asked = middle.save(separate, pool, plan_of(folder))
    os.kill(separate.pid, signal.SIGKILL)
    assert verify(folder / FIRST, asked.result().saved) is None
    for handle in kept:
        os.close(handle)


def test_a_save_whose_writer_is_killed_twice_fails_and_the_next_one_works(folder, pool, separate, middle):
    separate.start()
    asked = middle.save(separate, pool, plan_of(folder), times=2)
    os.kill(separate.pid, signal.SIGTERM)  # ignored
    os.kill(separate.pid, signal.SIGKILL)
    with pytest.raises(SaveError) as error:
        asked.result()
    where = folder / FIRST
    assert str(error.value) == f"The checkpoint {where} could not be written: its writer was killed by SIGKILL, twice."
    assert separate.pid is None
    assert Catalog(folder).committed() == []
    assert separate.write(plan_of(folder), staged(pool)).saved.name == FIRST


def test_a_writer_that_ends_at_once_is_reported_with_its_exit_code(folder, pool, separate, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SaveError, match="its writer ended with exit code 1, twice"):
        separate.write(plan_of(folder), staged(pool))


def test_a_failed_retry_does_not_delete_a_checkpoint_that_is_already_committed(folder, pool):
    """The first writer is killed after its commit, before it answers; the second one finds a full disk."""
    buffer, own = staged(pool), InlineWriter()
    first = own.write(plan_of(folder, links={names.LAST: FIRST}), buffer)
    with room_for(100), pytest.raises(SaveError, match="could not be written"):
        own.write(plan_of(folder, links={names.LAST: FIRST}), buffer)
    assert verify(folder / names.LAST, first.saved) is None
    assert Catalog(folder).committed() == [first.saved]


def test_signals_for_the_training_do_not_stop_its_writer(folder, pool, separate, caplog):
    separate.write(plan_of(folder), staged(pool))
    pid = separate.pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
        separate.write(plan_of(folder, 1), staged(pool, 1))
    assert separate.pid == pid
    assert os.getpgid(pid) != os.getpgid(0)  # a Ctrl-C reaches the process group of the training only
    assert errors(caplog) == []


# Death of the training

PARENT = """
import json, os, sys
from pathlib import Path
from cairn.store.file_format import Layout
from cairn.store.commit import CommitPlan
from cairn.writing.buffers import BufferPool
from cairn.types import Draft, Position
from cairn.writing.writer import Request, WriterProcess

folder, has_worker = Path(sys.argv[1]), sys.argv[2] == "with a worker"
pool, layout = BufferPool(1), Layout([100_000_000])
buffer = pool.take()
buffer.allocate(layout.num_bytes(4))
layout.write_frame(buffer.view)
buffer.num_bytes = layout.write_tail(buffer.view, b"\\x80\\x02N.")
writer = WriterProcess(pool)
writer.start()
worker = os.fork() if has_worker else None
if worker == 0:
    sys.stdin.read()  # it holds the pipe open and stays alive
    os._exit(0)
draft = Draft("epoch_000_batch_000001.ckpt", Position(0, 1), 0, ("interval",), None, run="toy")
plan = CommitPlan(folder, draft, {"world_size": 1}, links={"last.ckpt": draft.name})
writer._connection.send(Request(plan, 0, buffer.capacity, buffer.num_bytes))
print(json.dumps(writer.pid), flush=True)
sys.stdin.read()
"""


def parent(folder, how, **environment):
    """A training that has requested a save."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", PARENT, str(folder), how],
        env={**os.environ, "PYTHONPATH": str(ENGINE / "src"), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("how", ["alone", "with a worker"])
def test_after_the_training_is_killed_the_writer_finishes_its_save_and_ends(folder, how):
    """A forked worker holds the pipe open, so it does not end with the training."""
    with parent(folder, how) as training:
        pid = json.loads(training.stdout.readline())
        while not (folder / names.temp_name(FIRST)).exists() and not (folder / FIRST).exists():
            os.sched_yield()
        training.kill()
        training.wait()
        ended(pid)
        (only,) = Catalog(folder).committed()
        assert verify(folder / names.LAST, only) is None
        assert sorted(path.name for path in folder.iterdir()) == [FIRST, FIRST.replace("ckpt", "json"), "last.ckpt"]
        assert not disk.is_locked(folder)


def test_after_the_training_is_killed_the_writer_begins_nothing_new(folder):
    """A resumed run may already be at work in the directory."""
    with parent(folder, "alone") as training:
        with disk.locked(folder):
            pid = json.loads(training.stdout.readline())
            training.kill()
            training.wait()
        ended(pid)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["alone", "with a worker"])
def test_after_the_training_is_killed_an_idle_writer_ends(folder, how):
    with parent(folder, how) as training:
        pid = json.loads(training.stdout.readline())
        while not (folder / names.LAST).is_symlink():
            os.sched_yield()
        training.kill()
        ended(pid)


# Start and end


def test_a_closed_writer_leaves_nothing_behind(folder):
    def fds():
        return set(os.listdir("/proc/self/fd"))

    gc.collect()  # files that other tests have left open may be closed at any time
    before = fds()
    pool = BufferPool(2)
    separate = WriterProcess(pool)
    separate.write(plan_of(folder), staged(pool))
    handle = os.pidfd_open(separate.pid)
    separate.close()
    separate.close()
    pool.close()
    assert select.select([handle], [], [], 0)[0], "it is still there"
    os.close(handle)
    assert separate.pid is None
    assert fds() <= before


def test_a_writer_inherits_only_its_pipe_and_the_buffers(folder, pool, separate):
    with open(folder / "other", "w") as other:
        os.set_inheritable(other.fileno(), True)
        separate.write(plan_of(folder), staged(pool))
        held = [os.readlink(f"/proc/{separate.pid}/fd/{number}") for number in os.listdir(f"/proc/{separate.pid}/fd")]
    assert not [what for what in held if what == str(folder / "other")]
    assert sum(what.startswith("socket:") for what in held) == 1


def test_a_writer_starts_without_torch(folder, pool, separate):
    separate.write(plan_of(folder), staged(pool))
    command = Path(f"/proc/{separate.pid}/cmdline").read_bytes().split(b"\0")
    assert command[1] == b"-SP"
    maps = Path(f"/proc/{separate.pid}/maps").read_text()
    assert "isal_zlib" in maps, "the quick checksum"
    assert not [line for line in maps.splitlines() if "torch" in line or "numpy" in line]
    modules = "import sys, cairn.writing.writer_process; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", modules],
        env={**os.environ, "PYTHONPATH": str(ENGINE / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "numpy", "lightning"} & set(found.stdout.split())


@pytest.mark.parametrize("search_path", [None, "", "elsewhere"])
def test_a_file_in_the_current_directory_is_not_imported(folder, pool, separate, monkeypatch, search_path):
    here = folder.parent / "inline"
    here.mkdir()
    for module in ("mmap", "signal", "json", "cairn", "hashlib"):
        (here / f"{module}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(here)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if search_path is not None:
        monkeypatch.setenv("PYTHONPATH", search_path)
    assert separate.write(plan_of(folder), staged(pool)).saved.name == FIRST


def test_a_writer_does_not_start_where_no_buffer_can_be_shared(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    pool = BufferPool(1)
    with pytest.raises(OSError, match="no memfd_create"):
        WriterProcess(pool).start()
    pool.close()


def test_a_writer_ends_although_a_forked_worker_holds_its_pipe(folder):
    pool = BufferPool(1)
    writer = WriterProcess(pool)
    writer.start()
    process = writer._process
    ours, theirs = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    writer.close()
    assert process.poll() == 0
    os.close(theirs)
    os.close(ours)
    os.waitpid(worker, 0)
    pool.close()
