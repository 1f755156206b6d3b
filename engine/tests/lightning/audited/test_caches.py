"""What is filled once may be a cache, unless training reads it and it comes from data."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.lightning.audited.test_audit import Net, messages
from torch import Tensor, nn

from cairn.lightning.audited.caches import comes_from_data


def _rotary(length: int, width: int) -> Tensor:
    angles = torch.outer(torch.arange(length).float(), 10000 ** (-torch.arange(0, width, 2) / width))
    return torch.stack([angles.cos(), angles.sin()])


@pytest.mark.parametrize(
    "value",
    [
        *(None, 3, 0.5, 1 / 3, "text", True, [0.5, 2], {"length": 3}, torch.ones(3), torch.arange(5.0)),
        *(torch.arange(4), torch.ones(5, 5).tril(), torch.full((5, 5), -torch.inf).triu(1), torch.empty(0)),
        *(_rotary(9, 8), _rotary(9, 8)[1], _rotary(9, 8)[0][None, None], np.eye(3), np.arange(3), object()),
    ],
)
def test_a_function_of_a_size_may_be_a_cache(value: Any) -> None:
    assert not comes_from_data(value)


@pytest.mark.parametrize(
    "value",
    [
        *(torch.linspace(-1, 1, 24).sin().reshape(4, 6), torch.linspace(-1, 1, 24).sin()),
        *(float(torch.tensor(0.6931471)), torch.tensor(0.6931471), np.linspace(0, 1, 5), nn.Linear(2, 2)),
        *([torch.linspace(0, 1, 5)], {"mean": torch.linspace(0, 1, 5)}),
    ],
)
def test_numbers_computed_from_data_are_not_a_cache(value: Any) -> None:
    assert comes_from_data(value)


class Filled(Net):
    """Fills an attribute in its first batch."""

    value: Any

    def __init__(self) -> None:
        super().__init__()
        self.filled: Any = None
        self.tables: dict[int, Tensor] = {}
        self.seen: dict[int, bool] = {}
        self.weights: dict[int, float] = {}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.filled = self.first(batch) if self.filled is None else self.filled
        self.more(batch_idx)
        return super().training_step(batch, batch_idx)

    def first(self, batch: Tensor) -> Any:
        return torch.ones(4)

    def more(self, batch_idx: int) -> None:
        pass


class Normalizes(Filled):
    def first(self, batch: Tensor) -> Tensor:
        return batch.mean(0)


class Relative(Filled):
    def first(self, batch: Tensor) -> float:
        return float(batch.square().mean())


class Projects(Filled):
    @cached_property
    def matrix(self) -> Tensor:
        return torch.randn(4, 4)

    def more(self, batch_idx: int) -> None:
        self.matrix.sum()


class Tabulates(Filled):
    def more(self, batch_idx: int) -> None:
        self.tables.setdefault(batch_idx, torch.arange(batch_idx + 1))


class Weighs(Filled):
    def more(self, batch_idx: int) -> None:
        self.weights.setdefault(batch_idx, 1 / (3 + batch_idx))


class Means(Filled):
    def more(self, batch_idx: int) -> None:
        self.weights.setdefault(batch_idx, float(self.layer.weight.detach().mean()))


class Remembers(Filled):
    def more(self, batch_idx: int) -> None:
        self.seen[batch_idx] = True


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Filled, ""),
        (Tabulates, ""),
        (Weighs, ""),
        (Means, "weights"),
        (Normalizes, "filled"),
        (Relative, "filled"),
        (Remembers, "seen"),
        (Projects, "matrix"),
    ],
)
def test_what_the_first_batches_fill(kind: type[Filled], name: str, tmp_path: Path) -> None:
    found = messages(tmp_path, kind(), max_steps=3)
    assert [text.startswith(f"Training changes {kind.__name__}.{name}, ") for text in found] == ([True] if name else [])
