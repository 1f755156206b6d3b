"""The parts of an export: secrets, comparisons, files that appear at once, and the checkpoint that a user names."""

import os

import pytest
import torch
from tests.support.cli import stopped_run
from tests.support.exported import WithExample, committed, spec
from tests.support.mirrors import mirror_files, objects_at

from cairn.errors import ConfigError, MissingFileError, ModelError, ResumeError, SaveError
from cairn.export import outputs
from cairn.export.redacted import redact
from cairn.export.staging import staged
from cairn.run import named_checkpoint
from cairn.store import catalog


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("password", "hunter2", None),
        ("db_password", "hunter2", None),
        ("api_key", "x", None),
        ("apikey", "x", None),
        ("aws_secret_access_key", "x", None),
        ("hf_token", "x", None),
        ("token", "x", None),
        ("credentials", {"user": "me", "value": "x"}, {"user": None, "value": None}),
        ("name", "hf_abcdefghijklmnopqrst", None),
        ("name", "AKIAABCDEFGHIJKLMNOP", None),
        ("url", "postgres://me:pw@host/db", "postgres://host/db"),
        ("url", "https://host/data.csv?sv=1&sig=abc%3D", None),
        ("url", "https://host/data.csv?X-Amz-Signature=abc", None),
        ("url", "https://host/data.csv?api_key=abc", None),
        ("name", "has 0123456789 in it", None),
        # not secrets
        ("pad_token", "<pad>", "<pad>"),
        ("num_tokens", 5, 5),
        ("tokenizer", "gpt2", "gpt2"),
        ("keys", ["a"], ["a"]),
        ("key", "val/loss", "val/loss"),
        ("password", None, None),
        ("author", "me", "me"),
        ("url", "https://host/a@b", "https://host/a@b"),
        ("url", "https://host/data.csv?page=2&keyword=a&token=", "https://host/data.csv?page=2&keyword=a&token="),
        ("_target_", "project.secrets_of_state.Net", "project.secrets_of_state.Net"),
    ],
)
def test_secrets_are_left_out_of_a_configuration(monkeypatch, key, value, expected):
    monkeypatch.setenv("SOME_API_KEY", "0123456789")
    found, keys = redact({"a": {key: value}, "b": [1, "x"]})
    assert found == {"a": {key: expected}, "b": [1, "x"]}
    assert bool(keys) == (value != expected)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), True),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), False),
        (torch.ones(2), torch.ones(2, 1), False),
        (torch.ones(0), torch.ones(0), True),
        (torch.tensor(True), torch.tensor(True), True),
        (torch.ones(2, 3).t(), torch.ones(3, 2), True),
    ],
)
def test_outputs_are_compared_bit_by_bit(one, other, same):
    assert outputs.are_equal([one], [other]) == same


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ([1000.0, 1.0], [1000.1, 1.0], ""),
        ([1e-5, 2e-5], [2e-5, 2e-5], "differs by 0.5"),
        ([1.0], [float("nan")], "differs by nan"),
        ([float("inf")], [float("inf")], ""),
        ([1.0], [[1.0]], "has the shape"),
        ([1], [2], "differs by 1 of"),
        ([0.0], [1e-12], ""),
    ],
)
def test_other_programs_may_round_and_nothing_else(one, other, why):
    pair = [torch.tensor(one)], [torch.tensor(other)]
    if why:
        with pytest.raises(ModelError, match=why):
            outputs.difference(*pair)
    else:
        outputs.difference(*pair)


def test_files_appear_together_or_not_at_all(tmp_path):
    def write(names, fails=False, overwrite=False):
        with staged(tmp_path / "new", ("a", "b"), overwrite) as hidden:
            for name in names:
                (hidden / name).write_text(name)
            if fails:
                raise ModelError("no")

    with pytest.raises(ModelError):
        write("ab", fails=True)
    assert not (tmp_path / "new").exists()
    write("abc")
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "b", "c"]
    with pytest.raises(ModelError):
        write("ab", fails=True, overwrite=True)
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "b", "c"]
    (tmp_path / "new" / ".b.tmp").mkdir()  # of an export that was killed
    (tmp_path / "new" / ".b.tmp" / "old").touch()
    write("ab", overwrite=True)
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "b", "c"]
    (tmp_path / "new" / "d").write_text("mine")
    for name in "ab":
        (tmp_path / "new" / name).unlink()
    with pytest.raises(ConfigError, match="d exists already"):
        write("abd")
    assert (tmp_path / "new" / "d").read_text() == "mine"
    with pytest.raises(ConfigError, match="There is no directory"), staged(tmp_path / "x" / "y", ("a",), False):
        pass


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(SaveError, match=r"a could not be written: No space left on device \("),
        staged(tmp_path, ("a",), False),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_run_stands_for_its_best_checkpoint(tmp_path):
    run = stopped_run(tmp_path / "one")
    best = run.checkpoints() / "epoch_000_batch_000002.ckpt"
    for named in (run.path, run.checkpoints(), run.checkpoints() / "best.ckpt", best):
        found = named_checkpoint.find(str(named), tmp_path)
        assert (found.path, found.saved.score, found.run.path) == (best, 0.3, run.path)
    (run.checkpoints() / "best.ckpt").unlink()
    assert named_checkpoint.find(str(run.path), tmp_path).path.name == "epoch_000_batch_000004.ckpt"


@pytest.mark.parametrize(("named", "error"), [("gone.ckpt", MissingFileError), ("", ResumeError)])
def test_what_is_not_there_is_named(tmp_path, named, error):
    with pytest.raises(error, match=str(tmp_path / named)):
        named_checkpoint.find(str(tmp_path / named), tmp_path)


def test_an_address_stands_for_its_best_checkpoint(tmp_path):
    store, folder = objects_at("memory", tmp_path), tmp_path / "local"
    paths = [committed(folder, spec(WithExample), number=number) for number in range(2)]
    for path in paths:
        mirror_files(store, folder, catalog.describe(path), {})
    found = named_checkpoint.find(str(store.address), tmp_path / "fetched")
    assert (found.path.name, found.saved.number) == (paths[1].name, 1), "it has no best one: the newest"
    assert found.provenance["seed"] == 5
