"""The writer processes of several ranks commit one checkpoint together, whichever process dies."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Pipe

import pytest
from tests.support.paths import ENGINE
from tests.support.values import at, draft

from cairn.store import disk, names
from cairn.store.catalog import Catalog, verify
from cairn.store.commit import CommitPlan
from cairn.store.file_format import Layout
from cairn.store.shard import ShardPlan
from cairn.writing.buffers import BufferPool
from cairn.writing.writer import Ended, WriterProcess
from cairn.writing.writer_process import _next, _Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd_create"),
]
WORLD = 2
NAME = names.checkpoint_name(at(1))
GENEROUS_S = 300
SIZE = 50_000_000


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def part(folder, rank):
    return ShardPlan(folder, NAME, "a" * 16, rank, WORLD, "cut")


def plan(folder, rank):
    own = part(folder, rank)
    return CommitPlan(folder, draft(), {}, links={names.LAST: NAME}, shard=own) if rank == 0 else own


class Rank:
    """A rank with a full buffer, and a writer that is asked to write it in a thread."""

    def __init__(self, folder, rank):
        self.pool, layout = BufferPool(1), Layout([SIZE])
        buffer = self.pool.take()
        buffer.allocate(layout.num_bytes(4))
        layout.write_frame(buffer.view)
        buffer.num_bytes = layout.write_tail(buffer.view, b"\x80\x02N.")
        self.writer, self.result = WriterProcess(self.pool), None
        self.writer.start()
        self._thread = threading.Thread(target=self._write, args=(plan(folder, rank), buffer))

    def _write(self, order, buffer):
        self.result = self.writer.write(order, buffer)

    def start(self):
        self._thread.start()

    def join(self):
        self._thread.join(GENEROUS_S)
        self.writer.close()
        self.pool.close()


def begun(folder, rank):
    """Wait until a writer has begun its shard."""
    own, final = part(folder, rank).folder, folder / NAME
    shard = names.shard_name(rank)
    while not any(path.exists() for path in (own / names.temp_name(shard), own / shard, final / shard)):
        os.sched_yield()


def check(folder):
    (saved,) = Catalog(folder).committed()
    assert len(saved.shards) == WORLD
    verify(folder / NAME, saved)
    assert sorted(path.name for path in folder.iterdir()) == [NAME, NAME.replace("ckpt", "json"), names.LAST]
    assert not disk.is_locked(folder)
    return saved


@pytest.mark.parametrize("victim", [None, 0, 1])
def test_ranks_write_at_the_same_time_and_a_writer_that_dies_is_replaced(folder, victim):
    ranks = [Rank(folder, rank) for rank in range(WORLD)]
    ranks[0].start()  # it waits for the other one, and does not keep it from writing
    begun(folder, 0)
    ranks[1].start()
    if victim is not None:
        begun(folder, victim)
        os.kill(ranks[victim].writer.pid, signal.SIGKILL)
    for rank in ranks:
        rank.join()
    assert ranks[0].result.saved == check(folder)
    assert ranks[1].result.digest == ranks[0].result.saved.shards[1].digest


PARENT = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tests.writing.test_writer_shards import WORLD, Rank
ranks = [Rank(Path(sys.argv[1]), rank) for rank in range(WORLD)]
for rank in ranks:
    rank.start()
print(json.dumps([rank.writer.pid for rank in ranks]), flush=True)
sys.stdin.read()
"""


def test_after_all_training_processes_are_killed_the_writers_commit(folder):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), str(ENGINE), str(ENGINE / "src")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as training:
        pids = json.loads(training.stdout.readline())
        for rank in range(WORLD):
            begun(folder, rank)
        training.kill()
        training.wait()
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            assert select.select([handle], [], [], GENEROUS_S)[0], "it still runs"
            os.close(handle)
        check(folder)


def test_a_writer_learns_that_the_training_has_failed_while_it_waits_for_others():
    ours, theirs = Pipe()
    with ours, theirs:
        server = _Server(os.getppid(), theirs, [])
        assert not server._has_ended()
        ours.send(Ended())
        assert server._has_ended()
        assert server._has_ended()
        assert _Server(1 << 30, theirs, [])._has_ended(), "its training process is gone"


def test_an_idle_writer_ignores_that_the_training_has_failed():
    ours, theirs = Pipe()
    with ours, theirs:
        ours.send(Ended())
        ours.send("a request")
        assert _next(os.getppid(), theirs) == "a request"
