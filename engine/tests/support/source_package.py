"""A package whose source shows arguments in many ways, for the tests of schemas. It must not be imported."""

from __future__ import annotations

SOURCES = {
    "__init__.py": "from .parts import Net, Renamed as Other\nfrom .stars import *\nraise SystemExit('imported')\n",
    "parts.py": '''
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Optional, Union
from collections.abc import Sequence
from . import base
from .base import Base as B

Mode = Literal["a", "b"]
Size = Union[int, "Mode"]
alias = B


class Net(B):
    """A net. It has more to it,
    in a second line.

    More.

    Args:
        width: Width of a layer,
            in numbers: any.
        mode: How.
        sizes (list of int, optional): Some sizes (default: none)

    Returns:
        nothing: at all.
    """

    def __init__(self, width: int, mode: Mode = "a", sizes: Sequence[int] | None = (1, 2), *rest, act=None, **more):
        super().__init__(hidden=1, **more)


class Renamed(base.Base): ...


class Kind(str, Enum):
    A = "a"


class Holder:
    def __init__(self, net: str | Net, kind: Kind) -> None: ...


class Open:
    def __init__(self, one: float = 1e-3, **more: Any) -> None:
        self.more = more


class Unknown(elsewhere.Thing): ...


@dataclass(frozen=True)
class Settings:
    """Settings."""

    name: str
    size: Size = 3
    flag: Optional[bool] = None
    items: list[str] = field(default_factory=list)
    precise: "Literal[16, '32']" = 16

    class Inner:
        def __init__(self, deep: str | None = None) -> None: ...


@attrs.define
class Attrs:
    size: int


class Assigned(B):
    __init__ = build


class Conditional(B):
    if True:

        def __init__(self, other): ...


def build(path: str, *, count: int = 2) -> None:
    """Build it.

    Args:
        count: How many.
    """
''',
    "base.py": '''
class Base:
    """The base.

    Args:
        rate: The rate.
        hidden: Given by the subclass.
    """

    def __init__(self, rate: float = 0.5, hidden: int = 0) -> None: ...
''',
    "stars.py": "class Starred:\n    def __init__(self, a, /, b): ...\n",
}


def write(folder):
    """Write the package `shown_source` below a folder."""
    package = folder / "shown_source"
    package.mkdir()
    for name, text in SOURCES.items():
        (package / name).write_text(text)
