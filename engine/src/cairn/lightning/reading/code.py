"""Whose code a class or a function is, and what it names: attributes that it assigns, global variables that it reads.

Nothing here runs the user's code: classes and functions are read as they are stored.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn

_FRAMEWORKS = {"lightning", "lightning_fabric", "pytorch_lightning", "torch", "torchmetrics", "cairn", "numpy", "hydra"}
_INSTRUMENTS = {
    *("tqdm", "rich", "wandb", "tensorboard", "tensorboardX", "mlflow", "trackio", "neptune", "comet_ml", "clearml"),
    *("aim", "swanlab", "loguru", "structlog", "psutil", "pynvml", "codecarbon", "matplotlib"),
}
"""Packages whose objects watch a training: a progress bar, a logger, a figure."""
_LIBRARIES = _FRAMEWORKS | _INSTRUMENTS | (sys.stdlib_module_names - {"__main__"})
_HOLDERS = ("collections", "types", "argparse", "queue", "weakref", "enum", "_thread", "torch.utils.data")
"""Modules of libraries whose objects hold values of the user."""
_LISTS = {"__dict__", "vars"}
"""Names in a function that may read all attributes of an object."""
_STORE_ATTR = dis.opmap["STORE_ATTR"]
_MOST_FUNCTIONS, _MOST_WRAPPED = 2000, 16
_Function = TypeVar("_Function", bound=Callable[..., Any])


def cached(function: _Function) -> _Function:
    """Keep the results of a function. Every class can be hashed, which `functools.cache` does not know."""
    return functools.cache(function)  # type: ignore[return-value]


@cached
def is_library(kind: type | FunctionType) -> bool:
    """Whether a class or function belongs to a library whose objects are not the user's state."""
    return str(kind.__module__).partition(".")[0] in _LIBRARIES


@cached
def is_holder(kind: type) -> bool:
    """Whether the attributes that a class of a library assigns are values of the user, such as those of a queue."""
    return str(kind.__module__).startswith(_HOLDERS)


@cached
def library_names(kind: type) -> frozenset[str]:
    """Return the names of the attributes that the library classes among the bases of a class assign."""
    # Lightning gives callbacks the methods of the module: see `_attach_model_logging_functions`.
    names: set[str] = {"log", "log_dict"} if issubclass(kind, Callback) else set()
    made: tuple[Any, ...] = (nn.Module(), LightningModule(), LightningDataModule(), Callback())
    for item in made:
        if issubclass(kind, type(item)):
            names |= vars(item).keys()
    for base in kind.__mro__:
        if is_library(base) and not is_holder(base):
            for function in _functions(base):
                names |= assigned(function.__code__)
    return frozenset(names)


@cached
def assigned(code: CodeType) -> frozenset[str]:
    """Return the names of the attributes that a function assigns."""
    if _STORE_ATTR not in code.co_code[::2]:  # most functions; reading each instruction takes far longer
        return frozenset()
    return frozenset(item.argval for item in dis.get_instructions(code) if item.opname == "STORE_ATTR")


@cached
def assigned_by(kind: type, *methods: str) -> frozenset[str]:
    """Return the names of the attributes that methods of a class assign, and the methods that they call."""
    found: set[str] = set()
    waiting, seen = list(methods), set[str]()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        for function in chain(next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)):
            found |= assigned(function.__code__)
            waiting += names(function.__code__)
    return frozenset(found)


@cached
def names(code: CodeType) -> frozenset[str]:
    """Return the global variables and attributes that a function names, and the functions inside of it."""
    inner = [names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return frozenset(code.co_names).union(*inner)


@cached
def reads(kind: type, name: str) -> bool:
    """Whether the user's code in a class may read an attribute: by its name, or all of them at once."""
    bases = [base for base in kind.__mro__ if not is_library(base)]
    return any(_may_read(function.__code__, name) for base in bases for function in _functions(base))


def _may_read(code: CodeType, name: str) -> bool:
    if _LISTS & {*code.co_names} or name in code.co_consts:
        return True
    loads = name in code.co_names and any(
        item.argval == name for item in dis.get_instructions(code) if item.opname in ("LOAD_ATTR", "LOAD_METHOD")
    )
    return loads or any(_may_read(part, name) for part in code.co_consts if isinstance(part, CodeType))


@cached
def text_constants(code: CodeType) -> frozenset[str]:
    """Return the strings in a function, and in the functions inside of it."""
    inner = [text_constants(part) for part in code.co_consts if isinstance(part, CodeType)]
    return frozenset(part for part in code.co_consts if isinstance(part, str)).union(*inner)


@cached
def _sorted_names(code: CodeType) -> tuple[str, ...]:
    return tuple(sorted(names(code)))


@cached
def seeks(kind: type) -> bool:
    """Whether a class sets the position of a file by itself, so that it does not matter where the file stands."""
    return any("seek" in names(function.__code__) for base in kind.__mro__ for function in _functions(base))


@cached
def slots(kind: type) -> tuple[tuple[str, MemberDescriptorType], ...]:
    """Return the slots of a class and of its bases."""
    found = ((name, item) for base in kind.__mro__ if "__slots__" in vars(base) for name, item in vars(base).items())
    return tuple((name, item) for name, item in found if type(item) is MemberDescriptorType)


@cached
def is_own(module: str, packages: frozenset[str] = frozenset()) -> bool:
    """Whether a module is the user's own code, and not an installed package.

    Args:
        module: Name of the module.
        packages: Packages that are the user's own, wherever they are installed.
    """
    package = module.partition(".")[0]
    if package in _LIBRARIES:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return package in packages or (file is not None and not _is_installed(os.path.dirname(file)))


@cached
def _is_installed(directory: str) -> bool:
    path = Path(directory).resolve()
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    return any(path.is_relative_to(Path(sysconfig.get_path(key)).resolve()) for key in ("stdlib", "platstdlib"))


@cached
def own_functions(kind: type, packages: frozenset[str] = frozenset()) -> tuple[FunctionType, ...]:
    """Return the functions of a class that the user has written."""
    bases = (base for base in kind.__mro__ if is_own(str(base.__module__), packages))
    return tuple(function for base in bases for function in _functions(base))


def class_attributes(kind: type, packages: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield the values that the user's own classes among the bases of a class hold."""
    if issubclass(kind, Enum):
        return
    hidden: set[str] = set()
    for base in kind.__mro__:
        own = [item for item in vars(base).items() if item[0] not in hidden]
        hidden |= vars(base).keys()
        if is_own(str(base.__module__), packages):
            for name, value in own:
                is_value = not hasattr(type(value), "__get__") and not issubclass(type(value), type | ModuleType)
                if (is_value or type(value) is functools._lru_cache_wrapper) and not name.startswith(("__", "_abc_")):
                    yield name, value


def _functions(kind: type) -> Iterator[FunctionType]:
    for member in vars(kind).values():
        if issubclass(type(member), property):
            yield from (item for part in (member.fget, member.fset) for item in chain(part))
        else:
            yield from chain(member)


def chain(item: Any) -> Iterator[FunctionType]:
    """Yield a function, and those that it wraps."""
    for _ in range(_MOST_WRAPPED):
        kind = type(item)  # and not isinstance, which asks the object
        if issubclass(kind, staticmethod | classmethod | MethodType):
            item = item.__func__
        elif issubclass(kind, functools.cached_property | functools.partial):
            item = item.func
        elif issubclass(kind, functools._lru_cache_wrapper | FunctionType):
            if kind is FunctionType:
                yield item
            item = vars(item).get("__wrapped__")


def globals_of(
    functions: Iterable[FunctionType], packages: frozenset[str] = frozenset(), read: list[FunctionType] | None = None
) -> Iterator[tuple[str, str, Any]]:
    """Yield module, name and value of the global variables that functions of the user name, functions included.

    Functions and classes of the user that they name are read, too; so are the attributes of such classes.

    Args:
        functions: Where to begin.
        packages: See `is_own`.
        read: Gets all functions that are read.
    """
    waiting: list[Any] = list(functions)
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST_FUNCTIONS:
        function = waiting.pop()
        module = str(function.__globals__.get("__name__"))
        if function.__code__ in seen or not is_own(module, packages):
            continue
        seen.add(function.__code__)
        if read is not None:
            read.append(function)
        waiting += chain(vars(function).get("__wrapped__"))
        wanted = _sorted_names(function.__code__)
        for where, name, value in _variables(module, function.__globals__, wanted, packages):
            if (where, name) in seen:
                continue
            seen.add((where, name))
            waiting += chain(value)
            if issubclass(type(value), type):
                if is_own(str(value.__module__), packages):
                    waiting += own_functions(value, packages)
                    yield from ((f"{where}.{name}", key, item) for key, item in class_attributes(value, packages))
            else:
                yield where, name, value


def _variables(
    module: str, variables: dict[str, Any], wanted: tuple[str, ...], packages: frozenset[str]
) -> Iterator[tuple[str, str, Any]]:
    for name in wanted:
        if name not in variables:
            continue
        value: Any = variables[name]
        if not issubclass(type(value), ModuleType):
            yield module, name, value
        elif is_own(value.__name__, packages) and value.__name__ != module:
            inner = ((key, vars(value)[key]) for key in wanted if key in vars(value))
            yield from ((value.__name__, key, item) for key, item in inner if not issubclass(type(item), ModuleType))


@cached
def read_by(kind: type, method: str, with_texts: bool = False) -> frozenset[str]:
    """Return the names that a method of a class uses, and on request the texts in it, which may be names."""
    function = next((vars(base)[method] for base in kind.__mro__ if method in vars(base)), None)
    codes = [item.__code__ for item in chain(function)]
    return frozenset().union(*map(names, codes), *(map(text_constants, codes) if with_texts else ()))
