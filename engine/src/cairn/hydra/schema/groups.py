"""The schemas of a project: one for each group of its configuration, and one for the files that span all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cairn.hydra.schema import files, library, nodes, signatures
from cairn.hydra.schema.files import LIBRARY, ConfigFile
from cairn.hydra.schema.json_types import NODE, Schema

DRAFT = "http://json-schema.org/draft-07/schema#"
WHOLE = "train.json"
"""Schema of the primary file, and of each file with `# @package _global_`."""
_LAUNCHER = "hydra/launcher"
_TRAINER = "lightning.pytorch.Trainer"
_OBJECTS: Schema = {"anyOf": [NODE, library.NULL, {"$ref": "#/definitions/interpolation"}]}


def schema_name(file: ConfigFile) -> str | None:
    """Return the name of the schema for a file; None if there is none."""
    if file.is_global:
        return WHOLE
    if file.group.partition("/")[0] == "hydra":
        return "hydra_launcher.json" if file.group == _LAUNCHER else None
    return f"{file.group.replace('/', '_')}.json"


def of(project: Sequence[ConfigFile]) -> dict[str, Schema]:
    """Return all schemas by their file names.

    Args:
        project: Files of the project.
    """
    shared = files.below(LIBRARY)
    names = [file.group for file in [*project, *shared] if not file.is_global and schema_name(file)]
    groups = dict.fromkeys([*library.GROUPS, *(name for name in names if name not in ("paths",))])
    found: dict[str, Schema] = {}
    for group in groups:
        own = [file for file in [*shared, *project] if file.group == group and not file.is_global]
        name = "hydra_launcher.json" if group == _LAUNCHER else f"{group.replace('/', '_')}.json"
        found[name] = _group(group, own)
    found[WHOLE] = _whole([*shared, *project], groups)
    return found


def _group(group: str, own: Sequence[ConfigFile]) -> Schema:
    comments = _comments(own)
    # Not those of the project: its owner may change a value without a thought of schemas.
    values = _values([file for file in own if file.path.is_relative_to(LIBRARY)])
    targets = [name for file in own for name in files.targets(file.values())]
    head = {"$schema": DRAFT, "title": f"Group {group}"}
    if group == "checkpoint":
        return {**head, **_checkpoint(own, comments, values), "definitions": nodes.definitions(targets)}
    if group == "trainer":
        return {
            **head,
            **_trainer(comments),
            "definitions": nodes.definitions(name for name in targets if name != _TRAINER),
        }
    if group in ("logger", "callbacks"):
        body: Schema = {"type": "object", "properties": {"defaults": nodes.DEFAULTS}, "additionalProperties": _OBJECTS}
        return {**head, **body, "definitions": nodes.definitions(targets)}
    if group == _LAUNCHER:
        return {**head, **_launcher(comments, values)}
    whole = {name for file in own if isinstance(name := file.values().get("_target_"), str)}
    found = nodes.definitions(targets, whole)
    return {**head, "allOf": [NODE], "properties": {"defaults": nodes.DEFAULTS}, "definitions": found}


def _checkpoint(own: Sequence[ConfigFile], comments: Mapping[str, str], values: Mapping[str, Any]) -> Schema:
    prefix = "artifacts."
    inner = {key.removeprefix(prefix): text for key, text in comments.items() if key.startswith(prefix)}
    artifacts = library.described(library.ARTIFACTS, inner, values.get("artifacts") or {})
    objects: Schema = {"type": "object", "additionalProperties": _OBJECTS}
    about = {"triggers": "When to save.", "keep": "What to keep: a checkpoint that one of the rules selects."}
    return {
        "type": "object",
        "properties": {
            "defaults": nodes.DEFAULTS,
            **library.described(library.CHECKPOINT, comments, values),
            "artifacts": {
                "description": "Checkpoints that go to W&B, MLflow and Trackio.",
                "type": ["object", "null"],
                "properties": artifacts,
                "additionalProperties": False,
            },
            **{key: {"description": about[key], **objects} for key in library.OBJECTS},
            **{key: {"description": comments.get(key, "A key of this project.")} for key in own_keys(own)},
        },
        "additionalProperties": False,
    }


def own_keys(own: Sequence[ConfigFile]) -> list[str]:
    """Return keys of the group `checkpoint` that a project has added: its own files refer to them.

    Args:
        own: Files of the group.
    """
    known = {"defaults", "artifacts", *library.CHECKPOINT, *library.OBJECTS}
    text = "\n".join(file.text for file in own)
    keys = dict.fromkeys(key for file in own for key in file.values() if key not in known)
    return [key for key in keys if f"${{checkpoint.{key}}}" in text]


def _trainer(comments: Mapping[str, str]) -> Schema:
    signature = signatures.of(_TRAINER)
    # The class is the one that the library installs with; without it, any key is accepted.
    own = nodes.properties(signature) if signature else {}
    ours = library.described(library.TRAINER, {}, {})
    found = {"defaults": nodes.DEFAULTS, **nodes.HYDRA_KEYS, **own, **ours}
    for key, text in comments.items():
        if key in found:
            found[key] = {**found[key], "description": text}
    return {"type": "object", "properties": found, "additionalProperties": signature is None}


def _launcher(comments: Mapping[str, str], values: Mapping[str, Any]) -> Schema:
    """Return the schema of the launchers for SLURM: the library's file has all keys, with values of their types."""
    found: dict[str, Schema] = {"defaults": nodes.DEFAULTS, **nodes.HYDRA_KEYS}
    for key, value in values.items():
        if key not in found:
            found[key] = {
                **({"description": comments[key]} if key in comments else {}),
                **_like(value),
            }
    return {"type": "object", "properties": found, "additionalProperties": False}


def _like(value: Any) -> Schema:
    """Return the schema of values of the same type; of null, any."""
    kinds: Mapping[type, Schema] = {
        bool: {"type": "boolean"},
        int: {"type": ["integer", "null"]},
        str: {"type": ["string", "null"]},
        list: {"type": ["array", "null"]},
        dict: {"type": ["object", "null"]},
    }
    kind = kinds.get(type(value))
    return library.interpolated(kind) if kind else {}


def _whole(everything: Sequence[ConfigFile], groups: Mapping[str, None]) -> Schema:
    primary = [file for file in everything if not file.group]
    comments = _comments(primary)
    own = {key: {"description": comments.get(key, "A key of this project.")} for key in _values(primary)}
    parts = {group: {"$ref": f"{group}.json"} for group in groups if "/" not in group}
    return {
        "$schema": DRAFT,
        "title": "Whole configuration",
        "type": "object",
        "properties": {
            "defaults": nodes.DEFAULTS,
            **own,
            **library.described(library.TOP, comments, {}),
            **parts,
            "hydra": {"type": "object", "description": "Settings of Hydra, such as hydra.sweeper.params."},
            "paths": {"type": "object", "description": "Directories: log_dir, data_dir, root_dir, output_dir."},
        },
        "additionalProperties": False,
    }


def _comments(own: Sequence[ConfigFile]) -> dict[str, str]:
    """Return the comments of keys; those of a file of the project replace those of the library."""
    return {key: text for file in own for key, text in file.comments().items()}


def _values(own: Sequence[ConfigFile]) -> dict[str, Any]:
    """Return the values of keys. The first file that has one counts."""
    found: dict[str, Any] = {}
    for file in own:
        for key, value in file.values().items():
            found.setdefault(key, value)
    return found
