"""Before a sharded save would mix the states of several ranks, what differs is named."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from tests.support.thread_ranks import on_threads

from cairn.lightning import common_state
from cairn.lightning.sharding import Sharding
from cairn.types import Position
from cairn.writing.options import Writing
from cairn.writing.sharded.sample import take


class Net(torch.nn.Module):
    """One layer, and statistics that may differ."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = torch.nn.Linear(40, 40), torch.nn.BatchNorm1d(40)


def change_nothing(net, optimizer):
    pass


def change_statistics(net, optimizer):
    net.norm.running_mean += 1


def change_weights(net, optimizer):
    with torch.no_grad():
        net.layer.weight += 1e-6


def change_moment(net, optimizer):
    optimizer.state[net.layer.bias]["exp_avg"] += 1e-6


def change_step(net, optimizer):
    optimizer.state[net.layer.bias]["step"] += 1


def change_option(net, optimizer):
    optimizer.param_groups[0]["lr"] = 0.2


def change_shape(net, optimizer):
    net.layer.bias = torch.nn.Parameter(torch.zeros(41))


def said(change, ranks=(1,), num_ranks=3, collects=False):
    """Return what each rank says of a save before which some ranks have changed."""
    torch.manual_seed(0)
    first = Net()

    def say(agreement, rank):
        net = copy.deepcopy(first)
        optimizer = torch.optim.AdamW(net.parameters(), 0.1)
        net.norm(net.layer(torch.ones(2, 40))).sum().backward()
        optimizer.step()
        if rank in ranks:
            change(net, optimizer)
        if collects:
            optimizer.consolidate_state_dict = None
        trainer = SimpleNamespace(
            world_size=num_ranks, global_rank=rank, lightning_module=net, optimizers=[optimizer], strategy=DDPStrategy()
        )
        contents = {
            "state_dict": net.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
            "cairn": {"run": "toy", "ranks": [{}]},
        }
        own = Sharding(trainer, Writing(), "checkpoints", agreement)
        sample = own.encode(contents, Position(0, 3, 3, 3), "a" * 16).sample
        largest, smallest = agreement.largest(sample.number, -sample.number)
        return common_state.difference(agreement, sample) if largest != -smallest else ""

    return on_threads(say, num_ranks)


@pytest.mark.parametrize("change", [change_nothing, change_statistics])
def test_equal_states_are_saved_and_buffers_may_differ(change):
    assert said(change) == [""] * 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_weights, "state_dict/layer.weight of rank 1 differs"),
        (change_moment, "optimizer_states/0/state/1/exp_avg of rank 1 differs"),
        (change_step, "optimizer_states/0/state/1/step of rank 1 differs"),
        (change_option, "optimizer_states/0/param_groups/0/lr of rank 1 differs"),
        (change_shape, "the division into shards and [0-9]+ more of rank 1 differ"),
    ],
)
def test_a_difference_is_named_with_its_rank_on_all_ranks(change, named):
    found = said(change)
    assert found == [found[0]] * 3
    assert re.fullmatch(f"{named} from rank 0", found[0])


def test_several_ranks_are_named():
    assert " of ranks 1-2 differ from rank 0" in said(change_weights, ranks=(1, 2))[0]
    assert " of ranks 1-2 differ from rank 0" in said(change_weights, ranks=(0,))[0]


def test_another_order_of_the_same_values_is_named():
    a, b = torch.ones(3), torch.zeros(3)
    of_ranks = [take({"a": a, "b": b}, {}, "0"), take({"b": b, "a": a}, {}, "0")]
    assert of_ranks[0].number != of_ranks[1].number
    found = on_threads(lambda agreement, rank: common_state.difference(agreement, of_ranks[rank]))
    assert found[0] == "the order or the device of the tensors of rank 1 differs from rank 0"


def test_states_that_each_rank_has_a_part_of_are_not_compared():
    assert said(change_moment, collects=True) == [""] * 3
    assert said(change_option, collects=True) == [""] * 3
