"""Batches that exchange values with other processes are refused: their result depends on the number of processes."""

from types import SimpleNamespace

import pytest
import torch
from tests.support import bits_fit
from torch import distributed
from torch.distributed import _functional_collectives, distributed_c10d
from torch.distributed.nn import functional

from cairn.errors import ConfigError
from cairn.lightning.bits import exchanging

TEXT = r"A batch exchanges values with other processes \({}\), and elastic='bits' works on"


@pytest.fixture
def alone():
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Gathers(bits_fit.Net):
    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def loss(self, batch):
        if self.trainer.state.stage == self.stage:
            self.all_gather(torch.ones(1))
        return super().loss(batch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", ["train", "sanity_check"])
def test_it_is_refused_on_one_process_too(tmp_path, stage):
    net = Gathers(stage)
    with pytest.raises(ConfigError, match=TEXT.format("all_gather")):
        bits_fit.fit(tmp_path, net=net)
    assert "all_gather" not in vars(net.trainer.strategy)


@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional:FutureWarning")
@pytest.mark.parametrize(
    ("exchange", "name"),
    [
        (lambda: distributed.all_reduce(torch.ones(1)), "allreduce"),
        (lambda: distributed_c10d.broadcast(torch.ones(1), 0), "broadcast"),
        (lambda: distributed.all_gather_object([None], 1), "allgather"),
        (lambda: functional.all_reduce(torch.ones(1)), "allreduce"),
        (
            lambda: _functional_collectives.all_reduce(torch.ones(1), "sum", distributed.group.WORLD).wait(),
            "all_reduce",
        ),
    ],
)
def test_that_of_torch_is_refused(alone, exchange, name):
    trainer = SimpleNamespace(strategy=SimpleNamespace(), should_stop=False)
    with pytest.raises(ConfigError, match=TEXT.format(name)), exchanging.refused(trainer):
        exchange()
    exchange()


def test_a_step_that_asks_torch_for_its_rank_is_warned_once(alone):
    exchanging._warn_of_places.cache_clear()
    trainer = SimpleNamespace(strategy=SimpleNamespace(), should_stop=False)
    with exchanging.refused(trainer):
        with pytest.warns(UserWarning, match=r"use self\.global_rank and self\.trainer\.world_size"):
            distributed.get_world_size()
        distributed.get_rank()  # a warning would be an error
        distributed.group.WORLD.size()
    exchanging._warn_of_places.cache_clear()
    distributed.get_rank()


def test_parameters_may_be_gathered(alone):
    layer = torch.nn.Linear(2, 2)
    distributed.fsdp.fully_shard(layer, mesh=distributed.device_mesh.init_device_mesh("cpu", (1,)))
    with exchanging.refused(SimpleNamespace(strategy=SimpleNamespace(), should_stop=False)):
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad.full_tensor().tolist() == [[1, 1], [1, 1]]


def test_a_batch_does_not_stop_the_run():
    trainer = SimpleNamespace(strategy=SimpleNamespace(), should_stop=True)
    with exchanging.refused(trainer):
        pass  # the run ends with this global batch
    trainer.should_stop = False
    with pytest.raises(ConfigError, match=r"has set trainer\.should_stop"), exchanging.refused(trainer):
        trainer.should_stop = True
