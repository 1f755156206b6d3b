"""The state of each rank goes on on another number of ranks: what all of them have together stays the same."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torchmetrics import CatMetric, MaxMetric, MeanMetric, Metric, MinMetric, RunningMean, SumMetric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy
from torchmetrics.regression import PearsonCorrCoef

from cairn.errors import ResumeError
from cairn.lightning.saved import redealt, sums, unsaved

VALUES = torch.linspace(-3, 5, 24)
COUNTS = [1, 2, 3, 4]


def accuracy():
    return MulticlassAccuracy(2, average="micro")


METRICS = {
    "sum": (SumMetric, lambda metric, values: metric.update(values)),
    "mean": (MeanMetric, lambda metric, values: metric.update(values)),
    "max": (MaxMetric, lambda metric, values: metric.update(values)),
    "min": (MinMetric, lambda metric, values: metric.update(values)),
    "list": (CatMetric, lambda metric, values: metric.update(values)),
    "accuracy": (accuracy, lambda metric, values: metric.update((values > 0).long(), (values.abs() > 1).long())),
    "auroc": (BinaryAUROC, lambda metric, values: metric.update(values.sigmoid(), (values.abs() > 2).long())),
}


class Module(LightningModule):
    def __init__(self, make):
        super().__init__()
        self.metric = make()


def state_of(module, seed=0, **more):
    """What `capture` saves of a rank, as far as it is dealt out."""
    torch.manual_seed(seed)
    state = {"rng": unsaved.rng_state(), "logged": {"entries": {}}, "metrics": sums.metrics(module), "callbacks": {}}
    return {**state, **more}


def ranks(make, update, number):
    """A module on each rank, which has seen its part of the values."""
    modules = [Module(make) for _ in range(number)]
    for rank, module in enumerate(modules):
        if len(part := VALUES[rank::number]):
            update(module.metric, part)
    return modules


def dealt_out(saved, make, number):
    """The modules of another number of ranks, which go on."""
    found = []
    for rank in range(number):
        module = Module(make)
        sums.set_metrics(
            module, redealt.of_rank(saved, SimpleNamespace(global_rank=rank, lightning_module=module))["metrics"]
        )
        found.append(module)
    return found


@pytest.mark.parametrize("before", COUNTS)
@pytest.mark.parametrize("now", COUNTS)
@pytest.mark.parametrize("kind", METRICS)
def test_a_metric_covers_what_all_ranks_have_seen(kind, before, now):
    make, update = METRICS[kind]
    whole = ranks(make, update, 1)[0].metric.compute()
    there = dealt_out([state_of(module) for module in ranks(make, update, before)], make, now)
    together = dealt_out([state_of(module) for module in there], make, 1)[0]  # as torchmetrics reduces over ranks
    torch.testing.assert_close(torch.sort(together.metric.compute().flatten())[0], torch.sort(whole.flatten())[0])


def test_ranks_that_have_no_part_go_on_with_an_empty_metric():
    make, update = METRICS["mean"]
    first, second = dealt_out([state_of(module) for module in ranks(make, update, 3)], make, 2)
    assert (first.metric.weight, second.metric.weight) == (24, 0)
    second.metric.update(torch.tensor(7.0))
    assert second.metric.compute() == 7


@pytest.mark.parametrize("make", [PearsonCorrCoef, lambda: RunningMean(window=3)])
def test_a_metric_that_ranks_combine_in_their_own_way_is_refused_by_name(make):
    modules = [Module(make) for _ in range(2)]
    for module, values in zip(modules, VALUES.split(12), strict=True):
        for value in values.split(1 if make is not PearsonCorrCoef else 12):
            module.metric.update(*((value, value**2) if make is PearsonCorrCoef else (value,)))
            if value[0] > 1:
                break
    with pytest.raises(ResumeError, match=r"metric metric.*Use 2 processes for this epoch, or resume from its end"):
        dealt_out([state_of(module) for module in modules], make, 1)


class OwnMean(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("value", torch.tensor(0.0), dist_reduce_fx="mean")

    def update(self, value):
        self.value = value.mean()

    def compute(self):
        return self.value


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RunningMean(window=3), "changed its attribute '_num_vals_seen', which is not among its states"),
        (OwnMean, "combines 'value' of the processes in its own way"),
    ],
)
def test_one_process_too_has_metrics_that_several_cannot_go_on_with(make, text):
    module = Module(make)
    module.metric.update(VALUES)
    with pytest.raises(ResumeError, match=rf"metric metric .*{text}.* Use 1 process for this epoch"):
        dealt_out([state_of(module)], make, 2)


def test_such_a_metric_without_values_is_dealt_out():
    modules = [Module(PearsonCorrCoef) for _ in range(2)]
    assert isinstance(dealt_out([state_of(module) for module in modules], PearsonCorrCoef, 3)[2].metric, Metric)


def entry(value, count=None, reduce="mean", **more):
    found = {"value": torch.tensor(value), "reduce": [False, reduce], "is_tensor": True, "on_epoch": True, **more}
    return found | ({} if count is None else {"cumulated_batch_size": torch.tensor(count)})


def entries(saved, rank):
    module = Module(SumMetric)
    states = [state_of(module, logged={"entries": {"loss": one}, "callback": {}}) for one in saved]
    trainer = SimpleNamespace(global_rank=rank, lightning_module=module)
    return redealt.of_rank(states, trainer)["logged"]["entries"]["loss"]


def test_a_mean_over_the_epoch_counts_the_samples_of_all_ranks_once():
    saved = [entry(6.0, 3), entry(10.0, 5)]
    first, second = (entries(saved, rank) for rank in (0, 1))
    assert (first["value"], first["cumulated_batch_size"]) == (16, 8)
    assert (second["value"], second["cumulated_batch_size"]) == (0, 0)


@pytest.mark.parametrize(
    ("reduce", "on_rank_0", "on_rank_1"), [("sum", 7.0, 0.0), ("max", 4.0, 4.0), ("min", 3.0, 3.0)]
)
def test_other_reductions(reduce, on_rank_0, on_rank_1):
    saved = [entry(3.0, reduce=reduce), entry(4.0, reduce=reduce)]
    assert [entries(saved, rank)["value"] for rank in (0, 1)] == [on_rank_0, on_rank_1]


def test_a_value_of_single_steps_is_that_of_rank_0():
    assert entries([entry(3.0, on_epoch=False), entry(4.0, on_epoch=False)], 1)["value"] == 3


def generators(number, now):
    saved = [state_of(Module(SumMetric), seed=rank) for rank in range(number)]
    module = Module(SumMetric)
    found = []
    for rank in range(now):
        state = redealt.of_rank(saved, SimpleNamespace(global_rank=rank, lightning_module=module))
        unsaved.set_rng_state(state["rng"])
        found.append(torch.rand(()).item())
    return found


def test_ranks_keep_their_generators_and_new_ones_get_their_own():
    two, four = generators(2, 2), generators(2, 4)
    assert four[:2] == two
    assert len({*four}) == 4
    assert generators(2, 4) == four, "a function of the checkpoint"
    torch.manual_seed(5)
    before = torch.get_rng_state()
    redealt.of_rank(
        [state_of(Module(SumMetric), seed=5)], SimpleNamespace(global_rank=1, lightning_module=Module(SumMetric))
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_what_each_rank_had_of_its_own_is_named():
    module = Module(SumMetric)
    saved = [state_of(module), state_of(module, own=[[["datamodule", "shift"], 1.0]])]
    with pytest.warns(UserWarning, match=r"2 processes .* had its own datamodule\.shift: all .* that of process 0"):
        redealt.of_rank(saved, SimpleNamespace(global_rank=0, lightning_module=module))
