"""One save is written and one is staged; whoever wants a third is told or waits, and hears what became of each."""

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
from cairn.writing.buffers import Images
from cairn.writing.copying import Stage
from cairn.writing.encode import encode
from cairn.writing.pipeline import Saver
from cairn.writing.writer import WriterHere, WriterProcess

GENEROUS_S = 300
RULE = Latest(2)


class Gate(WriterHere):
    """A writer that tells when it has begun, and goes on when it is let."""

    def __init__(self):
        super().__init__()
        self.begun, self.may_go, self.num_closed = SimpleQueue(), threading.Semaphore(0), 0
        self.errors = {}

    def perform(self, job, image):
        self.begun.put(job.draft.name)
        self.may_go.acquire()
        if error := self.errors.get(job.draft.name):
            raise error
        return super().perform(job, image)

    def close(self):
        self.num_closed += 1

    def let_go(self, count=1):
        self.may_go.release(count)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def make(folder):
    """Makes a saver with a gate; every gate is opened at the end."""
    made = []

    def make(num_images=2, background=True, rule=RULE):
        own = Saver(History(folder, [rule], None), Gate(), Images(num_images), Stage(), background)
        made.append(own)
        return own

    yield make
    for own in made:
        own.writer.let_go(100)
        own.wait()
        own.close()


def stage_one(own, number, image=None):
    image = image or own.reserve(wait=False)
    own.copy(encode({"number": number, "weight": torch.full((3,), float(number))}), image, ())
    return image


def save(own, number, image=None):
    """One save; `own` has room for it."""
    image = stage_one(own, number, image)
    own.commit(image, saved(number, num_bytes=image.num_bytes), {"world_size": 1})


def numbers(outcomes):
    return [(outcome.draft.number, outcome.result is not None) for outcome in outcomes]


def in_a_thread(do):
    """What it returns comes through the queue."""
    found = SimpleQueue()
    threading.Thread(target=lambda: found.put(do()), daemon=True).start()
    return found


# Buffers


def test_with_two_buffers_one_save_is_written_one_is_staged_and_the_third_finds_none(make):
    own = make(2)
    save(own, 0)
    assert own.writer.begun.get() == saved(0).name
    save(own, 1)
    assert own.reserve(wait=False) is None
    assert own.busy
    own.writer.let_go()
    assert own.writer.begun.get() == saved(1).name
    assert own.reserve(wait=True) is own.images.all[0]


def test_with_one_buffer_the_second_finds_none(make):
    own = make(1)
    save(own, 0)
    assert own.reserve(wait=False) is None
    own.writer.let_go()
    assert own.reserve(wait=True) is own.images.all[0]
    assert not own.busy


def test_who_waits_for_a_buffer_goes_on_when_there_is_one(make):
    own = make(1)
    save(own, 0)
    own.writer.begun.get()
    found = in_a_thread(lambda: own.reserve(wait=True))
    own.writer.let_go()
    assert found.get(timeout=GENEROUS_S) is own.images.all[0]


@pytest.mark.parametrize("what", ["reserve", "wait"])
def test_a_save_that_ends_just_before_one_waits_for_it_is_not_missed(make, what, monkeypatch):
    """The thread is done between the look and the wait: nobody will tell of it again."""
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
    assert found.get(timeout=10) is (own.images.all[0] if what == "reserve" else None)


def test_what_is_written_is_what_was_staged_although_the_other_buffer_has_changed(make, folder):
    own = make(2)
    for number in range(5):
        save(own, number, own.reserve(wait=True))
        own.writer.let_go()
    own.wait()
    for item in Catalog(folder).committed():
        assert torch.load(folder / item.name, weights_only=True)["number"] == item.position.batch - 1
    assert numbers(own.outcomes()) == [(number, True) for number in range(5)]


# In this thread


def test_without_a_background_it_is_on_the_disk_when_commit_returns(make, folder):
    own = make(1, background=False)
    own.writer.let_go(2)
    before = threading.active_count()
    for number in range(2):
        save(own, number)
        assert not own.busy
        assert numbers(own.outcomes()) == [(number, True)]
    assert threading.active_count() == before
    assert [item.stall_s > 0 for item in Catalog(folder).committed()] == [True, True]


def test_in_the_background_the_write_is_no_stall(make, folder):
    own = make()
    own.writer.let_go()
    save(own, 0)
    own.wait()
    assert [item.stall_s for item in Catalog(folder).committed()] == [0.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_middle_goes_on_up_and_is_a_save_that_failed(make, error):
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


def test_outcomes_come_once_and_in_the_order_of_the_saves(make):
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


def test_who_has_waited_finds_the_outcome(make):
    own = make()
    for number in range(3):
        save(own, number)
        in_a_thread(own.writer.let_go)
        own.wait()
        assert numbers(own.outcomes()) == [(number, True)]


class Mistaken:
    """A rule of somebody's own."""

    def __getattr__(self, name):
        raise ZeroDivisionError(f"no {name}")


ERRORS = [SaveError("told"), ZeroDivisionError("a mistake"), OSError(5, "I/O error"), EOFError(), MemoryError()]


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_writer_is_an_outcome_and_frees_the_buffer(make, error, num_images):
    own = make(num_images)
    own.writer.errors[saved(0).name] = error
    save(own, 0)
    own.writer.let_go()
    own.wait()
    (outcome,) = own.outcomes()
    sentence = f"The checkpoint {saved(0).name} could not be written: {error!r}."
    assert outcome.error == ("told" if isinstance(error, SaveError) else sentence)
    assert own.history.expected == own.history.saved == []
    assert [own.reserve(wait=False) for _ in range(num_images + 1)].count(None) == 1


def test_a_mistake_in_a_rule_is_an_outcome_and_frees_the_buffer(make):
    own = make(1, rule=Mistaken())
    save(own, 0)
    own.wait()
    (outcome,) = own.outcomes()
    assert "could not be written: ZeroDivisionError('no " in outcome.error
    assert own.history.expected == own.history.saved
    assert own.reserve(wait=False) is not None


def test_an_error_while_the_state_is_still_being_copied_is_an_outcome(make):
    own = make(1)
    image = stage_one(own, 0)
    image.wait = lambda: (_ for _ in ()).throw(RuntimeError("no copy"))
    own.commit(image, saved(0), {})
    own.wait()
    assert "could not be written: RuntimeError('no copy')" in own.outcomes()[0].error
    own.writer.let_go()
    save(own, 1)
    own.wait()
    assert numbers(own.outcomes()) == [(1, True)]


def test_what_a_gpu_stood_still_is_a_part_of_the_stall_that_is_told_and_written(make, folder):
    own = make(1)
    image = stage_one(own, 0)

    def arrived():
        image.device_s = 0.5

    image.wait = arrived
    own.writer.let_go()
    own.commit(image, saved(0, stall_s=0.25), {"world_size": 1})
    own.wait()
    (outcome,) = own.outcomes()
    assert (outcome.device_s, outcome.result.saved.stall_s) == (0.5, 0.75)
    assert Catalog(folder).committed()[0].stall_s == 0.75


def test_an_error_in_the_bookkeeping_is_an_outcome_and_stops_nothing(make, monkeypatch):
    """A disk that went away while its files were counted, say."""
    own = make(1)
    with monkeypatch.context() as patch:
        patch.setattr(own.history, "done", lambda *args: (_ for _ in ()).throw(OSError(5, "I/O error")))
        own.writer.let_go(2)
        save(own, 0)
        own.wait()
    (outcome,) = own.outcomes()
    assert "I/O error" in outcome.error
    save(own, 1)
    own.wait()
    assert numbers(own.outcomes()) == [(1, True)]


def test_no_memory_for_a_state_is_a_failed_save_and_the_buffer_serves_the_next(make, monkeypatch):
    own = make(1)
    image = own.reserve(wait=False)
    with monkeypatch.context() as patch:
        patch.setattr(own.stage, "copy", lambda *args: (_ for _ in ()).throw(MemoryError("No memory for it")))
        with pytest.raises(SaveError, match="No memory for it"):
            stage_one(own, 0, image)
    own.writer.let_go()
    save(own, 1, image)
    own.wait()
    assert numbers(own.outcomes()) == [(1, True)]


# Waiting


def test_a_long_wait_tells_how_far_it_is(make, caplog, monkeypatch):
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


def test_a_wait_for_nothing_says_nothing(make, caplog):
    own = make()
    with caplog.at_level(logging.INFO):
        own.wait()
        own.writer.let_go()
        save(own, 0)
        own.wait()
    assert caplog.records == []


# The end


def test_after_a_wait_close_leaves_no_thread_no_writer_and_no_buffer(make):
    before = threading.active_count()
    own = make()
    own.writer.let_go()
    save(own, 0)
    own.wait()
    own.close()
    assert threading.active_count() == before
    assert own.writer.num_closed == 1
    assert [image.fd for image in own.images.all] == [-1, -1]


def test_close_of_a_saver_that_never_saved_leaves_nothing(make):
    own = make()
    own.close()
    assert own.writer.num_closed == 1
    assert [image.fd for image in own.images.all] == [-1, -1]


def test_close_does_not_wait_for_saves_and_they_are_committed_and_cleared_away_all_the_same(make, folder):
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
    assert [image.fd for image in own.images.all] == [-1, -1]


def test_close_can_come_twice(make):
    own = make()
    own.writer.let_go()
    save(own, 0)
    own.wait()
    own.close()
    own.close()


# Which writer


SMALL, LARGE = pipeline._LARGE_BYTES - 1, pipeline._LARGE_BYTES
CHOICES = [
    ("auto", SMALL, WriterHere, True, 2),
    ("auto", LARGE, WriterProcess, True, 2),
    ("process", SMALL, WriterProcess, True, 2),
    ("thread", LARGE, WriterHere, True, 2),
    ("sync", LARGE, WriterHere, False, 1),
]


@pytest.fixture
def choose(folder):
    made = []

    def choose(kind, num_bytes, num_images=2):
        own = pipeline.saver(kind, num_images, Stage(), History(folder, [RULE], None), num_bytes, on_gpu=False)
        made.append(own)
        return own

    yield choose
    for own in made:
        own.close()


@pytest.mark.parametrize(("kind", "num_bytes", "writer", "background", "num_images"), CHOICES)
def test_the_writer_goes_by_the_setting_and_the_size(choose, kind, num_bytes, writer, background, num_images):
    own = choose(kind, num_bytes)
    assert type(own.writer) is writer
    assert own.background == background
    assert len(own.images.all) == num_images
    assert all(image.capacity >= num_bytes for image in own.images.all)
    if writer is WriterProcess:
        assert own.writer.pid is not None  # it has been started, and does not let the first save wait


def test_where_no_process_can_be_started_a_thread_writes_and_says_so(choose, caplog, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("cairn.writing.writer.subprocess.Popen", refuse)
    own = choose("process", 1000)
    assert type(own.writer) is WriterHere
    assert own.background
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "No process can be started here ([Errno 1] Operation not permitted): a thread writes the checkpoints, and "
        "slows training.",
    )


def test_a_process_writes_what_a_saver_gives_it(choose, folder):
    own = choose("process", 1000)
    for number in range(3):
        save(own, number, own.reserve(wait=True))
    own.wait()
    assert numbers(own.outcomes()) == [(0, True), (1, True), (2, True)]
    assert [item.position.batch for item in Catalog(folder).committed()] == [2, 3]


def test_no_memory_for_the_buffers_is_told_and_none_of_them_is_kept(folder, monkeypatch):
    def fds():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before, prepare = fds(), Stage.prepare
    tried = []

    def second_fails(stage, image, num_bytes, on_gpu):
        tried.append(image)
        if len(tried) == 2:
            raise MemoryError("No memory for a checkpoint of 1000 bytes")
        prepare(stage, image, num_bytes, on_gpu)

    monkeypatch.setattr(Stage, "prepare", second_fails)
    with pytest.raises(SaveError, match="No memory for a checkpoint of 1000 bytes"):
        pipeline.saver("process", 2, Stage(), History(folder, [], None), 1000, on_gpu=False)
    assert fds() == before


@pytest.mark.parametrize(("free", "expected"), [(None, 2), (400, 2), (399, 1), (10, 1)])
def test_two_buffers_take_no_more_than_half_of_the_free_memory(free, expected, monkeypatch, caplog):
    monkeypatch.setattr(pipeline, "available_bytes", lambda: free)
    assert pipeline._that_fit(2, 100) == expected
    assert ("there is one only" in caplog.text) == (expected == 1)
    assert pipeline._that_fit(1, 10**9) == 1


def test_the_history_is_on_the_disk_before_the_checkpoint_and_training_does_not_wait_for_it(make, folder):
    own, seen, may_go = make(), SimpleQueue(), threading.Event()

    def sync():
        seen.put((threading.current_thread().name, own.writer.begun.empty()))
        may_go.wait(GENEROUS_S)

    own.sync = sync
    save(own, 0)  # returns while the disk is busy
    assert seen.get(timeout=GENEROUS_S) == ("checkpoint-saver", True)
    assert Catalog(folder).committed() == []
    may_go.set()
    own.writer.let_go()
    own.wait()
    assert numbers(own.outcomes()) == [(0, True)]


def test_a_history_that_cannot_be_synced_makes_the_save_fail_before_anything_is_deleted(make, folder):
    own = make(rule=Latest(1))
    own.writer.let_go(9)
    save(own, 0)
    own.wait()

    def fail():
        raise SaveError("The metrics up to this checkpoint could not be written.")

    own.sync = fail
    save(own, 1)
    own.wait()
    first, second = own.outcomes()
    assert (first.error, second.error) == ("", "The metrics up to this checkpoint could not be written.")
    assert names_of(Catalog(folder).committed()) == [saved(0).name]
    own.sync = lambda: None
    save(own, 2)
    own.wait()
    assert names_of(Catalog(folder).committed()) == [saved(2).name]


class Heard(Listener):
    """Records the deletions that a listener is informed of."""

    def __init__(self):
        self.gone = []

    def deleted(self, names):
        self.gone += names


def test_nobody_is_told_of_a_deletion_that_a_failed_save_has_not_come_to(make, folder):
    """There is room for one checkpoint: the one before is to go first."""
    own = make(rule=WithinBytes(1500))
    heard = Heard()
    own.listeners = Listeners([heard])
    own.writer.let_go(9)
    save(own, 0)
    own.wait()

    def fail():
        raise SaveError("no")

    own.sync = fail
    save(own, 1)
    own.wait()
    assert heard.gone == []
    assert names_of(Catalog(folder).committed()) == [saved(0).name]
    own.sync = lambda: None
    save(own, 2)
    own.wait()
    assert heard.gone == [saved(0).name]
