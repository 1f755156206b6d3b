"""Output of the commands: tables in one style, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cairn.units import format_duration


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))


def new_table() -> Table:
    """Return an empty table in the style of all commands."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def age(created: str) -> str:
    """Return the time since `created` (ISO 8601), with two digits; empty if `created` is not such a time."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # not a time, or one without a time zone
        return ""
    return format_duration(max(0, round(seconds)), digits=2)
