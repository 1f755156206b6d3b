"""A checkpoint is loaded as it was saved, and only its weights stay mapped to the file."""

from pathlib import Path

import pytest
import torch
from tests.support.values import commit, file_of
from torch import nn

from cairn.errors import CheckpointError
from cairn.lightning.io import MappedCheckpointIO


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
