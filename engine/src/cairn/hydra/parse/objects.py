"""Build the objects that nodes of the configuration describe; error messages name the node."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException

from cairn import targets
from cairn.errors import CairnError, ConfigError, first_line, named
from cairn.hydra.command import suggest
from cairn.hydra.instantiate import instantiate
from cairn.hydra.parse.keys import in_config_words

_YAML = {"None": "null", "True": "true", "False": "false"}


def build_object(key: str, node: Any, **arguments: Any) -> Any:
    """Build the object that a node describes.

    Args:
        key: Key of the node, for messages.
        node: A mapping with `_target_`.
        **arguments: Additional arguments, which override those of the node.

    Returns:
        The object; with `_partial_: true` a `functools.partial`.

    Raises:
        ConfigError: The arguments are wrong, or the target is missing or cannot be imported.
    """
    target_name(key, node)
    try:
        # Lists and dicts of OmegaConf would end up in the state of the object, and then in a checkpoint.
        return instantiate(node, **{"_convert_": node.get("_convert_", "all"), **arguments})
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, CairnError):
            raise type(cause)(in_yaml(in_config_words(cause, key))) from error
        text = (
            f"{key}: {str(cause).rstrip('.!')}. {suggest.for_argument(str(cause), key, _arguments(key, node, cause))}"
        )
        raise ConfigError(f"{text.rstrip()} HYDRA_FULL_ERROR=1 shows the traceback.") from error


def _arguments(key: str, node: Any, error: BaseException) -> list[str]:
    """Return the names of the arguments of a target, if the error is about this target and not about a nested one."""
    try:
        target = target_of(key, node)
        return list(inspect.signature(target).parameters) if f"{target.__name__}." in str(error) else []
    except Exception:  # a target without a signature, or one that cannot be imported
        return []


def target_name(key: str, node: Any) -> str:
    """Return the `_target_` of a node without importing it.

    Args:
        key: Key of the node, for messages.
        node: A mapping with `_target_`.

    Raises:
        ConfigError: The node has no target.
    """
    name = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{key} has no _target_: set it to the class to build.")
    return name


def target_of(key: str, node: Mapping[str, Any]) -> Any:
    """Return the class or function that the `_target_` of a node names.

    Args:
        key: Key of the node, for messages.
        node: A mapping with `_target_`.

    Raises:
        ConfigError: The node has no target, or the target cannot be imported.
    """
    name = target_name(key, node)
    try:
        return targets.resolve(name)
    except Exception as error:  # importing a module may raise anything
        raise ConfigError(f"{key}._target_={name} cannot be imported: {first_line(error)}.") from error


@contextmanager
def errors_at(group: str, key: str = "") -> Iterator[None]:
    """Add the key to the message of a ValueError that a constructor raises.

    A message that begins with `name=` needs only the group in front of it: `max_overhead=2 must be ...` becomes
    `checkpoint.max_overhead=2 must be ...`.

    Args:
        group: Dotted key of the group.
        key: The key in the group; empty if the constructor takes several keys.

    Raises:
        ConfigError: The constructor raised a ValueError.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, CairnError) and error.parameter:
            raise ConfigError(in_yaml(named(error, f"{group}.{key or error.parameter}"))) from error
        name, equals, _ = str(error).partition("=")
        names_key = bool(equals) and (name == key if key else name.isidentifier())
        where = f"{group}." if names_key else f"{group}.{key}: " if key else f"{group}: "
        raise ConfigError(in_yaml(f"{where}{error}")) from error


def in_yaml(message: str) -> str:
    """Write the value in a message that begins with `key=value` as in YAML: null, true, false."""
    return re.sub(r"^([\w.]+=)(None|True|False)\b", lambda found: found[1] + _YAML[found[2]], message)
