"""Reads YAML that may come from other people: plain values only, and never more of them than a run can have.

Nine lines of aliases (`b: [*a, *a, *a]`, `c: [*b, *b, *b]`, ...) are a small file and a small value, whose parts are
shared. The first copy of it fills the memory. So the value is counted as a copy would have it.
"""

from __future__ import annotations

import functools
from typing import Any

import yaml

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads plain values. The one of libyaml, where PyYAML was built with it, is ten times as fast."""
MOST_VALUES = 2**20
"""Upper limit for the values in a document, each counted as often as it is named."""
DEEPEST = 100
"""Upper limit for the nesting of a document."""
_MOST_KEYS, _MOST_MERGED = 2**16, 64


def parse(text: str, loader: Any = Loader) -> Any:
    """Return the plain value of a YAML document.

    Args:
        text: The document.
        loader: A safe loader of PyYAML.

    Raises:
        ValueError: It is not YAML, holds more than plain values, or is too large or too deep.
    """
    try:
        value = yaml.load(text, Loader=_bounded(loader))
    except yaml.YAMLError as error:
        raise ValueError(_without_content(error)) from error
    # What PyYAML does not foresee.
    except (RecursionError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"it is not YAML that can be read ({type(error).__name__})") from error
    check(value)
    return value


def check(value: Any) -> None:
    """Check that a copy of a value would be small enough.

    Args:
        value: Mappings, lists and scalars, some of which may be the same object.

    Raises:
        ValueError: It is too large or too deep, or contains itself.
    """
    _count(value, {}, 0)


def _count(value: Any, counted: dict[int, int], depth: int) -> int:
    """Return the number of values in a copy; `counted` has those of the containers that were counted before."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if (known := counted.get(id(value))) is not None:
        if known < 0:
            raise ValueError("it contains itself")
        return known
    if depth >= DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    counted[id(value)] = -1
    total = 1
    for child in value.values() if isinstance(value, dict) else value:
        total += _count(child, counted, depth + 1)
        if total > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values, most of them by aliases")
    counted[id(value)] = total
    return total


@functools.cache
def _bounded(loader: Any) -> Any:
    """Return a loader that refuses a key that appears twice, and bounds merge keys (`<<`), which PyYAML copies."""

    class Bounded(loader):
        def flatten_mapping(self, node: Any) -> None:
            if getattr(node, "is_flat", False):  # an alias: it was merged before, so that its keys appear twice now
                return
            node.is_flat, seen = True, set[Any]()
            for key, value in node.value:
                is_merge = key.tag == "tag:yaml.org,2002:merge"
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
                if name in seen and not is_merge:
                    raise ValueError(f"a key appears twice (line {key.start_mark.line + 1})")
                seen.add(name)
                if is_merge and isinstance(value, yaml.SequenceNode) and len(value.value) > _MOST_MERGED:
                    raise ValueError(f"a merge key has more than {_MOST_MERGED} values")
            super().flatten_mapping(node)
            if len(node.value) > _MOST_KEYS:
                raise ValueError(f"a mapping has more than {_MOST_KEYS} keys, most of them by merge keys")

    return Bounded


def _without_content(error: yaml.YAMLError) -> str:
    """Return what is wrong and where. The lines around it are left out: they may be those of any file."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1})" if mark is not None else ""
    return f"{problem or str(error).strip().splitlines()[0]}{where}"
