"""Values of other types than a checkpoint file can hold, in a plain form that comes back as what it was.

    state             {"history": array([1., 2.]), "mode": Mode.FAST}
    in the file       {"history": tensor([1., 2.]), "mode": "fast"}    as other programs read it
    its table         [[["history"], "ndarray", "<f8"], [["mode"], "enum", ["project.modes:Mode", "FAST"]]]

Only `restore` reads the table. It makes objects of a few known types, and of enums, named tuples, dataclasses and
subclasses of Tensor that the program has imported already: it imports nothing, and calls no code that the file chooses,
except for the method with which such a subclass puts its tensors together.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import enum
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cairn.writing import subclasses
from cairn.writing.encode import Apart, Constant

OURS, TABLE = "cairn", "forms"
"""Keys of the table in a checkpoint. Part of the file format."""

log = logging.getLogger(__name__)

Form = tuple[str, Any, Any]
"""Kind of a form, what `restore` needs to know, and the plain value."""

_DONE = (str, int, float, bool, type(None), Tensor, nn.Parameter, bytes, complex, set, torch.Size, torch.dtype)
_PLAIN_ITEMS = (str, int, float, bool, type(None), tuple)
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_FACTORIES = {kind.__name__: kind for kind in (int, float, bool, str, list, dict, set, tuple)}


def to_plain(state: Any) -> tuple[Any, list[list[Any]]]:
    """Replace values by their plain forms.

    Args:
        state: It is not changed; containers of replaced values are copied.

    Returns:
        The plain state, and the table for `restore`. A value without a form stays as it is.
    """
    table: list[list[Any]] = []
    return _plain(state, (), table), table


def restore(contents: dict[str, Any]) -> None:
    """Make the values of a checkpoint again what they were, in place; a file without a table stays as it is."""
    ours = contents.get(OURS)
    table = ours.get(TABLE, []) if isinstance(ours, Mapping) else []
    for path, kind, argument in reversed(table):  # from the inside out
        try:
            _replace(contents, path, partial(_restored, kind, argument))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, LookupError) as error:
            where = "".join(f"[{key!r}]" for key in path)
            log.warning("checkpoint%s was saved as %s and is loaded as a plain value: %s.", where, kind, error)


def _restored(kind: str, argument: Any, plain: Any) -> Any:
    return _RESTORE[kind](plain, argument)


def _plain(value: Any, path: tuple[Any, ...], table: list[list[Any]]) -> Any:
    kind = type(value)
    if kind in _DONE:
        return value
    if kind is Constant:
        plain = _plain(value.value, path, table)
        return value if plain is value.value else plain
    if kind is Apart:
        plain = _plain(value.value, path, table)
        return value if plain is value.value else Apart(plain)
    if kind in (dict, collections.OrderedDict, collections.Counter):
        pairs = []
        for key, item in value.items():
            own = key.item() if isinstance(key, np.generic) else key  # equal to it, and with the same hash
            pairs.append((own, _plain(item, (*path, own), table)))
        if all(new[0] is old[0] and new[1] is old[1] for new, old in zip(pairs, value.items(), strict=True)):
            return value
        changed = copy.copy(value)  # with the attributes that torch adds
        changed.clear()
        changed.update(dict(pairs))
        return changed
    if kind in (list, tuple):
        items = [_plain(item, (*path, number), table) for number, item in enumerate(value)]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else kind(items)
    form = _form(value)
    if form is None:
        return value
    name, argument, plain = form
    table.append([list(path), name, argument])
    return _plain(plain, path, table)


def _form(value: Any) -> Form | None:
    for kinds, form in _FORMS:
        if isinstance(value, kinds):
            return form(value)
    if type(value).__module__.partition(".")[0] == "omegaconf":
        return _omegaconf(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        name = _name_of(type(value))
        return None if name is None else ("namedtuple", name, tuple(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type | nn.Module):
        name, names = _name_of(type(value)), [item.name for item in dataclasses.fields(value)]
        if name is not None and sorted(getattr(value, "__dict__", {})) == sorted(names):
            return "dataclass", name, dict(vars(value))
    return None


def _array(value: np.ndarray[Any, Any]) -> Form | None:
    if type(value) not in (np.ndarray, np.memmap):
        return None
    if value.dtype.kind in "mM":  # times
        return "ndarray", value.dtype.str, torch.from_numpy(np.array(value).view(np.int64))
    if value.dtype.kind == "U":
        return "ndarray", value.dtype.str, value.tolist()
    native = np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape)
    try:
        return "ndarray", value.dtype.str, torch.from_numpy(native if native.flags.writeable else native.copy())
    except TypeError:  # objects, structures
        return None


def _subclass(value: Tensor) -> Form | None:
    name = _name_of(type(value))
    if type(value) is Tensor or name is None or (found := subclasses.apart(value)) is None:
        return None
    how, parts = found
    return "subclass", name, {"how": how, "parts": parts}


def _number(value: np.generic) -> Form | None:
    if value.dtype.kind in "mM":
        return "numpy", value.dtype.str, int(value.view(np.int64))
    plain = value.item()
    return ("numpy", value.dtype.str, plain) if type(plain) in (bool, int, float, complex, str, bytes) else None


def _enum(value: enum.Enum) -> Form | None:
    name = _name_of(type(value))
    if name is None:
        return None
    if isinstance(value, enum.Flag):
        return "flag", name, int(value.value)
    return "enum", [name, value.name], value.value if type(value.value) in _PLAIN_ITEMS else value.name


def _path(value: pathlib.PurePath) -> Form | None:
    name = type(value).__name__
    return ("path", name, os.fspath(value)) if getattr(pathlib, name, None) is type(value) else None


def _default(value: collections.defaultdict[Any, Any]) -> Form | None:
    factory = value.default_factory
    name = getattr(factory, "__name__", "")
    if type(value) is not collections.defaultdict or (factory is not None and _FACTORIES.get(name) is not factory):
        return None
    return "defaultdict", name if factory is not None else None, dict(value)


def _moment(value: Any) -> Form | None:
    name = type(value).__name__
    if type(value) is datetime.timedelta:
        return "timedelta", None, [value.days, value.seconds, value.microseconds]
    zone = getattr(value, "tzinfo", None)
    if type(value) not in (datetime.datetime, datetime.date, datetime.time) or type(zone) not in _ZONES:
        return None
    return name, None, value.isoformat()


_ZONES = (type(None), datetime.timezone)


def _omegaconf(value: Any) -> Form | None:
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is None or not isinstance(value, omegaconf.DictConfig | omegaconf.ListConfig):
        return None
    try:
        plain = omegaconf.OmegaConf.to_container(value, resolve=True)
    except Exception:  # it refers to what is missing: the references are saved as they are
        plain = omegaconf.OmegaConf.to_container(value, resolve=False)
    return "omegaconf", None, plain


# The first match counts: an enum may be a number, and some numbers of numpy are Python's.
_FORMS: list[tuple[Any, Callable[[Any], Form | None]]] = [
    (Tensor, _subclass),
    (enum.Enum, _enum),
    (np.generic, _number),
    (np.ndarray, _array),
    (pathlib.PurePath, _path),
    (frozenset, lambda value: ("frozenset", None, sorted(value, key=repr)) if type(value) is frozenset else None),
    (
        collections.deque,
        lambda value: ("deque", value.maxlen, list(value)) if type(value) is collections.deque else None,
    ),
    (collections.defaultdict, _default),
    (bytearray, lambda value: ("bytearray", None, bytes(value))),
    (range, lambda value: ("range", None, [value.start, value.stop, value.step])),
    ((datetime.date, datetime.time, datetime.timedelta), _moment),
]


def _restored_array(plain: Any, dtype: str) -> Any:
    kind = np.dtype(dtype)
    if not isinstance(plain, Tensor):
        return np.array(plain, dtype=kind)
    array = plain.numpy(force=True).copy()
    return array.view(kind) if kind.kind in "mM" else array.astype(kind, copy=False)


def _restored_number(plain: Any, dtype: str) -> Any:
    kind = np.dtype(dtype)
    return np.int64(plain).view(kind) if kind.kind in "mM" else kind.type(plain)


def _restored_subclass(plain: dict[str, Any], name: str) -> Tensor:
    return subclasses.together(_class_of(name, Tensor), plain["how"], plain["parts"])


def _restored_dataclass(plain: dict[str, Any], name: str) -> Any:
    kind = _class_of(name, object)
    if not dataclasses.is_dataclass(kind) or {item.name for item in dataclasses.fields(kind)} != plain.keys():
        raise LookupError(f"{name} has other fields now")
    made: Any = object.__new__(_class_of(name, object))
    made.__dict__.update(plain)
    return made


_RESTORE: dict[str, Callable[[Any, Any], Any]] = {
    "enum": lambda plain, argument: _class_of(argument[0], enum.Enum).__members__[argument[1]],
    "flag": lambda plain, name: _class_of(name, enum.Flag)(plain),
    "numpy": _restored_number,
    "ndarray": _restored_array,
    "path": lambda plain, name: getattr(pathlib, name if name in _PATHS else "PurePath")(plain),
    "frozenset": lambda plain, _: frozenset(plain),
    "deque": lambda plain, maxlen: collections.deque(plain, maxlen),
    "defaultdict": lambda plain, name: collections.defaultdict(None if name is None else _FACTORIES[name], plain),
    "bytearray": lambda plain, _: bytearray(plain),
    "range": lambda plain, _: range(*plain),
    "datetime": lambda plain, _: datetime.datetime.fromisoformat(plain),
    "date": lambda plain, _: datetime.date.fromisoformat(plain),
    "time": lambda plain, _: datetime.time.fromisoformat(plain),
    "timedelta": lambda plain, _: datetime.timedelta(*plain),
    "namedtuple": lambda plain, name: tuple.__new__(_class_of(name, tuple), plain),
    "dataclass": _restored_dataclass,
    "subclass": _restored_subclass,
    "omegaconf": lambda plain, _: sys.modules["omegaconf"].OmegaConf.create(plain),
}


def _name_of(kind: type) -> str | None:
    """Return a name under which `_class_of` finds a class; None if there is none, as for a class in a function."""
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        return name if _class_of(name, object) is kind else None
    except LookupError:
        return None


def _class_of(name: str, base: type) -> Any:
    """Return a class that the program has imported."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if found is not None and hasattr(found, "__dict__") else None
    if not isinstance(found, type) or not issubclass(found, base):
        raise LookupError(f"{name} is not imported, or has become something else")
    return found


def _replace(container: Any, path: Iterable[Any], make: Callable[[Any], Any]) -> Any:
    """Replace the value at a path; return the container, or another one if it is a tuple."""
    path = list(path)
    if not path:
        return make(container)
    key, *rest = path
    new = _replace(container[key], rest, make)
    if isinstance(container, tuple):
        return (*container[:key], new, *container[key + 1 :])
    container[key] = new
    return container
