"""Gradients of sharded parameters: what an exchange brings is added up in the order of virtual ranks."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from cairn.errors import ConfigError
from cairn.lightning.bits.sharded import ShardedGradients, Sum
from cairn.lightning.bits.tree import Layout, total
from cairn.lightning.used import Used

pytestmark = pytest.mark.usefixtures("alone")
SIZE = 6


@pytest.fixture
def alone():
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def leaves(number):
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(SIZE, generator=generator) for _ in range(number)]


@pytest.fixture
def exchanged(monkeypatch):
    """What the next exchange brings: rows of this process, of the gradients of each process."""
    found = []

    def exchange(received, sent, group=None):
        received.copy_(torch.cat(found))

    monkeypatch.setattr(distributed, "all_to_all_single", exchange)
    return found


def made(number, world_size):
    part = nn.Linear(2, 2)
    fully_shard(part)
    names = {id(parameter): name for name, parameter in part.named_parameters()}
    return Sum(part, names, Layout(number, 0, world_size, in_turn=True), Used())


def call(one, exchanged, values):
    exchanged[:] = [value.clone() for value in values]
    output = torch.full((SIZE,), torch.nan)
    one(output, torch.empty(SIZE * len(values)), None, None)
    return output


@pytest.mark.parametrize(("number", "world_size"), [(2, 2), (3, 3), (4, 3), (7, 3), (12, 2), (12, 4)])
def test_the_mean_is_that_of_the_tree(exchanged, number, world_size):
    one, values = made(number, world_size), leaves(number)
    for _ in range(2):
        one.begin()
        for first in range(0, number, world_size):
            extra = torch.full((SIZE,), torch.inf)  # of processes whose batch does not count
            one.begin_batch(first // world_size)
            part = values[first : first + world_size]
            output = call(one, exchanged, [*part, *[extra] * (world_size - len(part))])
            assert torch.equal(output, torch.zeros(SIZE))
        most = len(one._counter.nodes)
        one.finish()
        assert torch.equal(output, total([value.clone() for value in values], torch.add) / number)
        assert most <= number.bit_length()


def test_a_part_that_is_used_several_times_in_a_batch_counts_as_one(exchanged):
    one, (first, second, third, fourth) = made(2, 2), leaves(4)
    one.begin()
    one.begin_batch(0)
    one._forward_begins()
    one._forward_begins()
    output = call(one, exchanged, [first, second])
    assert not one._counter.nodes, "there is more to come"
    call(one, exchanged, [third, fourth])
    one.finish()
    assert torch.equal(output, ((first + third) + (second + fourth)) / 2)


def test_what_comes_of_fewer_backward_than_forward_passes_is_added_at_the_end(exchanged):
    one, values = made(2, 2), leaves(2)
    one.begin()
    one.begin_batch(0)
    one._forward_begins()
    one._forward_begins()  # nothing of it is in the loss
    output = call(one, exchanged, values)
    one.flush()
    one.finish()
    assert torch.equal(output, (values[0] + values[1]) / 2)


def test_a_batch_that_leaves_a_part_out_counts_as_zero(exchanged):
    one, values = made(6, 2), leaves(2)
    one.begin()
    for number in range(3):
        one.begin_batch(number)
        output = call(one, exchanged, values) if number == 2 else None
        one.flush()
    one.finish()
    assert torch.equal(output, (values[0] + values[1]) / 6)


def test_gradients_that_come_late_are_refused(exchanged):
    one = made(2, 2)
    one.begin()
    one.begin_batch(0)
    call(one, exchanged, leaves(2))
    with pytest.raises(ConfigError, match="Linear has gradients again after those of all its forward passes"):
        call(one, exchanged, leaves(2))


def test_what_an_error_has_left_does_not_count(exchanged):
    one, values = made(2, 2), leaves(2)
    one.begin()
    one.begin_batch(0)
    one._forward_begins()
    one._forward_begins()
    call(one, exchanged, leaves(2))
    one.begin()
    one.begin_batch(0)
    output = call(one, exchanged, values)
    one.finish()
    assert torch.equal(output, (values[0] + values[1]) / 2)


class UsesOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_a_parameter_that_no_batch_uses_has_no_gradient():
    module = UsesOne()
    fully_shard(module)
    gradients = ShardedGradients(module, Layout(2, 0, 1, in_turn=True))
    gradients.begin(module)
    for number in range(2):
        gradients.begin_batch(number)
        gradients.before_backward()
        module(torch.ones(1, 2)).sum().backward()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as FSDP sends them
    gradients._sums.clear()
    gradients.finish()
    assert [parameter.grad is not None for parameter in module.parameters()] == [True, True, False, False]


def test_afterwards_a_part_is_reduced_as_before(monkeypatch):
    one, seen = made(2, 2), []
    one.remove()
    monkeypatch.setattr(distributed, "reduce_scatter_tensor", lambda *args, **options: seen.append(options["op"]))
    one(torch.empty(3), torch.empty(6), None, "mean")
    assert seen == ["mean"]


def test_a_parameter_that_thaws_is_trained():
    module = UsesOne()
    module.used.weight.requires_grad_(False)
    fully_shard(module)
    gradients = ShardedGradients(module, Layout(1, 0, 1, in_turn=True))
    found = []
    for _ in range(2):
        gradients.begin(module)
        gradients.begin_batch(0)
        gradients.before_backward()
        module(torch.ones(1, 2)).sum().backward()
        found.append(gradients._used.by_any(gradients._parameters))
        module.used.weight.requires_grad_(True)
    assert found == [[True, False, False], [True, True, False, False]]


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_a_loss_that_uses_sharded_parameters_itself_is_refused(exchanged, penalty):
    module = nn.Linear(2, 2, bias=False)
    fully_shard(module)
    gradients = ShardedGradients(module, Layout(2, 0, 2, in_turn=True))
    gradients.begin(module)
    gradients.begin_batch(0)
    gradients.before_backward()
    (penalty * module.weight.to_local().square().sum()).backward()
    (one,) = gradients._sums
    exchanged[:] = [torch.ones(4), torch.ones(4)]
    output = torch.empty(4)
    one(output, torch.empty(8), None, None)
    if not penalty:
        module.weight.grad = DTensor.from_local(output.view(2, 2), module.weight.device_mesh, [Shard(0)])
        gradients.after_backward(0)
    else:
        with pytest.raises(ConfigError, match="The loss uses weight outside of the forward pass of its module"):
            gradients.after_backward(0)
