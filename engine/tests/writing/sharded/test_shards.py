"""Shards together are the single file of the same state, byte for byte, whatever the state and the number of ranks."""

import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.shards import bytes_of, with_ranks, write_shards
from tests.writing.test_decode import equal
from torch import nn

from cairn.errors import CorruptCheckpointError, NewerFormatError, UnsafeStateError
from cairn.writing.form_encoder import FormEncoder
from cairn.writing.sharded import cuts
from cairn.writing.sharded.assemble import Shards
from cairn.writing.sharded.deal import Deal, Dealer, Piece, layout, place_of
from cairn.writing.sharded.shard import ShardEncoder, ShardId
from cairn.writing.tensor_form import DTYPES

FLOAT8 = torch.float8_e4m3fn


def weights(rng, generator):
    """Parameters as models have them: tied, transposed, views of one flat storage, empty, and of any type."""
    found = []
    for _ in range(rng.randrange(1, 6)):
        shape = [rng.randrange(1, 9) for _ in range(rng.randrange(3))]
        tensor = torch.rand(shape, generator=generator).to(rng.choice([*DTYPES.values(), FLOAT8]))
        if tensor.ndim > 1 and rng.random() < 0.3:
            tensor = tensor.transpose(0, 1)
        found.append(rng.choice([tensor, tensor, *found]))
    flat = torch.rand(rng.randrange(3, 400), generator=generator)
    return [*found, flat[2:], flat[1 : len(flat) // 2], torch.zeros(0, 3)]


def of_rank(rank, buffers):
    """The state of a rank; some of its values need a form."""
    return {
        "rng": torch.arange(5 + rank, dtype=torch.uint8),
        "sums": {"n": rank, "mean": np.float32(rank), "seen": np.arange(rank + 1)},
        "buffers": buffers,
        "logged": [
            buffers["norm.mean"],
            buffers["norm.mean"],
            buffers["norm.mean"][:2],
            {"x": buffers["norm.mean"][1:]},
        ],
    }


def contents(rng, world_size):
    """The parts of a checkpoint: what rank 0 saves, and the states of the ranks."""
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    parameters = weights(rng, generator)
    buffers = {"norm.mean": torch.rand(3, generator=generator)}
    state = OrderedDict((f"layer.{number}", tensor) for number, tensor in enumerate(parameters)) | buffers
    moments = {n: {"step": torch.tensor(2.0), "exp_avg": torch.rand(p.shape)} for n, p in enumerate(parameters)}
    whole = {
        "epoch": 0,
        "numpy": np.float64(0.5) if rng.random() < 0.5 else 0.5,
        "state_dict": state,
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": torch.tensor(0.1), "betas": (0.9, 0.99)}]}],
        "callbacks": {"view": parameters[-3][:1], "own": {"a", "b"}},
        "cairn": {"format": 1, "ranks": [], "clock": {"s": np.float32(1.5)}},
        "last": np.arange(2),
    }
    states = [of_rank(0, buffers), *(of_rank(r, {"norm.mean": torch.rand(3)}) for r in range(1, world_size))]
    return whole, parameters, states


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_shards_are_the_single_file_byte_for_byte(tmp_path_factory, seed, world_size):
    folder = tmp_path_factory.mktemp("shards")
    whole, parameters, states = contents(random.Random(seed), world_size)
    received = [pickle.loads(pickle.dumps(state)) for state in states] if world_size > 1 else states
    single = bytes_of(FormEncoder().encode(with_ranks(whole, received)))
    found = Shards(write_shards(folder, whole, parameters, states)).contents()
    assert bytes_of(FormEncoder().encode(found)) == single
    for path in folder.iterdir():
        assert equal(torch.load(path, weights_only=True)["cairn_shard"]["world_size"], world_size)


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(1, 5))
def test_cuts_are_all_bytes_once_and_nearly_equal(sizes, world_size):
    found = [cut for rank in range(world_size) for cut in cuts.even(sizes, rank, world_size)]
    byte_ranges = [(cut.storage, byte) for cut in found for byte in range(cut.first, cut.end)]
    assert byte_ranges == [(number, byte) for number, size in enumerate(sizes) for byte in range(size)]
    shares = [sum(cut.end - cut.first for cut in cuts.even(sizes, rank, world_size)) for rank in range(world_size)]
    assert max(shares) - min(shares) <= 2 * cuts.ALIGNMENT + 1


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_rows_of_all_ranks_are_the_whole_tensor(num_rows, width, world_size):
    tensor = torch.rand(num_rows, width)
    chunks = list(tensor.chunk(world_size))
    at, end = 0, 0
    for chunk in chunks:
        first, end_of = cuts.rows(tensor.shape, 4, at, len(chunk))
        assert (first, end_of - first) == (end, chunk.nbytes)
        at, end = at + len(chunk), end_of
    assert end == tensor.nbytes
    assert cuts.rows(tensor.shape, 4, num_rows, 0) == (end, end)
    with pytest.raises(ValueError, match="has no rows"):
        cuts.rows(tensor.shape, 4, 0, num_rows + 1)


def test_cuts_that_are_reused_follow_the_tensors():
    """Most tensors stay where they are between two saves; one may have moved, and its old memory may hold anything."""
    one, other = torch.arange(100.0), torch.arange(60.0)
    dealers = [Dealer(rank, 2) for rank in range(2)]
    for step, replaced in enumerate([False, False, True]):
        one = one.clone() if replaced else one
        other.add_(1)
        tensors = {"a": one, "b": other, "c": one[:3]}
        found = [piece for dealer in dealers for piece in dealer.deal(tensors).pieces]
        data = torch.cat([piece.data for piece in found]).view(torch.float32)
        assert data.equal(torch.cat([torch.arange(100.0), torch.arange(60.0) + 1 + step]))
        assert [dealer.deal(tensors).names for dealer in dealers] == [
            {(one.data_ptr(), 400): "a", (other.data_ptr(), 240): "b"}
        ] * 2


def test_a_tensor_of_one_shard_is_mapped_and_tied_weights_stay_tied(tmp_path):
    weight = nn.Parameter(torch.rand(100, 3))
    whole = {"state_dict": {"one": weight, "other": weight, "bias": torch.rand(4)}, "cairn": {"ranks": []}}
    paths = write_shards(tmp_path, whole, [weight], [{"n": 0}, {"n": 1}, {"n": 2}])
    found = Shards(paths).contents()
    one, other = found["state_dict"]["one"], found["state_dict"]["other"]
    assert one.equal(weight)
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    assert found["cairn"]["ranks"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert sum(path.stat().st_size for path in paths) < 3 * 2500 + weight.nbytes, "each rank writes a share"


def two_saves(tmp_path):
    weight = torch.rand(100)
    whole = {"state_dict": {"weight": weight}, "cairn": {"ranks": []}}
    states = [{"n": 0}, {"n": 1}]
    return [write_shards(tmp_path / name, whole, [weight], states, attempt=name) for name in ("a", "b")]


def test_shards_of_two_attempts_are_not_one_checkpoint(tmp_path):
    one, other = two_saves(tmp_path)
    with pytest.raises(CorruptCheckpointError, match=r"rank_00001\.ckpt belongs to another save .*attempt"):
        Shards([one[0], other[1]])


@pytest.mark.parametrize(
    ("chosen", "why"),
    [([0], "it has 1 shards, and 2 processes saved it"), ([1, 0], "rank_00001.ckpt is the shard of rank 1")],
)
def test_a_missing_shard_or_one_in_another_place_is_refused(tmp_path, chosen, why):
    paths, _ = two_saves(tmp_path)
    with pytest.raises(CorruptCheckpointError, match=why):
        Shards([paths[number] for number in chosen])


def test_a_file_that_is_not_a_shard_is_refused_by_name(tmp_path):
    paths, _ = two_saves(tmp_path)
    paths[1].write_bytes(bytes_of(FormEncoder().encode({"state_dict": {}})))
    with pytest.raises(CorruptCheckpointError, match=r"rank_00001\.ckpt is not a shard"):
        Shards(paths)


def test_no_damage_of_a_shard_is_anything_but_a_sentence(tmp_path):
    """Without the checksums, whatever a shard holds is refused by name, or read as plain values and tensors."""
    rng, (paths, _) = random.Random(0), two_saves(tmp_path)
    data, num_refused, refused = paths[1].read_bytes(), 0, set()
    first = data.index(b"\x80\x02}")
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(first, len(data))] = rng.choice([0, 1, 255, *b"()jXKJGtRu}].N", rng.randrange(256)])
        paths[1].write_bytes(damaged)
        try:
            Shards(paths).contents()
        except (CorruptCheckpointError, NewerFormatError) as error:
            num_refused += 1
            refused.add("rank_00001.ckpt" in str(error) or "its shards" in str(error))
    assert num_refused > 100
    assert refused == {True}


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda shard: shard["cairn_shard"].update(format=2), "has format 2, and this version of Cairn reads"),
        (lambda shard: shard["cairn_shard"].update(rank="1"), "another form than a shard"),
        (lambda shard: shard["cairn_shard"].pop("attempt"), "another form than a shard"),
        (
            lambda shard: shard["cairn_shard"].update(layout="x"),
            "another save than rank_00000.ckpt: its layout differs",
        ),
        (lambda shard: shard.update(pieces={}), "its shards do not have each byte of state_dict/weight once"),
        (
            lambda shard: shard["pieces"].update({"state_dict/weight": [192, 401, B]}),
            "another size of state_dict/weight",
        ),
        (lambda shard: shard["pieces"].update({"state_dict/weight": [128, 400, B]}), "do not have each byte"),
        (lambda shard: shard["pieces"].update({"state_dict/weight": [192, 400, 3]}), "another form than a shard"),
        (lambda shard: shard["pieces"].update({"state_dict/weight": B}), "another form than a shard"),
        (lambda shard: shard["image"].update(names=[["a"]]), "another form than a shard"),
        (lambda shard: shard["image"].update(names=["a"]), "refers to bytes that no shard has"),
        (lambda shard: shard["image"].update(names=[None]), "refers to bytes that no shard has"),
        (lambda shard: shard["image"].update(own={0: torch.ones(3)}), "another form than a shard"),
        (lambda shard: shard["image"].update(pickle=b"cos\nsystem\n(X\2\0\0\0lstR."), "holds values that this version"),
        (lambda shard: shard["image"].update(pickle=b"\x80\x02}(u."), "holds values that this version"),
    ],
    ids=str,
)
def test_a_shard_that_does_not_fit_is_refused(tmp_path, edit, why):
    paths, _ = two_saves(tmp_path)
    shard = torch.load(paths[1], weights_only=True)
    edit(shard)
    paths[1].write_bytes(bytes_of(shard))
    with pytest.raises((CorruptCheckpointError, NewerFormatError), match=why):
        Shards(paths).contents()


B = torch.zeros(208, dtype=torch.uint8)


# A tensor that no rank has as a whole


def write_rows(folder, weight, world_size):
    """Write a checkpoint of which each rank has the rows of a weight that `Tensor.chunk` gives to it, as FSDP2 does."""
    folder.mkdir()
    stand_in, name = torch.empty(weight.shape, dtype=weight.dtype, device="meta"), "state_dict/weight"
    whole = {"state_dict": {"weight": stand_in, "tied": stand_in, "n": torch.ones(2)}, "cairn": {"ranks": [{"n": 0}]}}
    chunks = weight.chunk(world_size)
    for rank in range(world_size):
        mine = chunks[rank].clone() if rank < len(chunks) else weight[:0]
        first, _ = cuts.rows(weight.shape, weight.itemsize, sum(map(len, chunks[:rank])), len(mine))
        pieces = [Piece(name, first, weight.nbytes, mine.view(-1).view(torch.uint8))] if len(mine) else []
        deal = Deal(layout("rows", [name], [weight.nbytes]), pieces, {place_of(stand_in): name})
        contents = whole if rank == 0 else {"n": rank}
        encoded = ShardEncoder().encode(contents, deal, ShardId(rank, world_size, "toy", "a0"))
        (folder / f"rank_{rank:05d}.ckpt").write_bytes(bytes_of(encoded))
    return [folder / f"rank_{rank:05d}.ckpt" for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_rows_of_all_ranks_are_joined_and_stay_tied(tmp_path, world_size):
    weight = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    shards = Shards(write_rows(tmp_path / "a", weight, world_size))
    found = shards.contents()["state_dict"]
    assert found["weight"].equal(weight)
    assert found["weight"].data_ptr() == found["tied"].data_ptr()
    for first, end in [(0, 140), (20, 60), (60, 61), (139, 140), (3, 3)]:
        whole = weight.view(-1).view(torch.uint8)
        assert shards.read("state_dict/weight", first, end).equal(whole[first:end])


def test_a_stand_in_that_no_deal_names_is_refused(tmp_path):
    contents = {"state_dict": {"weight": torch.empty(3, device="meta")}}
    with pytest.raises(UnsafeStateError, match="no rank writes the bytes of storage 0"):
        ShardEncoder().encode(contents, Deal(), ShardId(0, 1, "toy", "a0"))
    with pytest.raises(UnsafeStateError, match="special kind"):
        FormEncoder().encode(contents)
