"""What waits to be uploaded outlives its checkpoint."""

import os
import threading

import pytest
from tests.support.values import commit

from cairn.store.catalog import Catalog
from cairn.store.commit import remove
from cairn.wandb.outbox import Outbox


@pytest.fixture
def folder(tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


def test_a_checkpoint_that_is_deleted_stays_in_the_outbox(folder):
    saved, outbox = commit(folder, 3), Outbox(folder)
    content = (folder / saved.name).read_bytes()
    place = outbox.put(saved)
    assert os.path.samefile(place, folder / saved.name), "a link, and no copy"
    remove(folder, saved.name)
    assert place.read_bytes() == content
    assert Outbox(folder).waiting() == [saved]
    assert outbox.num_bytes == Outbox(folder).num_bytes == saved.num_bytes
    outbox.drop(saved.name)
    assert list(folder.iterdir()) == [], "the empty folder goes, too"
    outbox.drop(saved.name)


def test_it_is_no_checkpoint_and_no_leftover(folder):
    saved = commit(folder)
    Outbox(folder).put(saved)
    assert Catalog(folder).committed() == [saved]
    assert Catalog(folder).leftovers() == []


def test_one_of_the_same_name_takes_the_place_of_the_one_before(folder):
    outbox = Outbox(folder)
    outbox.put(commit(folder, 0, score=1.0))
    again = commit(folder, 0, score=2.0)
    outbox.put(again)
    assert outbox.waiting() == [again]


def test_where_there_are_no_hard_links_it_is_a_copy(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("no links here")

    saved = commit(folder)
    monkeypatch.setattr(os, "link", refuse)
    place = Outbox(folder).put(saved)
    assert place.read_bytes() == (folder / saved.name).read_bytes()
    assert not os.path.samefile(place, folder / saved.name)


def test_a_sharded_one_is_held_file_by_file(folder):
    saved = commit(folder)
    (folder / saved.name).unlink()
    (folder / saved.name / "part").mkdir(parents=True)
    (folder / saved.name / "part" / "0").write_text("x")
    place = Outbox(folder).put(saved)
    assert os.path.samefile(place / "part" / "0", folder / saved.name / "part" / "0")
    Outbox(folder).drop(saved.name)
    assert not place.exists()


def test_what_is_gone_cannot_be_held(folder):
    saved = commit(folder)
    (folder / saved.name).unlink()
    outbox = Outbox(folder)
    with pytest.raises(FileNotFoundError):
        outbox.put(saved)
    assert list(outbox.directory.iterdir()) == []


class Kill(BaseException):
    """The process ends here: nothing of ours runs any more."""


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_what_a_kill_leaves_in_the_middle_does_not_stay_for_ever(folder, monkeypatch, copies, sharded):
    first, second = commit(folder, 0), commit(folder, 1)
    if sharded:
        (folder / second.name).unlink()
        for part in ("0", "1"):
            (folder / second.name).mkdir(exist_ok=True)
            (folder / second.name / part).write_text("x")
    Outbox(folder).put(first)

    def link(source, place):
        if copies:
            place = os.fspath(place)
            with open(place, "wb") as file:
                file.write(b"half of it")
        raise Kill

    monkeypatch.setattr("cairn.wandb.outbox._link", link)
    with pytest.raises(Kill):
        Outbox(folder).put(second)
    assert Outbox(folder).waiting() == [first]
    inside = {path.name for path in (folder / ".outbox").iterdir()}
    assert inside == {first.name, first.name.replace(".ckpt", ".json")}


def test_a_file_without_a_note_is_cleared_away(folder):
    (folder / ".outbox" / "folder").mkdir(parents=True)
    (folder / ".outbox" / "epoch_000_batch_000001.ckpt").write_text("x")
    Outbox(folder)
    assert list(folder.iterdir()) == []


def garble(note):
    note.write_text("{}")


def refuse(note):
    note.unlink()
    note.mkdir()  # reading it is an OSError, also for root


def write_newer(note):
    note.write_text('{"format": 99}')


@pytest.mark.parametrize("spoil", [garble, refuse, write_newer])
def test_what_has_a_note_that_cannot_be_read_is_kept_and_told_once(folder, caplog, spoil):
    first, second = commit(folder, 0), commit(folder, 1)
    outbox = Outbox(folder)
    content = outbox.put(first).read_bytes()
    outbox.put(second)
    note = folder / ".outbox" / first.name.replace(".ckpt", ".json")
    spoil(note)
    later = Outbox(folder)
    assert later.waiting() == later.waiting() == [second]
    assert later.num_bytes == second.num_bytes
    assert later.path(first.name).read_bytes() == content
    assert note.exists()
    assert caplog.text.count(f"{note.name} cannot be read") == 1


def test_a_note_without_a_file_is_cleared_away(folder):
    saved, outbox = commit(folder), Outbox(folder)
    outbox.put(saved).unlink()
    assert Outbox(folder).waiting() == []
    assert not outbox.directory.exists()


def test_a_folder_that_goes_while_it_is_read_is_an_empty_one(folder, monkeypatch):
    outbox = Outbox(folder)
    monkeypatch.setattr(type(folder), "is_dir", lambda self: True)
    assert outbox.waiting() == []


def test_one_thread_puts_in_while_another_takes_out(folder):
    items, outbox = [commit(folder, number) for number in range(4)], Outbox(folder)
    stop = threading.Event()

    def take_out():
        while not stop.is_set():
            for item in items:
                outbox.drop(item.name)

    other = threading.Thread(target=take_out)
    other.start()
    for turn in range(300):
        outbox.put(items[turn % 4])
    stop.set()
    other.join()
