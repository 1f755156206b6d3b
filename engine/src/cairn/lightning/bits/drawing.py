"""Random numbers of the model: a function of (seed, step, virtual rank).

Each batch begins with generators of its own, and so does what comes between two of them, which is then the same on all
processes: the step of the optimizer, and the hooks after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer

from cairn.data.generators import Generators
from cairn.data.seeding import mix_seed, seed_global_generators
from cairn.lightning.bits import held
from cairn.lightning.saved import unsaved

_BATCH, _STEP, _AFTER, _EVALUATION = range(4)
"""Kinds of moments, which draw other numbers."""


class Drawing:
    """Seeds the global generators of torch (and its current device), numpy and Python, and those of module and hooks.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._held = Generators()

    def find(self, trainer: Trainer) -> None:
        """Find the generators that the module and the callbacks hold."""
        self._held = held.generators(trainer)

    def begin(self) -> None:
        """Seed what comes before the first batch: processes may have been seeded differently."""
        self.after(-1)

    def batch(self, step: int, virtual: int) -> None:
        """Seed a batch of the training."""
        self._seed(_BATCH, step, virtual)

    def optimizer_step(self, step: int) -> None:
        """Seed the step of the optimizer, and the hooks after it."""
        self._seed(_STEP, step)

    def after(self, step: int) -> None:
        """Seed what follows a global batch."""
        self._seed(_AFTER, step)

    @contextmanager
    def evaluation(self, step: int, loader: int, batch: int) -> Iterator[None]:
        """Context in which a batch of a validation draws; what follows the validation does not see it."""
        before, of_held = unsaved.rng_state(), self._held.states()
        self._seed(_EVALUATION, step, loader, batch)
        try:
            yield
        finally:
            unsaved.set_rng_state(before)
            self._held.set_states(of_held)

    def _seed(self, *moment: int) -> None:
        seed = mix_seed(self.seed, *moment)
        _seed(seed)
        self._held.seed(seed)


def _seed(seed: int) -> None:
    seed_global_generators(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
