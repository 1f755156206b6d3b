"""NAMES: the one owner of every file name in a checkpoint directory; build and parse are a pure pair."""

from __future__ import annotations

import re

from cairn.types import Position

LAST = "last.ckpt"
BEST = "best.ckpt"
OUTBOX = ".outbox"
PROBE = ".writable.tmp"
_STEM = r"epoch_([0-9]{3,})_batch_([0-9]{6,})"
_NAME = re.compile(rf"{_STEM}\.ckpt")
_TEMP = re.compile(rf"\.(?:{_STEM}\.(?:ckpt|json)|{LAST}|{BEST})\.tmp")


def checkpoint_name(position: Position) -> str:
    """`epoch_000_batch_000150.ckpt`: the state after 150 batches of epoch 0."""
    return f"epoch_{position.epoch:03d}_batch_{position.batch:06d}.ckpt"


def parse_name(name: str) -> tuple[int, int] | None:
    """Epoch and batch of a checkpoint's file name; None for any other name."""
    match = _NAME.fullmatch(name)
    place = (int(match[1]), int(match[2])) if match else None
    return place if place and checkpoint_name(Position(*place)) == name else None


def manifest_name(checkpoint: str) -> str:
    """The manifest beside a checkpoint: the same stem, `.json`."""
    return checkpoint.removesuffix(".ckpt") + ".json"


def temp_name(name: str) -> str:
    """Where a file is written before it gets its name: hidden, in the same directory, so that a rename is atomic."""
    return f".{name}.tmp"


def is_temp(name: str) -> bool:
    """Is this a leftover of a writer that died?"""
    return name == PROBE or _TEMP.fullmatch(name) is not None


def checkpoint_of(name: str) -> str | None:
    """The checkpoint that a manifest of this name belongs to; None for any other name."""
    checkpoint = name.removesuffix(".json") + ".ckpt"
    return checkpoint if name.endswith(".json") and parse_name(checkpoint) else None
