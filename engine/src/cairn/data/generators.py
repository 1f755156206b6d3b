"""Random number generators that a dataset, a sampler or a collate function owns: found, and seeded."""

from __future__ import annotations

import functools
import random
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch

_Generator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)

_MOST_OBJECTS, _MOST_ITEMS, _DEEPEST = 2000, 64, 10
"""Limits of a search: objects in all, items of one container, and steps from the root."""
_LIBRARIES = {"torch", "numpy", "lightning", "pytorch_lightning", "cairn"}
"""Packages whose classes and functions are not searched for generators of their own; attributes of objects are."""
_DRAWS = {
    *("random", "rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm", "random_"),
    *("bernoulli", "bernoulli_", "multinomial", "normal_", "uniform", "uniform_"),
}
"""Names that functions use which draw from a global generator."""
_TRAINING = {"lightning", "pytorch_lightning"}
_OPAQUE = (
    *(bool, int, float, complex, str, bytes, bytearray, range, set, frozenset, type(None), type(Ellipsis)),
    *(torch.Tensor, torch.dtype, torch.device, np.ndarray, np.generic, np.dtype, ModuleType, BuiltinFunctionType),
)


class Generators:
    """Generators of the global kinds (torch, numpy, Python) that can be reached from an object.

    The search follows attributes, lists, tuples, dicts, partial functions, closures, and what the user's own classes
    and functions name in their module. The global generators themselves are left out.

    Args:
        **roots: Where to search, by name.
    """

    def __init__(self, **roots: Any) -> None:
        # The salt comes from the path and not from a number: an attribute that appears later must not change others.
        self._found = [(path, zlib.crc32(path.encode()), generator) for path, generator in _search(roots)]

    def __len__(self) -> int:
        return len(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def without(self, others: Generators) -> Generators:
        """Return those that are not among others."""
        ids, found = {id(generator) for _, _, generator in others._found}, Generators()
        found._found = [one for one in self._found if id(one[2]) not in ids]
        return found

    @property
    def paths(self) -> list[str]:
        """Where each generator is, such as `dataset.transform.rng`."""
        return [path for path, _, _ in self._found]

    def seed(self, seed: int) -> None:
        """Seed each generator with a number that is a function of `seed` and of its path."""
        for _, salt, generator in self._found:
            _seed(generator, seed ^ (salt << 16))

    def states(self) -> list[Any]:
        """Return the state of each generator."""
        return [_state(generator) for _, _, generator in self._found]

    def set_states(self, states: Iterable[Any]) -> None:
        """Restore what `states` returned."""
        for (_, _, generator), state in zip(self._found, states, strict=True):
            _set_state(generator, state)


def _seed(generator: _Generator, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed & 0xFFFFFFFF)
    else:
        generator.seed(seed)


def _state(generator: _Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def _set_state(generator: _Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _search(roots: Mapping[str, Any]) -> Iterator[tuple[str, _Generator]]:
    """Yield path and generator, nearest first."""
    for path, item in reachable(roots):
        if isinstance(item, _KINDS) and not _is_global(item):
            yield path, item


def _is_global(generator: _Generator) -> bool:
    known = (torch.default_generator, getattr(np.random.mtrand, "_rand", None), getattr(random, "_inst", None))
    # The operating system's generator has no state.
    return any(generator is one for one in known) or isinstance(generator, random.SystemRandom)


def reachable(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield path and object for the objects that can be reached from `roots`, nearest first, up to a limit.

    Args:
        roots: Objects by name.
    """
    waiting = deque((name, item, 0) for name, item in roots.items())
    seen: dict[int, Any] = {}  # keeps temporary objects alive, so that an id stands for one object
    while waiting and len(seen) < _MOST_OBJECTS:
        path, item, depth = waiting.popleft()
        if id(item) in seen or isinstance(item, _OPAQUE):
            continue
        seen[id(item)] = item
        yield path, item
        if depth < _DEEPEST and not isinstance(item, _KINDS) and not is_of_training(item):
            waiting.extend((f"{path}{name}", part, depth + 1) for name, part in _parts(item))


def drawing(**roots: Any) -> str:
    """Return the path of a function that seems to draw random numbers; '' if none is found.

    It goes by the names that functions of the user's own, and of other packages, use: `torch.rand`, `random.gauss`.

    Args:
        **roots: Where to search, by name.
    """
    functions = (path for path, item in reachable(roots) if isinstance(item, FunctionType) and draws(item))
    return next(functions, "")


def draws(function: FunctionType) -> bool:
    """Whether a function of the user's own, or of another package, seems to draw random numbers."""
    return _is_own_code(function) and not _DRAWS.isdisjoint(_names(function.__code__))


def is_of_training(item: Any) -> bool:
    """Whether this is a trainer, a module or a datamodule: their generators are not those of the samples."""
    return any(_package(kind) in _TRAINING for kind in type(item).__mro__)


def _package(item: Any) -> str:
    return str(getattr(item, "__module__", None) or "").partition(".")[0]


def _is_own_code(item: Any) -> bool:
    return _package(item) not in _LIBRARIES and _package(item) not in sys.stdlib_module_names - {"__main__"}


def _dictionary(item: Any) -> Any:
    try:
        return object.__getattribute__(item, "__dict__")
    except AttributeError:
        return None


def _parts(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an object, each with what its path adds to that of the object."""
    # `isinstance` would ask the object, which may answer with an error.
    own = type(item)
    if issubclass(own, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(item.items())[:_MOST_ITEMS])
    elif issubclass(own, (list, tuple, deque)):
        yield from ((f"[{number}]", item[number]) for number in range(min(len(item), _MOST_ITEMS)))
    elif issubclass(own, functools.partial):
        yield from ((".func", item.func), (".args", item.args), (".keywords", item.keywords))
    elif issubclass(own, MethodType):
        yield from ((".__self__", item.__self__), (".__func__", item.__func__))
    elif issubclass(own, FunctionType):
        yield from _parts_of_function(item)
    elif issubclass(own, GeneratorType) and item.gi_frame is not None:
        yield from ((f".{name}", value) for name, value in item.gi_frame.f_locals.items())
    elif issubclass(own, type):
        if _is_own_code(item):
            yield from ((f".{name}", value) for name, value in list(vars(item).items()) if name != "__dict__")
        return
    if isinstance(attributes := _dictionary(item), dict):
        yield from ((f".{name}", value) for name, value in list(attributes.items()))
    for kind in type(item).__mro__:
        for name in slots_of(kind):
            if (value := getattr(item, name, None)) is not None:
                yield f".{name}", value
        if _is_own_code(kind):
            yield f".<{kind.__name__}>", kind


def slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    if not _is_own_code(function):
        return
    for number, cell in enumerate(function.__closure__ or ()):
        try:
            yield f".<closure {number}>", cell.cell_contents
        except ValueError:  # the cell is still empty
            continue
    yield ".<defaults>", function.__defaults__ or ()
    yield ".<defaults by name>", function.__kwdefaults__ or {}
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield f".<global {name}>", function.__globals__[name]


def _names(code: CodeType) -> set[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)


def packed(generator: torch.Generator) -> tuple[torch.device, bytes]:
    """Return a generator as plain values. A pickled one shares memory, which a spawned process may find gone."""
    return generator.device, generator.get_state().numpy().tobytes()


def unpacked(values: tuple[torch.device, bytes]) -> torch.Generator:
    """Return the generator that `packed` has returned."""
    device, draws = values
    generator = torch.Generator(device)
    generator.set_state(torch.frombuffer(bytearray(draws), dtype=torch.uint8))
    return generator
