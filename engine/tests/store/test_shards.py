"""A directory of shards is one checkpoint: whole or rejected, listed, linked, kept and deleted like a file."""

import os
from contextlib import nullcontext

import pytest
from tests.support.shards import commit_shards
from tests.support.values import age_manifest, commit, drop_manifest, edit_manifest, flip_byte, names_of, truncate

from cairn.errors import CorruptCheckpointError, ResumeError
from cairn.policy.keep import Latest
from cairn.store import audit, deletion, disk, links, names, resume, shards
from cairn.store.catalog import Catalog, describe, digest, verify, verify_file
from cairn.store.history import History
from cairn.writing.sharded.assemble import Shards

SHARD = names.shard_name(1)


def lose(directory, name):
    (directory / name / SHARD).unlink()


def lose_the_last(directory, name):
    (directory / name / names.shard_name(2)).unlink()


def lose_all(directory, name):
    disk.remove(directory / name)


def exchange(directory, name):
    """Take the shard of another save, which is intact by itself."""
    other = commit_shards(directory / "other", 7)
    os.replace(directory / "other" / other.name / SHARD, directory / name / SHARD)


def swap_two(directory, name):
    folder = directory / name
    os.replace(folder / SHARD, folder / "x")
    os.replace(folder / names.shard_name(2), folder / SHARD)
    os.replace(folder / "x", folder / names.shard_name(2))


def become_a_file(directory, name):
    disk.remove(directory / name)
    (directory / name).write_bytes(b"x")


def become_a_directory(directory, name):
    (directory / name / SHARD).unlink()
    (directory / name / SHARD).mkdir()


DAMAGES = {
    "no manifest": (drop_manifest, "it has no manifest"),
    "edited manifest": (edit_manifest, "its manifest was changed"),
    "a lost shard": (lose, "its shard rank_00001.ckpt is missing"),
    "the last shard lost": (lose_the_last, "its shard rank_00002.ckpt is missing"),
    "all lost": (lose_all, "its directory does not exist"),
    "a truncated shard": (lambda folder, name: truncate(folder / name, SHARD), "its shard rank_00001.ckpt has"),
    "a flipped byte": (lambda folder, name: flip_byte(folder / name, SHARD), "its shard rank_00001.ckpt is damaged"),
    "a shard of another save": (exchange, "its shard rank_00001.ckpt is not the one that its manifest lists"),
    "two shards exchanged": (swap_two, "its shard rank_00001.ckpt"),
    "a file": (become_a_file, "it is a single file, and its manifest lists 3 shards"),
    "a directory for a shard": (become_a_directory, "its shard rank_00001.ckpt cannot be read"),
}


def test_a_directory_is_listed_described_and_verified(tmp_path):
    one, other = commit_shards(tmp_path, 0), commit_shards(tmp_path, 1)
    assert Catalog(tmp_path).committed() == [one, other]
    assert Catalog(tmp_path).newest() == other
    assert Catalog(tmp_path).leftovers() == []
    path = tmp_path / one.name
    assert describe(path) == one
    verify(path, one)
    assert digest(path, one.digest) == one.digest
    assert one.num_bytes == sum(item.stat().st_size for item in path.iterdir())
    assert shards.is_sharded(path)
    assert not shards.is_sharded(tmp_path)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_rejected_by_the_name_of_the_shard_and_the_one_before_is_taken(tmp_path, kind):
    good, bad = commit_shards(tmp_path, 0), commit_shards(tmp_path, 1)
    damage, why = DAMAGES[kind]
    damage(tmp_path, bad.name)
    point = resume.find_resume_point(tmp_path)
    assert point.saved == good
    if kind != "all lost":  # a manifest alone is a leftover
        assert [(item.path.name, item.why.startswith(why)) for item in point.rejected] == [(bad.name, True)]
        found = {item.path.name: item for item in audit.check_directory(tmp_path)}
        assert found[bad.name].why.startswith(why)
        assert found[bad.name].state == ("unfinished" if kind == "no manifest" else "broken")
    with pytest.raises(CorruptCheckpointError):
        verify(tmp_path / bad.name, describe(tmp_path / bad.name))


def test_each_damaged_shard_is_named(tmp_path):
    saved = commit_shards(tmp_path)
    for rank in (0, 2):
        flip_byte(tmp_path / saved.name, names.shard_name(rank))
    with pytest.raises(
        CorruptCheckpointError, match=r"rank_00000\.ckpt is damaged.*; its shard rank_00002\.ckpt is dam"
    ):
        verify(tmp_path / saved.name, saved)


def test_a_later_version_is_not_fallen_back_from(tmp_path):
    commit_shards(tmp_path, 0)
    age_manifest(tmp_path, commit_shards(tmp_path, 1).name)
    with pytest.raises(ResumeError, match="format 4"):
        resume.find_resume_point(tmp_path)


def test_files_and_directories_are_checkpoints_of_one_run(tmp_path):
    saved = [commit(tmp_path, 0), commit_shards(tmp_path, 1), commit(tmp_path, 2), commit_shards(tmp_path, 3)]
    assert Catalog(tmp_path).committed() == saved
    assert [item.state for item in audit.check_directory(tmp_path)][:4] == ["whole"] * 4
    found = audit.plan_prune(tmp_path, [Latest(2)], None)
    assert (found.kept, found.to_delete) == (saved[2:], saved[:2])
    History(tmp_path, [Latest(2)], None).retain(found.kept, found.to_delete)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [name for item in saved[2:] for name in (item.name, names.manifest_name(item.name))] + ["last.ckpt"]
    )
    assert links.target(tmp_path / "last.ckpt") == tmp_path / saved[3].name


def test_prune_counts_no_damaged_directory(tmp_path):
    saved = [commit_shards(tmp_path, number) for number in range(3)]
    flip_byte(tmp_path / saved[2].name, SHARD)
    found = audit.plan_prune(tmp_path, [Latest(1)], None)
    assert (found.kept, found.to_delete) == ([saved[1]], [saved[0]])
    assert SHARD in found.broken[0].why


@pytest.mark.parametrize("is_text", [False, True], ids=["link", "text"])
def test_a_link_leads_to_a_directory(tmp_path, is_text, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "no links here")

    saved = commit_shards(tmp_path)
    if is_text:
        monkeypatch.setattr(os, "symlink", refuse)
    links.move(tmp_path / "last.ckpt", saved.name)
    assert (tmp_path / "last.ckpt").is_symlink() is not is_text
    assert links.target(tmp_path / "last.ckpt") == tmp_path / saved.name
    assert audit.check_file(tmp_path / "last.ckpt").state == "whole"
    assert [item.state for item in audit.check_directory(tmp_path)] == ["whole", "whole"]


def test_a_directory_that_has_the_name_of_a_link_is_protected(tmp_path):
    (tmp_path / "best.ckpt").mkdir()
    assert links.taken(tmp_path) == tmp_path / "best.ckpt"


@pytest.mark.parametrize("num_steps", range(8))
def test_a_deletion_that_is_cut_leaves_what_the_next_start_removes(tmp_path, num_steps, monkeypatch):
    kept, gone = commit_shards(tmp_path, 1), commit_shards(tmp_path, 0)
    left = [num_steps]

    def counted(name, call):
        def cut(*args, **options):
            if not left[0]:
                raise InterruptedError("cut")
            left[0] -= 1
            return call(*args, **options)

        monkeypatch.setattr(os, name, cut)

    for name in ("replace", "unlink", "rmdir"):
        counted(name, getattr(os, name))
    with pytest.raises(BaseException, match="cut") if num_steps < 6 else nullcontext():
        deletion.delete_checkpoints(tmp_path, [gone.name])
    monkeypatch.undo()
    committed, rejected = Catalog(tmp_path).all()
    assert (names_of(committed), rejected) == (names_of([kept] if num_steps else [gone, kept]), [])
    assert bool(Catalog(tmp_path).leftovers()) == (0 < num_steps < 6)
    for path in Catalog(tmp_path).leftovers():
        assert disk.size_bytes(path) >= 0
        disk.remove(path)
    assert Catalog(tmp_path).leftovers() == []


def test_a_directory_replaces_the_rest_of_an_earlier_deletion(tmp_path):
    saved = commit_shards(tmp_path)
    hidden = tmp_path / names.temp_name(saved.name)
    hidden.mkdir()
    (hidden / SHARD).write_bytes(b"old")
    deletion.delete_checkpoints(tmp_path, [saved.name])
    assert os.listdir(tmp_path) == []


def test_the_directory_of_an_interrupted_save_is_a_leftover_with_a_size(tmp_path):
    folder = tmp_path / names.attempt_name("epoch_000_batch_000150.ckpt", "0f")
    folder.mkdir()
    (folder / SHARD).write_bytes(bytes(100))
    assert Catalog(tmp_path).leftovers() == [folder]
    assert disk.size_bytes(folder) == 100
    history = History(tmp_path, [Latest(1)], None)
    assert history.num_untidy_bytes == 100
    history.tidy()
    assert os.listdir(tmp_path) == []


def test_without_a_manifest_the_checksums_inside_are_compared(tmp_path):
    saved = commit_shards(tmp_path)
    moved = (tmp_path / saved.name).rename(tmp_path / "copy.ckpt")
    assert verify_file(moved) == "it has no manifest; the checksums stored in its 3 shards fit"
    flip_byte(moved, SHARD)
    with pytest.raises(CorruptCheckpointError, match=r"rank_00001\.ckpt is damaged"):
        verify_file(moved)
    (moved / SHARD).unlink()
    with pytest.raises(CorruptCheckpointError, match=r"rank_00001\.ckpt is missing"):
        verify_file(moved)
    with pytest.raises(CorruptCheckpointError, match="a directory without shards"):
        verify_file(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "device", "endless"])
def test_a_special_file_in_place_of_a_shard_is_refused_without_a_wait(tmp_path, kind):
    saved = commit_shards(tmp_path)
    path = tmp_path / saved.name / SHARD
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(
        CorruptCheckpointError, match=r"its shard rank_00001\.ckpt (cannot be read|has 1099511627776 bytes)"
    ):
        describe(tmp_path / saved.name)
    (tmp_path / names.manifest_name(saved.name)).unlink()
    with pytest.raises(CorruptCheckpointError, match=r"rank_00001\.ckpt"):
        shards.read(tmp_path / saved.name)
    with pytest.raises(CorruptCheckpointError, match=r"rank_00001\.ckpt"):
        Shards(shards.files(tmp_path / saved.name))
    disk.remove(tmp_path / saved.name)
    assert os.listdir(tmp_path) == []
