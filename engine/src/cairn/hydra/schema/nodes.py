"""The schema of a node: a mapping that Hydra builds an object from, with the arguments of its `_target_` as keys."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cairn.hydra.schema import json_types, signatures
from cairn.hydra.schema.json_types import NODE, Schema
from cairn.hydra.schema.library import INTERPOLATION, NULL
from cairn.hydra.schema.signatures import Parameter, Signature

VALUE: Schema = {"$ref": "#/definitions/value"}
_INTERPOLATION: Schema = {"$ref": "#/definitions/interpolation"}
DEFAULTS: Schema = {
    "type": "array",
    "description": "Options that this file builds on. https://hydra.cc/docs/advanced/defaults_list",
}
HYDRA_KEYS: Mapping[str, Schema] = {
    "_target_": {"type": "string", "description": "Dotted name of the class or function to build."},
    "_partial_": {"type": "boolean", "description": "Give the other keys now, and call it later with the rest."},
    "_recursive_": {"type": "boolean", "description": "Whether nested nodes are built first."},
    "_convert_": {"enum": ["none", "partial", "object", "all"], "description": "Which containers become plain ones."},
    "_args_": {"type": "array", "description": "Arguments by position."},
}


def definitions(targets: Iterable[str], files: Collection[str] = ()) -> dict[str, Schema]:
    """Return the definitions that other schemas refer to: nodes with these targets, and any value.

    Args:
        targets: Dotted names, in an order that does not depend on the name of the project.
        files: Those of them that are built from whole files, which may have a defaults list.
    """
    known = {name: found for name in dict.fromkeys(targets) if (found := signatures.of(name)) is not None}
    cases = [
        {
            "if": {"properties": {"_target_": {"const": name}}, "required": ["_target_"]},
            "then": _of_target(found, {"defaults": DEFAULTS} if name in files else {}),
        }
        for name, found in known.items()
    ]
    plain = {
        "if": {"not": {"required": ["_target_"]}},
        "then": {"additionalProperties": VALUE},
    }
    target = {**HYDRA_KEYS["_target_"], "examples": list(known)} if known else HYDRA_KEYS["_target_"]
    return {
        "interpolation": INTERPOLATION,
        "value": {
            "if": {"type": "object"},
            "then": NODE,
            "else": {"if": {"type": "array"}, "then": {"items": VALUE}},
        },
        "node": {"type": "object", "properties": {"_target_": target}, "allOf": [*cases, plain]},
    }


def properties(signature: Signature) -> dict[str, Schema]:
    """Return the schemas of the arguments of a target."""
    return {name: _property(parameter) for name, parameter in signature.parameters.items()}


def _of_target(signature: Signature, more: Mapping[str, Schema]) -> Schema:
    return {
        "description": signature.about,
        "type": "object",
        "properties": {**more, **HYDRA_KEYS, **properties(signature)},
        "additionalProperties": signature.is_open,
    }


def _property(parameter: Parameter) -> Schema:
    found: Schema = {"description": parameter.about} if parameter.about else {}
    kind = json_types.schema(parameter.annotation, parameter.module)
    is_any = kind == json_types.ANY
    # A nested node may build any value, a text may be an interpolation, and null may be replaced before it is used.
    found |= {"allOf": [VALUE]} if is_any else json_types.union([kind, NULL, _INTERPOLATION, NODE])
    if (default := _plain(parameter.default)) is not ...:
        found["default"] = default
    return found


def _plain(default: ast.expr | None) -> Any:
    """Return a default that is a plain value; `...` if it is something else."""
    try:
        value = ast.literal_eval(default) if default is not None else ...
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return ...
    if isinstance(value, tuple):
        value = list(value)
    return value if value is None or isinstance(value, bool | int | float | str | list) else ...
