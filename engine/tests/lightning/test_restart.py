"""A resume inside an epoch runs the hooks at its start again, and only their attributes stay."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tests.lightning.test_exact import check_every_stop
from tests.support import toy
from tests.support.toy import Cell, PointData, Toy
from torch import nn
from torch.nn.utils import prune

from cairn.errors import ResumeError
from cairn.lightning.restart import Restart
from cairn.store.catalog import Catalog

SHORT = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1, "num_sanity_val_steps": 0}
SHORTER = SHORT | {"limit_train_batches": 2}
CELL = Cell(trainer=SHORT, num_boundaries=6, audit="error")
SHORT_CELL = Cell(trainer=SHORTER, num_boundaries=4, audit="error")


class EpochTimer(Callback):
    """Reads at the end of an epoch what it has set at its start."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.t0 = time.time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert time.time() >= self.t0


class ByEpoch(Toy):
    """The loss depends on attributes that a hook sets from the epoch and from random numbers."""

    def on_train_epoch_start(self) -> None:
        self.beta = 0.5 * self.current_epoch
        self.mask = [torch.rand(2), torch.rand(2)]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (1 + self.beta + self.mask[0].sum())


class WithEffects(Toy):
    """Hooks at the start of the training and of an epoch change everything that a checkpoint contains."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("epochs_begun", torch.zeros(()))
        self.register_buffer("not_saved", torch.zeros(()), persistent=False)

    def on_fit_start(self) -> None:
        self.net[0].bias.data.add_(1.0)

    def on_train_start(self) -> None:
        nn.init.ones_(self.net[4].bias)
        self.optimizers().param_groups[0]["lr"] = 0.07

    def on_train_epoch_start(self) -> None:
        self.epochs_begun += 1
        self.not_saved += 1
        self.net[4].weight.data.mul_(0.9)
        self.optimizers().param_groups[0]["lr"] *= 0.5
        self.log("train/begun", self.epochs_begun)
        self.late.update(3.0)
        self.logger.log_metrics({"start": float(torch.rand(()))}, step=self.global_step)
        torch.rand(3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (1 + self.not_saved + self.epochs_begun)


class ByStep(Toy):
    """An attribute that depends on the number of steps at the start of the epoch."""

    def on_train_epoch_start(self) -> None:
        self.scale = 1.0 + self.global_step

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * self.scale


class PrunesAtTheStart(Toy):
    """A hook prunes a layer at the start of each epoch."""

    def on_train_epoch_start(self) -> None:
        prune.l1_unstructured(self.net[0], "weight", amount=0.2)


class Levels(PointData):
    """A datamodule that saves what a callback raises at the start of each epoch."""

    level = 0.0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"level": self.level}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.level = state_dict["level"]


class Raises(Callback):
    """Raises the level of the data, which the loss depends on."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule.level += 1  # type: ignore[attr-defined]

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        optimizer.param_groups[0]["lr"] = 0.01 * trainer.datamodule.level  # type: ignore[attr-defined]


class Annealed(Toy):
    """An attribute is set at the start of an epoch, changed by each batch, and saved by the module's own hooks."""

    def on_train_epoch_start(self) -> None:
        self.temperature = 1.0 + self.current_epoch

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.temperature *= 0.9
        return super().training_step(batch, batch_idx) * self.temperature

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["temperature"] = self.temperature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.temperature = checkpoint["temperature"]


class Counter(Callback):
    """The same in a callback."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count = 100 * trainer.current_epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.count += 1
        pl_module.log("count", float(self.count))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class Gathered(Toy):
    """Outputs are gathered for the end of the epoch, which fails without them: only saves at its end are exact."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.outputs: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("train/gathered", torch.stack(self.outputs).mean())
        self.outputs.clear()


@pytest.mark.parametrize(
    "cell",
    [
        replace(SHORT_CELL, callbacks=lambda: [EpochTimer()]),
        replace(SHORT_CELL, module_class=ByEpoch),
        replace(CELL, module_class=WithEffects),
        replace(CELL, module_class=WithEffects, trainer={**SHORT, "accumulate_grad_batches": 2}, num_boundaries=4),
        replace(SHORT_CELL, module_class=Annealed),
        replace(SHORT_CELL, module_class=ByStep),
        replace(CELL, module_class=PrunesAtTheStart),
        replace(SHORT_CELL, data_class=Levels, callbacks=lambda: [Raises()]),
        replace(SHORT_CELL, callbacks=lambda: [Counter()]),
        replace(SHORT_CELL, module_class=Gathered, interval="1ep"),
    ],
    ids=[
        *("timer", "by epoch", "effects", "effects, accumulation", "annealed", "by step", "pruning", "datamodule"),
        *("callback", "gathered, at epochs"),
    ],
)
def test_hooks_before_the_first_batch_are_exact(cell: Cell, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    check_every_stop(cell, copies, tmp_path)


class Hooks(Callback):
    """Notes the hooks at the start and at the end of epochs, with the epoch that they see."""

    def __init__(self, seen: list[tuple[str, int]]) -> None:
        self._seen = seen

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen.append(("start", trainer.current_epoch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen.append(("end", trainer.current_epoch))


def noted(run: Path, max_epochs: int, max_steps: int = -1) -> list[tuple[str, int]]:
    seen: list[tuple[str, int]] = []
    trainer = {**SHORT, "max_epochs": max_epochs, "max_steps": max_steps}
    toy.train(run, Cell(trainer=trainer, callbacks=lambda: [Hooks(seen)], audit="off"))
    return seen


def test_an_extended_run_does_not_enter_its_last_epoch_again(tmp_path: Path) -> None:
    assert noted(tmp_path, 1) == [("start", 0), ("end", 0)]
    assert noted(tmp_path, 1) == []
    assert noted(tmp_path, 3) == [("start", 1), ("end", 1), ("start", 2), ("end", 2)]


def test_a_run_that_ended_inside_an_epoch_begins_it_again_once(tmp_path: Path) -> None:
    noted(tmp_path, 3, max_steps=4)
    assert noted(tmp_path, 3) == [("start", 1), ("end", 1), ("start", 2), ("end", 2)]


def test_the_hooks_at_the_end_of_a_training_run_even_if_nothing_is_left_to_train(tmp_path: Path) -> None:
    ends: list[int] = []

    class End(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            ends.append(trainer.global_step)

    for _ in range(2):
        toy.train(tmp_path, Cell(trainer=SHORT, callbacks=lambda: [End()]))
    assert ends == [6, 6]


def test_a_hook_that_fails_when_it_is_repeated_is_named_and_the_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class AddsAGroup(Toy):
        num_calls = 0

        def on_train_epoch_start(self) -> None:
            self.num_calls += 1
            if self.trainer.ckpt_path and self.num_calls == 1:
                raise KeyError("parameter")

    cell = Cell(module_class=AddsAGroup, trainer={**SHORT, "max_steps": 4}, audit="off")
    toy.train(tmp_path, cell)
    assert len(toy.train(tmp_path, replace(cell, trainer=SHORT))) == 2
    assert "AddsAGroup.on_train_epoch_start failed when this resume repeated it (KeyError: 'parameter')" in caplog.text


def test_a_progress_bar_shows_its_total_after_a_resume_inside_an_epoch(tmp_path: Path) -> None:
    totals = []

    class Bar(TQDMProgressBar):
        def on_train_batch_end(self, *arguments: Any) -> None:
            super().on_train_batch_end(*arguments)
            totals.append((self.train_progress_bar.n, self.train_progress_bar.total))

    trainer = {**SHORT, "enable_progress_bar": True}
    toy.train(tmp_path, Cell(trainer={**trainer, "max_steps": 4}, callbacks=lambda: [Bar()]))
    toy.train(tmp_path, Cell(trainer=trainer, callbacks=lambda: [Bar()]))
    assert totals[-2:] == [(2, 3), (3, 3)]


def test_an_epoch_that_ends_without_a_batch_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    class Skips(Toy):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 2 else None

    cell = replace(CELL, module_class=Skips, audit="warn")
    copies = tmp_path / "copies"
    copies.mkdir()
    check_every_stop(cell, copies, tmp_path)
    kept = [item.name for item in Catalog(tmp_path / "whole" / "checkpoints").committed()]
    assert kept[-2:] == ["epoch_001_batch_000002.ckpt", "epoch_002_batch_000000.ckpt"]


def test_a_file_that_changes_while_it_is_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(module_class=ByEpoch, trainer={**SHORT, "max_steps": 4})
    toy.train(tmp_path, cell)
    original = Restart.load

    def later(self: Restart, ours: dict[str, Any]) -> None:
        original(self, {**ours, "position": {**ours["position"], "total_batches": 3}})

    monkeypatch.setattr(Restart, "load", later)
    with pytest.raises(ResumeError, match="has changed while it was loaded: start again"):
        toy.train(tmp_path, replace(cell, trainer=SHORT))


def test_the_callbacks_of_lightning_do_not_make_a_resume_load_twice(tmp_path: Path) -> None:
    loads = []

    class Counts(Toy):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            loads.append(1)

    cell = Cell(module_class=Counts, trainer={**SHORT, "max_steps": 4, "enable_model_summary": True})
    toy.train(tmp_path, cell)
    toy.train(tmp_path, replace(cell, trainer=SHORT))
    assert loads == [1]


def test_plain_loaders_are_exact_at_the_end_of_epochs(tmp_path: Path) -> None:
    """torch's loader draws the order of an epoch from the global generator, which a checkpoint contains."""

    class Plain(PointData):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(self.train_set, 3, shuffle=True)  # type: ignore[arg-type]

    cell = replace(SHORT_CELL, data_class=Plain, interval="1ep")
    copies = tmp_path / "copies"
    copies.mkdir()
    with pytest.warns(UserWarning, match="does not save its position"):
        check_every_stop(cell, copies, tmp_path)
