"""What a rank has of its own is found by digests, and is laid over what all ranks read."""

import copy

import numpy as np
import pytest
import torch

from cairn.lightning.saved import ranks


def contents(**more):
    return {
        "state_dict": {"w": torch.ones(3), "a._extra_state": 1},
        "loops": {"fit": {"at": [1, 2]}},
        "epoch": 1,
        **more,
    }


def read(of_rank_0, mine):
    """What rank 1 reads after a save."""
    own = ranks.own(mine, ranks.digests(mine), ranks.digests(of_rank_0))
    found = copy.deepcopy(of_rank_0)
    found["cairn"] = {**found.get("cairn", {}), "ranks": [{}, {"own": own}]}
    ranks.lay_over(found, 1, 2)
    del found["cairn"]["ranks"]
    return own, found


VALUES = [
    (1.0, 1.5),
    ([1, 2], [1, 3]),
    (torch.arange(9.0), torch.arange(9.0) + 1e-6),
    (torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)),
    (torch.tensor([1, 5]), torch.tensor([4, 4])),
    (torch.zeros(0), torch.zeros(0, 2)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
    (np.arange(3), np.arange(3.0)),
    ({"a": {1: 2}}, {"a": {1: 3}}),
    ({"seen 1": True}, {"seen 2": True}),
    (None, {"a": 1}),
    ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 3}]),
    ([{"a": 1}], [{"a": 1}, {"a": 3}]),
]


@pytest.mark.parametrize(("first", "second"), VALUES, ids=repr)
def test_a_rank_reads_its_own_value(first, second):
    own, found = read(contents(mine=first, same=5), contents(mine=second, same=5))
    assert repr(found["mine"]) == repr(second)
    assert found["same"] == 5
    assert len(own) == 1
    same = contents(mine=copy.deepcopy(first))
    assert ranks.own(same, ranks.digests(same), ranks.digests(contents(mine=first))) == []


def test_only_the_part_that_differs_is_stored():
    big = {"weights": torch.randn(1000), "shift": 1.0}
    own, _ = read(contents(Data=big), contents(Data={**big, "shift": 2.0}))
    assert own == [[["Data", "shift"], 2.0]]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 2), (1, 2), (2, 3), (0, 1)])
def test_substreams_of_an_iterable_are_put_together_for_any_number_of_ranks(rank, world_size):
    first, second = (
        contents(loops={"fit": {"loaders": [{"batch": 3, "substreams": part}, {"seed": seed}]}})
        for part, seed in (({0: "a", 2: "c"}, 0), ({1: "b"}, 1))
    )
    own = ranks.own(second, ranks.digests(second), ranks.digests(first))
    first["cairn"] = {"ranks": [{}, {"own": own}]}
    ranks.lay_over(first, rank, world_size)
    one, other = first["loops"]["fit"]["loaders"]
    assert one == {"batch": 3, "substreams": {0: "a", 2: "c", 1: "b"}}
    assert other == {"seed": int((rank, world_size) == (1, 2))}


def test_weights_are_shared_and_extra_states_are_not():
    mine = contents()
    mine["state_dict"] = {"w": torch.zeros(3), "a._extra_state": 2}
    own, _ = read(contents(), mine)
    assert own == [[["state_dict", "a._extra_state"], 2]]


def test_what_only_rank_0_has_saved_is_for_all_ranks():
    own, found = read(contents(of_rank_0=1), contents(of_rank_1=2))
    assert own == [[["of_rank_1"], 2]]
    assert found["of_rank_0"] == 1


@pytest.mark.parametrize("offset", range(9))
def test_each_byte_of_a_part_of_a_tensor_counts(offset):
    tensor = torch.arange(40, dtype=torch.uint8)
    before = ranks.digests({"state_dict": {}, "part": tensor[offset:]})
    for number in range(offset, 40):
        changed = tensor.clone()
        changed[number] += 1
        assert ranks.digests({"state_dict": {}, "part": changed[offset:]}) != before


def test_another_number_of_ranks_reads_what_rank_0_had():
    found = contents(cairn={"ranks": [{}, {"own": [[["epoch"], 7]]}]})
    ranks.lay_over(found, 1, 3)
    assert found["epoch"] == 1


def test_a_checkpoint_of_an_earlier_version_is_read_as_it_is():
    for ours in ({}, {"ranks": [{}, {}]}):
        found = contents(cairn=ours)
        ranks.lay_over(found, 1, 2)
        assert found["epoch"] == 1
