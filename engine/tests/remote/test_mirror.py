"""What a mirror holds of a run, and when something is deleted there."""

import hashlib
import json
import logging
import pickle

import pytest
from tests.support.mirrored_run import MirroredRun, data_name
from tests.support.mirrors import mirror_checkpoint
from tests.support.shards import commit_shards

from cairn.errors import ConfigError
from cairn.remote import address, layout, listed, owner, ranks, uploader
from cairn.remote.mirror import Mirror
from cairn.remote.objects import Objects
from cairn.store import names
from cairn.store.listener import Listeners
from cairn.uploads.thread import WakingThread


@pytest.fixture
def where(tmp_path):
    return f"memory://{tmp_path.as_posix().replace('/', '-')}/runs/a"


def test_a_committed_checkpoint_is_mirrored_as_it_is(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    made = run.save(0)
    run.end()
    assert run.mirrored() == [made.name]
    assert run.objects.get(data_name(made)) == (run.folder / made.name).read_bytes()
    manifest = (run.folder / names.manifest_name(made.name)).read_text()
    assert run.record(0).manifest == manifest, "with its provenance"
    assert json.loads(run.objects.get(layout.LAST))["name"] == made.name
    assert not (run.folder / names.MIRROR_OUTBOX).exists()
    assert run.unreferenced() == []


def test_retention_is_mirrored_once_a_newer_checkpoint_is_there(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.idle()
    run.delete(0)
    run.idle()
    assert run.mirrored() == [run.name(0)], "nothing newer is there"
    run.save(1)
    run.idle()
    assert run.mirrored() == [run.name(1)]
    run.end()
    assert run.unreferenced() == []


def test_the_best_checkpoint_is_pointed_to_and_stays(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints", every=10, keep=1)
    run.save(0)
    run.save(1, best=True)
    run.save(2)
    run.save(3)
    run.end(finished=True)
    assert run.mirrored() == [run.name(1), run.name(3)], "the best and the final one"
    assert json.loads(run.objects.get(layout.BEST))["name"] == run.name(1)
    assert json.loads(run.objects.get(layout.LAST))["name"] == run.name(3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, [3, 4]), ({"keep": 3}, [2, 3, 4]), ({"keep": -1}, [0, 1, 2, 3, 4]), ({"keep": 1}, [4])],
)
def test_the_mirror_may_keep_more_or_less_than_the_disk(where, tmp_path, settings, expected):
    run = MirroredRun(where, tmp_path / "checkpoints", **settings)
    for number in range(5):
        run.save(number, delete=(number - 2,) if number >= 2 else ())
        run.idle()
    run.end()
    assert run.mirrored() == [run.name(number) for number in expected]
    assert run.unreferenced() == []


def test_every_third_is_mirrored_and_stays_until_the_next_one(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints", every=3)
    for number in range(6):
        run.save(number, delete=(number - 1,) if number else ())
        run.idle()
        assert run.mirrored() == [run.name(number - number % 3)]
    run.end(finished=False)
    assert run.mirrored() == [run.name(5)], "the newest, when the run stops"


def test_what_a_start_was_resumed_from_stays(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.end()
    again = MirroredRun(where, run.folder)
    again.save(1, delete=(0,))
    again.save(2, delete=(1,))
    again.end()
    assert again.mirrored() == [run.name(0), run.name(2)]
    third = MirroredRun(where, run.folder)
    third.save(3)
    third.end()
    assert third.mirrored() == [run.name(2), run.name(3)], "the next start deletes it"


def test_a_checkpoint_saved_again_replaces_the_one_of_that_name(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0, score=1.0)
    run.idle()
    made = run.save(0, score=2.0, contents=5)
    run.save(1)
    run.end()
    assert run.mirrored() == [run.name(0), run.name(1)]
    assert run.record(0).saved == made


@pytest.mark.parametrize("harm", ["data", "size", "part", "record"])
def test_what_a_mirror_lacks_of_a_checkpoint_is_uploaded_again(where, tmp_path, harm):
    """A lifecycle rule, or a person, has deleted or changed an object."""
    run_directory = tmp_path / "run"
    run_directory.mkdir()
    (run_directory / "config.yaml").write_text("a: 1")
    run = MirroredRun(where, run_directory / "checkpoints", run_directory=run_directory)
    run.save(0)
    made = run.save(1)
    run.end()
    stem, part = layout.stem_of(made), run.record(1).files[0].parts[0].object
    if harm in ("data", "part"):
        run.objects.delete([stem.data if harm == "data" else part])
    else:
        run.objects.put(stem.data if harm == "size" else stem.record, b"{")
    again = MirroredRun(where, run.folder, run_directory=run_directory)
    again.end()
    assert again.mirrored() == [run.name(0), run.name(1)]
    assert again.objects.get(stem.data) == (run.folder / made.name).read_bytes()
    assert again.unreferenced() == []


def test_a_piece_that_was_removed_as_a_leftover_is_uploaded_again(where, tmp_path, monkeypatch):
    """A run that repeats batches writes rows again whose piece the start before has left without a record."""
    rows, run_directory = b"step,loss\n1,0.5\n", tmp_path / "run"
    piece = layout.part_name(hashlib.sha256(rows).hexdigest())
    Objects(address.parse(where)).put(piece, rows)
    monkeypatch.setattr(uploader, "LEFTOVERS_S", 0.0)
    run = MirroredRun(where, run_directory / "checkpoints", run_directory=run_directory)
    run.save(0)
    run.idle()
    assert run.unreferenced() == []
    (run_directory / "metrics.csv").write_bytes(rows)
    run.save(1)
    run.end()
    assert run.mirrored() == [run.name(0), run.name(1)]
    assert run.objects.get(piece) == rows


def test_other_ranks_upload_their_shards(where, tmp_path, monkeypatch):
    sent = []

    class OfRank1(Objects):
        def put_file(self, name, path, beat):
            sent.append(name.rpartition("/")[2])
            super().put_file(name, path, beat)

    monkeypatch.setattr(ranks, "POLL_S", 0.01)
    monkeypatch.setattr(ranks, "TAKE_S", 60.0)
    monkeypatch.setattr("cairn.remote.mirror.Objects", OfRank1)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / names.MIRROR_RANKS).mkdir()
    (folder / names.MIRROR_RANKS / "of-a-killed-start.json").write_text("{}")
    made = commit_shards(folder, 3, world_size=2)
    other = Mirror(where)
    other.assist(folder, 1)
    run = MirroredRun(where, folder)
    run.end()
    other.close(True, 60.0)
    assert run.mirrored() == [made.name]
    assert sent == [names.shard_name(1)]
    assert not (folder / names.MIRROR_RANKS).exists()


def test_another_fit_ends_the_uploads_of_the_one_before(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    made = run.save(0)
    run.idle()
    before = run.mirror._parts.thread
    run.mirror.opened(run.folder, [made], run.links, [])
    before.join(60)
    assert not before.is_alive
    run.save(1)
    run.end()
    assert run.mirrored() == [run.name(0), run.name(1)]


def test_a_kill_before_a_deletion_does_not_keep_the_checkpoint_for_ever(where, tmp_path):
    run = MirroredRun(where, tmp_path / "one")
    run.save(0)
    run.save(1)
    run.idle()
    run.mirror._session.objects.delete = lambda names: None  # the deletion does not arrive before the kill
    run.save(2, delete=(0,))
    run.idle()
    run.kill()
    assert run.mirrored() == [run.name(0), run.name(1), run.name(2)]
    other = run.elsewhere(tmp_path / "other", 2)
    other.save(3)
    other.end()
    assert other.mirrored() == [run.name(2), run.name(3)]


def test_what_lies_after_the_checkpoint_that_a_run_goes_on_from_is_replaced(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    for number in range(3):
        run.save(number)
    run.end()
    run.delete(2)
    again = MirroredRun(where, run.folder)
    again.idle()
    assert run.name(2) in again.mirrored(), "nothing of the new past is there"
    again.save(3)
    again.idle()
    assert again.mirrored() == [run.name(0), run.name(1), run.name(3)]
    again.end()


def test_a_mirror_of_another_run_is_refused_by_name(where, tmp_path):
    MirroredRun(where, tmp_path / "one", run_directory=tmp_path / "run-one").end()
    with pytest.raises(ConfigError, match=r"belongs to another run \(toy, run-one, since .*: give each run an address"):
        MirroredRun(where, tmp_path / "other", run="other")


def test_a_later_start_of_the_run_takes_over(where, tmp_path, caplog):
    run = MirroredRun(where, tmp_path / "one")
    run.save(0)
    run.idle()
    later = run.elsewhere(tmp_path / "other", 0)
    run.save(1)
    run.idle()
    assert run.mirrored() == [run.name(0)]
    assert caplog.text.count("another process has continued this run since") == 1
    run.end()
    later.save(2)
    later.end()
    assert later.mirrored() == [run.name(0), run.name(2)]
    assert later.unreferenced() == []


def test_what_waited_when_a_run_was_killed_is_uploaded_by_the_next_start(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints", keep=-1)
    run.idle()
    run.kill()
    run.save(0)
    run.save(1, delete=(0,))
    assert run.mirrored() == []
    again = MirroredRun(where, run.folder, keep=-1)
    again.end()
    assert again.mirrored() == [run.name(0), run.name(1)]
    assert not (run.folder / names.MIRROR_OUTBOX).exists()


def test_what_a_kill_has_left_is_removed_at_the_end(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    made = mirror_checkpoint(run.objects, tmp_path, 7)
    run.objects.delete([layout.stem_of(made).record])
    run.objects.put("files/somebody's", b"not ours")
    assert run.unreferenced()
    run.save(0)
    run.end()
    assert run.unreferenced() == []
    assert run.objects.get("files/somebody's") == b"not ours"


def test_shards_are_uploaded_before_the_record(where, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    made = commit_shards(folder, 3)
    monkeypatch.setattr(ranks, "TAKE_S", 0.0)  # there are no other ranks
    run = MirroredRun(where, folder)
    run.end()
    assert run.mirrored() == [made.name]
    found = listed.look(run.objects)
    for item, (name, path, _) in zip(made.shards, layout.data_of(made), strict=True):
        assert run.objects.get(name) == (folder / path).read_bytes()
        assert found.sizes[name] == item.num_bytes
    assert not (folder / names.MIRROR_RANKS).exists()


def test_the_end_says_what_is_where(where, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.end()
    assert f"Checkpoints are mirrored to {where}" in caplog.text
    assert f"Mirrored to {where}: its newest checkpoint is {run.name(0)}." in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "every=0 must be an integer from 1"),
        ({"keep": 0}, "keep=0 must be an integer from 1, -1 for all"),
        ({"keep": 1.5}, "keep=1.5 must be"),
        ({"queue_bytes": -1}, "queue_bytes=-1 must be a size"),
        ({"queue_bytes": "50GB"}, "queue_bytes='50GB' must be a size in bytes"),
        ({"wait_s": "10min"}, "wait_s='10min' must be a time in seconds"),
        ({"wait_s": float("nan")}, "wait_s=nan must be a time"),
        ({"where": "s3://key:secret@bucket/a"}, "must not hold a user, a password or a query"),
    ],
)
def test_what_cannot_work_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Mirror(arguments.pop("where", "memory://a"), **arguments)
    assert "secret" not in str(caught.value)


def test_the_newest_record_has_the_run_files_of_the_end(where, tmp_path):
    run_directory = tmp_path / "run"
    run_directory.mkdir()
    (run_directory / "run.json").write_text('{"status": "running"}')
    run = MirroredRun(where, run_directory / "checkpoints", run_directory=run_directory)
    run.save(0)
    run.save(1)
    run.idle()
    before = run.record(1)
    (run_directory / "run.json").write_text('{"status": "finished"}')
    run.end()
    (file,) = run.record(1).files
    assert run.objects.get(file.parts[0].object) == b'{"status": "finished"}'
    assert run.record(1).manifest == before.manifest
    (file,) = run.record(0).files
    assert run.objects.get(file.parts[0].object) == b'{"status": "running"}'
    assert run.mirrored() == [run.name(0), run.name(1)]
    assert run.unreferenced() == []


def test_a_start_without_a_checkpoint_does_not_replace_those_of_the_run(where, tmp_path):
    run = MirroredRun(where, tmp_path / "one")
    run.save(0)
    run.end()
    with pytest.raises(ConfigError, match=rf"holds checkpoints of this run \(the newest is {run.name(0)}\).*resume"):
        MirroredRun(where, tmp_path / "other")
    assert run.mirrored() == [run.name(0)]


@pytest.mark.parametrize(
    ("finished", "limit_s", "expected"),
    [
        (True, 600.0, 60.0),
        (True, 5.0, 5.0),
        (False, 10.0, 3.0),  # after a signal
        (False, 600.0, 60.0),  # after an error, or max_time
    ],
)
def test_the_end_waits_no_longer_than_the_user_says(where, tmp_path, monkeypatch, finished, limit_s, expected):
    waits = []

    def join(thread, limit_s, *_):
        waits.append(limit_s)
        thread.join(60)

    run = MirroredRun(where, tmp_path / "checkpoints", wait_s=60.0, grace_s=3.0)
    monkeypatch.setattr(WakingThread, "join_with_progress", join)
    run.end(finished, limit_s)
    assert waits == [expected]


def test_leftovers_are_removed_while_the_run_trains_but_not_at_once(where, tmp_path, monkeypatch):
    """An earlier start that still runs may be about to create the record that needs them."""
    run = MirroredRun(where, tmp_path / "checkpoints")
    made = mirror_checkpoint(run.objects, tmp_path, 7)
    run.objects.delete([layout.stem_of(made).record])
    run.save(0)
    run.idle()
    assert run.unreferenced()
    monkeypatch.setattr(uploader, "LEFTOVERS_S", 0.0)
    run.save(1)
    run.idle()
    assert run.unreferenced() == []
    run.end()


def test_a_copy_has_the_arguments_and_nothing_of_the_run(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints", keep=3)
    found = pickle.loads(pickle.dumps(run.mirror))
    assert (found.address, found.settings) == (run.mirror.address, run.mirror.settings)
    found.close(True, 0.0)  # it has nothing to wait for
    run.save(0)
    run.end()
    assert run.mirrored() == [run.name(0)]


def test_the_end_is_written_into_the_mirror_and_another_fit_opens_it_again(where, tmp_path):
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(0)
    run.idle()
    assert owner.open_since(run.objects)
    run.end()
    assert owner.open_since(run.objects) == ""
    run.mirror.begin(run.folder, "toy", True)  # another fit of the same process
    run.mirror.opened(run.folder, [], run.links, [])
    run.idle()
    assert owner.open_since(run.objects)
    run.end()
    assert owner.open_since(run.objects) == ""


def test_a_start_that_is_refused_does_not_stop_the_uploads_of_another(where, tmp_path, caplog):
    run = MirroredRun(where, tmp_path / "one")
    run.save(0)
    run.idle()
    with pytest.raises(ConfigError, match="holds checkpoints of this run"):
        MirroredRun(where, tmp_path / "other")
    run.save(1)
    run.end()
    assert run.mirrored() == [run.name(0), run.name(1)]


def test_a_damaged_record_of_a_checkpoint_that_is_here_is_replaced(where, tmp_path, caplog):
    run = MirroredRun(where, tmp_path / "checkpoints")
    made = run.save(0)
    run.end()
    run.objects.put(layout.stem_of(made).record, b"")
    again = MirroredRun(where, run.folder)
    again.end()
    assert again.mirrored() == [run.name(0)]
    assert not [item for item in caplog.records if item.levelno >= logging.WARNING]


def test_leftovers_stay_if_a_record_of_a_later_version_may_need_them(where, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(uploader, "LEFTOVERS_S", 0.0)
    run = MirroredRun(where, tmp_path / "checkpoints")
    run.save(3)
    run.idle()
    later = mirror_checkpoint(run.objects, tmp_path, 1)
    stem = layout.stem_of(later)
    run.objects.put(stem.record, run.objects.get(stem.record).replace(b'"format": 1', b'"format": 99'))
    run.end()
    assert run.unreferenced(), "the data and the files of that record"
    assert caplog.text.count("is not removed, because checkpoints/") == 1
    assert "update Cairn" in caplog.text


@pytest.mark.parametrize(("grace_s", "expected"), [(0.0, 0.0), (3.0, 3.0), (60.0, 60.0)])
def test_a_stopped_run_has_the_time_that_the_user_says(where, tmp_path, monkeypatch, grace_s, expected):
    """Also less than the usual time after a signal, which all listeners share."""
    waits = []
    monkeypatch.setattr(WakingThread, "join_with_progress", lambda thread, limit_s, *_: waits.append(limit_s))
    run = MirroredRun(where, tmp_path / "checkpoints", grace_s=grace_s)
    run.mirror.close(False, Listeners([run.mirror]).grace_s)
    assert waits == [expected]
