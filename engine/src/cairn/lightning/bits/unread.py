"""Gradients that a batch would read before it has any: those of the step before, or of another batch of its process.

They are taken away before each batch, so that a `training_step` finds None on any number of processes. In the first
global batch, reading one is an error, because the code seems to need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from cairn.errors import ConfigError
from cairn.lightning.bits.seen import is_of_user

_GRADIENT: Any = nn.Parameter.grad
"""Where torch keeps it."""


class Unread:
    """The gradients that the last step has left, which batches do not see.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters: list[nn.Parameter] = []
        self._left: list[Tensor | None] = []
        self._is_first = True

    def begin_batch(self, number: int) -> None:
        """Take the gradients away.

        Args:
            number: Number of the batch among those of this process in their global batch.
        """
        if number == 0:
            self._parameters = [one for one in self._module.parameters() if one.requires_grad]
            self._left = [one.grad for one in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    def put_back(self) -> None:
        """Give hooks of the step what the last one has left, before the gradients are set to zero."""
        for parameter, gradient in zip(self._parameters, self._left, strict=True):
            if gradient is None or gradient.shape == parameter.shape:  # else a hook has made it larger
                parameter.grad = gradient
        self._left, self._is_first = [None] * len(self._parameters), False

    def reading(self) -> AbstractContextManager[None]:
        """Context of a `training_step`.

        Raises:
            ConfigError: It reads one of them, in the first global batch.
        """
        return refused(self._parameters) if self._is_first else nullcontext()


@contextmanager
def refused(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which it is an error that code of the user reads a gradient that is not there.

    One that a backward pass in this context has made may be read.

    Args:
        parameters: The parameters that are trained.

    Raises:
        ConfigError: Code of the user reads one.
    """
    known = {id(parameter) for parameter in parameters}

    def get(parameter: nn.Parameter) -> Any:
        found = _GRADIENT.__get__(parameter)
        if found is None and id(parameter) in known and is_of_user(1):
            raise ConfigError(
                "training_step reads the gradient of a parameter (.grad), and with elastic='bits' a batch has none"
                " before its backward pass: those of other batches depend on the number of processes. Read gradients"
                " in on_before_optimizer_step, or compute them by torch.autograd.grad.",
                parameter="elastic",
            )
        return found

    kind: Any = nn.Parameter
    kind.grad = property(get, _GRADIENT.__set__, _GRADIENT.__delete__)
    try:
        yield
    finally:
        del kind.grad
