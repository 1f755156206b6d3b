"""Prints texts that may come from other people: the name of a metric can hold the codes that control a terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

_KEPT = "\n\t"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that control, reverse or break a line, or that cannot be encoded."""
_JOINERS = "\u200c\u200d\u00ad"
"""Characters in those categories that belong to ordinary words and pictures."""


def printable(text: str) -> str:
    r"""Return a text with `\x1b` and the like in place of characters that would control the terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in _KEPT or character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()


def console() -> Console:
    """Return a console of this terminal whose texts are `printable`; its own colours are not changed."""
    made = Console()
    made.push_render_hook(_Printable())
    return made


def error(text: str) -> None:
    """Print a line to stderr."""
    print(printable(text), file=sys.stderr)


def line(text: str) -> None:
    """Print a line."""
    print(printable(text))


class _Printable(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Renderable(item) for item in renderables]


class _Renderable:
    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._inner, options)
        for text, style, control in segments:
            yield Segment(text if control else printable(text), style, control)
