"""Gradients of a global batch: the mean over its virtual ranks, with each batch's gradients added up in the tree."""

import pytest
import torch
from torch import nn

from cairn.errors import ConfigError
from cairn.lightning.bits.gradients import Gradients
from cairn.lightning.bits.tree import Layout, total


def leaves(number, shape=(3, 2)):
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(shape, generator=generator) for _ in range(number)]


def backward(gradients, module, virtual, *values):
    gradients.before_backward()
    for parameter, value in zip(module.parameters(), values, strict=True):
        assert parameter.grad is None, "a batch has gradients of its own"
        parameter.grad = None if value is None else value.clone()
    gradients.after_backward(virtual)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 12])
def test_the_mean_is_that_of_the_tree(number):
    module, gradients = nn.Linear(2, 3, bias=False), Gradients(Layout(number))
    gradients.begin(module)
    for virtual, leaf in enumerate(leaves(number)):
        backward(gradients, module, virtual, leaf)
    gradients.finish()
    assert torch.equal(module.weight.grad, total(leaves(number), torch.add) / number)


def test_a_layer_that_only_some_batches_use_counts_as_zero_and_one_that_none_uses_has_no_gradient():
    module, gradients = nn.ParameterList([torch.zeros(2), torch.zeros(2), torch.zeros(2)]), Gradients(Layout(3))
    gradients.begin(module)
    ones = torch.ones(2)
    for virtual, given in enumerate([(ones, None, None), (ones, 3 * ones, None), (ones, None, None)]):
        backward(gradients, module, virtual, *given)
    gradients.finish()
    first, second, third = (parameter.grad for parameter in module)
    assert torch.equal(first, ones)
    assert torch.equal(second, ones)
    assert third is None, "an optimizer leaves it alone"


def test_an_optimizer_that_asks_twice_is_refused():
    module, gradients = nn.Linear(2, 3, bias=False), Gradients(Layout(2))
    gradients.begin(module)
    backward(gradients, module, 0, leaves(1)[0])
    with pytest.raises(ConfigError, match="several times, as LBFGS does"):
        backward(gradients, module, 0, leaves(1)[0])


def test_a_global_batch_begins_without_what_the_one_before_has_left():
    module, gradients = nn.Linear(2, 3, bias=False), Gradients(Layout(2))
    gradients.begin(module)
    backward(gradients, module, 0, leaves(1)[0])  # an error has ended it
    gradients.begin(module)
    for virtual, leaf in enumerate(leaves(2)):
        backward(gradients, module, virtual, leaf)
    gradients.finish()
    assert torch.equal(module.weight.grad, (leaves(2)[0] + leaves(2)[1]) / 2)
