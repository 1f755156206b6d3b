"""A sum in one order: a function of the number of virtual ranks, on any number of processes."""

import random

import pytest
import torch

from cairn.lightning.bits.tree import Counter, Layout, reduced, total

NUMBERS = range(1, 25)


def bracket(left, right):
    return f"({left}{right})"


@pytest.mark.parametrize(
    ("number", "shape"),
    [
        (1, "a"),
        (2, "(ab)"),
        (3, "((ab)c)"),
        (4, "((ab)(cd))"),
        (6, "(((ab)(cd))(ef))"),
        (7, "(((ab)(cd))((ef)g))"),
        (12, "((((ab)(cd))((ef)(gh)))((ij)(kl)))"),
    ],
)
def test_the_shape_of_the_tree(number, shape):
    assert total("abcdefghijkl"[:number], bracket) == shape


@pytest.mark.parametrize("number", NUMBERS)
def test_any_number_of_processes_adds_up_in_the_same_order(number):
    leaves = [chr(ord("a") + place) for place in range(number)]
    expected = total(leaves, bracket)
    for world_size in range(1, number + 1):
        nodes = {}
        for rank in range(world_size):
            layout, counter = Layout(number, rank, world_size), Counter(number, bracket)
            for virtual in layout.own:
                counter.push(virtual, leaves[virtual])
            assert list(counter.nodes) == layout.roots(rank), "the others know what this process has left"
            nodes |= counter.take()
            assert not counter.nodes
        assert list(reduced(nodes, number, bracket).values()) == [expected]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_virtual_rank_is_played_once(number):
    for world_size in range(1, number + 1):
        layouts = [Layout(number, rank, world_size) for rank in range(world_size)]
        assert all(1 <= len(one.own) <= one.per_window for one in layouts)
        played = [one for rank in range(world_size) for one in Layout(number, rank, world_size).own]
        assert played == list(range(number))


def test_a_process_keeps_one_sum_for_each_level():
    counter, most = Counter(64, bracket), 0
    for virtual in range(64):
        counter.push(virtual, "x")
        most = max(most, len(counter.nodes))
    assert most == 6


def test_floats_in_another_order_have_other_bits():
    """Otherwise the tests of whole runs would prove nothing."""
    values = torch.rand(16, generator=torch.Generator().manual_seed(0)).tolist()
    floats = [torch.tensor(value) for value in values]
    shuffled = random.Random(0).sample(floats, 16)
    assert len({total(order, torch.add).item() for order in (floats, shuffled, floats[::-1])}) > 1
