"""What a save and a start do is counted: neither may grow faster than the number of kept checkpoints."""

import os
from collections import Counter

import pytest
from tests.support.disk import Disk
from tests.support.values import commit, draft, drop_manifest, flip_byte, names_of, save, saved

from cairn.policy.keep import Best, EveryNth, Latest, WithinBytes
from cairn.store import audit, manifest, names, presence, resume
from cairn.store.catalog import Catalog
from cairn.store.commit import Committed, delete_checkpoints
from cairn.store.history import History
from cairn.store.presence import Presence
from cairn.types import Draft, Saved

KEPT = 40
RULES = {
    "keep all": [Latest(-1), Best()],
    "byte budget": [Latest(1), Best(), WithinBytes(10**9)],
    "every rule": [Latest(2), Best(3), EveryNth(1), WithinBytes(10**9)],
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def counted(monkeypatch):
    """Counts manifests that are read, directories that are listed, and checkpoints that are compared field by field."""
    counts = Counter()

    def count(owner, name, what):
        act = getattr(owner, name)

        def counting(*args, **kwargs):
            counts[what] += 1
            return act(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(manifest, "parse", "manifests")
    count(os, "listdir", "listings")
    for kind in (Draft, Saved):
        count(kind, "__eq__", "comparisons")
    return counts


def filled(folder, rules, count=KEPT):
    own = History(folder, rules, "min")
    own.directory.mkdir()
    for number in range(count):
        commit(folder, number, 1.0 / (number + 1) if number % 3 == 0 else None)
    own.take_over("toy", resume.find_resume_point(folder))
    own.to_delete = own.tidy()
    return own


def decide(own, number):
    """Do all that a save does around the write, with a look at what is kept at 20 boundaries."""
    coming = draft(number, 0.5)
    own.add_pending(coming)
    for _ in range(10):
        assert own.with_pending[-1].name == coming.name
    plan = own.plan_commit(coming, {})
    (own.directory / coming.name).touch()
    own.resolve_pending(coming, plan, Committed(Saved.of(plan.draft)))
    for _ in range(10):
        assert own.with_pending[-1].name == coming.name
    return plan


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_save_reads_no_manifest_and_compares_no_checkpoint_with_all_others(folder, counted, rules):
    own = filled(folder, rules)
    counted.clear()
    plan = decide(own, KEPT)
    assert not plan.to_delete
    assert len(own.saved) == KEPT + 1
    assert counted["manifests"] == 0
    assert counted["listings"] <= 1
    assert counted["comparisons"] == 0


class Asked:
    """A user's rule that counts how often it is asked."""

    makes_room = False

    def __init__(self):
        self.count = 0

    def keep(self, saved, mode):
        self.count += 1
        return list(saved)


def test_a_rule_is_asked_a_few_times_per_save_and_not_at_each_boundary(folder):
    rule = Asked()
    own = filled(folder, [rule], count=3)
    rule.count = 0
    decide(own, 3)
    assert rule.count <= 3


def test_a_start_reads_each_manifest_once_and_for_the_newest_alone_one(folder, counted):
    own = filled(folder, [Latest(3)])
    assert len(own.to_delete) == KEPT - 3, "all but the newest three, which have the best among them"
    assert counted["manifests"] == KEPT + 1, "one to find where to resume"
    assert counted["comparisons"] <= 1
    counted.clear()
    assert Catalog(folder).newest().name == own.newest.name
    assert counted["manifests"] == 1


def test_the_newest_is_the_last_committed_one(folder):
    assert Catalog(folder).newest() is None
    for number in range(3):
        commit(folder, number)
    drop_manifest(folder, saved(2).name)
    assert Catalog(folder).newest() == Catalog(folder).committed()[-1]
    assert Catalog(folder).newest().number == 1


def test_what_is_newer_than_the_newest_intact_one_is_listed_oldest_first(folder):
    for number in range(5):
        commit(folder, number)
    drop_manifest(folder, saved(1).name)
    flip_byte(folder, saved(3).name)
    drop_manifest(folder, saved(4).name)
    found, rejected = Catalog(folder).newest_intact()
    assert found.number == 2
    assert [item.path.name for item in rejected] == names_of([saved(3), saved(4)])
    assert [item.committed for item in rejected] == [True, False]


def test_a_prune_compares_nothing_with_all_others(folder, counted):
    for number in range(KEPT):
        commit(folder, number, 1.0 - number / KEPT)
    flip_byte(folder, saved(KEPT - 1).name)
    counted.clear()
    plan = audit.plan_prune(folder, [Latest(1), Best(1)], "min")
    assert names_of(plan.kept) == [saved(KEPT - 2).name]
    assert [item.path.name for item in plan.broken] == [saved(KEPT - 1).name]
    assert len(plan.to_delete) == KEPT - 2
    assert counted["comparisons"] == 0


def test_many_deletions_sync_the_directory_once(folder, monkeypatch):
    for number in range(3):
        commit(folder, number)
    disk = Disk(folder, monkeypatch)
    delete_checkpoints(folder, names_of([saved(0), saved(1)]))
    first, second = saved(0).name, saved(1).name
    assert disk.steps == [
        f"replace {first} .{first}.tmp",
        f"replace {second} .{second}.tmp",
        "fsync .",
        f"unlink {names.manifest_name(first)}",
        f"unlink .{first}.tmp",
        f"unlink {names.manifest_name(second)}",
        f"unlink .{second}.tmp",
    ]
    assert {path.name for path in folder.iterdir()} == {saved(2).name, names.manifest_name(saved(2).name)}


# Files that something else deletes


def test_a_short_directory_is_listed_before_every_save(folder):
    own = filled(folder, [Latest(-1)], count=3)
    for number in range(3, 6):
        (folder / own.saved[0].name).unlink()
        save(own, number)
        assert len(own.saved) == 3


@pytest.fixture
def long(monkeypatch):
    """Directories count as long from two names on; one of ten names is listed at every fifth save."""
    monkeypatch.setattr(presence, "_SHORT", 2)


def test_a_deletion_in_a_long_directory_is_noticed_some_saves_later_even_if_it_leaves_no_trace(folder, long):
    found = [commit(folder, number) for number in range(5)]
    looking = Presence(folder)
    assert looking.still_there(found) is found
    (folder / found[0].name).unlink()
    looking.saved()  # the deletion came while the run saved
    seen = [len(looking.still_there(found)) for _ in range(5)]
    assert seen == [5, 5, 5, 5, 4]


def test_a_deletion_between_two_saves_is_noticed_at_once(folder, long):
    found = [commit(folder, number) for number in range(5)]
    looking = Presence(folder)
    looking.still_there(found)
    looking.saved()
    (folder / found[0].name).unlink()
    os.utime(folder, ns=(0, os.stat(folder).st_mtime_ns + 10**7))  # the clock of some file systems is coarse
    assert looking.still_there(found) == found[1:]


def test_a_directory_that_is_gone_has_nothing(folder, long):
    found = [commit(folder, 0)]
    looking = Presence(folder)
    delete_checkpoints(folder, [found[0].name])
    folder.rmdir()
    looking.saved()
    assert looking.still_there(found) == []


def test_no_link_dangles_in_a_long_directory(folder, long):
    own = filled(folder, [Latest(-1)], count=5)
    best = own.best
    own._presence.still_there(own.saved)
    (folder / best.name).unlink()
    own._presence.saved()  # so that nothing but the file itself shows it
    assert save(own, 5, 0.9).saved.number == 5
    assert best.name not in names_of(own.saved)
    assert (folder / names.BEST).exists()
    assert (folder / names.BEST).readlink().name == own.best.name
