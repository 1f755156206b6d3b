"""Find the class or function behind a dotted name in the source of its module, without importing anything.

    torch.optim.AdamW          torch/optim/__init__.py says: from torch.optim.adamw import AdamW as AdamW
    torch.optim.adamw.AdamW    torch/optim/adamw.py has the class

So a name is followed through imports and assignments until a definition is reached. What is computed when a module is
imported is not found.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

from cairn import opening

_DEEPEST = 20
"""Upper limit for the steps from a name to its definition."""

Node = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A class or function in the source of a module."""

    module: str
    node: Node


@dataclass(frozen=True)
class Value:
    """An expression that a module assigns to a name, such as an alias of a type."""

    module: str
    node: ast.expr


def find(name: str) -> Definition | None:
    """Return the class or function with a dotted name; None if it is not found.

    Args:
        name: Such as `torch.optim.AdamW`.
    """
    found = _find(name, 0)
    return found if isinstance(found, Definition) else None


def find_in(module: str, expression: ast.expr) -> Definition | Value | None:
    """Return what a name or a dotted name means inside a module; None if it is not found.

    Args:
        module: Dotted name of the module.
        expression: The name.
    """
    parts = dotted(expression)
    return _in_module(module, parts, 0) if parts else None


def dotted(expression: ast.expr) -> list[str]:
    """Return the parts of a dotted name; empty if an expression is something else."""
    if isinstance(expression, ast.Name):
        return [expression.id]
    if isinstance(expression, ast.Attribute) and (before := dotted(expression.value)):
        return [*before, expression.attr]
    return []


def names_in(module: str, depth: int = 0) -> list[str]:
    """Return the names that a module defines or imports, for a suggestion."""
    tree = _tree(module) if depth <= _DEEPEST else None
    found: list[str] = []
    for statement in _statements(tree.body if tree else ()):
        if isinstance(statement, Node):
            found.append(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                is_star = alias.name == "*"
                found += names_in(_absolute(module, statement), depth + 1) if is_star else [alias.asname or alias.name]
    return found


def module_of(name: str) -> str:
    """Return the longest beginning of a dotted name that is a module; empty if there is none."""
    parts = name.split(".")
    beginnings = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((module for module in beginnings if _file(module) is not None), "")


def _find(name: str, depth: int) -> Definition | Value | None:
    if not (module := module_of(name)):
        return None
    rest = name[len(module) + 1 :]
    return _in_module(module, rest.split("."), depth) if rest else None


def _in_module(module: str, parts: Sequence[str], depth: int) -> Definition | Value | None:
    """Return what `parts` mean in a module: a definition of its own, or one that it imports."""
    tree = _tree(module)
    if tree is None or depth > _DEEPEST:
        return None
    first, rest = parts[0], parts[1:]
    stars: list[str] = []
    for statement in _statements(tree.body):
        if isinstance(statement, Node) and statement.name == first:
            return _inside(Definition(module, statement), rest)
        if isinstance(statement, ast.ImportFrom):
            source = _absolute(module, statement)
            for alias in statement.names:
                if alias.name == "*":
                    stars.append(source)
                elif (alias.asname or alias.name) == first and (
                    found := _find(".".join([source, alias.name, *rest]), depth + 1)
                ):
                    return found
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                if (alias.asname or alias.name.partition(".")[0]) == first and (alias.asname or rest):
                    return _find(".".join([alias.name if alias.asname else first, *rest]), depth + 1)
        elif (value := _assigned(statement, first)) is not None:
            return _value(Value(module, value), rest, depth)
    return next((found for source in stars if (found := _in_module(source, parts, depth + 1))), None)


def _value(value: Value, rest: Sequence[str], depth: int) -> Definition | Value | None:
    parts = dotted(value.node)
    if not parts:
        return None if rest else value
    return _in_module(value.module, [*parts, *rest], depth + 1) or (None if rest else value)


def _inside(found: Definition, rest: Sequence[str]) -> Definition | None:
    for name in rest:
        inner = (item for item in found.node.body if isinstance(item, Node) and item.name == name)
        if (node := next(inner, None)) is None:
            return None
        found = Definition(found.module, node)
    return found


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under `if` and `try` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _statements(statement.body)
            yield from _statements(getattr(statement, "orelse", ()))
            for handler in getattr(statement, "handlers", ()):
                yield from _statements(handler.body)


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    if isinstance(statement, ast.Assign):
        names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        return statement.value if name in names else None
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.value if statement.target.id == name else None
    return None


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    """Return the module of a `from ... import`, also of a relative one."""
    if not statement.level:
        return statement.module or ""
    file = _file(module)
    parts = module.split(".")
    is_package = file is not None and file.name == "__init__.py"
    package = parts[: len(parts) - statement.level + is_package]
    return ".".join([*package, *([statement.module] if statement.module else [])])


@functools.lru_cache(maxsize=512)
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return ast.parse(opening.read_bytes(file)) if file is not None else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


@functools.lru_cache(maxsize=2048)
def _file(module: str) -> Path | None:
    """Return the source of a module without importing it or its parents; None if there is none."""
    spec, found = None, ""
    try:
        for part in module.split("."):
            found = f"{found}.{part}" if found else part
            if found == part:
                spec = find_spec(part)
            else:
                spec = PathFinder.find_spec(found, spec.submodule_search_locations if spec else None)
            if spec is None or (found != module and spec.submodule_search_locations is None):
                return None
    except (ImportError, AttributeError, ValueError):
        return None
    path = Path(spec.origin) if spec is not None and spec.origin else None
    return path if path is not None and path.suffix == ".py" else None


def modules_in(package: str) -> list[str]:
    """Return the names of the modules in a package, for a suggestion."""
    file = _file(package)
    if file is None or file.name != "__init__.py":
        return []
    return [item.name for item in iter_modules([str(file.parent)])]
