"""Schemas of the keys that the library itself reads: `checkpoint`, the top of the configuration, and the launcher.

The descriptions are the comments in the YAML files. The types are those that `cairn.hydra.parse` accepts; a test gives
good and bad values to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from cairn.hydra.schema.json_types import Schema, union
from cairn.trackers.settings import WhenDeleted, Which
from cairn.types import AuditMode, ElasticLevel, Mode
from cairn.units import SECONDS_PER_UNIT
from cairn.writing.options import Sharded, WhenBusy, WriterKind

NULL: Schema = {"type": "null"}
BOOLEAN: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
"""What Hydra replaces before the value is read, or what another file has to set."""


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, words))


_TIME = _alternatives(SECONDS_PER_UNIT)
_NUMBER = r"\d+(\.\d+)?"
_NOT_ZERO = r"(?!\s*0+(\.0+)?\s*[a-z]*\s*$)"
_SIZES = r"([kKmMgGtT]?[bB]|[kKmMgGtT][iI][bB])?"


def _duration(least: Schema, not_zero: str = "") -> Schema:
    amounts = {key: {"type": "number", "minimum": 0} for key in ("days", "hours", "minutes", "seconds")}
    return {
        "anyOf": [
            {"type": "number", **least},
            {"type": "string", "pattern": rf"^{not_zero}\s*{_NUMBER}\s*({_TIME})?\s*$"},
            {"type": "string", "pattern": r"^\d+:\d\d:\d\d:\d\d$"},
            {"type": "object", "properties": amounts, "additionalProperties": False, "minProperties": 1},
        ]
    }


DURATION = _duration({"minimum": 0})
LIMIT = _duration({"exclusiveMinimum": 0}, _NOT_ZERO)
"""A duration that is not 0."""
INTERVAL: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"enum": ["auto"]},
        {"type": "string", "pattern": rf"^{_NOT_ZERO}\s*(\d+\s*(ba|st)?|{_NUMBER}\s*(ep|{_TIME}))\s*$"},
    ]
}
SIZE: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": rf"^(?!\s*0+(\.0+)?\s*[a-zA-Z]*\s*$)\s*{_NUMBER}\s*{_SIZES}\s*$"},
    ]
}
PAUSE: Schema = {"anyOf": [INTERVAL["anyOf"][0], INTERVAL["anyOf"][2], NULL]}
COUNT: Schema = {"type": "integer", "minimum": 1}
COUNT_OR_NONE_OR_ALL: Schema = {"type": "integer", "minimum": -1}
CHECKPOINT: Mapping[str, Schema] = {
    "dirpath": TEXT,
    "monitor": {"type": ["string", "null"]},
    "mode": {"enum": [*get_args(Mode)]},
    "save_interval": INTERVAL,
    "max_overhead": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "mtbf": union([NULL, *LIMIT["anyOf"]]),
    "keep_last": COUNT_OR_NONE_OR_ALL,
    "save_top_k": COUNT_OR_NONE_OR_ALL,
    "audit": {"enum": [*get_args(AuditMode), False]},
    "watchdog": union([{"enum": ["auto", "off", False, None]}, *LIMIT["anyOf"][:3]]),
    "max_failed_saves": {"anyOf": [COUNT, {"enum": [-1]}]},
    "writer": {"enum": [*get_args(WriterKind)]},
    "buffers": {"enum": [1, 2]},
    "when_busy": {"enum": [*get_args(WhenBusy)]},
    "sharded": {"enum": [*get_args(Sharded)]},
    "overlap": BOOLEAN,
    "mirror": {"type": ["string", "null"]},
    "mirror_every": COUNT,
    "mirror_keep": union([NULL, COUNT, {"enum": [-1, "all"]}]),
    "mirror_queue": union([NULL, *SIZE["anyOf"]]),
    "mirror_wait": DURATION,
    "mirror_grace": DURATION,
}
"""Keys of the group `checkpoint`, without those that hold objects."""
ARTIFACTS: Mapping[str, Schema] = {
    "which": {"enum": [*get_args(Which)]},
    "every": COUNT,
    "pruned": {"enum": [*get_args(WhenDeleted)]},
    "deleted": {"enum": [*get_args(WhenDeleted)]},
    "queue": union([NULL, *SIZE["anyOf"]]),
    "wait": DURATION,
}
"""Keys of `checkpoint.artifacts`."""
OBJECTS = ("triggers", "keep")
"""Keys of the group `checkpoint` that map names to objects."""
TRAINER: Mapping[str, Schema] = {
    "elastic": {"enum": [*get_args(ElasticLevel)]},
    "max_time": union([NULL, *DURATION["anyOf"]]),
    "num_nodes": {"anyOf": [COUNT, {"enum": ["auto"]}]},
}
"""Keys of the group `trainer` that the library reads before Lightning does."""
TOP: Mapping[str, Schema] = {
    "task_name": TEXT,
    "tags": {"anyOf": [TEXT, {"type": "array", "items": {"type": ["string", "number"]}}, NULL]},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "train": BOOLEAN,
    "test": BOOLEAN,
    "predict": BOOLEAN,
    "eval": {"type": ["string", "null"]},
    "resume": {"type": ["string", "null"]},
    "ckpt_path": {"type": ["string", "null"]},
    "init_weights": {"type": ["string", "null"]},
    "init_weights_strict": BOOLEAN,
    "init_weights_prefix": {"type": ["string", "null"]},
    "pause_at": PAUSE,
    "prove": BOOLEAN,
    "optimized_metric": {"type": ["string", "null"]},
}
"""Keys at the top of the configuration."""
GROUPS = ("data", "model", "trainer", "checkpoint", "logger", "callbacks")
"""Groups that the library reads."""


def described(schemas: Mapping[str, Schema], comments: Mapping[str, str], defaults: Mapping[str, Any]) -> Schema:
    """Return the properties of a schema: each key with its type, its description and its default.

    Args:
        schemas: Types by key.
        comments: Descriptions by key.
        defaults: Defaults by key; interpolations are left out.
    """
    return {
        key: {
            **({"description": comments[key]} if key in comments else {}),
            **interpolated(schema),
            **({"default": defaults[key]} if key in defaults and "${" not in str(defaults[key]) else {}),
        }
        for key, schema in schemas.items()
    }


def interpolated(schema: Schema) -> Schema:
    """Return a schema that allows an interpolation in place of a value, as Hydra does."""
    return schema if schema in (TEXT, {}) else union([schema, INTERPOLATION])
