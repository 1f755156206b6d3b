"""Layers that training adds, removes or replaces are named: a resume could not load what follows."""

import copy
import re
import threading
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from tests.support import short_fits
from tests.support.short_fits import Interrupted
from torch import nn
from torch.nn.utils import parametrizations
from torchmetrics import MeanMetric

import cairn

POINTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
CALLS = []


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.head = nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.head(self.net(batch)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def add(self):
        self.net.append(nn.Linear(4, 4))
        self.optimizers().add_param_group({"params": self.net[1].parameters()})


class AddsInAnEpochsStart(Model):
    def on_train_epoch_start(self):
        if self.current_epoch == 1 and len(self.net) == 1:
            self.add()


class AddsInsideAnEpoch(Model):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.add()


class AddsATeacher(Model):
    def on_fit_start(self):
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)


class AddsAParameter(Model):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.scale = nn.Parameter(torch.ones(2))


class Removes(Model):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.head = nn.Identity()


class Reshapes(Model):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.head = nn.Linear(4, 3)


class Normalizes(Model):
    def on_train_start(self):
        parametrizations.weight_norm(self.head)


class AddsAMetric(Model):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.mean = MeanMetric()


class AddsStatistics(Model):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.norm = nn.BatchNorm1d(4, affine=False)


class Unrelated(AddsInsideAnEpoch):
    """Its hook does something else."""

    def on_load_checkpoint(self, checkpoint):
        checkpoint["state_dict"].pop("old", None)


class UnrelatedReshapes(Reshapes):
    on_load_checkpoint = Unrelated.on_load_checkpoint


class ForgetsItsMetric(AddsAMetric):
    on_load_checkpoint = Unrelated.on_load_checkpoint


ADDED = r"adds net\.1 \(weight, bias\)"
NAMED = {
    AddsInAnEpochsStart: (4, ADDED),
    AddsInsideAnEpoch: (2, ADDED),
    AddsATeacher: (0, r"adds teacher \(weight, bias\)"),
    AddsAParameter: (2, "adds scale"),
    Removes: (2, r"removes head \(weight, bias\)"),
    Reshapes: (2, r"reshapes head \(weight, bias\)"),
    Normalizes: (0, "adds head.parametrizations.weight .original0, original1.; it removes head.weight"),
    AddsStatistics: (2, r"adds norm \(running_mean, running_var, num_batches_tracked\)"),
    Unrelated: (2, ADDED),
    UnrelatedReshapes: (2, "reshapes head"),
}
"""How many steps a run makes before the change is named, and how."""


class Rebuilds(AddsInsideAnEpoch):
    def on_load_checkpoint(self, checkpoint):
        while f"net.{len(self.net)}.weight" in checkpoint["state_dict"]:
            self.net.append(nn.Linear(4, 4))


class RebuildsByACount(AddsInsideAnEpoch):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["num_layers"] = len(self.net)

    def on_load_checkpoint(self, checkpoint):
        self.net.extend(nn.Linear(4, 4) for _ in range(checkpoint["num_layers"] - len(self.net)))


class RebuildsTheHead(Reshapes):
    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)

    def on_load_checkpoint(self, checkpoint):
        self.head = nn.Linear(4, len(checkpoint["state_dict"]["head.bias"]))


class HoldsWhatCannotBeCopied(Rebuilds):
    """Its hook must not run in the process that trains, and the lock must not be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def on_load_checkpoint(self, checkpoint):
        CALLS.append(self.global_step)
        super().on_load_checkpoint(checkpoint)


class Fails(Rebuilds):
    """Needs what only a resume has."""

    def on_load_checkpoint(self, checkpoint):
        if self.trainer.ckpt_path is None:
            raise ValueError("no resume")
        super().on_load_checkpoint(checkpoint)


class Growing(nn.ModuleList):
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        while f"{prefix}{len(self)}.weight" in state_dict:
            self.append(nn.Linear(4, 4))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LoadsByItself(Model):
    def __init__(self):
        super().__init__()
        self.experts = Growing()

    configure_optimizers = RebuildsTheHead.configure_optimizers

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.global_step == 2:
            self.experts.append(nn.Linear(4, 4))


class RestoresAFrozenTeacher(AddsATeacher):
    def configure_optimizers(self):
        return torch.optim.SGD([*self.net.parameters(), *self.head.parameters()], lr=0.1)

    def on_load_checkpoint(self, checkpoint):
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)


class Ties(Model):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 1)

    def on_fit_start(self):
        self.other.weight = self.head.weight


class FreshTeacher(AddsATeacher):
    strict_loading = False


class BuiltInSetup(Model):
    def setup(self, stage):
        self.second = nn.LazyLinear(3)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.second(batch).square().mean()


QUIET = [
    HoldsWhatCannotBeCopied,
    RestoresAFrozenTeacher,
    Rebuilds,
    RebuildsByACount,
    RebuildsTheHead,
    LoadsByItself,
    Ties,
    FreshTeacher,
    BuiltInSetup,
]


def fit(path, kind, audit="warn", stop=None):
    seed_everything(3, verbose=False)
    model = kind()
    data = cairn.DataLoader(POINTS, batch_size=3, shuffle=True)
    short_fits.fit(path, model, data, stop=stop, saving={"audit": audit})
    return model


def messages(caught):
    return [str(item.message) for item in caught if "Training changes the layers of" in str(item.message)]


@pytest.mark.parametrize("kind", NAMED)
def test_a_change_is_named_once_at_the_first_save_after_it(tmp_path, kind):
    step, words = NAMED[kind]
    with pytest.raises(cairn.CairnError, match=f"Training changes the layers of {kind.__name__}: it {words}"):
        fit(tmp_path / "error", kind, audit="error")
    assert len(list((tmp_path / "error").glob("epoch_*.json"))) <= max(step, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path / "warned", kind)
    (text,) = messages(caught)
    assert re.search(words, text)
    assert "on_load_checkpoint()" in text


class AddsAMetricInEachEpoch(Model):
    def on_train_epoch_start(self):
        self.mean = MeanMetric()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.mean(outputs["loss"])


def test_a_metric_that_training_creates_is_named(tmp_path):
    with pytest.raises(cairn.CairnError, match="Training adds metrics to AddsAMetric: mean"):
        fit(tmp_path, AddsAMetric, audit="error")


@pytest.mark.filterwarnings("ignore:Training adds metrics")
def test_a_resume_between_epochs_names_a_metric_that_does_not_exist_yet(tmp_path):
    whole = fit(tmp_path / "whole", AddsAMetricInEachEpoch)
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", AddsAMetricInEachEpoch, stop=4)
    with pytest.warns(UserWarning, match="holds the state of mean, and AddsAMetricInEachEpoch does not have this yet"):
        resumed = fit(tmp_path / "stopped", AddsAMetricInEachEpoch)
    assert torch.equal(whole.mean.mean_value, resumed.mean.mean_value)


def test_nothing_is_named_without_an_audit(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, AddsInsideAnEpoch, audit="off")
    assert messages(caught) == []


@pytest.mark.parametrize("kind", QUIET)
def test_what_a_resume_builds_again_is_not_named_and_resumes(tmp_path, kind):
    def run(path, stop=None):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return fit(path, kind, stop=stop)
            finally:
                assert messages(caught) == []

    whole = run(tmp_path / "whole").state_dict()
    for stop in (3, 5):
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", stop)
    resumed = run(tmp_path / "stopped").state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_trial_of_a_hook_leaves_nothing_in_this_process(tmp_path):
    CALLS.clear()
    fit(tmp_path, HoldsWhatCannotBeCopied)
    assert CALLS == []


def test_a_hook_that_cannot_be_tried_is_named_and_does_not_end_the_run(tmp_path):
    with pytest.warns(UserWarning, match=f"layers of Fails: it {ADDED}.* a trial of it has ended without an answer"):
        fit(tmp_path, Fails, audit="error")


def test_the_trial_of_a_hook_changes_no_random_number(tmp_path):
    def numbers(kind):
        fit(tmp_path / kind.__name__, kind)
        return torch.rand(3).tolist()

    assert numbers(Rebuilds) == numbers(AddsInsideAnEpoch)
