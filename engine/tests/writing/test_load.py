"""Loading a checkpoint is safe, and weights that do not fit the model are refused by name."""

import os
import pickle
import zipfile

import pytest
import torch
from tests.support.values import commit, flip_byte, garble_manifest, truncate

from cairn.errors import CheckpointError
from cairn.store import names
from cairn.writing.load import check_fits, load


class Intruder:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# The file


def test_a_checkpoint_loads_through_a_link(tmp_path):
    item = commit(tmp_path, 3)
    (tmp_path / names.LAST).symlink_to(item.name)
    assert load(tmp_path / names.LAST)["number"] == 3


def test_a_file_of_another_name_needs_no_manifest(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "theirs.ckpt")
    assert load(tmp_path / "theirs.ckpt")["state_dict"]["w"].tolist() == [1, 1]


def test_a_json_file_of_another_program_is_not_taken_for_a_manifest(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "theirs.ckpt")
    (tmp_path / "theirs.json").write_text('{"lr": 0.1}')
    assert load(tmp_path / "theirs.ckpt") == {"state_dict": {}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.ckpt", r"There is no checkpoint .*gone\.ckpt\."),
        ("folder", "folder is a directory: name a checkpoint file in it"),
        ("dangling.ckpt", r"dangling\.ckpt is a link to gone\.ckpt, which does not exist"),
    ],
)
def test_a_missing_file_is_refused(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.ckpt").symlink_to("gone.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / name)


@pytest.mark.parametrize("break_it", [flip_byte, truncate, garble_manifest])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, break_it):
    item = commit(tmp_path)
    break_it(tmp_path, item.name)
    with pytest.raises(CheckpointError, match=item.name):
        load(tmp_path / item.name)


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("weights, honestly")
    with pytest.raises(CheckpointError, match=r"text\.ckpt is not a checkpoint: torch\.save did not write it"):
        load(tmp_path / "text.ckpt")


def test_another_zip_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"other\.ckpt cannot be loaded: "):
        load(tmp_path / "other.ckpt")


@pytest.mark.parametrize("wrapped", ["alone", "in a state_dict", "in an old torch file", "in a bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, wrapped):
    marker, path = tmp_path / "it ran", tmp_path / "evil.ckpt"
    content = Intruder(marker) if wrapped == "alone" else {"state_dict": {}, "extra": Intruder(marker)}
    if wrapped == "in a bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrapped != "in an old torch file")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        load(path)
    assert not marker.exists()


def test_the_pickle_of_this_test_does_run_code_when_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Intruder(tmp_path / "it ran")))
    assert (tmp_path / "it ran").is_dir()


@pytest.mark.parametrize("content", [{"weights": {}}, {}, [1, 2], torch.ones(2), None])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a Lightning checkpoint: it has no 'state_dict'"):
        load(tmp_path / "other.ckpt")


# The model


def weights(**shapes):
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_weights_that_fit_are_accepted(tmp_path):
    check_fits(tmp_path, weights(a=(2, 3), b=()), weights(b=(), a=(2, 3)))
    check_fits(tmp_path, {**weights(a=(2,)), "extra_state": {"x": 1}}, {**weights(a=(2,)), "extra_state": None})


@pytest.mark.parametrize(
    ("file", "model", "message"),
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
def test_weights_of_another_model_are_refused_by_name_and_shape(tmp_path, file, model, message):
    with pytest.raises(CheckpointError) as error:
        check_fits(tmp_path / "x.ckpt", file, model)
    assert str(error.value) == f"{tmp_path / 'x.ckpt'} holds the weights of another model: {message}."


def test_only_the_first_differences_are_listed(tmp_path):
    with pytest.raises(CheckpointError) as error:
        check_fits(tmp_path, weights(**dict.fromkeys("gfedcba", (1,))), {})
    message = "; ".join(f"{name} is only in the file" for name in "abcd")
    assert str(error.value).endswith(f": {message}, and 3 more.")
