"""What `push` and `pull` print of a copy."""

from __future__ import annotations

from typing import Any

from cairn.remote.copied import Copied
from cairn.run import terminal
from cairn.units import format_bytes


def as_json(copied: Copied, verb: str) -> dict[str, Any]:
    """Return what was copied as JSON values.

    Args:
        copied: What was copied.
        verb: `uploaded` or `downloaded`.
    """
    return {
        verb: [item.name for item in copied.done],
        "present": [item.name for item in copied.present],
        "skipped": [{"name": name, "why": why} for name, why in copied.skipped],
    }


def show(copied: Copied, verb: str, where: str) -> None:
    """Print what was copied.

    Args:
        copied: What was copied.
        verb: `uploaded` or `downloaded`.
        where: Where it is now.
    """
    for name, why in copied.skipped:
        terminal.line(f"not {verb}: {name}, {why}")
    size = format_bytes(sum(item.num_bytes for item in copied.done))
    terminal.line(f"{where}: {len(copied.done)} {verb} ({size}), {len(copied.present)} were there already.")
