"""Names of attributes, such as `net.1.history[0]['a']`, as Python code that reads them."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterator
from typing import Any


def code(name: str, owner: str = "self") -> str | None:
    """Return an expression that reads an attribute; None if its name has no form in Python.

    Args:
        name: Name of the attribute in its owner: names with dots between them, and subscripts. A part of a
            `Sequential` has a number as its name.
        owner: Expression for the owner.
    """
    expression = owner
    for part, is_key in _parts(name):
        if part is None:
            return None
        if is_key:
            expression += f"[{part}]"
        elif _is_name(part.removesuffix("()")):
            expression += f".{part}"
        else:
            expression = f"getattr({expression}, {part!r})"
    return expression


def is_readable(item: Any, name: str) -> bool:
    """Whether `code` reads an attribute of this object: a variable of a function, for example, is not an attribute."""
    for part, is_key in _parts(name):
        if part is None:
            return False
        try:
            if is_key:
                item = item[ast.literal_eval(part)]
            else:
                item = getattr(item, part.removesuffix("()"))
        except Exception:  # the user's classes may raise anything
            return False
        if part.endswith("()") and not is_key:
            return callable(item)
    return True


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _parts(name: str) -> Iterator[tuple[str | None, bool]]:
    """Yield the parts of a name, and whether each is a subscript; None in place of one that cannot be typed."""
    rest = f".{name}"
    while rest:
        is_key = rest[0] == "["
        end = _end_of_key(rest) if is_key else _end_of_attribute(rest)
        yield (rest[1 : end - is_key] or None) if end else None, is_key
        if not end:
            return
        rest = rest[end:]


def _end_of_attribute(rest: str) -> int:
    found = [at for at in (rest.find(".", 1), rest.find("[", 1)) if at > 0]
    return min(found, default=len(rest))


def _end_of_key(rest: str) -> int:
    """Return where a subscript ends; 0 if it is not a literal. A text in it may contain brackets."""
    end = rest.find("]")
    while end > 0:
        try:
            ast.literal_eval(rest[1:end])
            return end + 1
        except (SyntaxError, ValueError):
            end = rest.find("]", end + 1)
    return 0
