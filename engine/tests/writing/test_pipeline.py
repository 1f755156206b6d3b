"""One save is written while one is queued; a third one waits or is dropped, and each save has an outcome."""

import gc
import logging
import os
import threading
from queue import SimpleQueue

import pytest
import torch
from tests.support.values import names_of, saved

from cairn.errors import SaveError
from cairn.policy.keep import Latest, WithinBytes
from cairn.store.catalog import Catalog
from cairn.store.history import History
from cairn.store.listener import Listener, Listeners
from cairn.writing import pipeline
from cairn.writing.buffers import BufferPool
from cairn.writing.copying import Copier
from cairn.writing.encode import encode
from cairn.writing.pipeline import WHOLE, Division, SavePipeline
from cairn.writing.writer import InlineWriter, WriterProcess

GENEROUS_S = 300
RULE = Latest(2)


class Gate(InlineWriter):
    """A writer that reports when it begins and continues once it is allowed to."""

    def __init__(self):
        super().__init__()
        self.begun, self.may_go, self.num_closed = SimpleQueue(), threading.Semaphore(0), 0
        self.errors = {}

    def write(self, plan, buffer):
        self.begun.put(plan.draft.name)
        self.may_go.acquire()
        if error := self.errors.get(plan.draft.name):
            raise error
        return super().write(plan, buffer)

    def close(self):
        self.num_closed += 1

    def let_go(self, count=1):
        self.may_go.release(count)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def make(folder):
    """Returns a function that makes a pipeline with a gate; every gate is opened at the end."""
    made = []

    def make(num_buffers=2, background=True, rule=RULE):
        own = SavePipeline(History(folder, [rule], None), Gate(), BufferPool(num_buffers), Copier(), background)
        made.append(own)
        return own

    yield make
    for own in made:
        own.writer.let_go(100)
        own.wait()
        own.close()


def stage_one(own, number, buffer=None):
    buffer = buffer or own.reserve(wait=False)
    own.copy(encode({"number": number, "weight": torch.full((3,), float(number))}), buffer, ())
    return buffer


def save(own, number, buffer=None):
    """Save once; there must be a free buffer."""
    buffer = stage_one(own, number, buffer)
    own.submit(buffer, saved(number, num_bytes=buffer.num_bytes), {"world_size": 1})


def numbers(outcomes):
    return [(outcome.draft.number, outcome.result is not None) for outcome in outcomes]


def in_a_thread(do):
    """Run a function in a thread and return a queue of its result."""
    found = SimpleQueue()
    threading.Thread(target=lambda: found.put(do()), daemon=True).start()
    return found


# Buffers


def test_with_two_buffers_one_save_is_written_one_is_queued_and_the_third_finds_no_buffer(make):
    own = make(2)
    save(own, 0)
    assert own.writer.begun.get() == saved(0).name
    save(own, 1)
    assert own.reserve(wait=False) is None
    assert own.busy
    own.writer.let_go()
    assert own.writer.begun.get() == saved(1).name
    assert own.reserve(wait=True) is own.pool.buffers[0]


def test_with_one_buffer_the_second_save_finds_none(make):
    own = make(1)
    save(own, 0)
    assert own.reserve(wait=False) is None
    own.writer.let_go()
    assert own.reserve(wait=True) is own.pool.buffers[0]
    assert not own.busy


def test_waiting_for_a_buffer_ends_when_one_is_free(make):
    own = make(1)
    save(own, 0)
    own.writer.begun.get()
    found = in_a_thread(lambda: own.reserve(wait=True))
    own.writer.let_go()
    assert found.get(timeout=GENEROUS_S) is own.pool.buffers[0]


@pytest.mark.parametrize("what", ["reserve", "wait"])
def test_a_save_that_ends_just_before_a_wait_is_not_missed(make, what, monkeypatch):
    """The save ends after the condition was checked and before the wait: no later notification follows."""
    own = make(1)
    save(own, 0)
    own.writer.begun.get()
    wait = own._wait_until

    def late(*args):
        own.writer.let_go()
        with own._changed:
            assert own._changed.wait_for(lambda: not own.busy, GENEROUS_S)
        return wait(*args)

    monkeypatch.setattr(own, "_wait_until", late)
    monkeypatch.setattr(pipeline, "_SHOW_EVERY_S", GENEROUS_S)
    found = in_a_thread(lambda: own.reserve(wait=True) if what == "reserve" else own.wait())
    assert found.get(timeout=10) is (own.pool.buffers[0] if what == "reserve" else None)


def test_a_save_writes_its_own_buffer_although_the_other_one_has_changed(make, folder):
    own = make(2)
    for number in range(5):
        save(own, number, own.reserve(wait=True))
        own.writer.let_go()
    own.wait()
    for item in Catalog(folder).committed():
        assert torch.load(folder / item.name, weights_only=True)["number"] == item.position.batch - 1
    assert numbers(own.outcomes()) == [(number, True) for number in range(5)]


# In the training thread


def test_without_a_background_a_save_is_committed_when_submit_returns(make, folder):
    own = make(1, background=False)
    own.writer.let_go(2)
    before = threading.active_count()
    for number in range(2):
        save(own, number)
        assert not own.busy
        assert numbers(own.outcomes()) == [(number, True)]
    assert threading.active_count() == before
    assert [item.stall_s > 0 for item in Catalog(folder).committed()] == [True, True]


def test_in_the_background_the_time_to_write_does_not_count_as_a_stall(make, folder):
    own = make()
    own.writer.let_go()
    save(own, 0)
    own.wait()
    assert [item.stall_s for item in Catalog(folder).committed()] == [0.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_during_a_save_is_raised_and_the_save_has_failed(make, error):
    own = make(1, background=False)
    own.writer.errors[saved(0).name] = error()
    own.writer.let_go(2)
    with pytest.raises(error):
        save(own, 0)
    (outcome,) = own.outcomes()
    assert outcome.result is None
    assert outcome.error == f"The checkpoint {saved(0).name} could not be written: {error()!r}."
    save(own, 1)
    assert numbers(own.outcomes()) == [(1, True)]


# Outcomes


def test_outcomes_are_returned_once_in_the_order_of_the_saves(make):
    own = make()
    own.writer.errors[saved(1).name] = SaveError("The disk is full.")
    for number in range(4):
        save(own, number, own.reserve(wait=True))
        own.writer.let_go()
    own.wait()
    found = own.outcomes()
    assert numbers(found) == [(0, True), (1, False), (2, True), (3, True)]
    assert [outcome.error for outcome in found] == ["", "The disk is full.", "", ""]
    assert own.outcomes() == []
    assert [item.position.batch for item in own.history.saved] == [3, 4]


def test_after_a_wait_the_outcome_is_there(make):
    own = make()
    for number in range(3):
        save(own, number)
        in_a_thread(own.writer.let_go)
        own.wait()
        assert numbers(own.outcomes()) == [(number, True)]


class Mistaken:
    """A keep rule of a user, with a bug."""

    def __getattr__(self, name):
        raise ZeroDivisionError(f"no {name}")


ERRORS = [SaveError("told"), ZeroDivisionError("a mistake"), OSError(5, "I/O error"), EOFError(), MemoryError()]


@pytest.mark.parametrize("num_buffers", [1, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_writer_is_an_outcome_and_frees_the_buffer(make, error, num_buffers):
    own = make(num_buffers)
    own.writer.errors[saved(0).name] = error
    save(own, 0)
    own.writer.let_go()
    own.wait()
    (outcome,) = own.outcomes()
    sentence = f"The checkpoint {saved(0).name} could not be written: {error!r}."
    assert outcome.error == ("told" if isinstance(error, SaveError) else sentence)
    assert own.history.with_pending == own.history.saved == []
    assert [own.reserve(wait=False) for _ in range(num_buffers + 1)].count(None) == 1


def test_an_error_in_a_keep_rule_is_an_outcome_and_frees_the_buffer(make):
    own = make(1, rule=Mistaken())
    save(own, 0)
    own.wait()
    (outcome,) = own.outcomes()
    assert "could not be written: ZeroDivisionError('no " in outcome.error
    assert own.history.with_pending == own.history.saved
    assert own.reserve(wait=False) is not None


def test_an_error_while_the_state_is_still_being_copied_is_an_outcome(make):
    own = make(1)
    buffer = stage_one(own, 0)
    buffer.wait = lambda: (_ for _ in ()).throw(RuntimeError("no copy"))
    own.submit(buffer, saved(0), {})
    own.wait()
    assert "could not be written: RuntimeError('no copy')" in own.outcomes()[0].error
    own.writer.let_go()
    save(own, 1)
    own.wait()
    assert numbers(own.outcomes()) == [(1, True)]


def test_the_time_a_gpu_stood_still_counts_as_a_stall(make, folder):
    own = make(1)
    buffer = stage_one(own, 0)

    def arrived():
        buffer.device_s = 0.5

    buffer.wait = arrived
    own.writer.let_go()
    own.submit(buffer, saved(0, stall_s=0.25), {"world_size": 1})
    own.wait()
    (outcome,) = own.outcomes()
    assert (outcome.device_s, outcome.result.saved.stall_s) == (0.5, 0.75)
    assert Catalog(folder).committed()[0].stall_s == 0.75


def test_an_error_after_the_commit_is_an_outcome_and_stops_nothing(make, monkeypatch):
    """For example, a disk that disappears while its files are counted."""
    own = make(1)
    with monkeypatch.context() as patch:
        patch.setattr(own.history, "resolve_pending", lambda *args: (_ for _ in ()).throw(OSError(5, "I/O error")))
        own.writer.let_go(2)
        save(own, 0)
        own.wait()
    (outcome,) = own.outcomes()
    assert "I/O error" in outcome.error
    save(own, 1)
    own.wait()
    assert numbers(own.outcomes()) == [(1, True)]


def test_too_little_memory_for_a_state_fails_the_save_and_the_next_one_works(make, monkeypatch):
    own = make(1)
    buffer = own.reserve(wait=False)
    with monkeypatch.context() as patch:
        patch.setattr(own.copier, "copy", lambda *args: (_ for _ in ()).throw(MemoryError("No memory for it")))
        with pytest.raises(SaveError, match="No memory for it"):
            stage_one(own, 0, buffer)
    own.writer.let_go()
    save(own, 1, buffer)
    own.wait()
    assert numbers(own.outcomes()) == [(1, True)]


# Waiting


def test_a_long_wait_logs_its_progress(make, caplog, monkeypatch):
    monkeypatch.setattr(pipeline, "_SHOW_EVERY_S", 0.001)
    own = make()
    save(own, 0)
    own.writer.begun.get()
    own.writer.progress_bytes = 1200
    caplog.handler.addFilter(lambda record: own.writer.let_go() or True)
    with caplog.at_level(logging.INFO):
        own.wait()
    told = caplog.records[0].getMessage()
    assert told.startswith("Waiting for a checkpoint: 1.2 kB of about ")
    assert told.endswith(" kB are written.")


def test_a_wait_without_a_save_logs_nothing(make, caplog):
    own = make()
    with caplog.at_level(logging.INFO):
        own.wait()
        own.writer.let_go()
        save(own, 0)
        own.wait()
    assert caplog.records == []


# The end


def test_close_leaves_no_thread_no_writer_and_no_buffer(make):
    before = threading.active_count()
    own = make()
    own.writer.let_go()
    save(own, 0)
    own.wait()
    own.close()
    assert threading.active_count() == before
    assert own.writer.num_closed == 1
    assert [buffer.fd for buffer in own.pool.buffers] == [-1, -1]


def test_close_without_a_save_leaves_nothing(make):
    own = make()
    own.close()
    assert own.writer.num_closed == 1
    assert [buffer.fd for buffer in own.pool.buffers] == [-1, -1]


def test_close_does_not_wait_for_saves_which_are_committed_nevertheless(make, folder):
    own = make()
    save(own, 0)
    own.writer.begun.get()
    save(own, 1)
    thread = own._thread
    own.close()
    assert own.busy
    assert own.writer.num_closed == 0
    own.writer.let_go(2)
    thread.join(GENEROUS_S)
    assert [item.position.batch for item in Catalog(folder).committed()] == [1, 2]
    assert own.writer.num_closed == 1
    assert [buffer.fd for buffer in own.pool.buffers] == [-1, -1]


def test_close_may_be_called_twice(make):
    own = make()
    own.writer.let_go()
    save(own, 0)
    own.wait()
    own.close()
    own.close()


# Which writer


SMALL, LARGE = pipeline._LARGE_BYTES - 1, pipeline._LARGE_BYTES
CHOICES = [
    ("auto", SMALL, InlineWriter, True, 2),
    ("auto", LARGE, WriterProcess, True, 2),
    ("process", SMALL, WriterProcess, True, 2),
    ("thread", LARGE, InlineWriter, True, 2),
    ("sync", LARGE, InlineWriter, False, 1),
]


@pytest.fixture
def choose(folder):
    made = []

    def choose(kind, num_bytes, num_buffers=2, division=WHOLE):
        history = History(folder, [RULE], None)
        own = SavePipeline.open(kind, num_buffers, Copier(), history, num_bytes, on_gpu=False, division=division)
        made.append(own)
        return own

    yield choose
    for own in made:
        own.close()


def test_the_writer_of_a_shard_depends_on_the_size_of_the_whole_checkpoint(choose):
    """All writers outlive their training, or none does."""
    own = choose("auto", 2**24, division=Division(8, 2))
    assert type(own.writer) is WriterProcess
    assert all(2**21 <= buffer.capacity < 2**22 for buffer in own.pool.buffers)


def test_ranks_on_one_machine_share_its_memory(choose, monkeypatch):
    monkeypatch.setattr(pipeline, "available_bytes", lambda: 2**20)
    assert len(choose("thread", 2**20, division=Division(8, 1)).pool.buffers) == 2
    assert len(choose("thread", 2**20, division=Division(8, 8)).pool.buffers) == 1


@pytest.mark.parametrize(("kind", "num_bytes", "writer", "background", "num_buffers"), CHOICES)
def test_the_writer_depends_on_the_setting_and_the_size(choose, kind, num_bytes, writer, background, num_buffers):
    own = choose(kind, num_bytes)
    assert type(own.writer) is writer
    assert own.background == background
    assert len(own.pool.buffers) == num_buffers
    assert all(buffer.capacity >= num_bytes for buffer in own.pool.buffers)
    if writer is WriterProcess:
        assert own.writer.pid is not None  # started before the first save, which does not wait for it


def test_where_no_process_can_be_started_a_thread_writes_after_a_warning(choose, caplog, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("cairn.helper_process.os.posix_spawn", refuse)
    own = choose("process", 1000)
    assert type(own.writer) is InlineWriter
    assert own.background
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "Cannot start a process ([Errno 1] Operation not permitted): a thread writes the checkpoints, which slows "
        "training.",
    )


def test_a_process_writes_what_is_submitted(choose, folder):
    own = choose("process", 1000)
    for number in range(3):
        save(own, number, own.reserve(wait=True))
    own.wait()
    assert numbers(own.outcomes()) == [(0, True), (1, True), (2, True)]
    assert [item.position.batch for item in Catalog(folder).committed()] == [2, 3]


def test_too_little_memory_for_the_buffers_is_an_error_and_none_is_kept(folder, monkeypatch):
    def fds():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before, prepare = fds(), Copier.prepare
    tried = []

    def second_fails(copier, buffer, num_bytes, on_gpu):
        tried.append(buffer)
        if len(tried) == 2:
            raise MemoryError("No memory for a checkpoint of 1000 bytes")
        prepare(copier, buffer, num_bytes, on_gpu)

    monkeypatch.setattr(Copier, "prepare", second_fails)
    with pytest.raises(SaveError, match="No memory for a checkpoint of 1000 bytes"):
        SavePipeline.open("process", 2, Copier(), History(folder, [], None), 1000, on_gpu=False)
    assert fds() == before


@pytest.mark.parametrize(("free", "expected"), [(None, 2), (400, 2), (399, 1), (10, 1)])
def test_two_buffers_take_at_most_half_of_the_free_memory(free, expected, monkeypatch, caplog):
    monkeypatch.setattr(pipeline, "available_bytes", lambda: free)
    assert pipeline._num_that_fit(2, 100) == expected
    assert ("Using one buffer" in caplog.text) == (expected == 1)
    assert pipeline._num_that_fit(1, 10**9) == 1


def test_metrics_are_synced_before_the_commit_and_training_does_not_wait_for_it(make, folder):
    own, seen, may_go = make(), SimpleQueue(), threading.Event()

    def sync():
        seen.put((threading.current_thread().name, own.writer.begun.empty()))
        may_go.wait(GENEROUS_S)

    own.committer.sync = sync
    save(own, 0)  # returns while the disk is busy
    assert seen.get(timeout=GENEROUS_S) == ("checkpoint-saver", True)
    assert Catalog(folder).committed() == []
    may_go.set()
    own.writer.let_go()
    own.wait()
    assert numbers(own.outcomes()) == [(0, True)]


def test_a_failed_sync_of_metrics_fails_the_save_before_anything_is_deleted(make, folder):
    own = make(rule=Latest(1))
    own.writer.let_go(9)
    save(own, 0)
    own.wait()

    def fail():
        raise SaveError("The metrics up to this checkpoint could not be written.")

    own.committer.sync = fail
    save(own, 1)
    own.wait()
    first, second = own.outcomes()
    assert (first.error, second.error) == ("", "The metrics up to this checkpoint could not be written.")
    assert names_of(Catalog(folder).committed()) == [saved(0).name]
    own.committer.sync = lambda: None
    save(own, 2)
    own.wait()
    assert names_of(Catalog(folder).committed()) == [saved(2).name]


class Heard(Listener):
    """Records the deletions that are reported."""

    def __init__(self):
        self.gone = []

    def deleted(self, names):
        self.gone += names


def test_a_deletion_that_a_failed_save_did_not_reach_is_not_reported(make, folder):
    """There is room for one checkpoint: the one before must be deleted first."""
    own = make(rule=WithinBytes(1500))
    heard = Heard()
    own.committer.listeners = Listeners([heard])
    own.writer.let_go(9)
    save(own, 0)
    own.wait()

    def fail():
        raise SaveError("no")

    own.committer.sync = fail
    save(own, 1)
    own.wait()
    assert heard.gone == []
    assert names_of(Catalog(folder).committed()) == [saved(0).name]
    own.committer.sync = lambda: None
    save(own, 2)
    own.wait()
    assert heard.gone == [saved(0).name]
