"""Sizes, durations and ranges as people write and read them: `1.5 GB`, `10min`, `1-3`. Imports no other room."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Duration = int | float | str | Mapping[str, float]
"""What `parse_duration_s` reads."""

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY_BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNTIL_S = {"ms": 1.0, "s": 120.0, "min": 3600.0, "h": 2 * 86400.0}
"""Where the next unit takes over: 90 s and 36 h are easier to read than 1.5 min and 1.5 d."""
SECONDS_PER_UNIT = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}
"""Units of time that a user may write."""
_FIELDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def format_bytes(num_bytes: float, digits: int = 3) -> str:
    """Format a size: `1.5 MB`, in powers of 1000.

    Args:
        num_bytes: Size in bytes.
        digits: Significant digits.
    """
    return _in_unit(num_bytes, _BYTES, {unit: 1000 * factor for unit, factor in _BYTES.items()}, digits)


def format_duration(seconds: float, digits: int = 3) -> str:
    """Format a duration: `5.8 ms`, `12.3 s`, `4 min`, `2.5 h`, `7 d`.

    Args:
        seconds: Duration in seconds.
        digits: Significant digits.
    """
    return _in_unit(seconds, _SECONDS, _UNTIL_S, digits) if seconds else "0 s"


def _in_unit(value: float, units: Mapping[str, float], until: Mapping[str, float], digits: int) -> str:
    *smaller, largest = units
    # Rounded before it is compared: 999 999 bytes are 1 MB, not 1000 kB.
    shown = {unit: float(f"{value / factor:.{digits}g}") for unit, factor in units.items()}
    unit = next((unit for unit in smaller if shown[unit] * units[unit] < until[unit]), largest)
    return f"{shown[unit]:g} {unit}"


def parse_size(text: int | str) -> int:
    """Read a size.

    Args:
        text: A number of bytes, or a text such as '500MB', '1.5 GB' or '20GiB'.

    Returns:
        The size in bytes.

    Raises:
        ValueError: It is not a size, or not more than 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    units = {"": 1} | {name.lower(): factor for name, factor in (_BYTES | _BINARY_BYTES).items()}
    if not match or isinstance(text, bool) or match[2].lower() not in units or float(match[1]) <= 0:
        raise ValueError(f"Invalid size {text!r}: give bytes, or '500MB', '1.5GB', '20GiB'.")
    return int(float(match[1]) * units[match[2].lower()])


def parse_duration_s(duration: Duration, name: str = "max_time") -> float:
    """Read a duration.

    Args:
        duration: A number of seconds, '90s', '10min', '2h', 'DD:HH:MM:SS', or {hours: 2, minutes: 30}.
        name: Name of the setting, for the error message.

    Returns:
        The duration in seconds.

    Raises:
        ValueError: It is not in one of the forms.
    """
    if isinstance(duration, Mapping) and duration and _are_amounts(duration):
        return float(sum(_FIELDS[key] * value for key, value in duration.items()))
    if match := re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", str(duration)):
        return float(sum(int(n) * unit for n, unit in zip(match.groups(), _FIELDS.values(), strict=True)))
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(duration).strip())
    if match and match[2] in {"", *SECONDS_PER_UNIT}:
        return float(match[1]) * SECONDS_PER_UNIT.get(match[2], 1)
    raise ValueError(f"Invalid duration {name}={duration!r}: give seconds, '90s', '10min', '2h' or 'DD:HH:MM:SS'.")


def _are_amounts(duration: Mapping[str, float]) -> bool:
    return set(duration) <= set(_FIELDS) and all(isinstance(n, (int, float)) and n >= 0 for n in duration.values())


def format_ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers as text, with 1-3 in place of 1, 2, 3.

    Args:
        numbers: In order.
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
