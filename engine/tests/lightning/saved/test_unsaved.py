"""State outside of state_dicts is restored as it was: generators, buffers, modes and gradients."""

import random

import numpy as np
import pytest
import torch
from tests.support.values import reloaded
from torch import nn

from cairn.lightning.saved import unsaved

# Random number generators


def draws():
    """Draw three of each kind: after an odd number of normal variates, numpy and Python keep one for the next call."""
    python = [random.gauss(0, 1) for _ in range(3)] + [random.random()]
    numpy = [float(np.random.randn()) for _ in range(3)] + [float(np.random.rand())]
    return python, numpy, torch.randn(3).tolist(), torch.randint(9, (3,)).tolist()


@pytest.mark.parametrize("before", range(4))
def test_restored_generators_continue_exactly(before):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    for _ in range(before):
        random.gauss(0, 1), np.random.randn(), torch.rand(1)
    kept = reloaded(unsaved.rng_state())
    expected = draws()
    random.seed(7), np.random.seed(8), torch.manual_seed(9)
    draws()
    unsaved.set_rng_state(kept)
    assert draws() == expected


def test_reading_the_state_of_the_generators_draws_nothing():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    first = draws()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    unsaved.rng_state()
    assert draws() == first


# Buffers and gradients


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(2)
        self.inner.register_buffer("count", torch.zeros(2), persistent=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("unused", None, persistent=False)


def test_only_buffers_outside_of_the_state_dict_are_saved():
    assert set(unsaved.buffers(Net(), every=False)) == {"inner.count", "seen"}


def test_every_buffer_is_saved_where_each_rank_has_its_own():
    names = {"inner.count", "seen", "inner.running_mean", "inner.running_var", "inner.num_batches_tracked"}
    assert set(unsaved.buffers(Net(), every=True)) == names


@pytest.mark.parametrize("every", [True, False])
def test_buffers_are_restored_in_place(every):
    one, other = Net(), Net()
    one.inner.count += 3
    one.seen += 2
    one.inner.running_mean += 1
    alias = other.inner.count
    unsaved.set_buffers(other, reloaded(unsaved.buffers(one, every)))
    assert other.inner.count is alias
    assert other.inner.count.tolist() == [3, 3]
    assert other.seen.item() == 2
    assert other.inner.running_mean.tolist() == ([1, 1] if every else [0, 0])


def test_buffers_that_grew_or_appeared_later_are_restored():
    one, other = Net(), Net()
    one.inner.count = torch.arange(5.0)
    one.unused = torch.ones(3)
    unsaved.set_buffers(other, reloaded(unsaved.buffers(one, every=False)))
    assert other.inner.count.tolist() == [0, 1, 2, 3, 4]
    assert other.unused.tolist() == [1, 1, 1]
    assert set(dict(other.named_buffers())) == set(dict(one.named_buffers()))
    other.unused.zero_()
    assert one.unused.tolist() == [1, 1, 1]


def test_modes_are_restored():
    one, other = Net(), Net()
    one.inner.eval()
    one.inner.weight.requires_grad_(False)
    other.inner.bias.requires_grad_(False)
    unsaved.set_modes(other, reloaded(unsaved.modes(one)))
    assert (other.training, other.inner.training) == (True, False)
    assert (other.inner.weight.requires_grad, other.inner.bias.requires_grad) == (False, True)


def test_only_existing_gradients_are_restored():
    one, other = nn.Linear(2, 1), nn.Linear(2, 1)
    one.weight.grad = torch.tensor([[1.0, 2.0]])
    kept = unsaved.gradients(one)
    assert set(kept) == {"weight"}
    unsaved.set_gradients(other, kept)
    assert torch.equal(other.weight.grad, one.weight.grad)
    assert other.bias.grad is None
    other.weight.grad.zero_()
    assert one.weight.grad.tolist() == [[1, 2]]
