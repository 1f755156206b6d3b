"""The parts of a model by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeGuard

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torchmetrics import Metric

from cairn.lightning.reading.code import cached

_Named = list[tuple[str, nn.Module]]
_kept: tuple[nn.Module, _Named] | None = None
"""The model of `unchanging`, and its modules."""


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """Context in which no module is added to a model or removed: `named` walks through it once."""
    global _kept
    _kept = (model, named(model))
    try:
        yield
    finally:
        forget()


def forget() -> None:
    """End the context of `unchanging`: the model changes, such as in a forked process that tries a hook."""
    global _kept
    _kept = None


_registered: list[int] = []
"""Number of modules that were registered as a part of another one; empty: not counted yet."""


def num_registered() -> int:
    """Return the number of modules that were registered in others since the first call: no more, no new part.

    Those that `ModuleList.insert` adds are not counted.
    """
    if not _registered:
        _registered.append(0)
        register_module_module_registration_hook(_count)
    return _registered[0]


def _count(*_: Any) -> None:
    _registered[0] += 1


def is_metric(module: nn.Module) -> TypeGuard[Metric]:
    """Whether a module is one of torchmetrics; asking the abstract class each time takes longer."""
    kind: Any = type(module)
    return _is_metric(kind)


@lru_cache(1024)
def _is_metric(kind: type) -> bool:
    return issubclass(kind, Metric)


def named(model: nn.Module, root: str = "") -> _Named:
    """Return the modules of a model by name, each once, in the order of `named_modules`.

    It takes a fraction of the time of `named_modules`, which passes each module through a generator per level.

    Args:
        model: The model.
        root: Name of the model itself, with which all names begin.
    """
    if not root and _kept is not None and _kept[0] is model:
        return _kept[1]
    found: dict[int, tuple[str, nn.Module]] = {}
    waiting = [(root, model)]
    while waiting:
        name, module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = (name, module)
            if inner := vars(module).get("_modules"):
                prefix = f"{name}." if name else ""
                waiting += [(f"{prefix}{key}", part) for key, part in reversed(inner.items()) if part is not None]
    return list(found.values())


def classes(model: nn.Module) -> str:
    """Return a digest of the names and classes of the parts of a model, without its metrics.

    A lazy module counts as what its first batch makes of it.
    """
    found = [f"{name} {text}" for name, part in named(model) if (text := _text(type(part)))]
    return hashlib.blake2b("\n".join(found).encode(), digest_size=8).hexdigest()


@cached
def _text(kind: type[nn.Module]) -> str:
    """Return the name of a class; empty for that of a metric."""
    if issubclass(kind, Metric) or kind.__module__.startswith("torchmetrics"):
        return ""
    kind = getattr(kind, "cls_to_become", None) or kind
    return f"{kind.__module__}.{kind.__qualname__}"
