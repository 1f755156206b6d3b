"""Rows of tensors that each rank has some of: their shards hold each byte of the whole tensors once."""

import pytest
import torch
from tests.support.shards import POSITION, bytes_of, with_ranks

from cairn.errors import CorruptCheckpointError, UnsafeStateError
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.rows import Rows, deal
from cairn.writing.sharded.shard import ShardEncoder, ShardId

WEIGHT = torch.arange(35.0).reshape(5, 7)
BIAS = torch.tensor([1.5, 2.5], dtype=torch.bfloat16)


def part(whole, rank, ranks):
    """The rows of a rank as torch deals them out: the last ranks may have fewer, or none."""
    chunk = -(-len(whole) // ranks)
    first = min(rank * chunk, len(whole))
    return Rows(torch.empty_like(whole, device="meta"), whole[first : first + chunk].clone(), first)


def contents(weight, bias, state):
    return {
        "state_dict": {"weight": weight, "bias": bias, "tied": weight, "count": torch.tensor(3)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0), "exp_avg": state}}}],
        "cairn": {"ranks": [{"rng": torch.tensor([7])}]},
    }


def states(ranks):
    """The states of the ranks."""
    return [{"rng": torch.tensor([7])} for _ in range(ranks)]


def write(folder, ranks, left_out=""):
    """Write the shards; all but rank 0 may leave out a tensor."""
    paths = []
    for rank in range(ranks):
        rows = [part(whole, rank, ranks) for whole in (WEIGHT, BIAS, WEIGHT * 2)]
        made = contents(*(item.whole for item in rows))
        if rank:
            made["state_dict"].pop(left_out, None)
        dealt, mine = deal(made, rows), made if rank == 0 else made["cairn"]["ranks"][0]
        encoded = ShardEncoder().encode(mine, dealt, ShardId(rank, ranks, "run", "a", POSITION))
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


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_tensor_without_values_comes_back(tmp_path, ranks):
    paths = []
    for rank in range(ranks):
        rows = [part(whole, rank, ranks) for whole in (WEIGHT, torch.ones(0))]
        made = contents(rows[0].whole, rows[1].whole, torch.ones(0))
        dealt, mine = deal(made, rows), made if rank == 0 else made["cairn"]["ranks"][0]
        paths.append(tmp_path / f"{rank}.ckpt")
        encoded = ShardEncoder().encode(mine, dealt, ShardId(rank, ranks, "run", "a", POSITION))
        paths[-1].write_bytes(bytes_of(encoded))
    found = Shards(paths).contents()
    assert found["state_dict"]["bias"].shape == found["optimizer_states"][0]["state"][0]["exp_avg"].shape == (0,)
    assert torch.equal(found["state_dict"]["weight"], WEIGHT)


def test_a_rank_that_leaves_out_a_tensor_is_noticed(tmp_path):
    with pytest.raises(CorruptCheckpointError, match="layout"):
        Shards(write(tmp_path, 2, left_out="bias"))


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.update(mine=made["state_dict"].pop("bias")[:1]),
        lambda made: made["state_dict"].update(weight=made["state_dict"]["weight"].half()),
        lambda made: made["cairn"]["ranks"][0].update(mine=made["state_dict"]["weight"].sum()),
    ],
)
def test_what_a_hook_makes_of_a_tensor_that_no_rank_has_is_refused(change):
    rows = [part(whole, 0, 2) for whole in (WEIGHT, BIAS, WEIGHT * 2)]
    made = contents(*(item.whole for item in rows))
    change(made)
    with pytest.raises(UnsafeStateError, match="in the checkpoint is made of a tensor that is divided among"):
        deal(made, rows)


def test_a_change_in_place_of_a_tensor_that_no_rank_has_is_refused():
    rows = [part(whole, 0, 2) for whole in (WEIGHT, BIAS, WEIGHT * 2)]
    made = contents(*(item.whole for item in rows))
    made["state_dict"]["weight"].clamp_(0, 1)
    with pytest.raises(UnsafeStateError, match="A hook changes weights or optimizer states of the checkpoint in place"):
        deal(made, rows)


def test_a_hook_may_leave_tensors_out_and_refer_to_others(tmp_path):
    rows = [part(whole, 0, 1) for whole in (WEIGHT, BIAS, WEIGHT * 2)]
    made = contents(*(item.whole for item in rows))
    made["state_dict"] = {"bias": made["state_dict"]["bias"], "last": made["state_dict"]["bias"][1:]}
    path = tmp_path / "0.ckpt"
    path.write_bytes(bytes_of(ShardEncoder().encode(made, deal(made, rows), ShardId(0, 1, "run", "a", POSITION))))
    found = Shards([path]).contents()
    assert list(found["state_dict"]) == ["bias", "last"]
    assert torch.equal(found["state_dict"]["last"], BIAS[1:])
    assert torch.equal(found["state_dict"]["bias"], BIAS)
