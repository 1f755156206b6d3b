"""What waits for its upload outlives its checkpoint."""

import os
import threading
from contextlib import suppress

import pytest
from tests.support.shards import commit_shards
from tests.support.values import commit

from cairn.store import names
from cairn.store.catalog import Catalog, digest
from cairn.store.commit import delete_checkpoint
from cairn.uploads.outbox import Outbox


@pytest.fixture
def folder(tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


def test_a_checkpoint_that_is_deleted_stays_in_the_outbox(folder):
    saved, outbox = commit(folder, 3), Outbox(folder, names.OUTBOX)
    content = (folder / saved.name).read_bytes()
    place = outbox.add(saved)
    assert os.path.samefile(place, folder / saved.name), "a link, not a copy"
    delete_checkpoint(folder, saved.name)
    assert place.read_bytes() == content
    assert Outbox(folder, names.OUTBOX).waiting() == [saved]
    assert outbox.num_bytes == Outbox(folder, names.OUTBOX).num_bytes == saved.num_bytes
    assert outbox.held == Outbox(folder, names.OUTBOX).held == {saved.name}
    outbox.remove(saved.name)
    assert list(folder.iterdir()) == [], "the empty folder is removed as well"
    outbox.remove(saved.name)


def test_the_outbox_is_neither_a_checkpoint_nor_a_leftover(folder):
    saved = commit(folder)
    Outbox(folder, names.OUTBOX).add(saved)
    assert Catalog(folder).committed() == [saved]
    assert Catalog(folder).leftovers() == []


def test_a_checkpoint_saved_again_replaces_the_one_of_that_name(folder):
    outbox = Outbox(folder, names.OUTBOX)
    outbox.add(commit(folder, 0, score=1.0))
    again = commit(folder, 0, score=2.0)
    outbox.add(again)
    assert outbox.waiting() == [again]


def test_without_hard_links_the_bytes_are_copied(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("no links here")

    saved = commit(folder)
    monkeypatch.setattr(os, "link", refuse)
    place = Outbox(folder, names.OUTBOX).add(saved)
    assert place.read_bytes() == (folder / saved.name).read_bytes()
    assert not os.path.samefile(place, folder / saved.name)


def test_a_checkpoint_that_does_not_exist_cannot_be_added(folder):
    saved = commit(folder)
    (folder / saved.name).unlink()
    outbox = Outbox(folder, names.OUTBOX)
    with pytest.raises(FileNotFoundError):
        outbox.add(saved)
    assert list(outbox.directory.iterdir()) == []


class Kill(BaseException):
    """The process ends here: no code of ours runs after it."""


@pytest.mark.parametrize("copies", [False, True])
def test_leftovers_of_a_kill_are_removed(folder, monkeypatch, copies):
    first, second = commit(folder, 0), commit(folder, 1)
    Outbox(folder, names.OUTBOX).add(first)

    def link(source, place):
        if copies:
            place = os.fspath(place)
            with open(place, "wb") as file:
                file.write(b"half of it")
        raise Kill

    monkeypatch.setattr("cairn.uploads.outbox.link_or_copy", link)
    with pytest.raises(Kill):
        Outbox(folder, names.OUTBOX).add(second)
    assert Outbox(folder, names.OUTBOX).waiting() == [first]
    inside = {path.name for path in (folder / ".outbox").iterdir()}
    assert inside == {first.name, first.name.replace(".ckpt", ".json")}


def test_a_file_without_a_note_is_removed(folder):
    (folder / ".outbox" / "folder").mkdir(parents=True)
    (folder / ".outbox" / "epoch_000_batch_000001.ckpt").write_text("x")
    Outbox(folder, names.OUTBOX)
    assert list(folder.iterdir()) == []


def garble(note):
    note.write_text("{}")


def refuse(note):
    note.unlink()
    note.mkdir()  # reading it is an OSError, also for root


def write_newer(note):
    note.write_text('{"format": 99}')


@pytest.mark.parametrize("spoil", [garble, refuse, write_newer])
def test_a_checkpoint_whose_note_cannot_be_read_is_kept_and_logged_once(folder, caplog, spoil):
    first, second = commit(folder, 0), commit(folder, 1)
    outbox = Outbox(folder, names.OUTBOX)
    content = outbox.add(first).read_bytes()
    outbox.add(second)
    note = folder / ".outbox" / first.name.replace(".ckpt", ".json")
    spoil(note)
    later = Outbox(folder, names.OUTBOX)
    assert later.waiting() == later.waiting() == [second]
    assert later.num_bytes == second.num_bytes
    assert later.path(first.name).read_bytes() == content
    assert note.exists()
    assert caplog.text.count(f"{note.name} cannot be read") == 1


def test_a_note_without_a_file_is_removed(folder):
    saved, outbox = commit(folder), Outbox(folder, names.OUTBOX)
    outbox.add(saved).unlink()
    assert Outbox(folder, names.OUTBOX).waiting() == []
    assert not outbox.directory.exists()


def test_a_folder_that_is_removed_while_it_is_read_is_empty(folder, monkeypatch):
    outbox = Outbox(folder, names.OUTBOX)
    monkeypatch.setattr(type(folder), "is_dir", lambda self: True)
    assert outbox.waiting() == []


def test_one_thread_adds_while_another_removes(folder):
    items, outbox = [commit(folder, number) for number in range(4)], Outbox(folder, names.OUTBOX)
    stop = threading.Event()

    def remove_all():
        while not stop.is_set():
            for item in items:
                outbox.remove(item.name)

    other = threading.Thread(target=remove_all)
    other.start()
    for turn in range(300):
        outbox.add(items[turn % 4])
    stop.set()
    other.join()


def test_a_folder_behind_a_link_keeps_its_files(folder, tmp_path):
    other = tmp_path / "other"
    (other / "folder").mkdir(parents=True)
    (other / "file.json").write_text("{}")
    (folder / ".outbox").symlink_to(other)
    outbox = Outbox(folder, names.OUTBOX)
    outbox.add(commit(folder, 3))
    assert sorted(path.name for path in other.rglob("*")) == ["file.json", "folder"]
    (folder / ".outbox" / "link").symlink_to(other)
    Outbox(folder, names.OUTBOX)
    assert sorted(path.name for path in other.rglob("*")) == ["file.json", "folder"]
    assert not os.path.lexists(folder / ".outbox" / "link")


# Directories of shards


def test_a_directory_that_is_deleted_stays_in_the_outbox(folder):
    saved, outbox = commit_shards(folder, 3), Outbox(folder, names.OUTBOX)
    place = outbox.add(saved)
    shard = saved.shards[1].name
    assert os.path.samefile(place / shard, folder / saved.name / shard), "links, not copies"
    delete_checkpoint(folder, saved.name)
    assert digest(place, saved.digest) == saved.digest
    assert Outbox(folder, names.OUTBOX).waiting() == [saved]
    assert Outbox(folder, names.OUTBOX).num_bytes == saved.num_bytes
    outbox.remove(saved.name)
    assert list(folder.iterdir()) == [], "the empty folder is removed as well"


def test_a_directory_saved_again_replaces_the_one_of_that_name(folder):
    outbox = Outbox(folder, names.OUTBOX)
    outbox.add(commit_shards(folder, 0, score=1.0))
    delete_checkpoint(folder, "epoch_000_batch_000001.ckpt")
    again = commit_shards(folder, 0, score=2.0, world_size=2)
    outbox.add(again)
    assert outbox.waiting() == [again]
    assert digest(outbox.path(again.name), again.digest) == again.digest


def test_a_removal_of_a_directory_that_is_cut_leaves_nothing_that_is_uploaded(folder, monkeypatch):
    saved, outbox = commit_shards(folder), Outbox(folder, names.OUTBOX)
    outbox.add(saved)
    with monkeypatch.context() as patched, suppress(InterruptedError):
        patched.setattr(os, "unlink", cut)
        outbox.remove(saved.name)
    again = Outbox(folder, names.OUTBOX)
    assert (again.waiting(), list(folder.glob(".outbox/*"))) == ([], [])
    assert Catalog(folder).committed() == [saved]


def cut(*args):
    raise InterruptedError("cut")


def test_a_directory_without_a_shard_cannot_be_added(folder):
    saved, outbox = commit_shards(folder), Outbox(folder, names.OUTBOX)
    (folder / saved.name / saved.shards[2].name).unlink()
    with pytest.raises(FileNotFoundError):
        outbox.add(saved)
    assert list(outbox.directory.iterdir()) == []


@pytest.mark.parametrize("has_links", [True, False])
def test_the_manifest_of_a_deleted_checkpoint_is_kept_as_it_was(folder, monkeypatch, has_links):
    def refuse(*args, **kwargs):
        raise PermissionError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    saved, outbox = commit(folder), Outbox(folder, names.OUTBOX)
    text = (folder / names.manifest_name(saved.name)).read_bytes()
    outbox.add(saved)
    delete_checkpoint(folder, saved.name)
    assert outbox.text(saved.name) == text
    assert b"world_size" in text
