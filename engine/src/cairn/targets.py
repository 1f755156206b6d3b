"""Decides which objects a plain mapping may become: modules, optimizers and schedulers, and nothing else."""

import functools
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cairn.errors import SpecError

KINDS: tuple[type, ...] = (nn.Module, Optimizer, LRScheduler)

_TARGET = "_target_"
_PARTIAL = "_partial_"
_RECURSIVE = "_recursive_"
_HYDRA_KEYS = {_TARGET, _PARTIAL, _RECURSIVE, "_convert_"}


def build(spec: Any, *kinds: type) -> Any:
    """Build `{"_target_": "torch.optim.AdamW", "lr": 1e-3, "_partial_": True}`, as Hydra would, but only
    `kinds`.

    Specs also come out of checkpoint files, so a spec must not be able to call what it likes: the target has
    to be a class and a subclass of one of `kinds`, and those of nested mappings one of `KINDS`. To find that
    out its module is imported. With `_recursive_: false` nested mappings are handed on as they are;
    `_convert_` is ignored.

    Args:
        spec: a mapping with `_target_`; anything that is not a mapping is returned as it is.
        kinds: base classes; without any, `KINDS`.

    Returns:
        the object, or with `_partial_: true` a `functools.partial` that makes it.

    Raises:
        TypeError: if the target is nothing that may be built, or a mapping names none.
        ImportError: if there is no such target.
    """
    if not isinstance(spec, Mapping):
        return spec
    cls = _target(spec, kinds or KINDS)
    arguments = {str(key): value for key, value in spec.items() if key not in _HYDRA_KEYS}
    if spec.get(_RECURSIVE, True):
        arguments = {key: _nested(value) for key, value in arguments.items()}
    return functools.partial(cls, **arguments) if spec.get(_PARTIAL, False) else cls(**arguments)


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(value) if _TARGET in value else {key: _nested(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_nested(item) for item in value]
    return value


def _target(spec: Mapping[Any, Any], kinds: tuple[type, ...]) -> type:
    name = spec.get(_TARGET)
    if not isinstance(name, str):
        raise SpecError(f"A spec has to name its class under {_TARGET}, but has only the keys {list(spec)}.")
    try:
        target = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"There is no {_TARGET}={name}: {error}.") from error
    if not (isinstance(target, type) and issubclass(target, kinds)):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise SpecError(f"{_TARGET}={name} may not be built here: it has to be a subclass of {allowed}.")
    return target
