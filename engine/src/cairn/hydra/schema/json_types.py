"""Turn the annotation of an argument into a JSON schema. What cannot be expressed allows any value."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from cairn.hydra.schema import definitions
from cairn.hydra.schema.definitions import Definition, Value

Schema = dict[str, Any]
ANY: Schema = {}
"""The schema that allows any value."""

NODE: Schema = {"$ref": "#/definitions/node"}
"""The schema of an object that Hydra builds from a mapping, see `nodes`."""

_DEEPEST = 12
_PLAIN: dict[str, Schema] = {
    "None": {"type": "null"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "Path": {"type": "string"},
    "PathLike": {"type": "string"},
}
_LIKE_VALUES = {*_PLAIN, "Enum", "IntEnum", "StrEnum", "NamedTuple", "TypedDict", "Protocol", "dict", "list", "tuple"}
_LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "tuple", "Tuple", "set", "Set", "frozenset"}


def schema(annotation: ast.expr | None, module: str) -> Schema:
    """Return the schema of an annotation.

    Args:
        annotation: The annotation; None: there is none.
        module: The module that it was written in, where its names have their meaning.
    """
    return ANY if annotation is None else _schema(annotation, module, 0)


def union(parts: Sequence[Schema]) -> Schema:
    """Return a schema that allows what one of the parts allows."""
    found: list[Schema] = []
    for part in parts:
        for item in part.get("anyOf", [part]):
            if item == ANY:
                return ANY
            if item not in found:
                found.append(item)
    return found[0] if len(found) == 1 else {"anyOf": found}


def _schema(node: ast.expr, module: str, depth: int) -> Schema:
    if depth > _DEEPEST:
        return ANY
    if isinstance(node, ast.Constant):
        if node.value is None:
            return _PLAIN["None"]
        return _of_text(node.value, module, depth) if isinstance(node.value, str) else ANY
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return union([_schema(node.left, module, depth + 1), _schema(node.right, module, depth + 1)])
    if isinstance(node, ast.Subscript):
        return _subscript(node, module, depth)
    name = (definitions.dotted(node) or [""])[-1]
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _LISTS:
        return {"type": "array"}
    found = definitions.find_in(module, node)
    if isinstance(found, Value):
        return _schema(found.node, found.module, depth + 1)
    return NODE if isinstance(found, Definition) and _is_built(found) else ANY


def _is_built(found: Definition) -> bool:
    """Return whether a class has objects that no plain value stands for, as a text stands for a member of an enum."""
    if not isinstance(found.node, ast.ClassDef):
        return False
    bases = {(definitions.dotted(base) or [""])[-1] for base in found.node.bases}
    return not bases & _LIKE_VALUES


def _subscript(node: ast.Subscript, module: str, depth: int) -> Schema:
    name = (definitions.dotted(node.value) or [""])[-1]
    inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return _literal(inner, module, depth)
    if name == "Optional":
        return union([_schema(inner[0], module, depth + 1), _PLAIN["None"]])
    if name == "Union":
        return union([_schema(item, module, depth + 1) for item in inner])
    if name == "Annotated":
        return _schema(inner[0], module, depth + 1)
    if name in _LISTS:
        kinds = [item for item in inner if not (isinstance(item, ast.Constant) and item.value is Ellipsis)]
        items = union([_schema(item, module, depth + 1) for item in kinds])
        return {"type": "array", "items": items} if items != ANY else {"type": "array"}
    return ANY


def _literal(inner: Sequence[ast.expr], module: str, depth: int) -> Schema:
    values: list[Any] = []
    for item in inner:
        if isinstance(item, ast.Constant):
            values.append(item.value)
        else:
            found = definitions.find_in(module, item)  # Literal[_NAME]
            part = _schema(found.node, found.module, depth + 1) if isinstance(found, Value) else ANY
            if "enum" not in part:
                return ANY
            values += part["enum"]
    return {"enum": values}


def _of_text(text: str, module: str, depth: int) -> Schema:
    try:
        return _schema(ast.parse(text, mode="eval").body, module, depth + 1)
    except (SyntaxError, ValueError, RecursionError):
        return ANY
