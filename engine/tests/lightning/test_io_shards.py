"""A directory of shards is loaded by Lightning's own calls, and by `load_model`."""

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from tests.support.project import example
from tests.support.shards import commit_shards, write_shards
from tests.template.helpers import CLASSIFIER

from cairn.errors import CheckpointError, ModelError
from cairn.lightning.io import MappedCheckpointIO, understanding
from cairn.lightning.load_model import load_model
from cairn.store import names
from cairn.targets import build

example("models.classifier")


class Theirs(TorchCheckpointIO):
    """A plugin of the user, which reads single files."""


PLUGINS = {
    "ours": MappedCheckpointIO,
    "Lightning's": lambda: understanding(TorchCheckpointIO()),
    "asynchronous": lambda: understanding(AsyncCheckpointIO(TorchCheckpointIO())),
    "the user's": lambda: understanding(Theirs()),
}


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_each_plugin_reads_a_directory_and_a_link_to_it(tmp_path, plugin, kind):
    saved = commit_shards(tmp_path, 5)
    (tmp_path / names.LAST).symlink_to(saved.name)
    for name in (saved.name, names.LAST):
        found = PLUGINS[plugin]().load_checkpoint(kind(tmp_path / name))
        assert found["state_dict"]["weight"].eq(5).all()
        assert [state["n"] for state in found["cairn"]["ranks"]] == [0, 1, 2]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_another_directory_is_refused(tmp_path, plugin):
    (tmp_path / "folder").mkdir()
    with pytest.raises((CheckpointError, OSError)):
        PLUGINS[plugin]().load_checkpoint(tmp_path / "folder")


def test_a_lost_shard_is_named(tmp_path):
    saved = commit_shards(tmp_path)
    (tmp_path / saved.name / names.shard_name(0)).unlink()
    with pytest.raises(CheckpointError, match=r"its shard rank_00000\.ckpt is missing"):
        MappedCheckpointIO().load_checkpoint(tmp_path / saved.name)


def test_lightning_tests_with_the_weights_of_a_directory(tmp_path):
    model = BoringModel()
    weights = {name: torch.full_like(value, 3.0) for name, value in model.state_dict().items()}
    whole = {"state_dict": weights, "cairn": {}, "pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 1}
    write_shards(tmp_path / "a.ckpt", whole, weights.values(), [{"n": 0}, {"n": 1}])
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_test_batches": 1}
    trainer = Trainer(accelerator="cpu", plugins=[MappedCheckpointIO()], default_root_dir=tmp_path, **options)
    trainer.test(model, ckpt_path=str(tmp_path / "a.ckpt"), weights_only=True, verbose=False)
    assert all(value.eq(3).all() for value in model.state_dict().values())


def test_load_model_builds_the_model_of_a_directory(tmp_path):
    weights = build(CLASSIFIER).state_dict()
    whole = {"state_dict": weights, "cairn": {"config": {"model": CLASSIFIER}}}
    write_shards(tmp_path / "a.ckpt", whole, weights.values(), [{"n": 0}, {"n": 1}])
    model = load_model(tmp_path / "a.ckpt")
    assert all(model.state_dict()[name].equal(value) for name, value in weights.items())
    (tmp_path / "a.ckpt" / names.shard_name(1)).unlink()
    with pytest.raises(ModelError, match="it has 1 shards, and 2 processes saved it"):
        load_model(tmp_path / "a.ckpt")


def test_load_model_refuses_another_directory(tmp_path):
    with pytest.raises(ModelError, match="is a directory: name a checkpoint"):
        load_model(tmp_path)
