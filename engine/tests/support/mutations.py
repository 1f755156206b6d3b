"""Damages files as a disk, a person or an attacker would. Every function is a function of its random generator."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**30), 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "1", "0", "nan", "../../etc/passwd", "/etc/passwd", "a/b"),
    *(
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x00",
        "\ud800",
        "\u202egnp.exe",
        "${oc.env:HOME}",
        "[bold]",
        "x" * 5000,
    ),
    *([], {}, [[]], [None], {"a": {"b": {}}}, [0] * 100, {"": ""}, {"\x1b": 1}, ["\ud800"], [[[[[[1]]]]]]),
)
"""Values that a field does not expect."""
DEEP = ("[" * 200_000, '{"a":' * 100_000, "[" * 80 + "]" * 80)
"""Texts whose nesting no program should follow."""
BYTES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"-",
    b"9" * 5000,
    b"\x80\x81",
    b"&a *a",
)


YAML = (
    *("!!python/object/apply:os.system [touch pwned]", "!!python/name:os.system", "!odd x", "!!binary x", "!!set {a}"),
    *("!!omap [a: 1]", "!!pairs [a: 1]", "!!timestamp x", "!!float x", "!!int x", "!!bool x", "!!null x", "*missing"),
    *("&a [*a]", "${oc.env:HOME}", "${now:}", "${..a}", "2001-99-99", "2001-01-01", "0x", "1e999", ".nan", "<<: 3"),
    *(
        "'\x1b[31m'",
        '"\\ud800"',
        "? ?",
        "[1, 2",
        "[1]",
        "{a: b}",
        "null",
        "true",
        "-1",
        "9" * 5000,
        "_",
        "[" * 3000,
        "{a: " * 500,
    ),
)
"""Values that a line of YAML does not expect."""


def json_text(text: str, random: random.Random) -> bytes:
    """Return a text with one value, key or piece of it changed."""
    kind = random.random()
    if kind < 0.02:
        return random.choice(DEEP).encode()
    if kind < 0.75:
        value = json.loads(text)
        holder, key = random.choice(list(_places(value)))
        if isinstance(key, str) and random.random() < 0.2:
            moved = holder.pop(key)
            if random.random() < 0.5:
                holder[random.choice(["surprise", "", "\x1b[2J", "format", "name"])] = moved
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
        return json.dumps(value).encode()
    return raw(text.encode(), random)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each container in a value with each of its keys."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found += [(value, key), *_places(child)]
    return found or [({"": value}, "")]


def raw(data: bytes, random: random.Random) -> bytes:
    """Return bytes of which a piece is changed, missing, doubled or replaced."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice([1, 1, 4, 40, 4000]))
    match random.randrange(5):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:]
        case 3:
            return data[:start] + random.choice(BYTES) + data[end:]
        case _:
            changed = bytearray(data)
            if start < len(changed):
                changed[start] ^= 1 << random.randrange(8)
            return bytes(changed)


def yaml_text(text: str, random: random.Random) -> bytes:
    """Return a YAML text with one line or piece changed."""
    if random.random() < 0.5:
        return raw(text.encode(), random)
    lines = text.splitlines()
    at = random.randrange(len(lines))
    key = lines[at].partition(":")[0]
    value = random.choice(YAML)
    lines[at] = f"{key}: {value}"
    if random.random() < 0.2:
        lines.insert(at, lines[at])
    return "\n".join(lines).encode()
