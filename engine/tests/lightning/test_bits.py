"""With `elastic="bits"`, a run has the same weights and metrics, bit for bit, on any number of processes."""

import multiprocessing

import pytest
import torch
from lightning.pytorch import Trainer
from tests.support import bits_fit, bits_table, elastic_fit
from tests.support.bits_fit import Net, fit, start
from torch import nn
from torchmetrics import PearsonCorrCoef

import cairn
from cairn.errors import ConfigError, ResumeError

forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks processes")
quiet = pytest.mark.filterwarnings("ignore")


@forks
@pytest.mark.slow
def test_ddp_and_fsdp2_on_any_number_of_processes_end_with_the_same_bits(tmp_path):
    """Weights, optimizer states and metrics; the table of docs/bits.md has two epochs, and further options."""
    found = bits_table.digests(tmp_path, max_epochs=1)
    assert len(found) == 8
    assert len(set(found.values())) == 1, found


@forks
@pytest.mark.slow
def test_a_run_that_moves_ends_with_the_same_bits(tmp_path):
    undisturbed = start(tmp_path / "1", 1)
    # An epoch has four steps. FSDP2 and DDP on as many processes deal out virtual ranks in different ways.
    for strategy, processes, steps in [("ddp", 1, 1), ("fsdp", 3, 3), ("ddp", 3, 6), ("fsdp", 4, 7)]:
        assert not start(tmp_path / "moved", processes, strategy=strategy, max_steps=steps).error
    found = start(tmp_path / "moved", 2)
    assert found == undisturbed
    rows = found.metrics.splitlines()
    assert len(rows) > 8, rows[0]
    names = {"loss_step", "loss_epoch", "mean", "rare_step", "began_step", "stepped", "val/loss", "test/loss"}
    assert names <= set(rows[0].split(","))


class DependsOnPlaces(Net):
    """Its loss depends on what a step sees of processes and batches."""

    def training_step(self, batch, batch_idx):
        trainer = self.trainer
        places = self.global_rank + batch_idx / trainer.num_training_batches + trainer.is_global_zero
        return super().training_step(batch) * (1 + 0.01 * places) * trainer.world_size

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/places", float(self.global_rank * self.trainer.world_size))


@forks
@pytest.mark.slow
def test_processes_may_have_different_numbers_of_virtual_ranks(tmp_path):
    """Two processes with three of them: one process works on a batch twice. Gradients are clipped by value."""
    options = {"size": 6, "val_size": 6, "max_epochs": 1, "net": DependsOnPlaces(foreach=True)}
    options |= {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"}
    undisturbed = start(tmp_path / "1", 1, **options)
    assert not start(tmp_path / "moved", 2, strategy="fsdp", max_steps=7, **options).error
    assert start(tmp_path / "moved", 2, **options) == undisturbed


@forks
@pytest.mark.slow
def test_an_iterable_has_the_same_bits_with_other_workers_and_processes(tmp_path):
    options = {"elastic": "bits", "max_epochs": 1}
    undisturbed = elastic_fit.start(tmp_path / "1", 1, num_workers=1, **options)
    sharded = {**options, "strategy": cairn.FSDP2Strategy()}
    elastic_fit.start(tmp_path / "moved", 3, num_workers=0, max_steps=1, **sharded)
    moved = elastic_fit.start(tmp_path / "moved", 3, num_workers=1, **options)
    assert (moved.weights, moved.metrics) == (undisturbed.weights, undisturbed.metrics)


@forks
@pytest.mark.slow
def test_without_it_the_bits_differ(tmp_path):
    """Otherwise the tests above would prove nothing."""
    options = {"elastic": "samples", "rare": False, "max_epochs": 1}
    found = bits_table.digests(tmp_path, [("ddp", 1), ("ddp", 3), ("fsdp", 2)], **options)
    assert not any("Error" in one for one in found.values())
    assert len(set(found.values())) == 3


@quiet
def test_a_loader_deals_out_its_batches_as_before_when_the_run_has_ended(tmp_path):
    loader = cairn.DataLoader(bits_fit.Text(8), 2, global_batch_size=8)
    saving = cairn.Checkpointer(tmp_path, elastic="bits", watchdog="off")
    trainer = Trainer(callbacks=[saving], max_steps=1, limit_val_batches=0, logger=False, accelerator="cpu")
    shares = []
    net = Net()
    net.on_train_start = lambda: shares.append(loader.global_batches.share)
    trainer.fit(net, loader)
    assert [share.has_virtual_ranks for share in (*shares, loader.global_batches.share)] == [True, False]
    assert "clip_grad_by_norm" not in vars(trainer.precision_plugin)


class LogsInHooks(Net):
    def on_before_zero_grad(self, optimizer):
        self.log("began", 1.0, on_epoch=True, reduce_fx="sum", rank_zero_only=True)

    def on_before_optimizer_step(self, optimizer):
        self.log("stepped", 1.0, on_epoch=True, reduce_fx="sum", rank_zero_only=True)


@quiet
def test_what_hooks_of_the_step_log_counts_once_in_a_global_batch(tmp_path):
    trainer, _ = fit(tmp_path, net=LogsInHooks(), max_epochs=1, max_steps=-1)
    assert [trainer.callback_metrics[name] for name in ("began", "stepped")] == [4, 4]


class ComparesIndices(Net):
    def optimizer_step(self, epoch, batch_idx, *rest):
        assert batch_idx == 12 * (self.global_step + 1) - 1, "the last batch of all processes"
        super().optimizer_step(epoch, batch_idx, *rest)

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        assert batch_idx == 12 * self.global_step, "the first one"
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)


@forks
@pytest.mark.slow
def test_hooks_of_the_step_get_the_batches_of_all_processes(tmp_path):
    assert not bits_fit.start(tmp_path, 3, net=ComparesIndices(), max_steps=2).error


@quiet
def test_what_a_run_keeps(tmp_path):
    fit(tmp_path, max_steps=1)
    with pytest.raises(ResumeError, match="elastic='bits', and now elastic='samples': a resumed run keeps it"):
        fit(tmp_path, elastic="samples", max_steps=2)
    with pytest.raises(ResumeError, match=r"12 virtual ranks, with batches of 2 .* 6, of 4: .* Set batch_size to 2"):
        fit(tmp_path, batch_size=4, max_steps=2)
    fit(tmp_path / "other", elastic="samples", max_steps=1)
    with pytest.raises(ResumeError, match="elastic='samples', and now elastic='bits'"):
        fit(tmp_path / "other", max_steps=2)


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class ByLBFGS(Net):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters())


class Added(Net):
    """With one more part."""

    def __init__(self, part):
        super().__init__()
        self.part = part


class Skips(Net):
    def training_step(self, batch):
        return None


class LogsSteps(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch)[0], on_step=True, on_epoch=True)


REFUSED = {
    "no global batches": (Net, {"size": None}, "needs training data with global batches"),
    "no global batches in validation": (Net, {"val_size": None}, "needs global batches in validation and test"),
    "manual optimization": (Manual, {"gradient_clip_val": None}, "manual optimization"),
    "lbfgs": (ByLBFGS, {"gradient_clip_val": None}, "LBFGS asks .* several times"),
    "synchronized statistics": (
        lambda: Added(nn.SyncBatchNorm(2)),
        {},
        "SyncBatchNorm needs all 12 virtual ranks at the same time, and there are 1 processes",
    ),
    "sparse gradients": (lambda: Added(nn.Embedding(2, 2, sparse=True)), {}, "sparse=True"),
    "a metric of its own kind": (lambda: Added(PearsonCorrCoef()), {}, r"metric part \(PearsonCorrCoef\) combines"),
    "a batch without a loss": (Skips, {}, "training_step has returned None"),
    "validation values of single batches": (LogsSteps, {}, "'val/loss' is logged on_step=True in a validation"),
    "an epoch with too few samples": (
        Net,
        {"size": 178, "batch_size": 1, "val_check_interval": 1},
        "too small for 178 virtual ranks",
    ),
}


@quiet
@pytest.mark.parametrize("case", REFUSED)
def test_what_depends_on_the_number_of_processes_is_refused(tmp_path, case):
    make, options, text = REFUSED[case]
    with pytest.raises((ConfigError, cairn.errors.DataError), match=text):
        fit(tmp_path, net=make(), **options)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_another_level_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"elastic='exact' must be samples .* or bits"):
        cairn.Checkpointer(tmp_path, elastic="exact")


@quiet
def test_the_random_numbers_of_a_batch_do_not_depend_on_those_before(tmp_path):
    assert bits_fit.BATCH * 12 == bits_fit.GLOBAL_BATCH
    drawn = {}

    class Draws(Net):
        def training_step(self, batch):
            drawn.setdefault(self.trainer.current_epoch, []).append(torch.rand(()).item())
            return super().training_step(batch)

    fit(tmp_path, net=Draws(), max_epochs=2)
    numbers = [one for numbers in drawn.values() for one in numbers]
    assert len(set(numbers)) == len(numbers) == 2 * 4 * 12, "each virtual rank and each step has its own"
