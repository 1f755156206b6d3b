"""`torch.distributed.checkpoint` reads a checkpoint of Cairn on any number of processes, only what each needs."""

import multiprocessing
import warnings

import pytest
import torch
from tests.support.shards import bytes_of, write_shards
from tests.support.values import flip_byte
from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from cairn.dcp import Reader
from cairn.store import names
from cairn.writing.export import export
from cairn.writing.sharded.cuts import rows
from cairn.writing.sharded.deal import Deal, Piece, layout, place_of
from cairn.writing.sharded.shard import ShardEncoder, ShardId

WEIGHT = torch.arange(7 * 5.0).reshape(7, 5)
LARGE = torch.arange(1000.0).to(torch.bfloat16)
WHOLE = {
    "epoch": 3,
    "state_dict": {"net.weight": WEIGHT, "net.large": LARGE, "net.t": LARGE[:10].reshape(2, 5).T, "n": torch.tensor(4)},
    "optimizer_states": [{"state": {0: {"exp_avg": WEIGHT + 1}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}],
    "cairn": {"ranks": []},
}
STATES = [{"n": rank} for rank in range(3)]


def copied_even(folder):
    """Equal shares, as under DDP: cuts lie anywhere."""
    write_shards(folder, WHOLE, [WEIGHT, LARGE], STATES)
    return folder


def copied_rows(folder):
    """Rows, as FSDP2 has them: each rank has the rows that `Tensor.chunk` gives it."""
    folder.mkdir()
    tensors = {"state_dict/net.weight": WEIGHT, "state_dict/net.large": LARGE}
    sizes = [tensor.nbytes for tensor in tensors.values()]
    for rank, state in enumerate(STATES):
        pieces = []
        for name, tensor in tensors.items():
            chunks = tensor.chunk(len(STATES))
            first, end = rows(tensor.shape, tensor.itemsize, sum(map(len, chunks[:rank])), len(chunks[rank]))
            pieces.append(Piece(name, first, tensor.nbytes, tensor.view(-1).view(torch.uint8)[first:end].clone()))
        places = {place_of(tensor): name for name, tensor in tensors.items()}
        deal = Deal(layout("rows", list(tensors), sizes), pieces, places)
        contents = {**WHOLE, "cairn": {"ranks": STATES[:1]}} if rank == 0 else state
        encoded = ShardEncoder().encode(contents, deal, ShardId(rank, len(STATES), "toy", "a0"))
        (folder / names.shard_name(rank)).write_bytes(bytes_of(encoded))
    return folder


def exported(folder):
    export(copied_even(folder), folder.with_suffix(".one"))
    return folder.with_suffix(".one")


KINDS = {"even": copied_even, "rows": copied_rows, "one file": exported}


def empty():
    """What a program has before it loads."""
    state = {name: torch.zeros_like(tensor) for name, tensor in WHOLE["state_dict"].items()}
    return {"state_dict": state, "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(7, 5)}}}], "epoch": 0}


def check(state, first=0):
    for name, tensor in WHOLE["state_dict"].items():
        found = state["state_dict"][name]
        assert (found.full_tensor() if isinstance(found, DTensor) else found).equal(tensor), name
    assert state["optimizer_states"][0]["state"][first]["exp_avg"].equal(WEIGHT + 1)
    assert state["epoch"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_loads_a_save_of_three(tmp_path, kind):
    state = empty()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, storage_reader=Reader(KINDS[kind](tmp_path / "a.ckpt")), no_dist=True)
    check(state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_consolidated_without_a_process_group(tmp_path, kind):
    state = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = Reader(KINDS[kind](tmp_path / "a.ckpt"))
        _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    check(state, first="0")  # torch makes texts of all keys
    assert state["optimizer_states"][0]["param_groups"][0]["betas"] == (0.9, 0.99)
    assert state["cairn"]["ranks"] == STATES


def test_rows_are_chunks_and_are_not_joined(tmp_path):
    reader = Reader(copied_rows(tmp_path / "a.ckpt"))
    found = reader.read_metadata().state_dict_metadata["state_dict.net.weight"]
    assert [(*chunk.offsets, *chunk.sizes) for chunk in found.chunks] == [(0, 0, 3, 5), (3, 0, 3, 5), (6, 0, 1, 5)]
    assert reader._shards._joined == {}


@pytest.mark.parametrize("is_verified", [True, False])
def test_a_damaged_shard_is_named_before_anything_is_read(tmp_path, is_verified):
    folder = copied_even(tmp_path / "a.ckpt")
    flip_byte(folder, names.shard_name(1))
    state = empty()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_verified:
            with pytest.raises(CheckpointException, match=r"rank_00001\.ckpt is damaged"):
                dcp.load(state, storage_reader=Reader(folder), no_dist=True)
            assert state["epoch"] == 0
        else:
            dcp.load(state, storage_reader=Reader(folder, verify=False), no_dist=True)
            assert state["epoch"] == 3


def _load_on(rank, world_size, folder):
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / f"store_{world_size}"), world_size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        mesh = init_device_mesh("cpu", (world_size,))
        for kind in KINDS:
            state = empty()
            whole = state["state_dict"]
            whole["net.weight"] = distribute_tensor(whole["net.weight"], mesh, [Shard(0)])
            whole["net.large"] = distribute_tensor(whole["net.large"], mesh, [Shard(0)])
            whole["net.t"] = distribute_tensor(whole["net.t"].contiguous(), mesh, [Replicate()])
            dcp.load(state, storage_reader=Reader(folder / kind))
            check(state)
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes_load_their_parts(tmp_path, world_size):
    for kind, write in KINDS.items():
        write(tmp_path / "a.ckpt").rename(tmp_path / kind)
        for path in tmp_path.glob("a.ckpt"):
            path.rename(tmp_path / f"rest of {kind}")
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([__name__])  # it imports once, for all ranks of both tests
    ranks = [forked.Process(target=_load_on, args=(rank, world_size, tmp_path)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * world_size
