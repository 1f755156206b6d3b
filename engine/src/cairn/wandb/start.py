"""What a run starts from: a checkpoint in W&B is fetched into the run directory, and recorded as used by the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cairn import opening
from cairn.store import disk
from cairn.trackers.plan import step_alias
from cairn.wandb.environment import prepare

PREFIX = "wandb:"
"""`ckpt_path=wandb:entity/project/name:alias` names a checkpoint in W&B."""
_VERSION = "version.txt"


def local_file(named: str, run: Path) -> Path:
    """The file that a run starts from. One in W&B is fetched into the run directory, once.

    Args:
        named: A path, or `wandb:entity/project/name:alias`.
        run: The run directory.

    Returns:
        The path of the file.

    Raises:
        ResumeError: It could not be fetched.
    """
    if not named.startswith(PREFIX):
        return Path(named)
    folder = _folder(named, run)
    if there := sorted(folder.glob("whole/*.ckpt")):
        return there[0]
    from cairn.wandb import client  # it imports wandb, which takes a second

    prepare(run, offline=False)
    path, found = client.download(named.removeprefix(PREFIX), folder)
    disk.put(folder / _VERSION, found.encode())
    (folder / "whole").mkdir(exist_ok=True)
    return path.rename(folder / "whole" / path.name)


def fetched_version(named: str, run: Path) -> str:
    """The version that `local_file` has fetched.

    Args:
        named: As for `local_file`.
        run: The run directory.

    Returns:
        `entity/project/name:v3`; empty if nothing was fetched.
    """
    path = _folder(named, run) / _VERSION
    return opening.read_text(path) if named.startswith(PREFIX) and path.is_file() else ""


def used_artifact(started_from: Mapping[str, Any], entity: str, project: str) -> str:
    """The version that a run has started from.

    Args:
        started_from: The facts about the start: `named`, `version`, and what the file says of its run: `run`,
            `known_as`, `step`.
        entity: Entity of the run that starts.
        project: Project of the run that starts.

    Returns:
        `entity/project/name:alias`; empty if the file says nothing of a run.
    """
    if version := started_from.get("version"):
        return str(version)
    if started_from["named"].startswith(PREFIX):
        return str(started_from["named"]).removeprefix(PREFIX)
    if not started_from.get("run"):
        return ""
    *place, name = (started_from.get("known_as") or started_from["run"]).split("/")
    place = [entity, project][: 2 - len(place)] + place
    return f"{'/'.join(place)}/model-{name}:{step_alias(started_from.get('step', 0))}"


def _folder(named: str, run: Path) -> Path:
    return run / "start" / hashlib.sha256(named.encode()).hexdigest()[:8]
