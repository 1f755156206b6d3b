"""What happens when the store fails: training goes on, and nothing is lost on the local disk."""

import logging
import threading
import time

import pytest
from tests.support.mirrored_run import Faults, MirroredRun, data_name

from cairn.errors import ConfigError, RemoteError
from cairn.remote import address, backoff, bounded, layout, owner
from cairn.remote.objects import Objects
from cairn.remote.session import Session
from cairn.store import names
from cairn.store.catalog import Catalog
from cairn.uploads import thread

DOWN = RemoteError("memory://x does not work at the moment (503): try again later.")
REFUSED = RemoteError("memory://x refuses access (403): check the credentials and their rights.", kind="refused")
FULL = RemoteError("memory://x has no space left (507): free some, or raise the quota.", kind="full")


@pytest.fixture
def where(tmp_path):
    return f"memory://{tmp_path.as_posix().replace('/', '-')}/runs/a"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 0.001)
    monkeypatch.setattr(backoff, "LONGEST_S", 0.004)
    found = Faults().install(monkeypatch)
    yield found
    found.release.set()


def failing(error, method="put_file", times=10**9):
    left = [times]

    def before(called, name):
        if called == method and left[0] > 0:
            left[0] -= 1
            raise error

    return before


@pytest.mark.parametrize("error", [DOWN, REFUSED, FULL], ids=lambda error: error.kind)
@pytest.mark.parametrize("method", ["put_file", "create", "put", "list", "get", "delete"])
def test_a_trouble_that_passes_is_logged_once_and_everything_arrives(where, tmp_path, faults, caplog, error, method):
    """An expired credential that is renewed, a quota that is raised, a server that is restarted: all of them pass."""
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.idle()
    faults.before = failing(error, method, times=5)
    run.save(0)
    run.save(1, delete=(0,))
    for _ in range(1000):
        if run.listed() == [run.name(1)]:
            break  # without waiting for the end
        time.sleep(0.005)
    run.end()
    assert run.mirrored() == [run.name(1)]
    assert run.unreferenced() == []
    assert caplog.text.count("Training continues; this message is logged once") <= 2
    assert all("could not " in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)


def test_after_an_outage_the_newest_is_uploaded_first_and_what_was_replaced_is_counted(
    where, tmp_path, faults, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(backoff, "FIRST_S", 3600.0)
    monkeypatch.setattr(backoff, "LONGEST_S", 3600.0)
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.idle()
    faults.before = failing(DOWN)
    run.save(0)
    run.idle()  # from here on, it is not tried again
    for number in range(1, 6):
        run.save(number, delete=(number - 2,) if number >= 2 else ())
    waiting = {path.name for path in (run.folder / names.MIRROR_OUTBOX).glob("*.ckpt")}
    assert waiting == {run.name(4), run.name(5)}, "what is replaced takes no space"
    faults.calls.clear()
    faults.before = lambda method, name: None
    run.end()
    assert run.mirrored() == [run.name(4), run.name(5)]
    created = [name.removeprefix("checkpoints/")[:22] + ".ckpt" for method, name in faults.calls if method == "create"]
    assert created == [run.name(5), run.name(4)]
    assert "Replaced by newer ones before they were uploaded: 4." in caplog.text


def test_a_store_that_never_answers_blocks_neither_saves_nor_the_end(where, tmp_path, faults, monkeypatch, caplog):
    """The store hangs in every call: all that a run does returns, and its own disk has everything."""
    monkeypatch.setattr(thread, "_SHOW_AFTER_S", 0.01)
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.idle()
    faults.before = faults.hang
    for number in range(20):
        run.save(number, delete=(number - 2,) if number >= 2 else ())
    assert threading.main_thread() is threading.current_thread()
    run.end(limit_s=0.05)
    kept = {run.name(18), run.name(19)}
    assert {path.name for path in run.folder.glob("*.ckpt")} == kept
    assert "does not have all checkpoints of this run" in caplog.text
    assert f"the newest on the local disk is {run.name(19)}" in caplog.text
    in_outbox = {path.name for path in (run.folder / names.MIRROR_OUTBOX).glob("epoch_*.ckpt")}
    assert len(in_outbox - kept) <= 1, "only what was being sent"


def test_the_end_names_the_newest_of_many_that_are_missing(where, tmp_path, faults, caplog):
    run = MirroredRun(where, tmp_path / "checkpoints", keep=-1)
    run.idle()
    faults.before = failing(REFUSED)
    for number in range(8):
        run.save(number, delete=(number - 1,) if number else ())
    run.end()
    newest = ", ".join(run.name(number) for number in range(3, 8))
    assert f"does not have all checkpoints of this run ({newest}, and 3 older ones)." in caplog.text


def test_what_is_not_wanted_any_more_is_not_waited_for(where, tmp_path, faults, monkeypatch):
    """Else the thread would ask again and again, and training would share the processor with it."""
    monkeypatch.setattr(backoff, "FIRST_S", 3600.0)
    monkeypatch.setattr(backoff, "LONGEST_S", 3600.0)
    run = MirroredRun(where, tmp_path / "checkpoints", every=2)
    run.idle()
    faults.before = failing(DOWN)
    run.save(0)
    run.idle()
    run.save(1, delete=(0,))
    run.idle()
    uploader = run.mirror._parts.uploader
    uploader._backoff._now = lambda: time.monotonic() + 7200.0
    assert uploader.work() is None
    faults.before = lambda method, name: None
    run.end()
    assert run.mirrored() == [run.name(1)]


def test_the_newest_is_not_deleted_because_the_best_is_there(where, tmp_path, faults):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0, best=True)
    run.save(1)
    run.idle()
    faults.before = failing(FULL)
    run.save(2, delete=(1,))
    run.idle()
    assert run.mirrored() == [run.name(0), run.name(1)]
    faults.before = lambda method, name: None
    run.end()
    assert run.mirrored() == [run.name(0), run.name(2)]


def test_nothing_is_deleted_before_the_mirror_has_all_of_its_successor(where, tmp_path, faults):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    made = run.save(1)
    run.end()
    run.delete(0)
    run.objects.delete([data_name(made)])
    faults.before = failing(DOWN)
    again = MirroredRun(where, run.folder)
    again.idle()
    assert again.listed() == [run.name(0), run.name(1)]
    faults.before = lambda method, name: None
    again.end()
    assert again.mirrored() == [run.name(1)]


def test_a_checkpoint_that_was_replaced_while_it_was_sent_gets_no_record(where, tmp_path, faults):
    """Its name has other bytes now."""
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.idle()
    reached = threading.Event()

    def before(method, name):
        if (method, name) == ("get", layout.ATTEMPT) and not reached.is_set():
            reached.set()
            faults.release.wait(60)

    faults.before = before
    run.save(0)
    assert reached.wait(60)
    made = run.save(0, contents=5)
    faults.release.set()
    run.end()
    created = [name for method, name in faults.calls if method == "create" and name.startswith(layout.CHECKPOINTS)]
    assert created == [layout.stem_of(made).record]
    assert run.record(0).saved == made
    assert run.objects.get(data_name(made)) == (run.folder / made.name).read_bytes()
    assert run.unreferenced() == []


def test_a_start_that_was_given_up_does_not_take_over_later(where, tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(owner, "claim", lambda *arguments: release.wait(60))
    session = Session(address.parse(where), "toy", "a")
    with pytest.raises(RemoteError, match="does not answer within"):
        bounded.call(session.open, session.address, 0.0)
    left = [item for item in threading.enumerate() if item.name == "cairn-remote"]
    release.set()
    for item in left:
        item.join(60)
    assert not session.is_open
    assert Objects(session.address).list() == []


def test_what_the_queue_cannot_hold_is_mirrored_while_it_is_here(where, tmp_path, faults, caplog):
    run = MirroredRun(where, tmp_path / "checkpoints", keep=-1, queue_bytes=0)
    run.idle()
    faults.before = failing(DOWN)
    run.save(0)
    run.save(1)
    run.delete(0)
    assert not (run.folder / names.MIRROR_OUTBOX).exists()
    faults.before = lambda method, name: None
    run.end()
    assert run.mirrored() == [run.name(1)]
    assert caplog.text.count("wait to be uploaded: ") == 1
    assert "is mirrored only while the local disk keeps it" in caplog.text


def test_the_end_does_not_wait_for_what_will_not_pass(where, tmp_path, faults, caplog):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.idle()
    faults.before = failing(REFUSED)
    run.save(0)
    run.end(limit_s=600.0)
    assert "does not have all checkpoints of this run" in caplog.text


@pytest.mark.parametrize("kind", ["no_bucket", "refused", "misused"])
def test_a_store_that_cannot_work_refuses_the_run_before_training(where, tmp_path, faults, kind):
    faults.before = failing(RemoteError("The bucket of s3://b does not exist: create it.", kind=kind), "check")
    with pytest.raises(ConfigError, match="The bucket of s3://b does not exist: create it"):
        MirroredRun(where, tmp_path / "checkpoints")


def test_a_store_that_is_down_at_the_start_refuses_a_run_without_a_checkpoint(where, tmp_path, faults):
    faults.before = failing(DOWN, "check")
    with pytest.raises(ConfigError, match="There is no checkpoint on this disk, so the run would start over"):
        MirroredRun(where, tmp_path / "checkpoints")


def test_a_store_that_is_down_at_the_start_is_tried_again_with_a_checkpoint_here(where, tmp_path, faults, caplog):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.end()
    faults.before = failing(DOWN, "check", times=3)
    again = MirroredRun(where, run.folder)
    again.save(1)
    again.end()
    assert "The run goes on from the local disk; uploads are tried again." in caplog.text
    assert again.mirrored() == [run.name(0), run.name(1)]


def test_a_store_that_hangs_at_the_start_is_given_up(where, tmp_path, faults, monkeypatch):
    monkeypatch.setattr(bounded, "START_S", 0.05)
    faults.before = faults.hang
    with pytest.raises(ConfigError, match=r"does not answer within .* There is no checkpoint on this disk"):
        MirroredRun(where, tmp_path / "checkpoints")
    faults.release.set()
    for late in threading.enumerate():
        if late.name == "cairn-remote":
            late.join(60)
    assert Objects(address.parse(where)).list() == [], "what was given up does not claim the mirror later"


def test_a_kill_between_any_two_requests_leaves_nothing_torn(where, tmp_path, monkeypatch):
    """Whatever request is the last one: each record has all that it needs, and the next start removes the rest."""

    class Killed(BaseException):
        pass

    faults = Faults().install(monkeypatch)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    for last in range(1, 60):
        folder, address = tmp_path / f"{last}", f"{where}-{last}"
        faults.calls.clear()

        def before(method, name, last=last):
            if len(faults.calls) > last:
                raise Killed

        faults.before = before
        try:
            run = MirroredRun(address, folder)
        except Killed:
            continue
        for number in range(3):
            run.save(number, best=number == 0, delete=(number - 1,) if number == 2 else ())
            run.idle()
        is_done = run.mirror._parts.thread.is_alive
        run.kill()
        faults.before = lambda method, name: None
        assert run.mirrored() == sorted(run.mirrored())  # each with all that it needs
        again = MirroredRun(address, folder)
        again.save(3)
        again.end()
        assert again.mirrored() == [run.name(0), run.name(2), run.name(3)]
        assert again.unreferenced() == []
        if is_done:
            return
    pytest.fail("it was always killed")


def test_an_interrupt_ends_the_wait(where, tmp_path, faults, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.idle()
    faults.before = faults.hang
    run.save(0)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(thread.WakingThread, "join_with_progress", interrupted)
    run.end(limit_s=600.0)
    assert "Interrupted: no longer waiting for the mirror." in caplog.text
    assert "does not have all checkpoints of this run" in caplog.text


def test_a_stopped_run_uploads_its_newest_checkpoint_first(where, tmp_path, faults, monkeypatch):
    """An older one that is being sent makes way: SIGKILL may come before it has arrived."""
    run = MirroredRun(where, tmp_path / "checkpoints", keep=-1, grace_s=60.0)
    run.idle()
    reached = threading.Event()

    def before(method, name):
        if method == "put_file":
            reached.set()
            faults.release.wait(60)

    faults.before = before
    run.save(0)
    assert reached.wait(60)
    run.save(1)
    faults.calls.clear()
    run.mirror._parts.uploader.end(hurries=True)
    faults.release.set()
    run.end(finished=False)
    sent = [name for method, name in faults.calls if method == "create"]
    assert run.name(1).removesuffix(".ckpt") in sent[0]
    assert run.mirrored() == [run.name(0), run.name(1)]


def test_a_mirror_that_is_deleted_while_the_run_trains_gets_nothing_more(where, tmp_path, faults, caplog):
    """Or one on another disk that is not mounted any more. Records would lack what was uploaded before."""
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.idle()
    run.objects.delete([name for name, _ in run.objects.list()])
    run.save(1)
    run.end()
    assert run.objects.list() == []
    assert caplog.text.count("is gone: the mirror was deleted, or its disk is not mounted") == 1
    again = MirroredRun(where, run.folder)
    again.end()
    assert again.mirrored() == [run.name(0), run.name(1)]


def test_a_start_that_could_not_see_newer_checkpoints_does_not_delete_them(where, tmp_path, faults, caplog):
    """A run goes on elsewhere; back on the first disk, the store does not answer at the start, and later it does."""
    run = MirroredRun(where, tmp_path / "one")
    run.save(0)
    run.end()
    other = run.elsewhere(tmp_path / "other", 0)
    other.save(7)
    other.end()
    faults.before = failing(DOWN, "check", times=1)
    again = MirroredRun(where, run.folder)
    again.idle()
    again.save(1)
    again.end()
    assert other.mirrored() == [run.name(0), run.name(7)]
    assert f"holds a newer checkpoint than the one that it went on from ({run.name(7)})" in caplog.text
    assert "This process has stopped mirroring, see above." in caplog.text
    assert "Resuming the run uploads" not in caplog.text


def test_a_start_that_knows_that_the_store_does_not_answer_does_not_ask_it_again(where, tmp_path, faults, caplog):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.end()
    asked = len(faults.calls)
    run.mirror._session, run.mirror.trouble = None, "It does not answer."
    with caplog.at_level(logging.INFO):
        run.mirror.begin(run.folder, "toy", True)
    assert len(faults.calls) == asked
    assert "are tried again while the run trains" in caplog.text
    run.mirror.opened(run.folder, Catalog(run.folder).committed(), run.links, [])
    run.save(1)
    run.end()
    assert run.mirrored() == [run.name(0), run.name(1)]
