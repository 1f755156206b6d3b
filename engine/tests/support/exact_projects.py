"""Small projects for `cairn.testing.assert_exact`: an exact one, and one with each kind of fault."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset

import cairn


class Net(LightningModule):
    """A linear model with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.1)


class Annealed(Net):
    """Its temperature is a plain attribute, which training changes."""

    temperature = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.temperature *= 0.9
        return super().training_step(batch, batch_idx) * self.temperature


class Hidden(Net):
    """The same in an attribute that nothing plain shows."""

    def __init__(self) -> None:
        super().__init__()
        self._state = [1.0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._state[0] *= 0.9
        return super().training_step(batch, batch_idx) * self._state[0]


class Timer(Callback):
    """Has a time of its own, which is not a fault."""

    def on_train_batch_start(self, *args: Any) -> None:
        self.started = time.time()


class OwnGenerator(Dataset):
    """Draws its noise from a generator that it owns."""

    def __init__(self) -> None:
        self.draws = torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> list[Tensor]:
        return [torch.full((3,), float(index)) + torch.randn(3, generator=self.draws)]


def _made(model: LightningModule, data: Any, callbacks: list[Callback] | None = None) -> tuple[Trainer, Any, Any]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    return Trainer(accelerator="cpu", max_epochs=5, callbacks=callbacks, **quiet), model, data


def _points() -> TensorDataset:
    return TensorDataset(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))


def exact() -> Any:
    """Nothing is wrong here."""
    seed_everything(0, verbose=False)
    return _made(Net(), cairn.DataLoader(_points(), 4, shuffle=True), [Timer()])


def attribute() -> Any:
    """A plain attribute is lost."""
    seed_everything(0, verbose=False)
    return _made(Annealed(), cairn.DataLoader(_points(), 4, shuffle=True))


def hidden() -> Any:
    """A private attribute is lost."""
    seed_everything(0, verbose=False)
    return _made(Hidden(), cairn.DataLoader(_points(), 4, shuffle=True))


def torch_loader() -> Any:
    """The loader does not save its position."""
    seed_everything(0, verbose=False)
    return _made(Net(), TorchDataLoader(_points(), 4, shuffle=True))


def own_generator() -> Any:
    """The dataset draws from a generator that no checkpoint holds, and that is not seeded for each sample."""
    seed_everything(0, verbose=False)
    return _made(Net(), cairn.DataLoader(OwnGenerator(), 4, seeded_items=False))


def unseeded() -> Any:
    """Two runs begin with different weights."""
    torch.manual_seed(time.time_ns())
    return _made(Net(), cairn.DataLoader(_points(), 4, shuffle=True))


def never_seeded() -> Any:
    """No seed is set: each start draws other weights, which a resume replaces."""
    return _made(Net(), cairn.DataLoader(_points(), 4, shuffle=True))


def returns_nothing() -> Any:
    """It forgets to return what it builds."""
    exact()


def broken() -> Any:
    """It cannot be built."""
    raise RuntimeError("no such data")
