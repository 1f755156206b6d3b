"""A rank that has rows of a state reads these rows only, from whichever shards have them."""

import pytest
import torch
from tests.support.shards import write_shards

from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.parted import Parted

STATE = torch.arange(1200.0).reshape(300, 4)
TURNED = torch.arange(900.0).reshape(300, 3).t()


@pytest.fixture
def shards(tmp_path):
    weight = torch.rand(300, 4)
    states = {0: {"exp_avg": STATE.clone(), "turned": TURNED.clone(), "step": torch.tensor(3.0)}}
    whole = {"state_dict": {"weight": weight}, "optimizer_states": [{"state": states}], "cairn": {}}
    return Shards(write_shards(tmp_path / "a", whole, [weight], [{"n": rank} for rank in range(3)]))


def test_only_what_is_asked_for_is_read(shards, monkeypatch):
    parted = Parted(shards)
    state = parted.contents["optimizer_states"][0]["state"][0]
    monkeypatch.setattr(Shards, "storage", lambda self, name: pytest.fail(f"{name} is joined"))
    average = state["exp_avg"]
    assert parted.knows(average)
    assert average.is_meta, "a hook that reads it gets an error"
    for first, number in [(0, 1), (0, 300), (77, 150), (299, 1), (300, 0)]:
        found = parted.rows(average, first, number)
        assert torch.equal(found, STATE[first : first + number])
        assert found.untyped_storage().nbytes() == found.nbytes, "nothing else is kept"


def test_all_else_is_there(shards):
    parted = Parted(shards)
    state, expected = parted.contents["optimizer_states"][0]["state"][0], parted.joined()
    assert torch.equal(parted.contents["state_dict"]["weight"], expected["state_dict"]["weight"])
    for name, value in expected["optimizer_states"][0]["state"][0].items():
        found = parted.whole(state[name]) if parted.knows(state[name]) else state[name]
        assert torch.equal(found, value), name
    turned = state["turned"]
    found = parted.rows(turned, 1, 2) if parted.knows(turned) else turned[1:3]
    assert torch.equal(found, TURNED[1:3])
