"""The parts of a model have the names and the order that torch gives them."""

import pytest
import torch
from torch import nn

from cairn.lightning.reading import modules
from cairn.lightning.saved import unsaved


def shared():
    part = nn.Linear(2, 2)
    return nn.Sequential(nn.Sequential(part, nn.ReLU()), part, nn.ModuleDict({"again": part, "new": nn.Tanh()}))


def with_none():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.register_module("absent", None)
    return model


def in_itself():
    model = nn.Module()
    model.first, model.inner = nn.ReLU(), nn.Module()
    model.inner.parent = [model]
    model.inner._modules["back"] = model
    return model


MODELS = {
    "one": lambda: nn.Linear(2, 2),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())), nn.ReLU()),
    "shared": shared,
    "with None": with_none,
    "in itself": in_itself,
    "attention": lambda: nn.TransformerDecoderLayer(4, 2, 8),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_names_and_order_are_those_of_torch(model):
    model = model()
    assert modules.named(model) == list(model.named_modules())


def test_a_root_is_the_beginning_of_every_name():
    assert [name for name, _ in modules.named(shared(), "Net")] == [
        *("Net", "Net.0", "Net.0.0", "Net.0.1", "Net.2", "Net.2.new")
    ]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_modes_and_buffers_of_a_compiled_part_are_found_as_torch_finds_them():
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    inner[1].register_buffer("more", torch.zeros(2), persistent=False)
    inner[0].weight.requires_grad_(False)
    model = nn.Sequential(nn.ReLU(), torch.jit.script(inner)).eval()
    names = [name for name, _ in model.named_modules()]
    assert unsaved.modes(model) == {"training": dict.fromkeys(names, False), "frozen": ["1.0.weight"]}
    assert unsaved.buffers(model, every=True).keys() == dict(model.named_buffers()).keys()


def test_modes_without_a_frozen_parameter_name_none():
    assert unsaved.modes(nn.Linear(2, 2)) == {"training": {"": True}, "frozen": []}


def test_a_model_that_does_not_change_is_walked_through_once():
    model, other = shared(), nn.Linear(2, 2)
    with modules.unchanging(model):
        assert modules.named(model) is modules.named(model)
        assert modules.named(model) == list(model.named_modules())
        assert modules.named(model, "Net")[0] == ("Net", model)
        assert modules.named(other) == [("", other)]
    model.append(other)
    assert modules.named(model) == list(model.named_modules())
