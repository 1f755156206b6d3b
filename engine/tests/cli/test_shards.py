"""The commands look after directories of shards as they do after files."""

import json
from types import SimpleNamespace

import pytest
import torch
from tests.support.cli import cairn, left
from tests.support.shards import commit_shards
from tests.support.values import flip_byte

from cairn.store import links, names
from cairn.store.catalog import Catalog

SHARD = names.shard_name(1)


@pytest.fixture
def sharded(run):
    """The run of `run`, which has gone on with two checkpoints of three processes each."""
    folder = run.checkpoints()
    saved = [commit_shards(folder, number, 0.1 * number, reasons=("interval",)) for number in (4, 5)]
    links.move(folder / names.LAST, saved[1].name)
    links.move(folder / names.BEST, saved[0].name)
    return SimpleNamespace(run=run, folder=folder, saved=saved)


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_ls_shows_them_and_names_a_damaged_shard(sharded, capsys):
    cairn("ls", sharded.run.path, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [len(item["shards"]) for item in found["checkpoints"]] == [0, 0, 0, 0, 3, 3]
    assert found["checkpoints"][5]["last"]
    (sharded.folder / sharded.saved[1].name / SHARD).unlink()
    cairn("ls", sharded.run.path)
    assert f"not usable: {sharded.saved[1].name}, its shard {SHARD} is missing" in printed(capsys)
    cairn("ls", sharded.folder / sharded.saved[0].name, expect=1)
    assert "is a single checkpoint, a directory of shards: name the directory that holds it" in capsys.readouterr().err


def test_verify_names_a_damaged_shard(sharded, capsys):
    name = sharded.saved[1].name
    for target in (sharded.run.path, sharded.folder / name, sharded.folder / names.LAST):
        cairn("verify", target)
    flip_byte(sharded.folder / name, SHARD)
    capsys.readouterr()
    for target in (sharded.run.path, sharded.folder / name, sharded.folder / names.LAST):
        cairn("verify", target, "--json", expect=1)
        found = json.loads(capsys.readouterr().out)
        (broken,) = [item for item in found if item["file"].endswith(name)]
        assert (broken["state"], f"its shard {SHARD} is damaged" in broken["why"]) == ("broken", True)


def test_show_prints_the_manifest(sharded, capsys):
    cairn("show", sharded.folder / names.LAST, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["manifest"]["format"], found["manifest"]["name"]) == (3, sharded.saved[1].name)


def test_prune_deletes_them(sharded):
    cairn("prune", sharded.run.path, "--yes")
    assert left(sharded.run) == [1, 5], "the best of all, and the newest"
    assert Catalog(sharded.folder).leftovers() == []


def test_export_writes_one_file_once(sharded, tmp_path, capsys):
    cairn("export", sharded.folder / names.BEST, "--to", tmp_path / "one.ckpt")
    assert "Wrote" in capsys.readouterr().out
    found = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert (found["number"], found["cairn"]["ranks"]) == (4, [{"n": 0}, {"n": 1}, {"n": 2}])
    cairn("export", sharded.folder / names.BEST, "--to", tmp_path / "one.ckpt", expect=1)
    assert "exists already" in capsys.readouterr().err
    cairn("export", sharded.folder / names.BEST, "--to", tmp_path / "two.ckpt", "--json")
    assert json.loads(capsys.readouterr().out)["num_bytes"] == (tmp_path / "one.ckpt").stat().st_size
    cairn("export", sharded.run.path, "--to", tmp_path / "best.ckpt")
    assert f"from {(sharded.folder / names.BEST).resolve()}." in capsys.readouterr().out
    assert (tmp_path / "best.ckpt").read_bytes() == (tmp_path / "one.ckpt").read_bytes()


def test_status_has_the_newest(sharded, capsys):
    cairn("status", sharded.run.path, "--json")
    assert sharded.saved[1].name in capsys.readouterr().out
