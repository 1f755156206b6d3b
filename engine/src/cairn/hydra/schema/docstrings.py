"""Read what docstrings say about the arguments of a class or function, in the style of Google and of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import cleandoc

_SECTION = re.compile(r"(\w[\w ]*):\s*$")
_ARGUMENTS = ("Args", "Arguments", "Parameters", "Keyword Args")
_ITEM = re.compile(r"( *)[*`]*(\w+)[*`]*(?: *\([^()]*(?:\([^()]*\)[^()]*)*\))? *: *(.*)")


def summary(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line."""
    paragraph = cleandoc(text or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def arguments(text: str | None) -> Mapping[str, str]:
    """Return the descriptions of the arguments by their names, each in one line.

    Args:
        text: A docstring.
    """
    found: dict[str, list[str]] = {}
    is_inside, indent, name = False, 0, ""
    for line in cleandoc(text or "").splitlines():
        if (section := _SECTION.fullmatch(line)) is not None:
            is_inside, indent, name = section[1] in _ARGUMENTS, 0, ""
            continue
        if not is_inside or not line.strip():
            continue
        margin = len(line) - len(line.lstrip())
        if margin == 0:
            is_inside = False
            continue
        item = _ITEM.fullmatch(line)
        if item and (not indent or margin == indent):
            indent, name = margin, item[2]
            found[name] = [item[3]]
        elif name and margin > indent:
            found[name].append(line.strip())
    return {name: " ".join(" ".join(parts).split()) for name, parts in found.items()}
