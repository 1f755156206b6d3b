"""A run that shards its model builds it with data on rank 0 only, if that loses nothing."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from cairn.errors import ConfigError
from cairn.hydra.run import sharded
from cairn.lightning.fsdp.strategy import FSDP2Strategy

OURS = {"_target_": "cairn.FSDP2Strategy", "meta_init": True}


class ReadsAValue(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]


class KeepsATensor(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.table = torch.arange(3)


def built(build, is_main=False, strategy=OURS):
    node = {"strategy": strategy}
    return sharded.built(
        SimpleNamespace(is_main=is_main, settings=SimpleNamespace(trainer=SimpleNamespace(node=node))), build
    )


@pytest.mark.parametrize(
    ("is_main", "strategy", "on_meta"),
    [
        (False, OURS, True),
        (True, OURS, False),
        (False, {**OURS, "meta_init": False}, False),
        (False, {**OURS, "_target_": "cairn.lightning.fsdp.strategy.FSDP2Strategy"}, True),
        (False, {**OURS, "tensor_parallel_size": 2}, False),  # configure_model() divides its values
        (False, {**OURS, "tensor_parallel_size": 1}, True),
        (False, "ddp", False),
        (False, {"_target_": "lightning.pytorch.strategies.DDPStrategy"}, False),
    ],
)
def test_only_ranks_that_get_their_values_from_rank_0_build_without_data(is_main, strategy, on_meta):
    assert built(lambda: nn.Linear(2, 2), is_main, strategy).weight.is_meta == on_meta


@pytest.mark.parametrize(("kind", "why"), [(ReadsAValue, "RuntimeError"), (KeepsATensor, "table is a plain tensor")])
def test_a_model_that_needs_its_values_is_built_with_data(caplog, kind, why):
    with caplog.at_level(logging.INFO):
        model = built(kind)
    assert not model.weight.is_meta
    assert why in caplog.text


def test_an_error_of_the_model_is_raised():
    def build():
        raise ConfigError("model: no such layer")

    with pytest.raises(ConfigError, match="no such layer"):
        built(build)


@pytest.mark.parametrize(
    ("strategy", "numbers"),
    [
        (DDPStrategy(), [0, 1, 2, 3]),
        (FSDP2Strategy(), [0, 1, 2, 3]),
        (FSDP2Strategy(tensor_parallel_size=2), [0, 0, 1, 1]),
    ],
)
def test_processes_that_compute_a_batch_together_draw_the_same_numbers(strategy, numbers):
    strategy.parallel_devices = [torch.device("cpu")] * 4
    ranks = [SimpleNamespace(strategy=strategy, global_rank=rank) for rank in range(4)]
    assert [sharded.batch_number(rank) for rank in ranks] == numbers


@pytest.mark.parametrize("precision", ["16-mixed", 16, "16"])
def test_a_precision_that_scales_the_loss_is_refused(precision):
    with pytest.raises(ConfigError, match=r"trainer.precision=16-mixed scales the loss"):
        sharded.check({"strategy": OURS, "precision": precision})
    sharded.check({"strategy": "ddp", "precision": precision})
    sharded.check({"strategy": OURS, "precision": "bf16-mixed"})
