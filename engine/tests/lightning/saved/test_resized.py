"""A buffer to which training gives another form is in the file, and a model that is built again can load it."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from tests.support import short_fits
from tests.support.short_fits import QUIET, Interrupted
from torch import nn
from torchmetrics import Metric

import cairn
from cairn.lightning.load_model import load_model
from cairn.lightning.saved import as_built, resized, unsaved

POINTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


class Model(LightningModule):
    """A model without buffers; the cases add them."""

    def __init__(self, size=0):
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(size))

    def training_step(self, batch, batch_idx):
        loss = self.net(batch).square().mean()
        self.change(batch, loss.detach())
        return loss * (1 + sum(item.double().mean() for item in self.buffers() if item.numel()))

    def change(self, batch, loss):
        self.seen = torch.cat([self.seen, loss[None]])

    def test_step(self, batch, batch_idx):
        self.log("sum", self.seen.sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Filled(Model):
    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Identity())
        self.part[0].register_buffer("mean", None)

    def change(self, batch, loss):
        if self.part[0].mean is None:
            self.part[0].mean = batch.mean(0)


class FilledInAHook(Filled):
    def on_train_start(self):
        self.part[0].mean = POINTS.mean(0) + self.global_step

    def change(self, batch, loss):
        self.part[0].mean = self.part[0].mean * 0.5


class RegisteredLate(Model):
    def change(self, batch, loss):
        if not hasattr(self, "mean"):
            self.register_buffer("mean", batch.mean(0))
        if not hasattr(self.net, "spread"):
            self.net.register_buffer("spread", batch.std(0), persistent=False)


class ReplacesAnAttribute(Model):
    def __init__(self):
        super().__init__()
        self.mean = None

    def change(self, batch, loss):
        if self.mean is None:
            del self.mean
            self.register_buffer("mean", batch.mean(0))


class OfAnotherType(Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.tensor(0))
        self.register_buffer("total", torch.zeros(()), persistent=False)

    def change(self, batch, loss):
        self.average = 0.9 * self.average + 0.1 * loss
        self.total = self.total.double() + loss / 3


class Removed(Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.ones(2))
        self.register_buffer("cache", torch.ones(3), persistent=False)

    def change(self, batch, loss):
        if self.global_step == 3:
            del self.first
            self.cache = None


class Queue(Metric):
    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum", persistent=True)
        self.register_buffer("queue", None)

    def update(self, values):
        self.queue = values if self.queue is None else torch.cat([self.queue, values])[-7:]
        self.total += values.sum()

    def compute(self):
        return self.queue.mean() + self.total


class OfAMetric(Model):
    def __init__(self):
        super().__init__()
        self.metric = Queue()

    def change(self, batch, loss):
        self.metric.update(loss[None])


CASES = [Model, Filled, FilledInAHook, RegisteredLate, ReplacesAnAttribute, OfAnotherType, Removed, OfAMetric]


class FillsFromOutside(Callback):
    """Fills the buffer before the other callbacks and the model get their turn."""

    def on_fit_start(self, trainer, pl_module):
        pl_module.part[0].mean = POINTS.mean(0)


def fit(path, model, stop=None, **options):
    seed_everything(3, verbose=False)
    points = POINTS.double() if options.get("precision") == "64-true" else POINTS
    data = cairn.DataLoader(points, batch_size=3, shuffle=True)
    return short_fits.fit(path, model, data, stop=stop, saving={"keep_last": -1, "audit": "error"}, **options)


def state(model):
    return {name: (item.dtype, item.tolist()) for name, item in [*model.named_buffers(), *model.named_parameters()]}


def check_exact(path, kind, stops=(1, 4, 6), **options):
    def make():
        seed_everything(3, verbose=False)
        return kind()

    whole = make()
    fit(path / "whole", whole, **options)
    for stop in stops:
        for until in (stop, stop + 1):
            with pytest.raises(Interrupted):
                fit(path / str(stop), make(), until, **options)
        resumed = make()
        fit(path / str(stop), resumed, **options)
        assert state(resumed) == state(whole), stop
        assert list(resumed.state_dict()) == list(whole.state_dict())


@pytest.mark.parametrize("make", CASES)
def test_a_resume_is_exact(tmp_path, make):
    check_exact(tmp_path, make)


def test_a_callback_may_fill_a_buffer_before_the_first_batch(tmp_path):
    check_exact(tmp_path, Filled, stops=[4], callbacks=[FillsFromOutside()])


@pytest.mark.filterwarnings("ignore:.*precision")
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_resume_with_another_precision_of_the_weights_is_exact(tmp_path, precision):
    check_exact(tmp_path, Filled, stops=[4], precision=precision)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the checkpoints of a run whose buffer grows by one number with each batch."""
    path = tmp_path_factory.mktemp("grown")
    fit(path, Model())
    return sorted(path.glob("epoch_*.ckpt"))


@pytest.mark.parametrize("number", [1, -1])
def test_a_trainer_with_a_checkpointer_tests_it(files, tmp_path, number):
    model = Model()
    trainer = Trainer(callbacks=[cairn.Checkpointer(tmp_path)], **QUIET)
    trainer.test(model, cairn.DataLoader(POINTS, 3), ckpt_path=files[number], weights_only=True, verbose=False)
    assert len(model.seen) == len(torch.load(files[number], weights_only=True)["state_dict"]["seen"])


@pytest.mark.parametrize("make", [Model, Filled, RegisteredLate, Removed])
def test_the_model_that_was_trained_tests_an_earlier_checkpoint(tmp_path, make):
    model = make()
    trainer = fit(tmp_path, model)
    for file in sorted(tmp_path.glob("epoch_*.ckpt"))[1::3]:
        weights = torch.load(file, weights_only=True)["state_dict"]
        trainer.test(model, cairn.DataLoader(POINTS, 3), ckpt_path=file, weights_only=True, verbose=False)
        assert model.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_new_run_takes_it_if_it_builds_the_buffer_in_the_same_way(files, tmp_path):
    model = Model()
    fit(tmp_path, model, ckpt_path=files[3], stop=None)
    assert len(model.seen) == 8
    with pytest.raises(RuntimeError, match="size mismatch for seen"):
        fit(tmp_path / "other", Model(size=2), ckpt_path=files[3])


def test_a_buffer_of_another_size_is_refused_if_training_has_not_changed_it(tmp_path):
    model = Model(size=3)
    contents = {"state_dict": Model(size=2).state_dict()}
    resized.adopt(model, contents["state_dict"], resized.recorded(contents))
    with pytest.raises(RuntimeError, match="size mismatch for seen"):
        model.load_state_dict(contents["state_dict"])


def test_load_model_loads_it(tmp_path):
    model = Filled()
    as_built.note(model, is_complete=True)
    model.part[0].mean = torch.ones(3)
    record = resized.record(model)
    assert record == {"part.0.mean": ["None", "float32 (3,)"]}
    ours = {"config": {"model": {"_target_": f"{__name__}.Filled"}}, "growth": {"buffers": record}}
    torch.save({unsaved.KEY: ours, "state_dict": model.state_dict()}, tmp_path / "a.ckpt")
    assert load_model(tmp_path / "a.ckpt").part[0].mean.tolist() == [1, 1, 1]


def test_a_model_loads_by_itself_what_its_own_hook_prepares(tmp_path):
    class Prepares(Filled):
        def on_load_checkpoint(self, checkpoint):
            self.part[0].mean = torch.zeros_like(checkpoint["state_dict"]["part.0.mean"])

    check_exact(tmp_path, Prepares, stops=[4])


def test_a_cache_that_a_hook_leaves_out_is_not_expected(tmp_path):
    class LeavesOut(Filled):
        def on_load_checkpoint(self, checkpoint):
            del checkpoint["state_dict"]["part.0.mean"]

        def training_step(self, batch, batch_idx):
            self.part[0].mean = POINTS.mean(0)
            return super().training_step(batch, batch_idx)

    check_exact(tmp_path, LeavesOut, stops=[4])


def test_with_several_processes_each_rank_gets_its_own_tensors():
    """DistributedDataParallel has noted the tensors that the model had when it was wrapped, and overwrites them."""
    model = Filled()
    as_built.note(model, is_complete=True)
    record = {"part.0.mean": ["None", "float32 (2,)"], "seen": ["float32 (0,)", "float32 (1,)"]}
    resized.adopt(model, {"part.0.mean": torch.ones(2), "seen": torch.ones(1)}, record)
    before = model.seen
    own = {"seen": torch.full((1,), 5.0)}  # this rank's first buffer was still empty
    unsaved.set_buffers(model, own, replaced=record)
    resized.restore(model, record, own, is_alone=False)
    assert (model.part[0].mean, model.seen.item(), before.item()) == (None, 5.0, 1.0)
    assert "mean" in model.part[0]._buffers


def test_a_buffer_of_a_layer_that_is_missing_is_named():
    with pytest.warns(UserWarning, match=r"the checkpoint holds rope\.table, of a layer that training has added"):
        unsaved.set_buffers(Model(), {"rope.table": torch.ones(2)})


def test_a_trainer_that_is_watched_can_be_copied():
    trainer = Trainer(**QUIET)
    resized.watch(trainer.strategy)
    copied = copy.deepcopy(trainer)
    assert copied.strategy.setup.args[0] is copied.strategy
    resized.watch(copied.strategy)
    assert copied.strategy.setup.args[0] is copied.strategy
