"""All ranks decide together whether each writes a shard."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from tests.support.thread_ranks import on_threads
from tests.support.values import file_of

from cairn.errors import ConfigError
from cairn.lightning import sharding
from cairn.lightning.sharding import LARGE_BYTES, Sharding
from cairn.store import claim, names, shared
from cairn.types import Position
from cairn.writing.options import Writing
from cairn.writing.sharded.assemble import Shards


class Differences:
    """Compares the ranks."""

    def __init__(self, found_any=False):
        self.is_due, self.found_any, self.num_compared = True, found_any, 0

    def compare(self, needed=False):
        self.num_compared += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sharding, "_VISIBLE_S", 0.01)
    monkeypatch.setattr(shared, "PATIENCE_S", 0.01)


@pytest.fixture
def claimed(tmp_path):
    held = claim.take(tmp_path / "checkpoints", "toy")
    yield tmp_path / "checkpoints", held.permit.attempt
    held.release()


def decided(claimed, option, num_bytes=LARGE_BYTES, differs=(), blind=(), strategy=None, num_ranks=2):
    """Return which ranks write shards, or what they raise."""
    directory, attempt = claimed

    def decide(agreement, rank):
        trainer = SimpleNamespace(
            world_size=num_ranks, global_rank=rank, strategy=strategy or DDPStrategy(), optimizers=[]
        )
        where = directory / "elsewhere" if rank in blind else directory
        own, differences = Sharding(trainer, Writing(sharded=option), where, agreement), Differences(rank in differs)
        own.owner = attempt
        own.decide(num_bytes if rank == 0 else 0, differences)
        assert differences.num_compared == 1, "as without shards"
        return own.is_on

    return on_threads(decide, num_ranks)


@pytest.mark.parametrize(
    ("option", "num_bytes", "expected"),
    [
        ("auto", LARGE_BYTES, True),
        ("auto", LARGE_BYTES - 1, False),
        (True, 1, True),
        (False, 100 * LARGE_BYTES, False),
    ],
)
def test_rank_0_decides_by_the_option_and_the_size(claimed, option, num_bytes, expected):
    assert decided(claimed, option, num_bytes) == [expected] * 2


def test_one_process_writes_a_file_whatever_is_asked_for(claimed):
    assert decided(claimed, True, num_ranks=1) == [False]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_that_hold_different_states_leave_the_save_to_rank_0(claimed, rank, caplog):
    with caplog.at_level(logging.WARNING):
        assert decided(claimed, True, differs=[rank], num_ranks=3) == [False] * 3
    (said,) = [item.message for item in caplog.records]
    assert said.startswith(
        "Parameters or optimizer states differ between the ranks, so shards would be a mix of several"
    )
    assert "from now on, rank 0 writes each checkpoint as a single file" in said


def test_ranks_that_do_not_see_the_directory_of_rank_0_leave_the_save_to_it(claimed, caplog):
    with caplog.at_level(logging.INFO):
        assert decided(claimed, "auto", blind=[1]) == [False] * 2
    assert "Rank 0 writes the checkpoints alone. directory=" in caplog.text


def test_shards_that_are_asked_for_without_a_shared_directory_are_refused_on_all_ranks(claimed):
    for error in decided(claimed, True, blind=[1]):
        assert isinstance(error, ConfigError)
        assert error.parameter == "directory"
        assert "is not seen by rank 1 on " in str(error)
        assert str(error).endswith("Or set sharded=false.")


def contents(net, optimizer, rank):
    return {
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "cairn": {"run": "toy", "ranks": [{"rng": torch.tensor([rank])}]},
    }


class Net(torch.nn.Module):
    """A layer that is trained, one that is frozen, one that DDP ignores, and statistics."""

    def __init__(self):
        super().__init__()
        self.trained, self.frozen, self.ignored = (torch.nn.Linear(64, 64, bias=False) for _ in range(3))
        self.frozen.requires_grad_(False)
        self.norm = torch.nn.BatchNorm1d(64)
        self._ddp_params_and_buffers_to_ignore = ["ignored.weight"]


def dealt_out(rank, consolidates=False):
    """Names of the tensors that are dealt out."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD([net.trained.weight], 0.1, momentum=0.9)
    net.trained(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    if consolidates:
        optimizer.consolidate_state_dict = None
    trainer = SimpleNamespace(
        world_size=2, global_rank=rank, lightning_module=net, optimizers=[optimizer], strategy=DDPStrategy()
    )
    own = Sharding(trainer, Writing(), "checkpoints", SimpleNamespace(leads=rank == 0))
    tensors = own._equal_tensors(contents(net, optimizer, rank))
    return set(tensors)


def test_only_what_is_equal_on_all_ranks_is_dealt_out():
    dealt = {"state_dict/trained.weight", "state_dict/norm.weight", "state_dict/norm.bias"}
    momentum = "optimizer_states/0/state/0/momentum_buffer"
    assert dealt_out(0) == dealt_out(1) == dealt | {momentum}
    assert dealt_out(1, consolidates=True) == dealt


def test_ranks_whose_batches_have_other_sizes_write_shards_of_one_save(tmp_path):
    """Each rank counts the samples of the run by its own batches."""
    for rank in range(2):
        net = Net()
        optimizer = torch.optim.SGD([net.trained.weight], 0.1)
        strategy, found = DDPStrategy(), contents(net, optimizer, rank)
        trainer = SimpleNamespace(
            world_size=2, global_rank=rank, lightning_module=net, optimizers=[optimizer], strategy=strategy
        )
        own = Sharding(trainer, Writing(), tmp_path, SimpleNamespace(leads=rank == 0))
        encoded = own.encode(found, Position(0, 3, 3, 3, samples=10 + rank), "a" * 16).encoded
        (tmp_path / names.shard_name(rank)).write_bytes(file_of(encoded))
    Shards([tmp_path / names.shard_name(rank) for rank in range(2)]).contents()
