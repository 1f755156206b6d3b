"""Metrics of virtual ranks: each has its own state, and they are combined in their order."""

import pytest
import torch
from torchmetrics import CatMetric, MaxMetric, MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from cairn.lightning.bits.turns import EXTRA, Turns

CPU = torch.device("cpu")
VALUES = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
"""By step and virtual rank."""


def played(make, processes):
    """The metric of each process after two steps of four virtual ranks, combined."""
    metrics = [make() for _ in range(processes)]
    turns = [Turns(lambda metric=metric: {"metric": metric}) for metric in metrics]
    for step in VALUES:
        for virtual, values in enumerate(step):
            place = virtual * processes // 4
            turns[place].begin((0, virtual))
            metrics[place].update(values)
            turns[place].end()
    states = [one.states for one in turns]
    for one in turns:
        one.combine(states, CPU)
    return metrics


@pytest.mark.parametrize("make", [MeanMetric, SumMetric, MaxMetric, CatMetric])
def test_a_metric_has_the_same_value_on_any_number_of_processes(make):
    expected = played(make, 1)[0].compute()
    for processes in (2, 4):
        assert all(torch.equal(metric.compute(), expected) for metric in played(make, processes))
    alone = make()
    for step in VALUES:
        for values in step:
            alone.update(values)
    torch.testing.assert_close(expected.sort().values, alone.compute().sort().values)


def test_between_two_batches_a_metric_has_what_it_had_before():
    metric = MulticlassAccuracy(3)
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    turns = Turns(lambda: {"metric": metric})
    before = metric.tp
    for virtual in (0, 1):
        turns.begin((0, virtual))
        metric.update(torch.tensor([2]), torch.tensor([0]))
        turns.end()
    assert metric.tp is before
    turns.combine([turns.states], CPU)
    assert metric.tp.sum() == 2, "what was there before counts once"
    assert metric.fp.sum() == 2


def test_an_extra_batch_leaves_nothing():
    metric = CatMetric()
    turns = Turns(lambda: {"metric": metric})
    for virtual in (1, EXTRA):
        turns.begin((0, virtual))
        metric.update(torch.tensor([1.0]))
        turns.end()
    turns.combine([turns.states], CPU)
    assert metric.compute().tolist() == 1.0
