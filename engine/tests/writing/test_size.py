"""The estimate before a checkpoint is written is close to the size of the file."""

import io

import pytest
import torch
from torch import nn, optim

from cairn.writing.size import first_num_bytes, num_bytes

OPTIMIZERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: optim.AdamW(parameters),
    "amsgrad, fused": lambda parameters: optim.AdamW(parameters, amsgrad=True, fused=True),
    "adagrad": lambda parameters: optim.Adagrad(parameters),
    "rmsprop, foreach": lambda parameters: optim.RMSprop(parameters, foreach=True),
    "two groups": lambda parameters: optim.Adam([{"params": [p], "lr": 0.1} for p in parameters]),
}


def written(state):
    file = io.BytesIO()
    torch.save(state, file)
    return len(file.getvalue())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(50, 100), nn.BatchNorm1d(100), nn.Linear(100, 10))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_size_of_the_first_checkpoint_is_known_before_the_first_step(name):
    module = network()
    module[2].bias.requires_grad_(False)
    optimizer = OPTIMIZERS[name](module.parameters())
    optim.lr_scheduler.StepLR(optimizer, 1)  # wraps the optimizer's step in a counter
    before = {key: value.clone() for key, value in module.state_dict().items()}
    told = first_num_bytes(module, [optimizer])
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not optimizer.state or name == "adagrad"  # adagrad has its state from the beginning

    module(torch.randn(4, 50)).sum().backward()
    optimizer.step()
    state = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    assert told == pytest.approx(written(state), rel=0.1)
    assert num_bytes(state) == pytest.approx(written(state), rel=0.1)


def test_an_optimizer_of_an_unknown_kind_counts_as_nothing():
    class Strange(optim.SGD):
        def step(self, closure):
            raise RuntimeError("needs a closure")

    module = network()
    assert first_num_bytes(module, [Strange(module.parameters(), lr=0.1)]) >= num_bytes(module.state_dict())


def test_memory_that_several_tensors_share_counts_once():
    whole = torch.zeros(100_000)
    state = {"a": whole, "b": whole[:10], "list": [whole, ("x", 1)]}
    assert num_bytes(state) == pytest.approx(written(state), rel=0.01)


def test_layers_without_a_size_yet_count_as_nothing():
    module = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    optimizer = torch.optim.Adam(module.parameters())
    assert first_num_bytes(module, [optimizer]) >= num_bytes(module[1].state_dict())


def test_a_step_is_tried_without_touching_what_an_optimizer_wraps():
    class Wrapping(optim.SGD):
        def __init__(self, parameters):
            super().__init__(parameters, lr=0.1)
            self.inner, self.rate = optim.SGD(self.param_groups, lr=0.1), 0.5

        def step(self, closure=None):
            self.inner.step()

    module = network()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first_num_bytes(module, [Wrapping(module.parameters())])
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_a_lazy_module_has_no_size_before_its_first_batch():
    module = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(5))
    told = first_num_bytes(module, [optim.AdamW(module.parameters())])
    module[1](torch.zeros(1, 4))
    assert told < first_num_bytes(module, [optim.AdamW(module.parameters())])
