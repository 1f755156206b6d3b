"""Which checkpoint a run resumes from, and when it refuses."""

from contextlib import ExitStack

import pytest
from tests.support.values import DAMAGES, age_manifest, commit, drop_manifest, flip_byte, garble_manifest, truncate

from cairn.errors import ResumeError
from cairn.store import disk, names, resume
from cairn.store.catalog import Rejected
from cairn.store.resume import ResumePoint


def listing(directory):
    return {path.name: path.lstat().st_mtime_ns for path in directory.iterdir()}


# The resume point


@pytest.mark.parametrize("missing", ["", "not/there"])
def test_an_empty_or_missing_directory_starts_from_the_beginning(tmp_path, missing):
    assert resume.find_resume_point(tmp_path / missing) == ResumePoint(None)


def test_the_newest_checkpoint_is_the_resume_point(tmp_path):
    items = [commit(tmp_path, number) for number in range(3)]
    assert resume.find_resume_point(tmp_path) == ResumePoint(tmp_path / items[2].name, items[2])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_the_reason(tmp_path, damage):
    items = [commit(tmp_path, number) for number in range(3)]
    break_it, why = DAMAGES[damage]
    break_it(tmp_path, items[2].name)
    plan = resume.find_resume_point(tmp_path)
    assert (plan.path, plan.saved) == (tmp_path / items[1].name, items[1])
    assert [item.path for item in plan.rejected] == [tmp_path / items[2].name]
    assert why in plan.rejected[0].why


def test_finding_the_resume_point_changes_nothing(tmp_path):
    items = [commit(tmp_path, number) for number in range(3)]
    flip_byte(tmp_path, items[2].name)
    drop_manifest(tmp_path, items[1].name)
    (tmp_path / names.temp_name(items[0].name)).write_text("half")
    before = listing(tmp_path)
    resume.find_resume_point(tmp_path)
    assert listing(tmp_path) == before


LOST = "it has no manifest: its save was interrupted, or the manifest was lost"


def test_an_interrupted_first_save_starts_from_the_beginning(tmp_path):
    item = commit(tmp_path)
    drop_manifest(tmp_path, item.name)
    plan = resume.find_resume_point(tmp_path)
    assert (plan.path, plan.saved) == (None, None)
    assert plan.rejected == (Rejected(tmp_path / item.name, LOST),)


@pytest.mark.parametrize("break_it", [flip_byte, truncate, garble_manifest])
def test_if_no_committed_checkpoint_is_intact_the_resume_is_refused(tmp_path, break_it):
    for number in range(2):
        break_it(tmp_path, commit(tmp_path, number).name)
    with pytest.raises(ResumeError, match="is intact") as error:
        resume.find_resume_point(tmp_path)
    for expected in (
        str(tmp_path),
        "epoch_000_batch_000001.ckpt: ",
        "epoch_000_batch_000002.ckpt: ",
        "move these files away",
    ):
        assert expected in str(error.value)


def test_several_files_without_manifests_are_refused(tmp_path):
    for number in range(2):
        drop_manifest(tmp_path, commit(tmp_path, number).name)
    with pytest.raises(ResumeError, match="is intact"):
        resume.find_resume_point(tmp_path)


@pytest.mark.parametrize("whole", [0, 1])
def test_checkpoints_of_a_later_version_are_refused(tmp_path, whole):
    items = [commit(tmp_path, number) for number in range(2)]
    for item in items[whole:]:
        age_manifest(tmp_path, item.name)
    with pytest.raises(ResumeError, match="format 4"):
        resume.find_resume_point(tmp_path)


# The end of the run


@pytest.mark.parametrize(("epoch", "max_epochs"), [(3, 3), (3, 4), (3, -1), (3, None), (0, 0)])
def test_a_checkpoint_before_max_epochs_is_accepted(tmp_path, epoch, max_epochs):
    resume.check_epochs_left(tmp_path, {"epoch": epoch}, max_epochs)


@pytest.mark.parametrize(("epoch", "max_epochs"), [(3, 2), (1, 0)])
def test_a_checkpoint_beyond_max_epochs_is_refused(tmp_path, epoch, max_epochs):
    message = rf"x\.ckpt is in epoch {epoch}, beyond max_epochs={max_epochs}: raise max_epochs"
    with pytest.raises(ResumeError, match=message):
        resume.check_epochs_left(tmp_path / "x.ckpt", {"epoch": epoch}, max_epochs)


def test_a_limit_that_training_has_raised_itself_does_not_refuse_its_checkpoint(tmp_path):
    contents = {"epoch": 3, "cairn": {"settings": {"raised": {"first": {"max_epochs": 2}, "now": {"max_epochs": 4}}}}}
    resume.check_epochs_left(tmp_path, contents, 2)
    with pytest.raises(ResumeError, match="beyond max_epochs=1"):
        resume.check_epochs_left(tmp_path, contents, 1)


# The writer of a killed training process


def test_a_resume_waits_for_a_writer_that_is_still_working(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    with ExitStack() as writing:
        writing.enter_context(disk.locked(tmp_path))
        waits = []

        def wait(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                writing.close()

        monkeypatch.setattr(resume.time, "sleep", wait)
        resume.wait_for_writers(tmp_path, patience_s=60.0)
    assert len(waits) == 3
    assert caplog.text.count("still writing a checkpoint") == 1


def test_a_resume_does_not_wait_for_a_writer_without_progress(tmp_path, monkeypatch):
    hand, half = [0.0], tmp_path / names.temp_name(commit(tmp_path, 0).name)
    monkeypatch.setattr(resume.time, "monotonic", lambda: hand[0])

    def wait(seconds):
        hand[0] += 9.0
        if hand[0] < 30:
            half.write_bytes(bytes(int(hand[0])))  # it makes progress

    monkeypatch.setattr(resume.time, "sleep", wait)
    with disk.locked(tmp_path), pytest.raises(ResumeError, match="has written nothing for 10 s: stop it first"):
        resume.wait_for_writers(tmp_path, patience_s=10.0)
    assert hand[0] > 30 + 10
