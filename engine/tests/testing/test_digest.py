"""Equal values have equal digests, and of what decides the training all is read."""

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from cairn.testing.digest import digest, flat, is_sampled, shown

LARGE = 3_000_001


@pytest.mark.parametrize("at", [1, LARGE - 1])
@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_one_value_of_a_large_tensor_counts(make, at):
    one, other = make(LARGE), make(LARGE)
    other[at] = 1
    assert digest(one) == digest(make(LARGE))
    assert digest(one) != digest(other)
    assert dict(flat({"state": [one]})) != dict(flat({"state": [other]}))


def test_one_item_of_a_long_list_counts():
    one, other = [0] * 20_000, [0] * 20_000
    other[7] = 1
    assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [torch.zeros(LARGE), np.zeros(LARGE), [0] * 20_000, {"a": [torch.zeros(LARGE)]}])
def test_what_is_read_in_samples_is_known(value):
    assert is_sampled(value)
    assert shown(value, whole=False) == shown(value, whole=False)
    assert not is_sampled([1, 2, torch.zeros(3)])


def test_of_a_divided_tensor_the_part_of_this_process_counts(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        whole = torch.arange(6.0).reshape(3, 2)
        mesh = init_device_mesh("cpu", (1,))
        assert digest(distribute_tensor(whole, mesh, [Shard(0)])) == digest(whole)
        assert shown(distribute_tensor(whole[:1, 0], mesh, [Shard(0)])) == 0.0
    finally:
        distributed.destroy_process_group()
