"""Which modules of a model are sharded on their own."""

import pytest
import torch
from torch import nn

from cairn.errors import ConfigError
from cairn.lightning.fsdp import blocks


class Block(nn.Module):
    def __init__(self, norm=None):
        super().__init__()
        self.layer, self.norm, self.calls = nn.Linear(3, 3), norm, 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.layer(x))


class Model(nn.Module):
    def __init__(self, *layers, **more):
        super().__init__()
        self.enter, self.layers = nn.Linear(3, 3), nn.ModuleList(layers)
        for name, part in more.items():
            setattr(self, name, part)


def names(model, wanted="auto"):
    known = {id(part): name for name, part in model.named_modules()}
    return sorted(known[id(part)] for part in blocks.find(model, wanted))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(Block(), Block()), ["layers.0", "layers.1"]),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), []),  # no layers of their own
        (Model(Block()), []),
        (Model(nn.Sequential(Block(), Block()), nn.Sequential(Block())), ["layers.0.0", "layers.0.1"]),
        (Model(heads=nn.ModuleDict({"a": Block(), "b": Block()})), ["heads.a", "heads.b"]),
        (Model(Block(Model(Block(), Block())), Block()), ["layers.0", "layers.1"]),  # the outermost
    ],
)  # fmt: skip
def test_blocks_are_the_outermost_modules_that_repeat(model, expected):
    assert names(model) == expected


def test_a_block_that_shares_a_parameter_with_the_rest_is_none():
    model = Model(Block(), Block())
    model.enter.weight = model.layers[0].layer.weight
    assert names(model) == ["layers.1"]


def test_blocks_can_be_named_by_class_inner_ones_first():
    model = Model(Block(), Block())
    assert names(model, ["Block", "torch.nn.modules.linear.Linear"]) == sorted(
        ["enter", "layers.0", "layers.0.layer", "layers.1", "layers.1.layer"]
    )
    found = blocks.find(model, ["Block", "Linear"])
    assert found.index(model.layers[0].layer) < found.index(model.layers[0])
    assert names(model, "Block") == ["layers.0", "layers.1"]


def test_an_unknown_class_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"blocks=Blok: Model has no module of this class.*Block"):
        blocks.find(Model(Block(), Block()), ["Blok"])


def test_a_recomputed_block_gives_the_same_gradients_and_runs_twice():
    torch.manual_seed(0)
    block, x = Block(), torch.randn(2, 3)
    block(x).sum().backward()
    expected, block.layer.weight.grad, block.calls = block.layer.weight.grad, None, 0
    blocks.recompute([block])
    block(x).sum().backward()
    assert torch.equal(block.layer.weight.grad, expected)
    assert block.calls == 2
    with torch.no_grad():
        block(x)
    assert block.calls == 3
    assert list(block.state_dict()) == ["layer.weight", "layer.bias"]


@pytest.mark.parametrize(
    ("found", "message"),
    [([], "no block is found"), ([Block(nn.BatchNorm1d(3))], "BatchNorm1d would count each batch twice")],
)
def test_what_cannot_be_recomputed_is_refused(found, message):
    with pytest.raises(ConfigError, match=message):
        blocks.recompute(found)
