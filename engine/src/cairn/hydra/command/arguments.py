"""Split a command line into Hydra's flags and the overrides, and write file names as Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_WITH_VALUE = {
    "--cfg": "-c",
    "--config-dir": "-cd",
    "--config-name": "-cn",
    "--config-path": "-cp",
    "--experimental-rerun": "",
    "--package": "-p",
}
_INFO, _INFO_SHORT = "--info", "-i"
_INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_QUOTES = ("'", '"')


@dataclass(frozen=True)
class Arguments:
    """A command line. Hydra accepts overrides only in one piece, so that the flags come first.

    Attributes:
        flags: Flags, with their values.
        overrides: All other arguments.
    """

    flags: tuple[str, ...]
    overrides: tuple[str, ...]

    @classmethod
    def split(cls, argv: Sequence[str]) -> Arguments:
        """Split a command line, in which flags may stand before, between and behind the overrides."""
        flags: list[str] = []
        overrides: list[str] = []
        rest = list(argv)
        while rest:
            item = rest.pop(0)
            if item == "--":
                overrides += rest
                break
            if not item.startswith("-") or item == "-":
                overrides.append(item)
            elif item in (_INFO, _INFO_SHORT):  # its value is optional: an override behind it is not its value
                flags.append(f"{_INFO}={rest.pop(0) if rest and rest[0] in _INFO_CHOICES else 'all'}")
            else:
                flags.append(item)
                if _takes_next(item) and rest:
                    flags.append(rest.pop(0))
        return cls(tuple(flags), tuple(overrides))

    def value(self, name: str) -> str | None:
        """Return the last value of a flag such as `--config-name`; None if it is not given."""
        found = None
        for at, flag in enumerate(self.flags):
            typed, equals, value = flag.partition("=")
            if _is(typed, name):
                found = value if equals else next(iter(self.flags[at + 1 :]), None)
        return found

    def has(self, *names: str) -> bool:
        """Whether a flag with one of the names is given, or the beginning of one, as argparse accepts it."""
        long = [name for name in names if name.startswith("--")]
        return any(
            flag in names or (len(flag) > len("--") and any(n.startswith(flag) for n in long)) for flag in self.flags
        )


def _takes_next(item: str) -> bool:
    return "=" not in item and any(_is(item, name) for name in _WITH_VALUE)


def _is(typed: str, name: str) -> bool:
    """Whether a flag is this one, its short form, or an abbreviation of it that argparse accepts."""
    is_part = typed.startswith("--") and name.startswith(typed) and len(typed) > len("--")
    is_clear = sum(other.startswith(typed) for other in _WITH_VALUE) == 1
    return typed in (name, _WITH_VALUE[name]) or (is_part and is_clear)


def existing(typed: str) -> Path:
    """Return the file or directory that was typed: as it is, or without the quotes or the `~` of a shell."""
    path, plain = Path(typed), Path(unquoted(typed))
    if not _exists(path):
        path = next((other for other in (plain, _at_home(plain)) if _exists(other)), plain)
    # Hydra would drop `..` without looking at links.
    return path.resolve() if ".." in path.parts else path


def unquoted(typed: str) -> str:
    """Return a text without the pair of quotes around it."""
    is_pair = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in _QUOTES
    return typed[1:-1] if is_pair else typed


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, or not a name at all
        return False


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path


def quoted(text: str) -> str:
    """Quote a text for Hydra's grammar, in which backslashes count only in front of a quote."""
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"


def literal(text: str) -> str:
    """Return a text as it is written in a configuration, so that `${...}` in it is not an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def unliteral(text: str) -> str:
    """Return the text that `literal` has been applied to."""
    return re.sub(r"(\\*)\\\$\{", lambda found: found[1][::2] + "${", text)


def run_dir(path: Path) -> str:
    """Return the override that makes this directory the run directory.

    Hydra resolves the name twice: when it creates the directory, and when other keys refer to it.
    """
    return f"hydra.run.dir={quoted(literal(literal(str(path))))}"


def file(override: str) -> str:
    """Return an override whose value is a file name in Hydra's grammar: the name may contain any character.

    Args:
        override: For example `ckpt_path=logs/a b.ckpt`; a name in quotes and an interpolation stay as they are, unless
            there is a file of exactly this name.
    """
    name, _, typed = override.partition("=")
    if typed in ("", "null") or (not _exists(Path(typed)) and unquoted(typed) != typed):
        return override
    if _exists(Path(typed)):
        return f"{name}={quoted(literal(typed))}"
    return f"{name}={quoted(str(_at_home(Path(typed))) if typed.startswith('~') else typed)}"
