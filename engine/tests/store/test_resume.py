"""What a run goes on from, and which files it would never start from."""

import os
import pickle
import zipfile
from contextlib import ExitStack

import pytest
import torch
from tests.support.values import DAMAGES, age_manifest, commit, drop_manifest, flip_byte, garble_manifest, truncate

from cairn.errors import CheckpointError, ResumeError
from cairn.store import disk, names, resume
from cairn.store.catalog import Rejected
from cairn.store.resume import ResumePoint


class Intruder:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def listing(directory):
    return {path.name: path.lstat().st_mtime_ns for path in directory.iterdir()}


# The plan


@pytest.mark.parametrize("missing", ["", "not/there"])
def test_where_nothing_is_a_run_begins(tmp_path, missing):
    assert resume.find_resume_point(tmp_path / missing) == ResumePoint(None)


def test_the_newest_is_gone_on_from(tmp_path):
    items = [commit(tmp_path, number) for number in range(3)]
    assert resume.find_resume_point(tmp_path) == ResumePoint(tmp_path / items[2].name, items[2])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_one_is_left_out_and_named_with_the_reason(tmp_path, damage):
    items = [commit(tmp_path, number) for number in range(3)]
    break_it, why = DAMAGES[damage]
    break_it(tmp_path, items[2].name)
    plan = resume.find_resume_point(tmp_path)
    assert (plan.path, plan.saved) == (tmp_path / items[1].name, items[1])
    assert [item.path for item in plan.rejected] == [tmp_path / items[2].name]
    assert why in plan.rejected[0].why


def test_a_plan_touches_nothing(tmp_path):
    items = [commit(tmp_path, number) for number in range(3)]
    flip_byte(tmp_path, items[2].name)
    drop_manifest(tmp_path, items[1].name)
    (tmp_path / names.temp_name(items[0].name)).write_text("half")
    before = listing(tmp_path)
    resume.find_resume_point(tmp_path)
    assert listing(tmp_path) == before


LOST = "it has no manifest: its save was never finished, or the manifest was lost"


def test_a_first_save_that_was_never_finished_is_no_reason_not_to_begin(tmp_path):
    item = commit(tmp_path)
    drop_manifest(tmp_path, item.name)
    plan = resume.find_resume_point(tmp_path)
    assert (plan.path, plan.saved) == (None, None)
    assert plan.rejected == (Rejected(tmp_path / item.name, LOST),)


@pytest.mark.parametrize("break_it", [flip_byte, truncate, garble_manifest])
def test_if_nothing_that_was_committed_is_whole_nothing_begins_in_its_place(tmp_path, break_it):
    for number in range(2):
        break_it(tmp_path, commit(tmp_path, number).name)
    with pytest.raises(ResumeError, match="is whole") as error:
        resume.find_resume_point(tmp_path)
    for expected in (str(tmp_path), "epoch_000_batch_000001.ckpt: ", "epoch_000_batch_000002.ckpt: ", "move them"):
        assert expected in str(error.value)


def test_several_without_a_manifest_are_more_than_a_first_save_cut_off(tmp_path):
    for number in range(2):
        drop_manifest(tmp_path, commit(tmp_path, number).name)
    with pytest.raises(ResumeError, match="is whole"):
        resume.find_resume_point(tmp_path)


@pytest.mark.parametrize("whole", [0, 1])
def test_a_run_of_a_later_cairn_is_refused_and_not_begun_anew(tmp_path, whole):
    items = [commit(tmp_path, number) for number in range(2)]
    for item in items[whole:]:
        age_manifest(tmp_path, item.name)
    with pytest.raises(ResumeError, match="format 3"):
        resume.find_resume_point(tmp_path)


# One file


def test_a_checkpoint_is_loaded_through_its_link(tmp_path):
    item = commit(tmp_path, 3)
    (tmp_path / names.LAST).symlink_to(item.name)
    assert resume.load(tmp_path / names.LAST)["number"] == 3


def test_a_file_that_is_not_ours_needs_no_manifest(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "theirs.ckpt")
    assert resume.load(tmp_path / "theirs.ckpt")["state_dict"]["w"].tolist() == [1, 1]


def test_a_file_that_is_not_ours_may_lie_beside_some_json(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "theirs.ckpt")
    (tmp_path / "theirs.json").write_text('{"lr": 0.1}')
    assert resume.load(tmp_path / "theirs.ckpt") == {"state_dict": {}}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.ckpt", r"There is no checkpoint .*gone\.ckpt\."),
        ("folder", "folder is a directory: name a file in it"),
        ("dangling.ckpt", r"dangling\.ckpt is a link to gone\.ckpt, which is not there"),
    ],
)
def test_no_file_is_no_checkpoint(tmp_path, name, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.ckpt").symlink_to("gone.ckpt")
    with pytest.raises(CheckpointError, match=told):
        resume.load(tmp_path / name)


@pytest.mark.parametrize("break_it", [flip_byte, truncate, garble_manifest])
def test_a_broken_checkpoint_is_refused_by_its_name(tmp_path, break_it):
    item = commit(tmp_path)
    break_it(tmp_path, item.name)
    with pytest.raises(CheckpointError, match=item.name):
        resume.load(tmp_path / item.name)


def test_a_text_is_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("weights, honestly")
    with pytest.raises(CheckpointError, match=r"text\.ckpt is no checkpoint: it is not a file that torch\.save wrote"):
        resume.load(tmp_path / "text.ckpt")


def test_another_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"other\.ckpt cannot be loaded: "):
        resume.load(tmp_path / "other.ckpt")


@pytest.mark.parametrize("wrapped", ["alone", "in a state_dict", "in an old torch file", "in a bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, wrapped):
    marker, path = tmp_path / "it ran", tmp_path / "evil.ckpt"
    content = Intruder(marker) if wrapped == "alone" else {"state_dict": {}, "extra": Intruder(marker)}
    if wrapped == "in a bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrapped != "in an old torch file")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        resume.load(path)
    assert not marker.exists()


def test_the_pickle_of_these_tests_would_run(tmp_path):
    pickle.loads(pickle.dumps(Intruder(tmp_path / "it ran")))
    assert (tmp_path / "it ran").is_dir()


@pytest.mark.parametrize("content", [{"weights": {}}, {}, [1, 2], torch.ones(2), None])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt is no Lightning checkpoint: it has no 'state_dict'"):
        resume.load(tmp_path / "other.ckpt")


# The end of the run


@pytest.mark.parametrize(("epoch", "max_epochs"), [(3, 3), (3, 4), (3, -1), (3, None), (0, 0)])
def test_a_checkpoint_before_the_end_can_go_on(tmp_path, epoch, max_epochs):
    resume.check_epochs_left(tmp_path, {"epoch": epoch}, max_epochs)


@pytest.mark.parametrize(("epoch", "max_epochs"), [(3, 2), (1, 0)])
def test_a_checkpoint_beyond_the_end_is_refused(tmp_path, epoch, max_epochs):
    told = rf"x\.ckpt stands in epoch {epoch}, beyond trainer\.max_epochs={max_epochs}: .*init_weights="
    with pytest.raises(ResumeError, match=told):
        resume.check_epochs_left(tmp_path / "x.ckpt", {"epoch": epoch}, max_epochs)


# The model


def weights(**shapes):
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_weights_that_fit_pass(tmp_path):
    resume.check_fits(tmp_path, weights(a=(2, 3), b=()), weights(b=(), a=(2, 3)))
    resume.check_fits(tmp_path, {**weights(a=(2,)), "extra_state": {"x": 1}}, {**weights(a=(2,)), "extra_state": None})


@pytest.mark.parametrize(
    ("file", "model", "told"),
    [
        (weights(a=(2, 3)), weights(a=(2, 4)), "a is (2, 3) in the file and (2, 4) in the model"),
        (weights(a=(2,), b=(1,)), weights(a=(2,)), "b is only in the file"),
        (weights(a=(2,)), weights(a=(2,), b=(1,)), "b is only in the model"),
        (
            weights(a=(2,), c=(1,)),
            weights(a=(3,), b=(1,)),
            "a is (2,) in the file and (3,) in the model; b is only in the model; c is only in the file",
        ),
    ],
)
def test_weights_of_another_model_are_refused_by_name_and_shape(tmp_path, file, model, told):
    with pytest.raises(CheckpointError) as error:
        resume.check_fits(tmp_path / "x.ckpt", file, model)
    assert str(error.value) == f"{tmp_path / 'x.ckpt'} is of another model: {told}."


def test_only_the_first_few_differences_are_told(tmp_path):
    with pytest.raises(CheckpointError) as error:
        resume.check_fits(tmp_path, weights(**dict.fromkeys("gfedcba", (1,))), {})
    told = "; ".join(f"{name} is only in the file" for name in "abcd")
    assert str(error.value).endswith(f": {told}, and 3 more.")


# The writer of a training that was killed


def test_a_writer_that_is_still_at_work_is_waited_for(tmp_path, monkeypatch, caplog):
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
    assert caplog.text.count("still being written") == 1


def test_one_that_moves_nothing_any_more_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    hand, half = [0.0], tmp_path / names.temp_name(commit(tmp_path, 0).name)
    monkeypatch.setattr(resume.time, "monotonic", lambda: hand[0])

    def wait(seconds):
        hand[0] += 9.0
        if hand[0] < 30:
            half.write_bytes(bytes(int(hand[0])))  # it still writes

    monkeypatch.setattr(resume.time, "sleep", wait)
    with disk.locked(tmp_path), pytest.raises(ResumeError, match="does not end: is its disk gone"):
        resume.wait_for_writers(tmp_path, patience_s=10.0)
    assert hand[0] > 30 + 10
