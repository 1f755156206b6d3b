"""Small projects with one planted fault each, and the same projects cured, for the shared resume contract.

Each function at the top level builds trainer, model and data. `FAULTS` says what must be named; `CURES` are exact.
"""

from __future__ import annotations

import collections
import itertools
import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, Sampler, TensorDataset, default_collate
from torchmetrics import MeanMetric

import cairn

COUNT = 0
ENVIRONMENT = "CAIRN_TEST_COUNT"
STATE: dict[str, float] = {"scale": 1.0}


class Net(LightningModule):
    """A linear model with dropout, which validates."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))

    def loss(self, batch: Any) -> Tensor:
        """Return the mean square of the output."""
        return self.net(batch[0]).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch) * self.factor()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch) * self.val_factor())

    def factor(self) -> Any:
        """Factor of the loss in training; faults change it."""
        return 1.0

    def val_factor(self) -> Any:
        """Factor of the loss in validation."""
        return 1.0

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.1)


class Annealed(Net):
    """Anneals a temperature in a plain attribute."""

    temperature = 1.0

    def factor(self) -> float:
        self.temperature *= 0.9
        return self.temperature


class AnnealedBuffer(Net):
    """The cure: a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0))

    def factor(self) -> Tensor:
        self.temperature *= 0.9
        return self.temperature.clone()


class AnnealedSaved(Annealed):
    """The other cure: the hooks of a checkpoint."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["temperature"] = self.temperature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.temperature = checkpoint["temperature"]


class Private(Net):
    """Hides it in a private attribute."""

    def __init__(self) -> None:
        super().__init__()
        self._x = [1.0]

    def factor(self) -> float:
        self._x[0] *= 0.9
        return self._x[0]


class Nested(Net):
    """Hides it in an object of its own."""

    class Schedule:
        """Has a state."""

        def __init__(self) -> None:
            self.recent: collections.deque[float] = collections.deque([1.0], maxlen=3)

    def __init__(self) -> None:
        super().__init__()
        self.schedule = self.Schedule()

    def factor(self) -> float:
        self.schedule.recent.append(self.schedule.recent[-1] * 0.9)
        return self.schedule.recent[-1]


class AverageInList(Net):
    """Keeps averages of its weights in a list, and validates with them."""

    def __init__(self) -> None:
        super().__init__()
        self.average = [parameter.detach().clone() for parameter in self.parameters()]

    def on_train_batch_end(self, *arguments: Any) -> None:
        for mean, parameter in zip(self.average, self.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 0.1)

    def val_factor(self) -> Any:
        return self.average[0].sum()


class AverageInBuffers(AverageInList):
    """The cure: buffers."""

    def __init__(self) -> None:
        super().__init__()
        for number, mean in enumerate(self.average):
            self.register_buffer(f"average_{number}", mean)

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.average = [getattr(self, f"average_{number}") for number in range(len(self.average))]
        super().on_train_batch_end(*arguments)

    def val_factor(self) -> Any:
        return self.average_0.sum()


class Gathered(Net):
    """Gathers outputs in a list for the end of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train/mean", torch.stack(self.outputs).mean())
        self.outputs.clear()


class Logged(Net):
    """The cure: `self.log` does it."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        return loss


class MetricInList(Net):
    """Keeps a torchmetrics object where Lightning does not find it."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = [MeanMetric()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.metrics[0].update(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train/mean", self.metrics[0].compute())
        self.metrics[0].reset()


class SecondOptimizer(Net):
    """Steps an optimizer that Lightning does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.own = torch.optim.Adam([self.bias], 0.1)

    def factor(self) -> Any:
        self.own.step()
        self.own.zero_grad()
        return 1 + self.bias.square() + self.bias

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), 0.1)


class Global(Net):
    """Counts in a variable of its module."""

    def factor(self) -> float:
        global COUNT
        COUNT += 1
        return 0.9**COUNT


class GlobalDict(Net):
    """Anneals in a dict of its module."""

    def factor(self) -> float:
        STATE["scale"] *= 0.9
        return STATE["scale"]


class OfClass(Net):
    """Counts in an attribute of its class."""

    calls = 0

    def factor(self) -> float:
        type(self).calls += 1
        return 0.9**self.calls


class Drawn(Net):
    """Draws random numbers at the start of training, which differ after a resume."""

    def on_train_start(self) -> None:
        self.noise = random.random() + torch.rand(()).item()

    def factor(self) -> float:
        return 1 + self.noise


class Environment(Net):
    """Counts in an environment variable, where nothing of it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        os.environ[ENVIRONMENT] = "0"

    def factor(self) -> float:
        os.environ[ENVIRONMENT] = str(int(os.environ[ENVIRONMENT]) + 1)
        return 1 / int(os.environ[ENVIRONMENT])


class Hooked(Net):
    """Counts in a hook of a layer."""

    def __init__(self) -> None:
        super().__init__()
        calls = [0.0]

        def hook(*arguments: Any) -> Any:
            calls[0] += 1
            return arguments[2] * calls[0]

        self.net[0].register_forward_hook(hook)


class Collate:
    """Makes batches that depend on how many were made before."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, samples: Any) -> Any:
        self.made += 1
        return [part * self.made for part in default_collate(samples)]


class Cycled(Net):
    """Its state is inside of an iterator."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = itertools.cycle([1.0, 0.5, 0.25, 0.125, 0.0625])

    def factor(self) -> float:
        return next(self.factors)


class Frozen(Net):
    """Freezes a layer once, in a hook that comes with a number of calls."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == 4:
            self.net[0].requires_grad_(False)


class ValidationCounter(Net):
    """Its validation depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._calls += 1
        return super().training_step(batch, batch_idx)

    def val_factor(self) -> float:
        return 0.9**self._calls


class HiddenScheduler(LRScheduler):
    """Forgets in its state_dict what the rate depends on."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.hidden = 1.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self.hidden *= 0.9
        return [rate * self.hidden for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}


class SavedScheduler(HiddenScheduler):
    """The cure."""

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "hidden": self.hidden}


def _with_scheduler(make: Any) -> type[Net]:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), "interval": "step"}}

    return Scheduled


def _closure(optimizer: torch.optim.Optimizer) -> LambdaLR:
    calls = [0]

    def rate(step: int) -> float:
        calls[0] += 1
        return 0.9 ** calls[0]

    return LambdaLR(optimizer, rate)


class Counter(Callback):
    """Counts batches without a state_dict."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.count += 1


class SavedCounter(Counter):
    """The cure."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class CountOfRankOne(Callback):
    """Counts batches on rank 1, without a state_dict, and draws as many random numbers there."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        if trainer.global_rank == 1:
            self.count += 1
            torch.rand(self.count)


class NeedsStart(Callback):
    """Needs what the first batch of an epoch has set."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.begun = float(batch[0].sum())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("begun", self.begun)


class Points(Dataset):
    """Sixteen points."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> list[Tensor]:
        return [torch.full((3,), float(index)) / 16]


class CountingData(Points):
    """Its samples depend on how many were read before."""

    def __init__(self) -> None:
        self.reads = 0

    def __getitem__(self, index: int) -> list[Tensor]:
        self.reads += 1
        return [torch.full((3,), index + 0.01 * self.reads)]


class NumpyNoise(Points):
    """Draws noise from a numpy generator of its own."""

    def __init__(self) -> None:
        self.draws = np.random.default_rng(0)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [torch.full((3,), index + float(self.draws.random()))]


class GlobalNoise(Points):
    """The cure: draws from the global generators."""

    def __getitem__(self, index: int) -> list[Tensor]:
        return [torch.full((3,), float(index)) + torch.rand(3)]


class OwnOrder(Sampler):
    """Shuffles by the number of epochs that it has counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __len__(self) -> int:
        return 16

    def __iter__(self) -> Any:
        self.calls += 1
        return iter(random.Random(self.calls).sample(range(16), 16))


def _points() -> TensorDataset:
    return TensorDataset(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))


def _made(model: Any, train: Any = None, callback: Callback | None = None) -> tuple[Trainer, Any, Any]:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[callback] if callback else None, **quiet)
    loader = train if train is not None else cairn.DataLoader(_points(), 4, shuffle=True)
    return trainer, model, (loader, TorchDataLoader(_points(), 4))


FAULTS = {
    "torch_loader": (lambda: _made(Net(), TorchDataLoader(_points(), 4, shuffle=True)), "sample", "cairn.DataLoader"),
    "counting_data": (
        lambda: _made(Net(), cairn.DataLoader(CountingData(), 4)),
        "CountingData.reads",
        "function of (epoch, index)",
    ),
    "numpy_noise": (
        lambda: _made(Net(), cairn.DataLoader(NumpyNoise(), 4, seeded_items=False)),
        "NumpyNoise.draws",
        "function of (epoch, index)",
    ),
    "annealed": (lambda: _made(Annealed()), "Annealed.temperature", "register_buffer"),
    "private": (lambda: _made(Private()), "Private._x", "on_save_checkpoint"),
    "nested": (lambda: _made(Nested()), "Nested.schedule.recent", "on_save_checkpoint"),
    "average_in_list": (lambda: _made(AverageInList()), "AverageInList.average", "register_buffer"),
    "gathered": (lambda: _made(Gathered()), "Gathered.outputs", "on_save_checkpoint"),
    "metric_in_list": (lambda: _made(MetricInList()), "MetricInList.metrics[0]", "on_save_checkpoint"),
    "second_optimizer": (lambda: _made(SecondOptimizer()), "SecondOptimizer.own", "on_save_checkpoint"),
    "module_global": (lambda: _made(Global()), "faults.COUNT", "state_dict"),
    "module_dict": (lambda: _made(GlobalDict()), "faults.STATE", "state_dict"),
    "class_attribute": (lambda: _made(OfClass()), "OfClass.calls", "state_dict"),
    "drawn": (lambda: _made(Drawn()), "Drawn.noise", "on_save_checkpoint"),
    "cycled": (lambda: _made(Cycled()), "Cycled.factors", "an iterator: its position"),
    "environment": (lambda: _made(Environment()), "tensor net.0.weight", "iterators"),
    "hook": (lambda: _made(Hooked()), "Hooked.net.0._forward_hooks[0].calls", "on_save_checkpoint"),
    "collate": (
        lambda: _made(Net(), cairn.DataLoader(_points(), 4, collate_fn=Collate())),
        "Collate.made",
        "A batch must be a function of its samples",
    ),
    "frozen": (lambda: _made(Frozen()), "Frozen.seen", "register_buffer"),
    "validation": (lambda: _made(ValidationCounter()), "ValidationCounter._calls", "register_buffer"),
    "scheduler": (lambda: _made(_with_scheduler(HiddenScheduler)()), "HiddenScheduler.hidden", "state_dict"),
    "closure": (lambda: _made(_with_scheduler(_closure)()), "LambdaLR.lr_lambdas[0].calls", "state_dict"),
    "callback": (lambda: _made(Net(), callback=Counter()), "Counter.count", "load_state_dict"),
    "needs_start": (lambda: _made(Net(), callback=NeedsStart()), "AttributeError", "repeats"),
    "sampler": (
        lambda: _made(Net(), cairn.DataLoader(_points(), 4, sampler=OwnOrder())),
        "OwnOrder.calls",
        "(seed, epoch)",
    ),
}
"""Project, name of the fault, and a part of the cure."""
NEVER_SEEDED = {"drawn"}
"""Projects in which each process begins with other random numbers."""
CURES = {
    "torch_loader": lambda: _made(Net()),
    "numpy_noise": lambda: _made(Net(), cairn.DataLoader(GlobalNoise(), 4)),
    "annealed": lambda: _made(AnnealedBuffer()),
    "annealed, saved": lambda: _made(AnnealedSaved()),
    "average_in_list": lambda: _made(AverageInBuffers()),
    "gathered": lambda: _made(Logged()),
    "scheduler": lambda: _made(_with_scheduler(SavedScheduler)()),
    "callback": lambda: _made(Net(), callback=SavedCounter()),
}


def make(name: str, cured: bool) -> Any:
    """Build one of the projects in a process whose generators start at a seed of their own."""
    if name not in NEVER_SEEDED:
        seed_everything(0, verbose=False)
    return CURES[name]() if cured else FAULTS[name][0]()
