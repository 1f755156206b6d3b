"""What a run keeps: links move before deletions, and files of others are not touched."""

import re
import resource
import shutil

import pytest
from tests.support.disk import Disk
from tests.support.values import (
    at,
    commit,
    draft,
    drop_manifest,
    edit_manifest,
    flip_byte,
    names_of,
    save,
    saved,
    small_file,
    truncate,
)

from cairn.errors import ConfigError
from cairn.policy import keep
from cairn.policy.keep import Best, Latest, WithinBytes
from cairn.store import disk as disk_module
from cairn.store import names, resume
from cairn.store.catalog import Catalog
from cairn.store.commit import delete_checkpoint
from cairn.store.history import History
from cairn.store.resume import ResumePoint
from cairn.store.space import check_space, check_writable


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def history(folder, *rules, mode="min"):
    return History(folder, rules, mode)


def reopened(folder, *rules, run="toy"):
    own = history(folder, *rules)
    own.take_over(run, resume.find_resume_point(folder))
    own.tidy()
    return own


def links(folder):
    return {path.name: path.readlink().as_posix() for path in folder.iterdir() if path.is_symlink()}


def test_nothing_is_kept_before_the_first_save(folder):
    own = history(folder, Latest(2))
    own.take_over("toy", ResumePoint(None))
    assert (own.saved, own.newest, own.best, own.with_pending) == ([], None, None, [])
    assert own.path(own.newest) == ""
    assert not folder.exists()


def test_each_save_moves_the_links_and_deletes_what_no_rule_keeps(folder):
    own = history(folder, Latest(1))
    kept = []
    for number, score in enumerate([0.5, 0.3, None, 0.4]):
        save(own, number, score)
        assert own.saved == Catalog(folder).committed()
        kept.append([item.number for item in own.saved])
    assert kept == [[0], [1], [1, 2], [1, 3]]
    assert links(folder) == {names.LAST: own.newest.name, names.BEST: own.best.name}
    assert (own.newest.number, own.best.number) == (3, 1)
    assert own.path(own.best) == str(folder / own.best.name)


def test_with_mode_max_the_higher_score_is_better(folder):
    own = history(folder, Best(), mode="max")
    for number, score in enumerate([0.5, 0.7, 0.6]):
        save(own, number, score)
    assert own.best.score == 0.7


def test_without_a_mode_there_is_no_best(folder):
    own = history(folder, Latest(1), mode=None)
    for number, score in enumerate([0.1, 0.5, 0.3]):
        save(own, number, score)
    assert own.best is None
    assert links(folder) == {names.LAST: own.newest.name}


def test_without_a_score_there_is_no_best_link(folder):
    save(history(folder), 0)
    assert set(links(folder)) == {names.LAST}


def test_links_are_moved_before_anything_is_deleted(folder, monkeypatch):
    own = history(folder, Latest(1))
    save(own, 0, 0.5)
    disk = Disk(folder, monkeypatch)
    save(own, 1, 0.3)
    done = [step for step in disk.steps if not step.startswith("symlink")]
    assert done[6:] == [
        "replace .last.ckpt.tmp last.ckpt",
        "fsync .",
        "replace .best.ckpt.tmp best.ckpt",
        "fsync .",
        "replace epoch_000_batch_000001.ckpt .epoch_000_batch_000001.ckpt.tmp",
        "fsync .",
        "unlink epoch_000_batch_000001.json",
        "unlink .epoch_000_batch_000001.ckpt.tmp",
    ]


def test_only_lasting_saves_are_numbered(folder):
    own = history(folder, Latest(-1))
    given = []
    for batch, lasting in enumerate([True, False, True, False, False, True], start=1):
        given.append(save(own, position=at(batch), lasting=lasting).saved.number)
    assert given == [0, 1, 1, 2, 2, 2]
    assert [(item.number, item.position.batch) for item in own.saved] == [(0, 1), (1, 3), (2, 6)]


def test_a_resumed_run_keeps_its_checkpoints(folder):
    own = history(folder, Latest(2))
    for number, score in enumerate([0.3, 0.5, 0.4]):
        save(own, number, score)
    again = reopened(folder, Latest(2))
    assert (again.saved, again.newest, again.best) == (own.saved, own.newest, own.best)
    assert save(again, position=at(9)).saved.number == 3


def test_a_resumed_run_may_keep_fewer(folder):
    own = history(folder, Latest(-1))
    for number in range(4):
        save(own, number)
    assert [item.number for item in reopened(folder, Latest(2)).saved] == [2, 3]


def test_a_start_that_is_refused_deletes_nothing_and_moves_no_link(folder, monkeypatch):
    own = history(folder, Latest(-1))
    for number in range(4):
        save(own, number)
    flip_byte(folder, own.newest.name)
    left = folder / names.temp_name("epoch_000_batch_000009.ckpt")
    left.write_text("half")

    def state():
        return {path.name: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.iterdir()}

    before, again = state(), history(folder, Latest(2))
    again.take_over("toy", resume.find_resume_point(folder))
    assert state() == before
    assert [item.number for item in again.saved] == [1, 2]
    assert again.num_untidy_bytes == own.saved[0].num_bytes + len("half")
    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 0)
    with pytest.raises(ConfigError, match="only"):
        check_space(again, again.num_untidy_bytes + 1)
    check_space(again, again.num_untidy_bytes // 2)
    again.tidy()
    assert again.num_untidy_bytes == 0
    assert not left.exists()
    assert not (folder / saved(0).name).exists()


@pytest.mark.parametrize("break_it", [drop_manifest, flip_byte, truncate])
def test_damaged_newer_checkpoints_are_deleted_and_links_point_to_the_intact_one(folder, break_it):
    own = history(folder, Latest(-1))
    for number, score in enumerate([0.5, 0.4, 0.3]):
        save(own, number, score)
    break_it(folder, own.newest.name)
    (folder / names.temp_name("epoch_000_batch_000009.ckpt")).write_text("half")
    broken = own.newest.name
    again = reopened(folder, Latest(-1))
    assert [item.number for item in again.saved] == [0, 1]
    assert links(folder) == dict.fromkeys([names.LAST, names.BEST], "epoch_000_batch_000002.ckpt")
    assert (folder / broken).exists(), "until there is something better"
    save(again, 4, 0.9)
    files = [file for name in names_of(again.saved) for file in (name, names.manifest_name(name))]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*files, names.LAST, names.BEST])
    assert broken not in files


def test_interrupted_first_saves_do_not_accumulate(folder):
    for number in (0, 1):
        drop_manifest(folder, commit(folder, number).name)
        assert reopened(folder).saved == []
        assert list(folder.iterdir()) == []


def test_a_dangling_link_is_repaired(folder):
    own = history(folder, Latest(-1))
    save(own, 0, 0.5)
    save(own, 1, 0.4)
    (folder / own.newest.name).unlink()
    reopened(folder, Latest(-1))
    assert set(links(folder).values()) == {saved(0).name}
    (folder / saved(0).name).unlink()
    reopened(folder)
    assert list(folder.iterdir()) == [], "nor does its manifest stay"


def test_a_checkpoint_deleted_from_outside_is_logged_and_no_link_dangles(folder, caplog):
    own = history(folder, Latest(-1))
    for number, score in enumerate([0.5, 0.4]):
        save(own, number, score)
    (folder / own.best.name).unlink()
    save(own, 2, 0.6)
    assert f"Something other than this run deleted checkpoints in {folder}: epoch_000_batch_000002.ckpt." in caplog.text
    assert names_of(own.saved) == names_of([saved(0), saved(2)])
    assert links(folder)[names.BEST] == saved(0).name


def test_a_directory_deleted_from_outside_is_created_again(folder, caplog):
    own = history(folder, Latest(-1))
    save(own, 0, 0.5)
    shutil.rmtree(folder)
    save(own, 1, 0.6)
    assert "Something other than this run deleted" in caplog.text
    assert links(folder) == dict.fromkeys([names.LAST, names.BEST], saved(1).name)


def test_a_failed_deletion_is_repeated_at_the_next_save(folder, monkeypatch):
    own = history(folder, Latest(1))
    save(own, 0)
    disk = Disk(folder, monkeypatch)
    disk.fail_at = 6 + 3  # the commit takes six steps, and the link of the last one three
    result = save(own, 1)
    assert re.search(r"epoch_000_batch_000001\.ckpt could not be deleted: No space left", result.cleanup_error)
    assert links(folder) == {names.LAST: result.saved.name}
    assert own.saved == [result.saved]
    disk.fail_at = None
    save(own, 2)
    assert names_of(Catalog(folder).committed()) == [saved(2).name]


# Space


def test_a_budget_deletes_before_a_save(folder, monkeypatch):
    own = history(folder, WithinBytes("5kB"))
    for number in range(3):
        save(own, number)
    size = own.newest.num_bytes
    budget = history(folder, WithinBytes(3 * size))
    budget.take_over("toy", resume.find_resume_point(folder))
    budget.tidy()
    disk = Disk(folder, monkeypatch)
    save(budget, 3)
    assert disk.steps[0] == f"replace {saved(0).name} {names.temp_name(saved(0).name)}"
    assert [item.number for item in budget.saved] == [1, 2, 3]


@pytest.mark.parametrize("score", [0.1, 0.9])
def test_a_budget_never_deletes_the_newest_or_the_best_before_a_save(folder, score):
    own = history(folder, WithinBytes(1))
    save(own, 0, 0.5)
    save(own, 1, 0.6)
    plan = own.plan_commit(draft(2, score, num_bytes=10**6), {})
    assert plan.make_room == []


def test_a_run_without_space_for_a_checkpoint_does_not_start(folder, monkeypatch):
    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 2_500_000)
    with pytest.raises(ConfigError, match=r"needs about 3 MB, and only 2\.5 MB are free in directory="):
        check_space(history(folder, Latest(2)), 3_000_000)


def test_a_run_whose_checkpoints_are_over_the_limit_of_the_shell_does_not_start(folder, monkeypatch):
    monkeypatch.setattr(disk_module, "max_file_bytes", lambda: 2_500_000)
    with pytest.raises(ConfigError, match=r"needs about 3 MB, and .* may not write files over 2\.5 MB: .* ulimit -f"):
        check_space(history(folder, Latest(2)), 3_000_000)
    check_space(history(folder, Latest(2)), 2_500_000)


@pytest.mark.parametrize("leads", [True, False])
def test_the_limit_of_the_shell_is_for_a_shard_where_each_process_writes_one(folder, monkeypatch, leads):
    monkeypatch.setattr(disk_module, "max_file_bytes", lambda: 2_500_000)
    own = history(folder, Latest(2)) if leads else None
    check_space(own, 5_000_000, num_shards=2)
    with pytest.raises(
        ConfigError, match=r"Each of the 2 shards of a checkpoint needs about 2\.6 MB, and this process"
    ):
        check_space(own, 5_200_000, num_shards=2)


def test_a_run_without_space_for_a_second_checkpoint_is_warned(folder, monkeypatch, caplog):
    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 2_500_000)
    check_space(history(folder, Latest(1)), 1_300_000)
    assert "needs about 1.3 MB, and 2.5 MB are free" in caplog.text
    caplog.clear()
    check_space(history(folder, Latest(1)), 1_200_000)
    assert caplog.text == ""


def test_space_that_a_budget_will_free_counts_as_free(folder, monkeypatch):
    own = history(folder, WithinBytes(10**6))
    for number in range(5):
        save(own, number)
    size = own.newest.num_bytes
    own.rules = [WithinBytes(2 * size)]
    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 0)
    check_space(own, size)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "checkpoints"
    with pytest.raises(ConfigError, match=r"directory=.*checkpoints cannot be written: Not a directory"):
        check_writable(folder)


def test_the_write_test_names_the_limit_of_the_shell(folder):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        assert disk_module.why_unwritable(folder, 10_000) == ""
        # Of 30,000 bytes, the system writes 20,000, and fails only after that.
        assert disk_module.why_unwritable(folder, 30_000).startswith("File too large, see ulimit -f (")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(folder.iterdir()) == []


def test_the_write_test_leaves_no_file(folder):
    check_writable(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("break_it", [drop_manifest, edit_manifest])
def test_an_older_unusable_checkpoint_is_ignored_with_a_warning(folder, break_it, caplog):
    own = history(folder, Latest(-1))
    for number, score in enumerate([0.3, 0.5]):
        save(own, number, score)
    break_it(folder, saved(0).name)
    again = reopened(folder, Latest(1))
    assert f"Ignored {saved(0).name}: " in caplog.text
    save(again, 2, 0.4)
    assert (folder / saved(0).name).exists()
    assert names_of(again.saved) == [saved(2).name]


def test_a_budget_does_not_delete_the_target_of_a_link_that_could_not_be_moved(folder, monkeypatch):
    own = history(folder, WithinBytes(1))
    save(own, 0, 0.5)
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch)
        disk.fail_at = 6
        assert "could not be moved" in save(own, 1, 0.4).cleanup_error
    assert own.plan_commit(draft(2, num_bytes=10**6), {}).make_room == []
    assert links(folder)[names.BEST] == saved(0).name
    assert (folder / saved(0).name).exists()


def test_a_lost_link_is_restored(folder):
    save(history(folder), 0, 0.5)
    (folder / names.LAST).unlink()
    (folder / names.BEST).unlink()
    reopened(folder)
    assert set(links(folder)) == {names.LAST, names.BEST}


def test_a_directory_of_another_run_is_refused_and_unchanged(folder):
    commit(folder, 0, run="other")
    broken = commit(folder, 1, run="other")
    drop_manifest(folder, broken.name)
    before = {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(
        ConfigError, match=r"checkpoints of another run \(other\): give each run a directory of its own"
    ):
        reopened(folder)
    assert {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()} == before


def test_unknown_files_are_not_touched(folder):
    save(history(folder), 0)
    others = ["notes.txt", "model.ckpt", "epoch_1_batch_9.ckpt", ".gitignore", ".notes.txt.tmp"]
    for name in others:
        (folder / name).write_text("mine")
    own = reopened(folder, Latest(1))
    save(own, 1)
    assert {path.name for path in folder.iterdir()} >= set(others)


def test_a_position_saved_twice_is_kept_once(folder):
    own = history(folder, Latest(-1))
    save(own, 0)
    save(own, 0, reasons=("again",))
    assert [item.reasons for item in own.saved] == [("again",)]
    assert own.saved == Catalog(folder).committed()
    assert saved(0).name == own.newest.name


# Pending saves


def test_pending_checkpoints_count_for_decisions(folder):
    own = history(folder, Latest(2))
    save(own, 0, 0.5)
    for number, score in ((1, 0.3), (2, 0.4)):
        own.add_pending(draft(number, score))
    assert [(item.number, item.score) for item in own.with_pending] == [(1, 0.3), (2, 0.4)]
    assert [item.number for item in own.saved] == [0]


def test_a_failed_save_no_longer_counts(folder):
    own = history(folder, Latest(2))
    save(own, 0, 0.5)
    first, second = draft(1, 0.3), draft(2, 0.4)
    own.add_pending(first)
    own.add_pending(second)
    own.resolve_pending(first, own.plan_commit(first, {}), None)
    assert [(item.number, item.score) for item in own.with_pending] == [(0, 0.5), (1, 0.4)]
    plan = own.plan_commit(second, {})
    assert (plan.draft.number, list(plan.to_delete)) == (1, [])


def test_a_checkpoint_deleted_for_a_failed_save_is_forgotten(folder, caplog):
    size = len(small_file(0))
    own = history(folder, WithinBytes(2 * size))
    for number in range(2):
        save(own, number)
    coming = draft(2, num_bytes=size)
    own.add_pending(coming)
    plan = own.plan_commit(coming, {})
    assert plan.make_room == [saved(0).name]
    delete_checkpoint(folder, saved(0).name)
    own.resolve_pending(coming, plan, None)
    assert names_of(own.saved) == [saved(1).name]
    save(own, 2)
    assert "Something other" not in caplog.text


def test_what_triggers_decide_by_is_computed_once_between_two_changes(tmp_path, monkeypatch):
    own = History(tmp_path, [Latest(2)], "min")
    save(own, 0, 0.5)
    asked, marks = [], keep.marks
    monkeypatch.setattr(keep, "marks", lambda *args: (asked.append(args), marks(*args))[1])
    own.add_pending(draft(1, 0.4))
    for _ in range(1000):
        assert [item.score for item in own.with_pending] == [0.5, 0.4]
    assert len(asked) == 1
