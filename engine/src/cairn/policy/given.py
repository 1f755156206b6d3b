"""Checks of the triggers and keep rules that a user gives, before the first of them is asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cairn.errors import ConfigError


def named(argument: str, given: Any, example: str) -> dict[str, Any]:
    """Check that names are mapped to objects.

    Args:
        argument: Name of the argument.
        given: What a user gave for it.
        example: What the argument may be.

    Returns:
        The same names and objects.

    Raises:
        ConfigError: It is not a mapping, a name is not a string, or a class stands in the place of an object.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{argument}={given!r} is not a mapping: write {argument}={example}.", parameter=argument)
    for name, value in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{argument} has the name {name!r}: a name must be a string that is not empty.")
        if isinstance(value, type):
            raise ConfigError(f"{argument}[{name!r}] is a class: write {value.__name__}(...).")
    return dict(given)


def accepts(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function can be called with these arguments; if this cannot be known, it can."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a function of C code without a signature
        return True
    return True


def has_method(value: Any, method: str, attributes: tuple[str, ...]) -> bool:
    """Whether an object has a method that takes two arguments, and these attributes."""
    function = getattr(value, method, None)
    return callable(function) and accepts(function, None, None) and all(hasattr(value, name) for name in attributes)
