"""What a model is made of when it is built: its buffers and weights before anything is loaded and any hook has run.

A process that resumes builds the model like this again. So what training has changed since then is what a file holds
and a new model lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cairn.lightning.reading import modules

ABSENT, EMPTY, LAZY = "absent", "None", "lazy"
"""Forms of a buffer that is not registered, that has no tensor, and that gets its shape with the first batch."""
Shape = torch.Size | str | None
"""Shape of a parameter, which is `LAZY` for a while; None: a metric."""


class Built:
    """Names and forms of the parts of one model. A form is a dtype and a shape, as a plain string."""

    def __init__(self) -> None:
        self.buffers: dict[str, str] = {}
        self.weights: dict[str, Shape] = {}
        """Parameters by name, with their shapes; metrics without one."""
        self.parts: set[str] = set()
        """Names of the modules in it."""
        self.is_complete = False

    def first(self, name: str) -> str:
        """Return the form of a buffer when the model was built."""
        return self.buffers.get(name, ABSENT)

    def add(self, module: nn.Module) -> None:
        """Add what is not known yet."""
        self.buffers = buffers(module) | self.buffers
        self.weights = weights(module) | self.weights
        self.parts |= {name for name, _ in module.named_modules()}


_BUILT: WeakKeyDictionary[nn.Module, Built] = WeakKeyDictionary()


def note(module: nn.Module, is_complete: bool = False) -> Built:
    """Return how a module was built, after noting what is new in it.

    Args:
        module: The module.
        is_complete: Whether it is built now, after `setup` and `configure_model`: what comes later is a change.
    """
    built = _BUILT.setdefault(module, Built())
    if not built.is_complete:
        built.add(module)
        built.is_complete = is_complete
    return built


def forget(module: nn.Module) -> None:
    """Forget how a module was built: another trainer begins with what it is now."""
    _BUILT.pop(module, None)


def known(module: nn.Module) -> Built | None:
    """Return how a module was built; None if that was not noted."""
    built = _BUILT.get(module)
    return built if built is not None and built.is_complete else None


def buffers(module: nn.Module) -> dict[str, str]:
    """Return the forms of all buffers by name, also of those without a tensor."""
    return {name: form(part._buffers[leaf]) for name, part, leaf in each_buffer(module)}


def each_buffer(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, owner and name in the owner of each buffer."""
    for prefix, part in modules.named(module):
        for leaf in part._buffers:
            yield f"{prefix}.{leaf}".lstrip("."), part, leaf


def persistent(module: nn.Module) -> Iterator[str]:
    """Yield the names of buffers that the state_dict contains, or would if they had a tensor.

    Without `state_dict()`, which all ranks of a sharded module would have to call.
    """
    for name, part, leaf in each_buffer(module):
        if leaf not in part._non_persistent_buffers_set:
            yield name


def weights(module: nn.Module) -> dict[str, Shape]:
    """Return the shapes of the parameters by name, and the names of metrics."""
    found: dict[str, Shape] = {}
    _add_shapes(module, "", found)
    return found | {name: None for name, part in modules.named(module) if modules.is_metric(part)}


def _add_shapes(module: nn.Module, prefix: str, found: dict[str, Shape]) -> None:
    # Not `named_parameters`, which takes three times as long. With all names of a tied weight or module: hooks before
    # the first batch may tie them, and do so again in a resume.
    for leaf, item in module._parameters.items():
        if item is not None:
            found[prefix + leaf] = LAZY if is_lazy(item) else item.shape
    for name, part in module._modules.items():
        if part is not None:
            _add_shapes(part, f"{prefix}{name}.", found)


def form(tensor: Tensor | None) -> str:
    """Return the dtype and the shape of a tensor as plain text."""
    if tensor is None:
        return EMPTY
    return LAZY if is_lazy(tensor) else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
