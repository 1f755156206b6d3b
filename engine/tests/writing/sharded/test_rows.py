"""Rows of tensors that each rank has some of: their shards hold each byte of the whole tensors once."""

import os
from pathlib import Path

import pytest
import torch
from tests.support.shards import POSITION, bytes_of, with_ranks

from cairn.errors import CorruptCheckpointError
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.rows import Rows, deal, stand_in
from cairn.writing.sharded.shard import ShardEncoder, ShardId

WEIGHT = torch.arange(35.0).reshape(5, 7)
BIAS = torch.tensor([1.5, 2.5], dtype=torch.bfloat16)


def resident_bytes():
    """Memory of this process that the system has provided."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def part(whole, rank, ranks):
    """The rows of a rank as torch deals them out: the last ranks may have fewer, or none."""
    chunk = -(-len(whole) // ranks)
    first = min(rank * chunk, len(whole))
    return Rows(stand_in(whole.shape, whole.dtype), whole[first : first + chunk].clone(), first)


def contents(weight, bias, state):
    return {
        "state_dict": {"weight": weight, "bias": bias, "tied": weight, "count": torch.tensor(3)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0), "exp_avg": state}}}],
        "cairn": {"ranks": [{"rng": torch.tensor([7])}]},
    }


def states(ranks):
    """The states of the ranks."""
    return [{"rng": torch.tensor([7])} for _ in range(ranks)]


def write(folder, ranks, left_out=None):
    """Write the shards; one rank may leave out a tensor."""
    paths = []
    for rank in range(ranks):
        rows = [part(whole, rank, ranks) for whole in (WEIGHT, BIAS, WEIGHT * 2)]
        made = contents(*(item.whole for item in rows))
        mine = made if rank == 0 else made["cairn"]["ranks"][0]
        kept = [item for number, item in enumerate(rows) if rank == 0 or number != left_out]
        encoded = ShardEncoder().encode(mine, deal(made, kept), ShardId(rank, ranks, "run", "a", POSITION))
        paths.append(folder / f"{rank}.ckpt")
        paths[-1].write_bytes(bytes_of(encoded))
    return paths


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_the_shards_together_are_the_single_file_byte_for_byte(tmp_path, ranks):
    found = Shards(write(tmp_path, ranks)).contents()
    expected = contents(WEIGHT, BIAS, WEIGHT * 2)
    assert bytes_of(FormEncoder().encode(found)) == bytes_of(FormEncoder().encode(with_ranks(expected, states(ranks))))
    assert torch.equal(found["state_dict"]["weight"], WEIGHT)
    assert found["state_dict"]["tied"].data_ptr() == found["state_dict"]["weight"].data_ptr()


def test_a_rank_that_leaves_out_a_tensor_is_noticed(tmp_path):
    with pytest.raises(CorruptCheckpointError, match="layout"):
        Shards(write(tmp_path, 2, left_out=1))


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_stands_for_a_whole_tensor_takes_no_memory(deterministic):
    before = resident_bytes()
    torch.use_deterministic_algorithms(deterministic)  # torch would fill what is not initialized
    try:
        found = stand_in((1 << 10, 1 << 18), torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.is_contiguous()
    assert found.nbytes == 1 << 30
    assert resident_bytes() - before < 1 << 26
