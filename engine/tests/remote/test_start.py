"""What a start does with its mirror: go on from it, refuse, or warn."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest
from tests.support.mirrors import damage, mirror_checkpoint, objects_at
from tests.support.values import commit

from cairn.errors import ConfigError, RemoteError, ResumeError
from cairn.remote import bounded, layout, owner, record, start
from cairn.remote.fetch import Target
from cairn.remote.start import Found
from cairn.store.catalog import Catalog
from cairn.store.resume import find_resume_point


@pytest.fixture
def store(tmp_path):
    return objects_at("memory", tmp_path)


def failing(monkeypatch, kind, message="It fails."):
    def fail(self):
        raise RemoteError(message, kind=kind)

    monkeypatch.setattr(start.Objects, "check", fail)


def test_a_new_address_belongs_to_no_run(store):
    found = start.look(store.address)
    assert (found.run, found.trouble, found.first(lambda objects, record: record)) == ("", "", None)
    found.check_run("any")


def test_the_owner_or_else_the_newest_record_names_the_run(store, tmp_path):
    made = mirror_checkpoint(store, tmp_path, 0, run="abc")
    assert start.look(store.address).run == "abc"
    owner.claim(store, "abc")
    found = start.look(store.address)
    assert found.run == "abc"
    assert found.first(lambda objects, record: record.saved) == made
    found.check_run("abc")
    with pytest.raises(ConfigError, match=f"holds the run abc, and this is the run xyz.*resume={found.address}"):
        found.check_run("xyz")


@pytest.mark.parametrize("kind", ["no_bucket", "refused", "misused"])
def test_a_store_that_refuses_is_an_error_before_anything_else(store, monkeypatch, kind):
    failing(monkeypatch, kind)
    with pytest.raises(ConfigError, match=r"It fails\."):
        start.look(store.address)


def test_a_store_that_cannot_be_reached_is_a_warning_only_with_a_local_checkpoint(store, tmp_path, monkeypatch, caplog):
    failing(monkeypatch, "unavailable")
    found, target = start.look(store.address), Target(tmp_path / "checkpoints")
    assert found.first(lambda objects, record: record) is None
    with pytest.raises(ResumeError, match=r"It fails\. This disk holds no checkpoint.* set mirror=null"):
        found.bring(target, None)
    local = commit(target.directory, 0)
    with caplog.at_level(logging.WARNING):
        assert found.bring(target, local) == (None, "It fails.")
    assert "The run goes on from its newest checkpoint on this disk." in caplog.text


def test_a_store_that_hangs_is_given_up(store, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(bounded, "START_S", 0.0)
    monkeypatch.setattr(start.Objects, "check", lambda self: release.wait())
    assert "does not answer within 0 s" in start.look(store.address).trouble
    release.set()


def test_run_files_that_are_damaged_are_those_of_the_checkpoint_before(store, tmp_path, caplog):
    mirror_checkpoint(store, tmp_path, 0, {"run.json": b"good"})
    made = mirror_checkpoint(store, tmp_path, 1, {"run.json": b"damaged"})
    part = record.load(store.get(layout.stem_of(made).record)).files[0].parts[0].object
    damage(store, part)
    assert start.bring_files(start.look(store.address), tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == b"good"
    assert f"Skipped in {store.address}: {made.name}: the run file run.json is damaged" in caplog.text


def test_a_damaged_record_is_named_once_in_a_start(store, tmp_path, caplog):
    mirror_checkpoint(store, tmp_path, 0)
    bad = mirror_checkpoint(store, tmp_path, 1)
    store.put(layout.stem_of(bad).record, b"")
    found = start.look(store.address)
    start.bring_files(found, tmp_path / "run")
    found.bring(Target(tmp_path / "run" / "checkpoints"), None)
    assert caplog.text.count(f"Skipped in {store.address}: {bad.name}") == 1


def test_a_download_that_is_given_up_leaves_nothing(store, tmp_path, monkeypatch):
    mirror_checkpoint(store, tmp_path, 0)
    target, real, release = Target(tmp_path / "checkpoints"), store.get_range, threading.Event()

    def slow(*arguments):
        release.wait()
        return real(*arguments)

    class Interrupted(threading.Event().__class__):
        def wait(self, timeout=None):
            if timeout == bounded._POLL_S:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(store, "get_range", slow)
    monkeypatch.setattr(bounded, "threading", SimpleNamespace(Event=Interrupted, Thread=threading.Thread))
    with pytest.raises(KeyboardInterrupt):
        Found(store.address, store).bring(target, None)
    monkeypatch.undo()
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("cairn-"):
            thread.join()
    assert Catalog(target.directory).committed() == []
    assert list(target.directory.iterdir()) == []


def test_of_two_processes_one_downloads(store, tmp_path, monkeypatch):
    made = mirror_checkpoint(store, tmp_path, 0)
    target, real, downloads = Target(tmp_path / "run" / "checkpoints"), start.fetch.newest, []

    def slow(objects, target, local):
        brought = real(objects, target, local)
        if brought is not None:
            downloads.append(brought.name)
        time.sleep(0.01)
        return brought

    monkeypatch.setattr(start.fetch, "newest", slow)
    points = []
    found = Found(store.address, store)

    def begin():
        points.append(find_resume_point(target.directory, bring=lambda local: found.bring(target, local)[0]))

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [point.saved for point in points] == [made] * 3
    assert downloads == [made.name]


def test_a_mirror_is_claimed_and_tried_before_anything_is_changed(store, monkeypatch):
    found = start.claimed(start.look(store.address), "abc", "a")
    assert (found.run, owner.read(store).run) == ("abc", "abc")
    assert start.claimed(start.look(store.address), "abc", "a").objects is not None
    assert [name for name, _ in store.list()] == [layout.OWNER]
    with pytest.raises(ConfigError, match="belongs to another run"):
        start.claimed(found, "xyz", "b")


@pytest.mark.parametrize("has_owner", [False, True])
def test_credentials_that_may_only_read_are_refused(store, monkeypatch, has_owner):
    if has_owner:
        owner.claim(store, "abc")

    def refuse(self, *_):
        raise RemoteError("It refuses access.", kind="refused")

    def create(self, name, data):
        return False if has_owner else refuse(self)

    monkeypatch.setattr(start.Objects, "create", create)
    monkeypatch.setattr(start.Objects, "put", refuse)
    found = start.look(store.address)
    with pytest.raises(ConfigError, match=r"It refuses access\. Its objects can be read, and none can be written"):
        start.claimed(found, "abc", "a")


def test_a_store_that_ends_to_answer_before_it_is_claimed_cannot_be_reached(store, monkeypatch):
    found = start.look(store.address)

    def fail(self, *_):
        raise RemoteError("It fails.")

    monkeypatch.setattr(start.Objects, "create", fail)
    lost = start.claimed(found, "abc", "a")
    assert (lost.objects, lost.trouble) == (None, "It fails.")
    assert start.claimed(lost, "abc", "a") is lost


def test_records_of_another_run_than_the_owner_are_not_brought(store, tmp_path):
    mirror_checkpoint(store, tmp_path, 0, run="abc")
    owner.claim(store, "xyz")
    with pytest.raises(ResumeError, match=r"it belongs to the run abc, and owner\.json names xyz"):
        start.bring_files(start.look(store.address), tmp_path / "run")
    assert not (tmp_path / "run").exists()
