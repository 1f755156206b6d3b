"""Build the objects that a configuration describes: `hydra.utils.instantiate`, with our own rules for targets.

Without a whitelist of targets, Hydra 1.4 warns and 1.5 raises an error; its blocklist does not stop functions that load
pickles. Here, `cairn.targets.resolve` decides which targets may be called.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode
from omegaconf.errors import OmegaConfBaseException

from cairn.hydra.command.arguments import literal
from cairn.targets import TARGET, resolve, took_specs

_ARGS, _CONVERT, _PARTIAL, _RECURSIVE = "_args_", "_convert_", "_partial_", "_recursive_"
_NOT_ARGUMENTS = {TARGET, _CONVERT, _PARTIAL, _RECURSIVE}
_SETTINGS = {"convert": _CONVERT, "recursive": _RECURSIVE, "partial": _PARTIAL}
_CONTAINERS = {"all": SCMode.DICT, "partial": SCMode.DICT_CONFIG, "object": SCMode.INSTANTIATE}
"""How each value of `_convert_` converts structured configs; any other value converts nothing."""


def instantiate(config: Any, *args: Any, **more: Any) -> Any:
    """Build the object that a node describes, and its nested nodes.

    The keys `_partial_`, `_recursive_`, `_convert_` and `_args_` work as in Hydra.

    Args:
        config: A mapping with `_target_`, a list of such, or None.
        *args: Positional arguments of the target; they replace `_args_`.
        **more: Further arguments. Mappings are merged into the node; other values are passed to the target unchanged.

    Returns:
        The object, a `functools.partial`, a list of objects, or None.

    Raises:
        SpecError: A target does not exist, or a configuration may not call it.
        InstantiationException: A target raised an error, which is the cause.
    """
    if config is None:
        return None
    node: Any = _own_copy(config)
    if isinstance(node, DictConfig):
        nested = {key: value for key, value in more.items() if key in _NOT_ARGUMENTS or _is_container(value)}
        if nested:
            node = OmegaConf.merge(node, _plain_targets(nested))
        _resolve(node)
        settings: dict[str, Any] = {name: node.pop(key) for name, key in _SETTINGS.items() if key in node}
        return _build(node, args=args, more={k: value for k, value in more.items() if k not in nested}, **settings)
    _resolve(node)
    return _build(node, convert=more.get(_CONVERT, "none"), recursive=more.get(_RECURSIVE, True))


def hydra_whitelist() -> AbstractContextManager[Any]:
    """Context in which Hydra builds its own parts, such as `hydra.callbacks`; Hydra 1.4 and later need a whitelist.

    All targets are allowed: they come from the current command, never from a stored configuration.
    """
    for policy, everything in (
        ("execution_whitelist", "UNSAFE_DISABLE_EXECUTION_CHECKS"),
        ("target_whitelist", "UNSAFE_ALLOW_ALL_TARGETS"),
    ):
        if hasattr(hydra.utils, policy) and hasattr(hydra.utils, everything):
            return getattr(hydra.utils, policy)(getattr(hydra.utils, everything))
    return nullcontext()


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | DictConfig | ListConfig)


def _own_copy(config: Any) -> DictConfig | ListConfig:
    """Return a copy that may be changed and whose interpolations still resolve."""
    if OmegaConf.is_config(config):
        node = copy.deepcopy(config)
        node._set_parent(config._get_parent())
    else:
        try:
            node = OmegaConf.structured(_plain_targets(config), flags={"allow_objects": True})
        except OmegaConfBaseException as error:
            raise InstantiationException(f"Cannot instantiate a {type(config).__name__}: {error}") from error
    node._set_flag(flags=["allow_objects", "struct", "readonly"], values=[True, False, False])
    return node


def _resolve(node: Any) -> None:
    """Resolve all interpolations; a text such as the file name `a${b}` stays a text."""
    OmegaConf.resolve(node)
    _keep_texts(node)


def _keep_texts(node: Any) -> None:
    if node._is_none() or node._is_missing():
        return
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        child = node._get_node(key)
        if OmegaConf.is_config(child):
            _keep_texts(child)
        elif isinstance(value := child._value(), str) and "${" in value:
            child._set_value(literal(value))


def _plain_targets(value: Any) -> Any:
    """Replace classes and functions under `_target_` by their names."""
    if isinstance(value, dict):
        return {key: _name_of(item) if key == TARGET else _plain_targets(item) for key, item in value.items()}
    return [_plain_targets(item) for item in value] if isinstance(value, list) else value


def _name_of(target: Any) -> Any:
    return f"{target.__module__}.{target.__qualname__}" if hasattr(target, "__qualname__") else target


def _build(
    node: Any,
    convert: Any = "none",
    recursive: Any = True,
    partial: Any = False,
    args: tuple[Any, ...] = (),
    more: Mapping[str, Any] | None = None,
) -> Any:
    """Build a node. It inherits `convert` and `recursive` from its parent unless it sets them itself."""
    if not OmegaConf.is_config(node):
        return node
    if node._is_none():
        return None
    if isinstance(node, ListConfig):
        items = [_build(item, convert, recursive) for item in node]
        return items if _mode(convert) in _CONTAINERS else _config_of(items, node)
    convert, recursive = node.get(_CONVERT, convert), node.get(_RECURSIVE, recursive)
    if took_specs(node.get(TARGET)):
        recursive = True
    is_partial = node.get(_PARTIAL, partial)
    for key, value in ((_RECURSIVE, recursive), (_PARTIAL, is_partial)):
        if not isinstance(value, bool):
            raise TypeError(f"{_where(node)}{key} must be true or false, not {value!r}.")
    if TARGET not in node:
        return _mapping(node, convert, recursive)
    given: dict[str, Any] = {}
    for key in node:
        if key in _NOT_ARGUMENTS or (is_partial and OmegaConf.is_missing(node, key)):
            continue
        value = _build(node[key], convert, recursive) if recursive else node[key]
        given[str(key)] = _converted(value, convert)
    return _call(node, is_partial, args, {**given, **(more or {})})


def _call(node: DictConfig, is_partial: bool, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    name = node[TARGET]
    if not isinstance(name, str):
        raise InstantiationException(f"{_where(node)}{TARGET} must be the dotted name of a class, not {name!r}.")
    target = resolve(name)
    positional = args or tuple(given.pop(_ARGS, ()))
    given.pop(_ARGS, None)
    for value in (*positional, *given.values()):
        if OmegaConf.is_config(value):
            value._set_parent(None)  # all is resolved; otherwise the parent would be pickled too
    if is_partial:
        return functools.partial(target, *positional, **given)
    try:
        return target(*positional, **given)
    except Exception as error:
        raise InstantiationException(f"{_where(node)}error in {name}: {error!r}") from error


def _mapping(node: DictConfig, convert: Any, recursive: bool) -> Any:
    """Build the values of a mapping that has no target."""
    is_structured = node._metadata.object_type not in (None, dict)
    items = {key: _build(node[key], convert, recursive) for key in node}
    if _mode(convert) == "all" or (_mode(convert) in _CONTAINERS and not is_structured):
        return items
    built = _config_of({}, node)
    for key, value in items.items():
        built[key] = _text(value)
    built._metadata.object_type = node._metadata.object_type
    return OmegaConf.to_object(built) if _mode(convert) == "object" else built


def _text(value: Any) -> Any:
    """Return a value as it is written in a configuration."""
    return literal(value) if isinstance(value, str) else value


def _config_of(items: Any, parent: Any) -> Any:
    items = [_text(item) for item in items] if isinstance(items, list) else items
    built = OmegaConf.create(items, flags={"allow_objects": True})
    built._set_parent(parent)
    return built


def _converted(value: Any, convert: Any) -> Any:
    mode = _CONTAINERS.get(_mode(convert))
    if mode is None or not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, structured_config_mode=mode)


def _mode(convert: Any) -> str:
    """Return the value of `_convert_` as a string; it may be Hydra's enum."""
    return str(getattr(convert, "value", convert))


def _where(node: DictConfig) -> str:
    key = node._get_full_key(None)
    return f"{key}: " if key else ""
