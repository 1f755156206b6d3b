"""The newest intact checkpoint of a mirror comes into a directory as a commit does, with what the run needs."""

import hashlib
import json
import logging
import threading

import pytest
from tests.support.mirrors import FILES, damage, mirror_checkpoint, objects_at, put_run_file
from tests.support.values import commit

from cairn.errors import CorruptCheckpointError, RemoteError, ResumeError
from cairn.policy.keep import Best, Latest
from cairn.remote import fetch, layout, local_files, objects, record, staged
from cairn.remote.fetch import Target
from cairn.store import names
from cairn.store.catalog import Catalog, verify
from cairn.store.resume import find_resume_point


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return objects_at(request.param, tmp_path)


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / "run" / "checkpoints", tmp_path / "run")


def there(target):
    """Names of all that lies in the checkpoint directory."""
    return sorted(path.name for path in target.directory.iterdir())


def bring(store, target):
    """What a start does: the newest intact checkpoint of both."""
    return find_resume_point(target.directory, bring=lambda local: fetch.newest(store, target, local))


def test_nothing_comes_from_an_empty_mirror(store, target):
    assert fetch.newest(store, target, None) is None
    assert not target.directory.exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_the_newest_comes_with_its_run_files(store, target, tmp_path, monkeypatch, sharded):
    monkeypatch.setattr(objects, "CHUNK_BYTES", 500)  # several pieces for each file
    mirror_checkpoint(store, tmp_path, 0, {"old": b"x"})
    made = mirror_checkpoint(store, tmp_path, 1, sharded=sharded)
    point = bring(store, target)
    assert (point.saved, point.rejected) == (made, ())
    assert there(target) == sorted([made.name, names.manifest_name(made.name)])
    verify(point.path, made)
    manifest = names.manifest_name(made.name)
    assert (target.directory / manifest).read_bytes() == (tmp_path / "local" / manifest).read_bytes()
    assert {path: (target.run / path).read_bytes() for path in FILES} == FILES
    assert not (target.run / "old").exists()


def test_a_directory_that_is_as_new_gets_nothing(store, target, tmp_path):
    made = mirror_checkpoint(store, tmp_path, 1)
    commit(target.directory, 1)
    assert bring(store, target).saved is not None
    assert not (target.run / "run.json").exists()
    newer = commit(target.directory, 2)
    assert bring(store, target).saved == newer
    assert made.position < newer.position


@pytest.mark.parametrize("harm", ["data", "size", "gone", "record", "file", "file gone"])
def test_a_damaged_one_is_skipped_with_one_warning(store, target, tmp_path, caplog, harm):
    good, bad = mirror_checkpoint(store, tmp_path, 0), mirror_checkpoint(store, tmp_path, 1, {"run.json": b"{other}"})
    stem = layout.stem_of(bad)
    (item,) = record.load(store.get(stem.record)).files
    part = item.parts[0].object
    if harm == "data":
        damage(store, stem.data)
    elif harm == "size":
        store.put(stem.data, b"short")
    elif harm == "gone":
        store.delete([stem.data])
    elif harm == "record":
        damage(store, stem.record)
    elif harm == "file":
        damage(store, part)
    else:
        store.delete([part])
    with caplog.at_level(logging.WARNING):
        assert bring(store, target).saved == good
    (line,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert line.startswith(f"Skipped in {store.address}: {bad.name}: ")
    assert [item.name for item in Catalog(target.directory).committed()] == [good.name]
    assert (target.run / "run.json").read_bytes() == FILES["run.json"]
    assert Catalog(target.directory).leftovers() == []


def test_a_damaged_shard_is_noticed(store, target, tmp_path):
    good = mirror_checkpoint(store, tmp_path, 0)
    bad = mirror_checkpoint(store, tmp_path, 1, sharded=True)
    damage(store, layout.stem_of(bad).shard(names.shard_name(1)))
    assert bring(store, target).saved == good


def test_only_damaged_ones_are_an_error_that_names_each(store, target, tmp_path):
    made = [mirror_checkpoint(store, tmp_path, number) for number in (0, 1)]
    for item in made:
        damage(store, layout.stem_of(item).data)
    with pytest.raises(ResumeError) as caught:
        bring(store, target)
    assert all(item.name in str(caught.value) for item in made)
    # With an intact one on the disk, the run goes on from that.
    local = commit(target.directory, 0)
    assert bring(store, target).saved == local


def test_a_record_of_a_later_version_is_not_skipped(store, target, tmp_path):
    mirror_checkpoint(store, tmp_path, 0)
    made = mirror_checkpoint(store, tmp_path, 1)
    content = json.loads(store.get(layout.stem_of(made).record))
    store.put(layout.stem_of(made).record, json.dumps({**content, "format": 99}).encode())
    with pytest.raises(ResumeError, match="update Cairn"):
        bring(store, target)


def test_damage_on_the_disk_is_repaired_from_the_mirror(store, target, tmp_path):
    mirror_checkpoint(store, tmp_path, 0)
    made = mirror_checkpoint(store, tmp_path, 1)
    for number in (0, 1):
        path = target.directory / commit(target.directory, number).name
        path.write_bytes(path.read_bytes()[:-1])
    (target.directory / made.name).unlink()
    (target.directory / made.name).mkdir()  # even a directory in place of the file
    point = bring(store, target)
    assert point.saved == made
    verify(point.path, made)


def test_older_ones_come_if_the_rules_keep_them(store, target, tmp_path):
    scores = [0.3, 0.1, 0.5, 0.4, 0.9]
    made = [mirror_checkpoint(store, tmp_path, number, score=score) for number, score in enumerate(scores)]
    wanted = Target(target.directory, target.run, ([Latest(2), Best(1)], "min"))
    assert bring(store, wanted).saved == made[4]
    assert Catalog(target.directory).committed() == [made[1], made[3], made[4]]


def test_an_older_one_that_is_damaged_is_left_out_with_a_warning(store, target, tmp_path, caplog):
    made = [mirror_checkpoint(store, tmp_path, number, score=score) for number, score in enumerate([0.1, 0.5])]
    damage(store, layout.stem_of(made[0]).data)
    assert bring(store, Target(target.directory, target.run, ([Latest(2)], "min"))).saved == made[1]
    assert f"Not downloaded from {store.address}: {made[0].name}" in caplog.text


def test_of_two_saves_at_one_position_the_later_one_counts(store, target, tmp_path):
    mirror_checkpoint(store, tmp_path, 3, elapsed_s=1.0)
    directory = tmp_path / "local"
    made = commit(directory, 3, monitor="x" * 9)
    text = (directory / names.manifest_name(made.name)).read_text()
    other = "f" * 64
    later = text.replace(made.digest.rpartition(":")[2], other).replace(made.created, "2999-01-01T00:00:00+00:00")
    content = json.loads(later)
    del content["checksum"]
    content["checksum"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    store.put(layout.Stem(made.name, other[:12]).record, record.dump(json.dumps(content), []))
    found = fetch.newest_first(store, fetch.listed.look(store), lambda text: None)
    assert next(found).saved.created.startswith("2999")


def test_the_newest_appears_last(store, target, tmp_path, monkeypatch):
    """After a crash in between, the mirror is still newer, and the next start begins again."""
    made = [mirror_checkpoint(store, tmp_path, number, score=score) for number, score in enumerate([0.1, 0.5])]
    wanted = Target(target.directory, target.run, ([Latest(2)], "min"))
    real, num_commits = staged.Staged.commit, []

    def crash(self):
        num_commits.append(self.path.name)
        if len(num_commits) == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(staged.Staged, "commit", crash)
    with pytest.raises(KeyboardInterrupt):
        bring(store, wanted)
    assert num_commits == [made[0].name, made[1].name]
    assert Catalog(target.directory).committed() == made[:1]
    assert Catalog(target.directory).leftovers() == []
    monkeypatch.undo()
    assert bring(store, wanted).saved == made[1]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_a_killed_download_has_left_is_removed(store, target, tmp_path, is_folder):
    made = mirror_checkpoint(store, tmp_path, 0)
    target.directory.mkdir(parents=True)
    left = target.directory / names.attempt_name(made.name, "0" * 16)
    left.mkdir() if is_folder else left.touch()
    assert bring(store, target).saved == made
    assert not left.exists()


def test_a_store_that_fails_in_between_leaves_nothing(store, target, tmp_path, monkeypatch):
    mirror_checkpoint(store, tmp_path, 0)

    def fail(*arguments):
        raise RemoteError("no network")

    monkeypatch.setattr(store, "get_range", fail)
    with pytest.raises(RemoteError, match="no network"):
        bring(store, target)
    assert there(target) == []


def test_a_full_disk_is_one_sentence(store, target, tmp_path, monkeypatch):
    made = mirror_checkpoint(store, tmp_path, 0)
    monkeypatch.setattr(staged.disk, "free_bytes", lambda path: 10)
    with pytest.raises(ResumeError, match=f"{made.name} has .* and only 10 B are free in .*: free some space"):
        bring(store, target)


def test_files_of_this_machine_stay_and_shorter_metrics_are_replaced(store, tmp_path):
    run = tmp_path / "run"
    remote = {"run.json": b"theirs", "config.yaml": b"theirs", ".hydra/x": b"theirs", "train.log": b"theirs"}
    grown = {"csv/metrics.csv": b"a\n1\n2\n", "csv/longer.csv": b"a\n1\n", "csv/other.csv": b"a\n1\n", "empty": b""}
    files = [put_run_file(store, path, data) for path, data in (remote | grown).items()]
    local = {"config.yaml": b"old", ".hydra/x": b"mine", "train.log": b"mine"}
    local |= {"csv/metrics.csv": b"a\n1\n", "csv/longer.csv": b"a\n1\n2\n", "csv/other.csv": b"b\n7\n9\n"}
    for path, data in local.items():
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_bytes(data)
    local_files.bring(store, files, run)
    kept = {".hydra/x": b"mine", "train.log": b"mine", "csv/longer.csv": b"a\n1\n2\n"}
    assert {path: (run / path).read_bytes() for path in remote | grown} == {**remote, **grown, **kept}
    (run / "run.json").write_bytes(b"mine")
    (run / "config.yaml").write_bytes(b"mine")
    local_files.bring(store, files, run)  # a run has started here now
    assert (run / "run.json").read_bytes() == (run / "config.yaml").read_bytes() == b"mine"


def test_a_small_run_file_can_be_read(store):
    item = put_run_file(store, "config.yaml", b"a: 1\n")
    assert local_files.read(store, item) == b"a: 1\n"
    damage(store, item.parts[0].object)
    with pytest.raises(CorruptCheckpointError, match=r"config\.yaml is damaged"):
        local_files.read(store, item)
    store.delete([item.parts[0].object])
    with pytest.raises(CorruptCheckpointError, match=r"config\.yaml is missing"):
        local_files.read(store, item)


def test_pieces_are_downloaded_at_the_same_time(store, target, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "CHUNK_BYTES", 200)
    made = mirror_checkpoint(store, tmp_path, 0, {})
    real, both = store.get_range, threading.Barrier(2, timeout=20)
    pairs = min(2, made.num_bytes // 200)

    def slow(name, start, end):
        if start in (0, 200):
            both.wait()  # returns only if two pieces are on their way
        return real(name, start, end)

    assert pairs == 2
    monkeypatch.setattr(store, "get_range", slow)
    assert bring(store, target).saved == made
