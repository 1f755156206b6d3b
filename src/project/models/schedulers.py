"""Learning-rate schedulers that torch does not have."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then a half cosine down to `min_factor` times the learning rate.

    After t scheduler steps, the learning rate is multiplied by f(t), with w = warmup_steps, T = total_steps
    and m = min_factor:

        t < w:         f(t) = (t + 1) / (w + 1)
        w <= t <= T:   f(t) = m + (1 - m) * (1 + cos(pi * (t - w) / (T - w))) / 2
        t > T:         f(t) = m

    The cosine is equation 5 of I. Loshchilov, F. Hutter, "SGDR: Stochastic gradient descent with warm
    restarts", ICLR 2017, without restarts.

    Args:
        optimizer: Optimizer whose learning rates are multiplied.
        warmup_steps: Length of the warm-up; 0 starts at the full rate.
        total_steps: Length of the whole schedule, including the warm-up.
        min_factor: Fraction of the rate that remains at the end.
        last_epoch: Index of the last step, as in torch; -1 starts at the beginning.

    Raises:
        ValueError: A number of steps is negative.
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
            raise ValueError(f"warmup_steps={warmup_steps} and total_steps={total_steps} must not be negative.")
        super().__init__(optimizer, Factor(warmup_steps, total_steps, min_factor), last_epoch)


class Factor:
    """f(t) of `WarmupCosine`."""

    # A class and not a lambda: LambdaLR saves the attributes of a callable object, but cannot save a lambda.

    def __init__(self, warmup_steps: int, total_steps: int, min_factor: float) -> None:
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.min_factor = min_factor

    def __call__(self, step: int) -> float:
        """Return f(step)."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        length = max(1, self.total_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / length)
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * progress)) / 2
