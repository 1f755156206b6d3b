"""Trials on the digits that can pause after any epoch: the schedule is always that of the full run."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from project.data.digits import Digits, Scans
from project.models.mlp import MLP
from project.models.schedulers import WarmupCosine

_BATCH = 64
_WORST = 1e3
"""Loss of a trial that diverged, so that it can be compared."""
Pairs = tuple[Tensor, Tensor]
"""Images and labels."""


@dataclass(frozen=True)
class Setting:
    """What a search chooses."""

    lr: float
    weight_decay: float
    dropout: float
    width: int


def draw(source: random.Random) -> Setting:
    """Draw a setting: rates and width evenly on a logarithmic scale."""
    return Setting(
        lr=10 ** source.uniform(-5, -0.5),
        weight_decay=10 ** source.uniform(-4, 1),
        dropout=source.uniform(0, 0.8),
        width=round(2 ** source.uniform(3, 8)),
    )


class Trial:
    """A training of one setting. Each epoch has random numbers of its own, so that a pause changes nothing.

    Args:
        setting: The setting.
        data: Sets for training, validation and test.
        seed: Seed of the weights, the order of samples and the dropout.
        num_epochs: Length of the full run.
    """

    def __init__(self, setting: Setting, data: tuple[Pairs, Pairs, Pairs], seed: int, num_epochs: int) -> None:
        self._data, self._seed = data, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._net = MLP(64, [setting.width] * 2, 10, setting.dropout)
        self._optimizer = torch.optim.AdamW(
            self._net.parameters(), setting.lr, weight_decay=setting.weight_decay, fused=True
        )
        self._scheduler = WarmupCosine(self._optimizer, 0, num_epochs * num_batches(data[0]))
        self.curve: list[float] = []
        """Loss on the validation set after each epoch."""

    def score(self, epochs: int) -> float:
        """Return the loss on the validation set after a number of epochs; train on as far as it takes."""
        while len(self.curve) < epochs:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2**20 * (self._seed + 1) + len(self.curve))
                self._epoch()
            self.curve.append(self._evaluate(self._data[1])[0])
        return self.curve[epochs - 1]

    def test(self) -> tuple[float, float]:
        """Return loss and accuracy on the test set."""
        return self._evaluate(self._data[2])

    def _epoch(self) -> None:
        images, labels = self._data[0]
        self._net.train()
        for chosen in torch.randperm(len(labels)).split(_BATCH):
            self._optimizer.zero_grad()
            cross_entropy(self._net(images[chosen]), labels[chosen]).backward()
            self._optimizer.step()
            self._scheduler.step()

    @torch.no_grad()
    def _evaluate(self, pairs: Pairs) -> tuple[float, float]:
        images, labels = pairs
        self._net.eval()
        logits = self._net(images)
        loss = float(cross_entropy(logits, labels))
        return min(loss, _WORST) if math.isfinite(loss) else _WORST, float((logits.argmax(1) == labels).float().mean())


def num_batches(train: Pairs) -> int:
    """Return the batches of an epoch."""
    return math.ceil(len(train[1]) / _BATCH)


def digits(seed: int) -> tuple[Pairs, Pairs, Pairs]:
    """Return the digits, split by a seed."""
    module = Digits(seed=seed)
    module.setup()
    train, val, test = (_pairs(item) for item in (module.train_set, module.val_set, module.test_set))
    return train, val, test


def _pairs(of: object) -> Pairs:
    assert isinstance(of, Scans)
    return of.images, of.labels


class Trials:
    """The trials of a search, in a fixed order; each is trained once, as far as any way of searching asks for.

    Args:
        seed: Seed of the settings, the split and the trainings.
        num_epochs: Length of a full run.
    """

    def __init__(self, seed: int, num_epochs: int) -> None:
        self._data, self._num_epochs, self._seed = digits(seed), num_epochs, seed
        self._settings = random.Random(seed)
        self._trials: list[Trial] = []

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return num_batches(self._data[0])

    def score(self, trial: int, epochs: int) -> float:
        """Return the score of a trial after a number of epochs."""
        # A trial that restarts trains the same batches again, with the same result: only its cost is another.
        return self[trial].score(epochs)

    def __getitem__(self, number: int) -> Trial:
        while len(self._trials) <= number:
            setting = draw(self._settings)
            seed = 1000 * self._seed + len(self._trials)
            self._trials.append(Trial(setting, self._data, seed, self._num_epochs))
        return self._trials[number]
