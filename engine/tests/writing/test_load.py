"""Loading a checkpoint is safe: the whole of it, or the weights alone."""

import collections
import functools
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.values import commit, flip_byte, garble_manifest, truncate
from torch import nn

from cairn.errors import CheckpointError
from cairn.store import names
from cairn.writing.load import load, load_weights


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


# Weights alone


class Config(dict):
    """Stands for the containers of other libraries."""


OBJECTS = {
    "module": nn.Linear(1, 1),
    "factory": functools.partial(torch.optim.SGD, lr=0.1),
    "path": Path("a"),
    "class": Config,
    "dict": Config(a=1),
    "default": collections.defaultdict(list, a=[1]),
    "queue": collections.deque([1]),
    "array": np.arange(3),
    "number": np.float64(1),
    "function": len,
}


def saved(path, contents, **how):
    torch.save(contents, path, **how)
    return path


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "module", "net", "weights", "params"])
@pytest.mark.parametrize("new_format", [True, False])
def test_weights_are_found_bare_and_under_a_usual_key(tmp_path, key, new_format):
    weights = nn.Linear(2, 1).state_dict()
    contents = weights if key is None else {"epoch": 3, key: weights, "optimizer": {}}
    found = load_weights(saved(tmp_path / "a.pt", contents, _use_new_zipfile_serialization=new_format))
    assert found.values.keys() == weights.keys()
    assert torch.equal(found.values["weight"], weights["weight"])
    assert bool(found.contents) == (key == "state_dict")


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_that_are_not_needed_do_not_matter(tmp_path, name):
    contents = {"state_dict": {"w": torch.ones(1)}, "hyper_parameters": {"a": 1, "x": OBJECTS[name]}}
    found = load_weights(saved(tmp_path / "a.ckpt", contents))
    assert found.values["w"].tolist() == [1]
    assert found.contents["hyper_parameters"]["a"] == 1


def test_all_objects_together_do_not_matter(tmp_path):
    contents = {"state_dict": {"w": torch.ones(1)}, "hyper_parameters": OBJECTS}
    assert load_weights(saved(tmp_path / "a.ckpt", contents)).values["w"].tolist() == [1]


@pytest.mark.parametrize("new_format", [True, False])
def test_code_next_to_the_weights_does_not_run(tmp_path, new_format):
    path = saved(
        tmp_path / "a.pt",
        {"state_dict": {"w": torch.ones(1)}, "x": Intruder(tmp_path / "it ran")},
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(CheckpointError, match=r"a\.pt is refused: it names posix\.mkdir"):
        load_weights(path)
    assert not (tmp_path / "it ran").exists()


class Caller:
    """Calls a function when it is unpickled."""

    called = False

    def __reduce__(self):
        return mark_as_called, ()


def mark_as_called():
    Caller.called = True


def test_a_function_in_the_file_is_not_called(tmp_path):
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"w": torch.ones(1)}, "x": Caller()})
    assert load_weights(path).values["w"].tolist() == [1]
    assert not Caller.called
    pickle.loads(pickle.dumps(Caller()))
    assert Caller.called, "this test would notice"


def test_an_object_in_the_weights_is_refused(tmp_path):
    contents = {"state_dict": {"w": torch.ones(1), "_extra_state": {"a": [Path("x")]}}}
    with pytest.raises(CheckpointError, match=r"_extra_state in it holds an object .* Let get_extra_state"):
        load_weights(saved(tmp_path / "a.ckpt", contents))
    contents["state_dict"]["_extra_state"] = {"a": 1}
    assert load_weights(saved(tmp_path / "a.ckpt", contents)).values["_extra_state"] == {"a": 1}


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"epoch": 3, "loss": torch.ones(1)}, "found keys epoch, loss"),
        ({"state_dict": {}}, "found an empty state_dict"),
        ({}, "found an empty dict"),
        ([1], "found <class 'list'>"),
        (5, "found <class 'int'>"),
        (nn.Linear(1, 1), "found <class"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path, contents, words):
    with pytest.raises(CheckpointError, match=f"expected a state_dict, or a dict with one under .*; {words}"):
        load_weights(saved(tmp_path / "a.pt", contents))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: torch\.save did not write it"):
        load_weights(tmp_path / "a.safetensors")


def test_a_corrupt_checkpoint_is_refused_here_too(tmp_path):
    item = commit(tmp_path)
    flip_byte(tmp_path, item.name)
    with pytest.raises(CheckpointError, match=item.name):
        load_weights(tmp_path / item.name)
