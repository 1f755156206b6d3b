"""Decides how the learning rate goes: up in a line, then down along half a cosine."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Learning rate times f(t), t being the number of scheduler steps done, with w = warmup_steps and
    T = total_steps:

        t < w:         f(t) = (t + 1) / (w + 1)
        w <= t <= T:   f(t) = m + (1 - m) * (1 + cos(pi * (t - w) / (T - w))) / 2,   m = min_factor
        t > T:         f(t) = m

    The cosine is that of I. Loshchilov, F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
    ICLR 2017, equation 5, without restarts. A run shorter than its warm-up ends on the line. The state holds
    numbers only.

    Args:
        optimizer: whose learning rates are multiplied.
        warmup_steps: of the line; 0 begins at the full rate.
        total_steps: of the whole course, the warm-up included.
        min_factor: what is left of the rate at the end.
        last_epoch: as in torch: -1 starts.

    Raises:
        ValueError: if one of the two numbers of steps is negative.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        min_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if min(warmup_steps, total_steps) < 0:
            raise ValueError(f"warmup_steps={warmup_steps} and total_steps={total_steps} have to be >= 0.")
        super().__init__(optimizer, Factor(warmup_steps, total_steps, min_factor), last_epoch)


class Factor:
    """f of `WarmupCosine`. An object, because LambdaLR saves the numbers of an object, and nothing of a
    lambda."""

    def __init__(self, warmup_steps: int, total_steps: int, min_factor: float) -> None:
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.min_factor = min_factor

    def __call__(self, step: int) -> float:
        """Return f(step)."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        length = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / length)
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * done)) / 2
