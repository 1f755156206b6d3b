"""What a mirror holds: checkpoints with a record, what they need, and what nothing refers to."""

import pytest
from tests.support.mirrors import mirror_checkpoint, objects_at

from cairn.errors import CorruptCheckpointError, RemoteError
from cairn.remote import layout, listed
from cairn.remote.layout import Stem


@pytest.fixture
def store(tmp_path):
    return objects_at("memory", tmp_path)


def test_nothing_is_at_a_new_address(store):
    assert listed.look(store).is_empty


def test_checkpoints_with_a_record_are_listed_oldest_first(store, tmp_path):
    made = [mirror_checkpoint(store, tmp_path, number) for number in (1, 0)]
    store.put("notes.txt", b"")
    found = listed.look(store)
    assert [stem.name for stem in found.stems] == [item.name for item in reversed(made)]
    assert found.others == ("notes.txt",)
    records, bad = listed.read_records(store, found)
    assert [item.saved for item in records] == made[::-1]
    assert bad == {}
    assert found.unreferenced(records) == []
    assert all(found.missing(item) == [] for item in records)


def test_data_without_a_record_and_parts_without_reference_are_left_over(store, tmp_path):
    kept, gone = mirror_checkpoint(store, tmp_path, 0), mirror_checkpoint(store, tmp_path, 1)
    store.delete([layout.stem_of(gone).record])
    store.put(layout.part_name("ff" * 32), b"x")
    store.put(layout.OWNER, b"{}")
    store.put(layout.LAST, b"{}")
    store.put("notes.txt", b"")
    found = listed.look(store)
    records, _ = listed.read_records(store, found)
    assert [item.saved for item in records] == [kept]
    # The run files of both checkpoints are the same: one record still needs them.
    assert found.unreferenced(records) == [layout.stem_of(gone).data, layout.part_name("ff" * 32)]


def test_what_a_record_misses_is_named(store, tmp_path):
    made = mirror_checkpoint(store, tmp_path, 0)
    (found,) = listed.read_records(store, listed.look(store))[0]
    store.put(layout.stem_of(made).data, b"short")
    store.delete([found.files[0].parts[0].object])
    assert listed.look(store).missing(found) == sorted([layout.stem_of(made).data, found.files[0].parts[0].object])


def test_a_damaged_record_does_not_hide_the_others(store, tmp_path):
    made = [mirror_checkpoint(store, tmp_path, number) for number in (0, 1)]
    stem = layout.stem_of(made[1])
    store.put(stem.record, b"{")
    found = listed.look(store)
    records, bad = listed.read_records(store, found)
    assert [item.saved for item in records] == made[:1]
    assert list(bad) == [stem]
    assert stem.record not in found.unreferenced(records)  # a damaged record is not a leftover: it is reported


def test_a_record_that_is_deleted_meanwhile_and_a_store_that_fails(store, monkeypatch):
    stem = Stem("epoch_000_batch_000001.ckpt", "0" * 12)
    with pytest.raises(CorruptCheckpointError, match="deleted from the mirror"):
        listed.read_record(store, stem)

    def refuse(name, most_bytes):
        raise RemoteError("no", kind="refused")

    monkeypatch.setattr(store, "get", refuse)
    with pytest.raises(RemoteError):
        listed.read_record(store, stem)
