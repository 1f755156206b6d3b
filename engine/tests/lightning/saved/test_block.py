"""The block of a tensor that each rank has, on the mesh of all ranks; each rank is played by a group without others."""

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from cairn.lightning.saved import block, placed
from cairn.writing.sharded.tiles import are_whole, cut

STRIDED = _StridedShard(0, split_factor=2)


def on_each_rank(world_size, look):
    """What a function of the rank returns on each."""
    found = []
    for rank in range(world_size):
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        try:
            found.append(look(rank))
        finally:
            distributed.destroy_process_group()
    return found


def parts(whole, placements):
    """The part of a whole tensor that each placement leaves to a rank, in the order in which torch divides it."""

    def chunk(tensor, dim, rank, ranks):
        size = -(-tensor.shape[dim] // ranks)
        first = min(rank * size, tensor.shape[dim])
        return tensor.narrow(dim, first, min(size, tensor.shape[dim] - first))

    def look(rank):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
        local, here = whole, divmod(rank, 2)
        for axis in sorted((0, 1), key=lambda number: isinstance(placements[number], _StridedShard)):
            if not isinstance(placements[axis], Replicate):
                local = chunk(local, placements[axis].dim, here[axis], 2)
        value = DTensor.from_local(
            local.contiguous(), mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
        sizes, offsets = compute_local_shape_and_global_offset(whole.shape, mesh, placements)
        own = block.of(value)
        assert own.sizes == tuple(sizes)
        if local.numel():
            assert own.offsets == tuple(offsets)
        assert not block.why_not(value)
        back = placed.rows_of(whole, value)
        assert torch.equal(back.to_local(), local)
        assert back.placements == value.placements
        return placed.rows(value)

    return on_each_rank(4, look)


@pytest.mark.parametrize("placements", [
    (STRIDED, Shard(0)), (Shard(0), Shard(0)), (Shard(0), Shard(1)), (Shard(0), Replicate()), (Replicate(), Shard(0)),
    (Replicate(), Shard(1)), (Shard(1), Replicate()),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("shape", [(8, 4), (5, 7), (3, 2, 3)])
def test_the_ranks_together_write_each_byte_once(placements, shape):
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)
    found = [rows for rows in parts(whole, placements) if rows.is_written and rows.local.numel()]
    if any(rows.tile for rows in found):
        assert are_whole([rows.tile for rows in found], whole.nbytes)
    else:
        ranges = sorted((rows.first, rows.first + len(rows.local)) for rows in found)
        assert [first for first, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
        assert ranges[-1][1] == len(whole)


def test_of_several_meshes_the_one_of_rank_0_writes():
    def look(rank):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
        value = DTensor.from_local(torch.zeros(2, 3), mesh["data_parallel"], [Shard(0)], run_check=False)
        return block.of(value)

    found = on_each_rank(4, look)
    assert [item.offsets[0] for item in found] == [0, 0, 2, 2]
    assert [item.is_written for item in found] == [True, False, True, False]


def test_what_no_shard_can_hold_is_named():
    def look(rank):
        mesh = init_device_mesh("cpu", (2, 2))
        whole = torch.zeros(4, 4, 4)
        summed = DTensor.from_local(whole, mesh, (Partial(), Replicate()), run_check=False)
        inner = DTensor.from_local(whole[:, :2, :2], mesh, (Shard(1), Shard(2)), run_check=False)
        other = DTensor.from_local(whole[:1], mesh, (Shard(0), Replicate()), run_check=False, shape=(4, 4, 4),
                                   stride=whole.stride())  # fmt: skip
        return [block.why_not(item) for item in (summed, inner, other)]

    for found in on_each_rank(4, look):
        assert found == [
            "only Shard and Replicate can be saved",
            "only one dimension besides the first can be divided",
            "its parts have other sizes than those of torch.chunk",
        ]


def test_a_block_of_a_whole_tensor_is_cut_out():
    whole = torch.arange(24).view(4, 6)
    own = block.Block((1, 2), (2, 3), 1, is_written=True)
    assert torch.equal(own.of(whole), whole[1:3, 2:5])
    assert torch.equal(own.of(whole), cut(whole, (1, 2), (2, 3)))
    assert own.tile(whole).num_rows == 2
