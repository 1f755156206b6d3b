"""A checkpoint is loaded as it was saved, and only its weights stay mapped to the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from tests.support.values import commit, file_of
from torch import nn

import cairn
from cairn.data.position import BetweenEpochs
from cairn.errors import CheckpointError
from cairn.lightning.io import MappedCheckpointIO, explain, understanding


def _is_mapped(tensor):
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.endswith(".ckpt")
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_the_weights_are_mapped_and_everything_else_is_copied(tmp_path):
    net = nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    contents = {
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"mine": {"tensors": [torch.ones(3), (torch.zeros(2), 5)], "name": "x"}},
    }
    path = tmp_path / "a.ckpt"
    path.write_bytes(file_of(contents))
    found = MappedCheckpointIO().load_checkpoint(path)
    assert all(_is_mapped(tensor) for tensor in found["state_dict"].values())
    others = [found["callbacks"]["mine"]["tensors"][0], found["callbacks"]["mine"]["tensors"][1][0]]
    others += [value for state in found["optimizer_states"][0]["state"].values() for value in state.values()]
    assert not any(_is_mapped(tensor) for tensor in others)
    path.unlink()
    for name, tensor in net.state_dict().items():
        assert torch.equal(found["state_dict"][name], tensor)
    for mine, theirs in zip(optimizer.state.values(), found["optimizer_states"][0]["state"].values(), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert found["callbacks"]["mine"]["name"] == "x"
    assert found["callbacks"]["mine"]["tensors"][1][1] == 5


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_text("no")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        MappedCheckpointIO().load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        MappedCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")
    assert MappedCheckpointIO().load_checkpoint(tmp_path / commit(tmp_path).name)["number"] == 0


class Model(LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(2, num_classes)

    def training_step(self, batch, batch_idx):
        return self.head(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightnings_own_error_gets_a_note_with_what_matters(tmp_path):
    def fit(num_classes, path):
        trainer = Trainer(
            max_steps=2 if path else 1,
            callbacks=[checkpoints := cairn.Checkpointer(tmp_path / "checkpoints", 1)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(Model(num_classes), cairn.DataLoader([torch.ones(2)] * 3), ckpt_path=checkpoints.resume())

    fit(2, None)
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict") as caught:
        fit(3, tmp_path)
    (note,) = caught.value.__notes__
    assert note.startswith(
        "The weights in the checkpoint do not fit Model: head.weight is (2, 2) in the file and (3, 2)"
    )


def test_another_error_gets_no_note():
    error = RuntimeError("out of memory")
    explain(error, Model(1))
    assert not hasattr(error, "__notes__")


class Arrays(Model):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["array"] = np.arange(3)

    def on_load_checkpoint(self, checkpoint):
        self.loaded = checkpoint["array"]


@pytest.mark.parametrize("plugin", [lambda: None, AsyncCheckpointIO, lambda: AsyncCheckpointIO(MappedCheckpointIO())])
def test_values_come_back_as_they_were_through_any_plugin(plugin, tmp_path, caplog):
    for steps in (1, 2):
        checkpoints = cairn.Checkpointer(tmp_path, 1, writing=cairn.Writing("sync"))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(max_steps=steps, callbacks=[checkpoints], plugins=plugin(), **quiet)
        model = Arrays(2)
        trainer.fit(model, cairn.DataLoader([torch.ones(2)] * 3), ckpt_path=checkpoints.resume())
    assert type(model.loaded) is np.ndarray
    assert "is loaded as a plain value" not in caplog.text


def test_a_plugin_is_extended_once():
    plugin = AsyncCheckpointIO(TorchCheckpointIO())
    first = understanding(plugin).load_checkpoint
    assert understanding(plugin) is plugin
    assert plugin.load_checkpoint is first
    assert understanding(AsyncCheckpointIO(plugin)).checkpoint_io is plugin


@pytest.mark.parametrize(("place", "batch", "marked"), [("epoch", 0, True), ("epoch", 2, False), ("batch", 0, False)])
def test_loaders_and_datamodules_between_two_epochs_have_the_same_mark(tmp_path, place, batch, marked):
    position = {"epoch": 1, "batch": batch, "batch_size": 2, "seed": 0}
    loops = {"fit_loop": {"state_dict": {"combined_loader": [position, {"of": "another loader"}]}}}
    ours = {"place": place, "ranks": []}
    data = {"batch_size": 2, "seed": 0}
    torch.save({"state_dict": {}, "loops": loops, "Data": data, "cairn": ours}, tmp_path / "a.ckpt")
    contents = MappedCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")
    own, other = contents["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (isinstance(own, BetweenEpochs), isinstance(other, BetweenEpochs)) == (marked, False)
    assert isinstance(contents["Data"], BetweenEpochs) == (place == "epoch")
    assert own == position
