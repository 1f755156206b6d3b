"""Whole tensors of a sharded model in a state."""

from collections import OrderedDict

import torch

from cairn.lightning.saved import placed


def test_whole_tensors_take_the_place_of_those_that_stand_for_them():
    stand_in = torch.empty(2, 3, device="meta")
    whole, plain = torch.arange(6.0).view(2, 3), torch.ones(2)
    state = OrderedDict(a=stand_in, b=[stand_in[1:], (stand_in.t(), 1)], c={"other": plain})
    state._metadata = {"": 1}
    found = placed.filled(state, {stand_in.untyped_storage()._cdata: whole})
    assert torch.equal(found["a"], whole)
    assert torch.equal(found["b"][0], whole[1:])
    assert torch.equal(found["b"][1][0], whole.t())
    assert {found[key].untyped_storage().data_ptr() for key in "a"} == {whole.untyped_storage().data_ptr()}, "tied"
    assert found["c"] is state["c"]
    assert (type(found), found._metadata) == (OrderedDict, {"": 1})
    assert state["a"] is stand_in, "a hook may keep it"
