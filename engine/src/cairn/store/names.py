"""File names in a checkpoint directory: every name is built and parsed here, and nowhere else."""

from __future__ import annotations

import re
import secrets

from cairn.types import Position

LAST = "last.ckpt"
BEST = "best.ckpt"
OUTBOX = ".outbox"
MLFLOW_OUTBOX = ".outbox-mlflow"
TRACKIO_OUTBOX = ".outbox-trackio"
MIRROR_OUTBOX = ".mirror"
MIRROR_RANKS = ".mirror-ranks"
CLAIM = ".claim"
LOCK = ".lock"
PROBE = ".writable.tmp"
WRITERS = "writers.lock"
_SHARED = r"\.shared-[0-9a-f]{16}\.tmp"
_HANG = r"\.hang-(?:[0-9]+|(?:called|noted)-[0-9a-f]+)\.(?:tmp|new)"
_STEM = r"epoch_([0-9]{3,})_batch_([0-9]{6,})"
_NAME = re.compile(rf"{_STEM}\.ckpt")
_TEMP = re.compile(rf"\.(?:{_STEM}\.(?:ckpt(?:\.[0-9a-f]+)?|json)|{LAST}|{BEST}|{CLAIM})\.tmp|{_SHARED}|{_HANG}")
_BEFORE = re.compile(rf"\.({_STEM}\.ckpt)\.before")
_SHARD = re.compile(r"rank_([0-9]{5,})\.ckpt")


def checkpoint_name(position: Position) -> str:
    """Name of the checkpoint at a position: `epoch_000_batch_000150.ckpt` after 150 batches of epoch 0."""
    return f"epoch_{position.epoch:03d}_batch_{position.batch:06d}.ckpt"


def parse_name(name: str) -> tuple[int, int] | None:
    """Epoch and batch in the name of a checkpoint; None for any other name."""
    match = _NAME.fullmatch(name)
    found = (int(match[1]), int(match[2])) if match else None
    return found if found and checkpoint_name(Position(*found)) == name else None


def manifest_name(checkpoint: str) -> str:
    """Name of the manifest of a checkpoint: the same stem with `.json`."""
    return checkpoint.removesuffix(".ckpt") + ".json"


def temp_name(name: str) -> str:
    """Hidden name under which a file is written first: in the same directory, so that the rename is atomic."""
    return f".{name}.tmp"


def before_name(checkpoint: str) -> str:
    """Hidden name of an earlier checkpoint whose successor is not committed yet; see `earlier`."""
    return f".{checkpoint}.before"


def name_before(name: str) -> str | None:
    """Name of the checkpoint that has this hidden name until its successor is committed; None for any other name."""
    match = _BEFORE.fullmatch(name)
    return match[1] if match and parse_name(match[1]) else None


def shared_name(token: str) -> str:
    """Hidden name of a file that all processes of a run look for; see `shared`.

    Args:
        token: 16 hexadecimal digits.
    """
    return f".shared-{token}.tmp"


def hang_name(rank: int) -> str:
    """Hidden name of what a rank says about itself when it hangs; see `hang_reports`."""
    return f".hang-{rank}.tmp"


def hang_mark(what: str, attempt: str) -> str:
    """Hidden name of a mark of an attempt that hangs.

    Args:
        what: `called` or `noted`, see `hang_reports`.
        attempt: Hexadecimal digits that name the attempt.
    """
    return f".hang-{what}-{attempt}.tmp"


def attempt_name(checkpoint: str, attempt: str) -> str:
    """Hidden directory in which the shards of one save are collected.

    Args:
        checkpoint: Name of the checkpoint.
        attempt: Random hexadecimal digits that all ranks of this save know.
    """
    return f".{checkpoint}.{attempt}.tmp"


def shard_name(rank: int) -> str:
    """Name of the file of one rank in a checkpoint that is a directory: `rank_00001.ckpt`."""
    return f"rank_{rank:05d}.ckpt"


def report_name(rank: int) -> str:
    """Name of the report of a rank's writer, next to its shard until the commit."""
    return f"rank_{rank:05d}.json"


def new_attempt() -> str:
    """Return the id of one save, which no other save has."""
    return secrets.token_hex(8)


def shard_rank(name: str) -> int | None:
    """Rank in the name of a shard; None for any other name."""
    match = _SHARD.fullmatch(name)
    return int(match[1]) if match and shard_name(int(match[1])) == name else None


def is_temp(name: str) -> bool:
    """True if a file of this name is what an interrupted writer left."""
    return name == PROBE or _TEMP.fullmatch(name) is not None or name_before(name) is not None


def checkpoint_of(name: str) -> str | None:
    """Name of the checkpoint that a manifest of this name belongs to; None for any other name."""
    checkpoint = name.removesuffix(".json") + ".ckpt"
    return checkpoint if name.endswith(".json") and parse_name(checkpoint) else None
