"""Blocks of a tensor as runs of bytes: all ranks together have each byte once, and each gets back what it wrote."""

import itertools
import warnings

import pytest
import torch
from tests.support.shards import POSITION, bytes_of

from cairn.dcp import Reader
from cairn.errors import CorruptCheckpointError
from cairn.store import names
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.parted import Parted
from cairn.writing.sharded.rows import Rows, deal
from cairn.writing.sharded.shard import ShardEncoder, ShardId
from cairn.writing.sharded.tiles import Tile, are_whole, cut, follow, tile

SHAPES = [(5, 7), (4, 6, 3), (1, 9), (3, 2), (2, 5, 7)]


def chunk(size, rank, ranks):
    """Offset and size of the part of a rank, as Tensor.chunk."""
    most = -(-size // ranks)
    first = min(rank * most, size)
    return first, min(most, size - first)


def blocks(shape, dim, mesh=(2, 2)):
    """Offsets and sizes of all ranks: rows are divided along the mesh's first axis, `dim` along the second one."""
    found = []
    for here in itertools.product(*map(range, mesh)):
        offsets, sizes = [0] * len(shape), list(shape)
        for axis, divided in enumerate((0, dim)):
            first, sizes[divided] = chunk(sizes[divided], here[axis], mesh[axis])
            offsets[divided] += first
        found.append((offsets, sizes))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tile_is_the_block_of_the_tensor(shape):
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.int16).view(shape)
    for dim in range(1, len(shape)):
        tiles = [tile(shape, 2, *block, dim) for block in blocks(shape, dim)]
        for item, block in zip(tiles, blocks(shape, dim), strict=True):
            found = item.of(whole.view(-1).view(torch.uint8)).flatten().clone().view(torch.int16)
            assert torch.equal(found, cut(whole, *block).flatten())
        filled = [item for item in tiles if item.run_bytes and item.num_rows]
        assert are_whole(filled, whole.nbytes)
        if len(filled) > 1:
            assert not are_whole(filled[1:], whole.nbytes)
            assert not are_whole([*filled[1:], filled[1]], whole.nbytes)


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [((4, 6), (4, 6), True), ((4, 6), (2, 6), True), ((4, 6), (1, 3), True), ((4, 6), (2, 3), False), ((), (), True)],
)
def test_elements_of_a_block_follow_each_other_if_only_the_first_dimension_is_divided(shape, sizes, expected):
    assert follow(shape, sizes) is expected


def test_a_block_that_is_divided_in_two_inner_dimensions_is_not_a_tile():
    with pytest.raises(ValueError, match="do not follow each other"):
        tile((4, 6, 8), 4, (0, 3, 4), (4, 3, 4), 2)


WHOLE = {"a": torch.arange(35.0).reshape(5, 7), "b": torch.arange(24, dtype=torch.bfloat16).reshape(2, 4, 3)}


def contents(weights):
    return {
        "state_dict": {name: weights[name] for name in WHOLE},
        "optimizer_states": [{"state": {0: {"exp_avg": weights["moment"]}}}],
        "cairn": {"ranks": [{"n": 0}]},
    }


def write(folder, change=lambda rank, rows: None):
    """Write the shards of four ranks that have a 2 x 2 mesh: rows and columns of `a`, rows of `b` on two of them."""
    folder.mkdir(exist_ok=True)
    for rank in range(4):
        rows = {}
        for name, whole in {**WHOLE, "moment": WHOLE["a"] * 2}.items():
            if name == "b":
                first, number = chunk(2, rank // 2, 2)
                local, where = whole[first : first + number].clone(), None
            else:
                offsets, sizes = blocks(whole.shape, 1)[rank]
                local, first = cut(whole, offsets, sizes).clone(), offsets[0]
                where = tile(whole.shape, whole.itemsize, offsets, sizes, 1)
            stand_in = torch.empty_like(whole, device="meta")
            rows[name] = Rows(stand_in, local, first, where, is_written=name != "b" or rank % 2 == 0)
        change(rank, rows)
        made = contents({name: item.whole for name, item in rows.items()})
        dealt, mine = deal(made, list(rows.values())), made if rank == 0 else {"n": rank}
        encoded = ShardEncoder().encode(mine, dealt, ShardId(rank, 4, "run", "a", POSITION))
        (folder / names.shard_name(rank)).write_bytes(bytes_of(encoded))
    return [folder / names.shard_name(rank) for rank in range(4)]


def test_the_shards_together_are_the_single_file_byte_for_byte(tmp_path):
    found = Shards(write(tmp_path / "a.ckpt")).contents()
    expected = contents({**WHOLE, "moment": WHOLE["a"] * 2})
    expected["cairn"]["ranks"] = [{"n": rank} for rank in range(4)]
    assert bytes_of(FormEncoder().encode(found)) == bytes_of(FormEncoder().encode(expected))


def test_each_rank_reads_its_block_and_any_other_one(tmp_path):
    parted = Parted(Shards(write(tmp_path / "a.ckpt")))
    moment = parted.contents["optimizer_states"][0]["state"][0]["exp_avg"]
    assert parted.knows(moment)
    for mesh in ((2, 2), (1, 3), (4, 1)):
        for offsets, sizes in blocks((5, 7), 1, mesh):
            assert torch.equal(parted.block(moment, offsets, sizes, 1), cut(WHOLE["a"] * 2, offsets, sizes))
    assert torch.equal(parted.rows(moment, 1, 3), WHOLE["a"][1:4] * 2)
    assert torch.equal(parted.whole(moment), WHOLE["a"] * 2)


def test_torch_reads_the_blocks_as_chunks(tmp_path):
    write(tmp_path / "a.ckpt")
    found = Reader(tmp_path / "a.ckpt").read_metadata().state_dict_metadata
    assert [(*chunk.offsets, *chunk.sizes) for chunk in found["state_dict.a"].chunks] == [
        (0, 0, 3, 4), (0, 4, 3, 3), (3, 0, 2, 4), (3, 4, 2, 3)
    ]  # fmt: skip
    state = {"state_dict": {name: torch.zeros_like(whole) for name, whole in WHOLE.items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it loads in a single process
        torch.distributed.checkpoint.load(state, storage_reader=Reader(tmp_path / "a.ckpt", verify=False), no_dist=True)
    for name, whole in WHOLE.items():
        assert torch.equal(state["state_dict"][name], whole)


def test_a_gap_and_two_ranks_with_the_same_bytes_are_refused(tmp_path):
    def moved(rank, rows):
        if rank == 3:
            item = rows["a"]
            rows["a"] = Rows(item.whole, item.local, item.first, Tile(84, 12, 28, 2))

    def twice(rank, rows):
        item = rows["b"]
        rows["b"] = Rows(item.whole, item.local, item.first, item.tile)

    for number, change in enumerate((moved, twice)):
        with pytest.raises(CorruptCheckpointError, match=r"do not have each byte of state_dict/. once"):
            Shards(write(tmp_path / str(number), change))
