"""Buffers follow virtual rank 0, and each batch begins with those of the step before."""

import torch
from torch import nn

from cairn.lightning.bits.buffers import Buffers
from cairn.lightning.bits.tree import Layout


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("constant", torch.ones(1).expand(4))  # cannot be written


def test_each_batch_begins_with_the_same_and_those_of_virtual_rank_0_remain():
    module, seen = Counts(), []
    buffers = Buffers(module, Layout(3))
    for step in range(2):
        buffers.begin()
        for virtual in range(3):
            seen.append(module.count.item())
            module.count += 10**step * (virtual + 1)
            buffers.batch_ends(virtual)
        buffers.finish()
    assert seen == [0, 0, 0, 1, 1, 1]
    assert module.count.item() == 11


def test_a_buffer_of_another_shape_follows_as_well():
    module = Counts()
    buffers = Buffers(module, Layout(2))
    buffers.begin()
    module.count = torch.zeros(3)
    buffers.batch_ends(0)
    assert module.count.shape == (1,)
    module.count = torch.ones(2)
    buffers.batch_ends(1)
    buffers.finish()
    assert torch.equal(module.count, torch.zeros(3))


def test_statistics_of_batchnorm_are_those_of_virtual_rank_0():
    data = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0))
    module, alone = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    buffers = Buffers(module, Layout(3))
    buffers.begin()
    for virtual in range(3):
        module(data[virtual])
        buffers.batch_ends(virtual)
    buffers.finish()
    alone(data[0])
    assert all(map(torch.equal, module.buffers(), alone.buffers()))
