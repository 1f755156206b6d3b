"""Plain attributes of the user's own objects, as values that can be compared and stored.

    owners.py       objects that Lightning knows, and what they wrap    Net, Net.layers.0, Augment, Points
    parts.py        what each of them holds                             attributes, slots, closures, hooks, classes
    code.py         whose code it is, and the globals that it names     project.model.COUNT
    records.py      globals that callbacks only fill                    project.callbacks.LOSSES
    iterators.py    where an iterator or an open file stands
    fingerprint.py  a value as a short scalar or a digest

What a library assigns to itself is its own business, and parameters and buffers are in every checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from types import FunctionType
from typing import Any

from lightning.pytorch import Trainer

from cairn.lightning.loops import finders
from cairn.lightning.reading import code, iterators, modules, owners, parts, records
from cairn.lightning.reading.fingerprint import EMPTY as EMPTY
from cairn.lightning.reading.fingerprint import OPAQUE, Budget, plain

Attributes = dict[str, Any]
"""Values by name, such as `Net.temperature`: plain scalars as they are, everything else as a digest."""
_MAX_ATTRIBUTES = 20_000
_MAY_BE_RECORDS = (list, dict, set, deque)
"""Containers that a callback may only fill, with losses or the rows of a plot."""
MODULES = "modules()"
"""Attribute that the model seems to have: the names and classes of its parts."""
_OWNER = "<owner>"
"""Attribute that each owner seems to have: says that the object was there."""


def of_trainer(
    trainer: Trainer, only: Collection[str] | None = None, found: list[owners.Owner] | None = None
) -> Attributes:
    """Return the plain attributes of the model, the callbacks, the data, the optimizers, schedulers and the trainer.

    Global variables that their code names are among them. The cost is bounded: of large containers and tensors, a part
    is read.

    Args:
        trainer: The trainer, in a fit.
        only: Names of the attributes to read; None: all.
        found: What `owners.owners` has returned just now; None: it is called.
    """
    if only is not None and not only:
        return {}
    found = owners.owners(trainer) if found is None else found
    saved, budget = owners.saved(trainer, found), Budget()
    values = (
        (name, plain(value, saved, budget, is_seeded))
        for name, value, is_seeded in _named(found)
        if only is None or name in only
    )
    return dict(islice(((name, value) for name, value in values if value is not OPAQUE), _MAX_ATTRIBUTES))


def value_of(value: Any) -> Any:
    """Return a value in the form in which `of_trainer` returns those of attributes."""
    return plain(value, set(), Budget())


def by_label(found: Collection[owners.Owner]) -> dict[str, Any]:
    """Return the objects that the attributes belong to, by the beginnings of the names."""
    return {owner.label: owner.item for owner in found}


def was_there(name: str, before: Attributes) -> bool:
    """Whether the object that an attribute belongs to was there before: one that is new has not changed."""
    return f"{name.rpartition('.')[0]}.{_OWNER}" in before


def advice(trainer: Trainer, names: Collection[str]) -> str:
    """Return what to do about those among changed attributes that no checkpoint could hold; '' if there are none."""
    found = [(name, iterators.name_of(value)) for name, value, _ in _named(owners.owners(trainer)) if name in names]
    if kinds := {name: kind for name, kind in found if kind}:
        name, kind = next(iter(kinds.items()))
        return f"{name} is {kind}, which cannot be saved: save its position, and build it again from there. "
    if any(name.endswith(f".{parts.HPARAMS}") for name in names):
        return "A resume does not load the hyperparameters that a checkpoint lists. "
    if any(name.endswith(f".{MODULES}") for name in names):
        return (
            "It replaces layers by those of other classes, or adds layers without weights, which a resume does not "
            "repeat: do so in __init__, configure_model() or setup(), or in each on_train_epoch_start. "
        )
    return ""


def packages_of(found: Collection[owners.Owner]) -> frozenset[str]:
    """Return the packages of the user's own code: those of the objects that training is made of."""
    kinds = (type(owner.item) for owner in found if owner.role != "model" or "." not in owner.name)
    return frozenset(kind.__module__.partition(".")[0] for kind in kinds if not code.is_library(kind))


def _named(found: Collection[owners.Owner]) -> Iterator[tuple[str, Any, bool]]:
    """Yield name and value of each attribute, and whether generators in it are seeded by the loader."""
    packages = packages_of(found)
    functions: dict[str, list[FunctionType]] = {"training": [], "callback": []}
    tuned = set[str]().union(*(finders.tuned(owner.item) for owner in found))  # a resume sets them again
    for owner in found:
        yield f"{owner.label}.{_OWNER}", True, False
        if owner.role == "model" and "." not in owner.name:
            yield f"{owner.label}.{MODULES}", modules.classes(owner.item), False
        is_seeded = owner.is_ours and owner.role in ("dataset", "collate", "sampler")
        values = list(owners.attributes(owner, packages))
        if tuned:
            values = [(name, _without(value, tuned) if name == parts.HPARAMS else value) for name, value in values]
        where = functions["callback" if owner.role == "callback" else "training"]
        for kind in dict.fromkeys(type(value) for value in (owner.item, *(value for _, value in values))):
            where += () if code.is_library(kind) else code.own_functions(kind, packages)
        for value in (owner.item, *(value for _, value in values)):
            where += code.chain(value) if issubclass(type(value), parts.CALLABLES) else ()
        yield from ((f"{owner.label}.{name}", value, is_seeded) for name, value in values)
    yield from ((name, value, False) for name, value in _globals(functions, packages))


def _without(hyperparameters: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in hyperparameters.items() if name not in names}


def _globals(functions: Mapping[str, Iterable[FunctionType]], packages: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the global variables that functions name; those of callbacks without their records."""
    known: set[str] = set()
    for role, named in functions.items():
        read: list[FunctionType] = []
        for module, name, value in list(code.globals_of(named, packages, read)):
            full = f"{module}.{name}"
            if full in known or (type(value) is FunctionType and not parts.has_values(value)):
                continue
            may_be_record = role == "callback" and issubclass(type(value), _MAY_BE_RECORDS)
            if may_be_record and all(records.only_adds(function.__code__, name) for function in read):
                continue
            if module not in known:
                yield f"{module}.{_OWNER}", True
            known |= {module, full}
            yield full, value
