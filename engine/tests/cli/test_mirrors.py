"""The commands take addresses of object stores, as they take directories."""

import json
import shutil
import time
from dataclasses import asdict, replace

import pytest
from tests.support.cli import SCORES, cairn
from tests.support.mirrors import damage, mirror_checkpoint, objects_at
from tests.support.shards import commit_shards
from tests.support.values import commit, truncate

from cairn.account.progress import Progress
from cairn.remote import layout, listed, owner, record
from cairn.remote.owner import Attempt
from cairn.run.directory import RunDirectory
from cairn.store import manifest, names
from cairn.store.catalog import Catalog
from cairn.store.commit import delete_checkpoint


@pytest.fixture
def store(tmp_path):
    return objects_at("memory", tmp_path, "train/runs/one")


@pytest.fixture
def mirrored(run, store, capsys):
    """The address of the run of `run`, copied into a store together with a checkpoint in shards."""
    commit_shards(run.checkpoints(), 4, 0.6, metrics={"val/loss": 0.6}, run=run.record().id)
    cairn("push", run.path, store.address)
    capsys.readouterr()
    return str(store.address)


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def saved_in(store):
    records, _ = listed.read_records(store, listed.look(store))
    return [item.saved for item in records]


def test_push_copies_what_is_missing_and_pull_brings_it_back(run, store, mirrored, tmp_path, capsys):
    assert owner.read(store).run == run.record().id
    local = Catalog(run.checkpoints()).committed()
    assert saved_in(store) == local
    cairn("push", run.path, mirrored, "--json")
    assert json.loads(capsys.readouterr().out)["present"] == [item.name for item in local]
    cairn("pull", mirrored, "--to", tmp_path / "all", "--all")
    assert "5 downloaded" in printed(capsys)
    there = RunDirectory(tmp_path / "all")
    assert Catalog(there.checkpoints()).committed() == local
    assert there.record() == run.record()
    assert (there.checkpoints() / names.LAST).readlink().name == local[-1].name
    assert (there.checkpoints() / names.BEST).readlink().name == local[1].name
    cairn("verify", there.path)


def test_pull_leaves_another_checkpoint_of_the_same_name_alone(run, mirrored, tmp_path, capsys):
    there = tmp_path / "there"
    cairn("pull", mirrored, "--to", there)
    newest = Catalog(there / "checkpoints").newest()
    delete_checkpoint(there / "checkpoints", newest.name)
    other = commit(there / "checkpoints", newest.number, run=newest.run)
    assert other.name == newest.name
    capsys.readouterr()
    cairn("pull", mirrored, "--to", there, expect=1)
    assert f"not downloaded: {newest.name}, another checkpoint of this name is in the directory" in printed(capsys)
    assert Catalog(there / "checkpoints").newest() == other


def test_pull_puts_the_run_where_it_was_with_its_newest_and_its_best(run, mirrored, tmp_path, capsys):
    local = Catalog(run.checkpoints()).committed()
    shutil.rmtree(run.path)
    cairn("pull", mirrored, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(tmp_path / "logs" / "one")  # its configuration does not say where all runs lay
    assert sorted(found["downloaded"]) == [local[1].name, local[4].name]
    cairn("pull", mirrored)
    assert "0 downloaded (0 B), 2 were there already. resume: python train.py resume=logs" in printed(capsys)


def test_push_leaves_out_a_damaged_one_and_refuses_the_mirror_of_another_run(run, store, tmp_path, capsys):
    name = Catalog(run.checkpoints()).committed()[0].name
    truncate(run.checkpoints(), name)
    cairn("push", run.path, store.address, expect=1)
    assert f"not uploaded: {name}, it has" in printed(capsys)
    assert len(saved_in(store)) == len(SCORES) - 1
    store.put(layout.OWNER, json.dumps({"run": "other", "name": "x", "since": "today"}).encode())
    cairn("push", run.path, store.address, expect=1)
    assert "belongs to another run (other, x, since today)" in capsys.readouterr().err
    cairn("push", tmp_path / "none", store.address, expect=1)


def test_pull_skips_a_damaged_one_and_refuses_the_directory_of_another_run(run, store, mirrored, tmp_path, capsys):
    newest = saved_in(store)[-1]
    damage(store, layout.stem_of(newest).shard(names.shard_name(1)))
    cairn("pull", mirrored, "--to", tmp_path / "x", expect=1)
    assert f"not downloaded: {newest.name}, its shard rank_00001.ckpt is damaged" in printed(capsys)
    assert Catalog(tmp_path / "x" / "checkpoints").newest() == saved_in(store)[-2]
    RunDirectory(tmp_path / "y").start("t", (), "{}", "another")
    cairn("pull", mirrored, "--to", tmp_path / "y", expect=1)
    assert "holds another run (another)" in capsys.readouterr().err
    cairn("pull", f"{mirrored}/none", expect=1)
    assert "There is no checkpoint of a run at memory" in capsys.readouterr().err


def test_ls_shows_a_mirror_as_it_shows_a_directory(run, store, mirrored, capsys):
    cairn("ls", run.path, "--json")
    local = json.loads(capsys.readouterr().out)
    cairn("ls", mirrored, "--json")
    there = json.loads(capsys.readouterr().out)
    assert (there["run"], there["directory"]) == (mirrored, f"{mirrored}/checkpoints")
    for item in local["checkpoints"]:
        item["last"] = item["name"] == local["checkpoints"][-1]["name"]  # the copy in shards was made without a link
    assert there["checkpoints"] == local["checkpoints"]
    store.put(layout.stem_of(saved_in(store)[0]).data, b"short")
    cairn("ls", mirrored)
    text = printed(capsys)
    assert f"run {mirrored}: stopped (SIGTERM)" in text
    assert f"resume={mirrored}" in text
    assert f"not usable: {saved_in(store)[0].name}, it has 5 bytes" in text


def test_verify_reads_every_byte(store, mirrored, capsys):
    cairn("verify", mirrored)
    assert printed(capsys).count("intact") == len(SCORES) + 1
    saved = saved_in(store)
    store.put(layout.part_name("ff" * 32), b"x")
    cairn("verify", mirrored)
    assert "unfinished ffffffffffff no record needs it" in printed(capsys)
    damage(store, layout.stem_of(saved[1]).data)
    store.delete([layout.stem_of(saved[0]).data])
    cairn("verify", mirrored, expect=1)
    text = printed(capsys)
    assert text.count("intact") == len(SCORES) - 1
    assert text.count("corrupt") == 2
    cairn("verify", f"{mirrored}/checkpoints/{saved[1].name}", expect=1)
    cairn("verify", f"{mirrored}/checkpoints/{saved[2].name}")


def test_prune_deletes_by_rules_what_is_intact(store, mirrored, capsys):
    saved = saved_in(store)
    damage(store, layout.stem_of(saved[3]).data)
    store.put(layout.part_name("ff" * 32), b"x")
    cairn("prune", mirrored, "--keep-last", "2", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == [saved[1].name, saved[2].name, saved[4].name]
    assert [item["name"] for item in found["broken"]] == [saved[3].name]
    assert len(saved_in(store)) == 5
    cairn("prune", mirrored, "--keep-last", "2", "--yes")
    assert f"delete {saved[0].name}" in printed(capsys)
    assert saved_in(store) == saved[1:]
    there = listed.look(store)
    assert there.unreferenced(listed.read_records(store, there)[0]) == []
    cairn("prune", mirrored, expect=1)
    assert "asks first" in capsys.readouterr().err


def test_prune_leaves_the_mirror_of_a_run_that_trains_alone(run, store, mirrored, capsys):
    saved = saved_in(store)
    Attempt().begin(store)
    run.start("t", (), run.config_file.read_text())
    seen = Progress(0, 5, 5, 5, 1.0, time.time())
    run.progress_file.write_text(json.dumps(asdict(seen)))
    cairn("push", run.path, store.address)  # what it is like now
    for more in ([], ["--json"], ["--yes"]):
        cairn("prune", mirrored, *more, expect=1)
        assert "is the mirror of a run that seems to train: stop it first" in capsys.readouterr().err
    assert saved_in(store) == saved

    # Killed long ago, or far from its next checkpoint: what an upload may need stays.
    run.progress_file.write_text(json.dumps(asdict(replace(seen, at=1.0))))
    cairn("push", run.path, store.address)
    store.put(layout.part_name("ff" * 32), b"x")
    cairn("prune", mirrored, "--yes")
    assert "This run was killed, or still trains somewhere." in printed(capsys)
    assert saved_in(store) == [saved[1], saved[4]]
    there = listed.look(store)
    assert layout.part_name("ff" * 32) in there.sizes
    assert layout.stem_of(saved[0]).data not in there.sizes


def test_push_replaces_what_cannot_be_used(run, store, mirrored, capsys):
    saved = saved_in(store)
    store.put(layout.stem_of(saved[0]).record, b"")
    found = listed.read_record(store, layout.stem_of(saved[1]))
    store.delete([found.files[0].parts[0].object])  # all records name it
    cairn("verify", mirrored, expect=1)
    cairn("push", run.path, mirrored, "--json")
    capsys.readouterr()
    cairn("verify", mirrored)
    assert saved_in(store) == saved


def test_push_brings_the_outcome_of_the_run_and_does_not_point_backwards(run, store, mirrored, tmp_path, capsys):
    saved = saved_in(store)
    run.record_file.write_text(run.record_file.read_text().replace("SIGTERM", "SIGUSR1"))
    cairn("push", run.path, mirrored)
    assert "0 uploaded" in printed(capsys)
    cairn("status", mirrored, "--json")
    assert json.loads(capsys.readouterr().out)[0]["why"] == "SIGUSR1"

    # A directory that is older than the mirror.
    delete_checkpoint(run.checkpoints(), saved[4].name)
    cairn("push", run.path, mirrored)
    assert json.loads(store.get(layout.LAST))["name"] == saved[4].name
    assert json.loads(store.get(layout.BEST))["name"] == saved[1].name


def test_show_prints_the_manifest_and_the_configuration(store, mirrored, capsys):
    saved = saved_in(store)
    for named, item in [(mirrored, saved[4]), (f"{mirrored}/checkpoints/best.ckpt", saved[1])]:
        cairn("show", named, "--json")
        found = json.loads(capsys.readouterr().out)
        assert found["file"] == f"{mirrored}/{layout.stem_of(item).data}"
        assert found["manifest"]["digest"] == item.digest
        assert found["config"]["checkpoint"]["monitor"] == "val/loss"
    cairn("show", mirrored)
    assert f"{mirrored}/checkpoints" in printed(capsys)


def test_status_shows_the_run_as_the_mirror_knows_it(mirrored, capsys):
    cairn("status", mirrored, "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["why"]) == ("stopped", "SIGTERM")
    assert found["last"]["name"] == "epoch_000_batch_000005.ckpt"


@pytest.mark.parametrize("command", ["ls", "verify", "prune", "show", "status"])
def test_an_address_without_a_run_is_one_sentence(tmp_path, command, capsys):
    where = objects_at("memory", tmp_path, "none").address
    cairn(command, where, expect=1)
    assert str(where) in capsys.readouterr().err
    cairn(command, "s3://user:word@bucket", expect=1)
    assert "must not hold a user" in capsys.readouterr().err


def test_the_runs_below_an_address_are_named(mirrored, store, capsys):
    above = str(store.address.parent.parent)
    for command in ("ls", "verify", "pull"):
        cairn(command, above, expect=1)
        assert f"Below it are: {mirrored}." in capsys.readouterr().err


def test_sync_needs_a_run_on_this_machine(mirrored, capsys):
    cairn("sync", mirrored, expect=1)
    assert "is not on this machine, but sync needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["report", "ADDRESS"], ["export", "ADDRESS", "--to", "x.ckpt"], ["export", "x", "--to", "ADDRESS"]]
)
def test_what_reads_the_disk_refuses_an_address(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    where = "s3://bucket/runs/a"
    cairn(*(where if word == "ADDRESS" else word for word in words), expect=1)
    assert f"{where} is an address, and cairn {words[0]} reads the disk" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_mirror_does_not_tell_a_killed_run_from_one_between_two_checkpoints(run, store, mirrored, capsys):
    run.start("t", (), run.config_file.read_text())
    cairn("push", run.path, store.address)
    capsys.readouterr()
    cairn("status", mirrored)
    assert "killed, or between two checkpoints. Its newest checkpoint is its last sign" in printed(capsys)
    cairn("status", mirrored, "--json")
    assert json.loads(capsys.readouterr().out)[0]["state"] == "unknown"


def test_a_directory_is_not_copied_into_itself(run, store, mirrored, tmp_path, capsys):
    cairn("push", run.path, f"file://{run.path}", expect=1)
    assert f"lies in {run.path}, which it would be a copy of" in capsys.readouterr().err
    assert not (run.path / layout.OWNER).exists()
    where = f"file://{tmp_path}/mirror/one"
    cairn("push", run.path, where)
    cairn("pull", where, "--to", tmp_path / "mirror" / "one", expect=1)
    assert "which it would be a copy of" in capsys.readouterr().err


def test_a_mirror_of_checkpoints_without_a_run_has_no_status_and_is_pruned(store, tmp_path, capsys):
    made = [mirror_checkpoint(store, tmp_path, number, {}) for number in range(4)]
    cairn("status", store.address, expect=1)
    assert f"{store.address} holds checkpoints, and no run.json of a run: cairn ls shows" in capsys.readouterr().err
    cairn("ls", store.address)
    cairn("prune", store.address, "--keep-last", "2", "--yes")
    assert saved_in(store) == made[2:]


def test_prune_takes_checkpoints_of_equal_bytes_for_two(store, tmp_path, capsys):
    """A run that is saved twice with nothing trained in between."""
    one = mirror_checkpoint(store, tmp_path, 0, {})
    text, data = listed.read_record(store, layout.stem_of(one)).manifest, store.get(layout.stem_of(one).data)
    for number in (1, 2):
        twin = replace(manifest.load(text), name=f"epoch_000_batch_{number + 1:06d}.ckpt", number=number)
        twin = replace(twin, position=replace(twin.position, batch=number + 1))
        store.put(layout.stem_of(twin).data, data)
        store.put(layout.stem_of(twin).record, record.dump(manifest.dump(twin, {}), []))
    cairn("prune", store.address, "--keep-last", "2", "--yes")
    assert [item.number for item in saved_in(store)] == [1, 2]
