"""Reads back what the W&B client has written into an offline run's log."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(run: Path) -> Iterator[Any]:
    """All records of all offline fragments of a run directory, in their order."""
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for body in _bodies(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(body)
            yield record


def _bodies(data: bytes) -> Iterator[bytes]:
    """A log of LevelDB's kind: blocks of 32 kB with records that may be cut into parts; a torn end is left out."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        body = data[at + 7 : at + 7 + length]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(body) < length:
            return
        at += 7 + length
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts


def history(run: Path) -> list[dict[str, Any]]:
    """The rows of the newest fragment, which W&B would show."""
    newest = sorted(run.glob("wandb/offline-run-*/*.wandb"))[-1]
    rows = []
    for body in _bodies(newest.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(body)
        if record.WhichOneof("record_type") == "history":
            rows.append({_name(item): json.loads(item.value_json) for item in record.history.item})
    return rows


def config(run: Path) -> dict[str, Any]:
    """The configuration as it was updated last."""
    found: dict[str, Any] = {}
    for record in records(run):
        parts = [record.config] if record.WhichOneof("record_type") == "config" else []
        parts += [record.run.config] if record.WhichOneof("record_type") == "run" else []
        for part in parts:
            found |= {_name(item): json.loads(item.value_json) for item in part.update}
    return found


def run(folder: Path) -> dict[str, Any]:
    """Which run it is, and how it has ended, in its only fragment."""
    found: dict[str, Any] = {"exit_code": None}
    for record in records(folder):
        if record.WhichOneof("record_type") == "run":
            found |= {"id": record.run.run_id, "name": record.run.display_name, "group": record.run.run_group}
        if record.WhichOneof("record_type") == "exit":
            found["exit_code"] = record.exit.exit_code
    return found


def artifacts(run: Path) -> list[dict[str, Any]]:
    """What was logged, oldest first: name, type, aliases, metadata, and its files with the references among them."""
    found = []
    for record in records(run):
        if record.WhichOneof("record_type") == "artifact":
            made = record.artifact
            files = {entry.path: entry.ref or entry.local_path for entry in made.manifest.contents}
            found.append(
                {
                    "name": made.name,
                    "type": made.type,
                    "aliases": set(made.aliases),
                    "metadata": json.loads(made.metadata),
                    "files": files,
                }
            )
    return found


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)
