"""Origin of a run: its code, versions, command line, and the checkpoint of another run that it starts from."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cairn.hydra import command_line
from cairn.lightning.saved import unsaved


@dataclass(frozen=True)
class StartedFrom:
    """The checkpoint of another run that a run starts from."""

    how: str
    """`ckpt_path` or `init_weights`."""
    named: str
    """The file as it was given on the command line."""
    run: str = ""
    """Id of the run that saved it; empty if it was not saved by Cairn."""
    step: int = 0
    version: str = ""
    """The version in W&B that an alias was resolved to: `entity/project/name:v3`."""
    known_as: str = ""
    """Name of that run in W&B: `entity/project/id`, without the parts that its configuration does not set."""


def started_from(
    ckpt_path: str | None, init_weights: str | None, contents: Mapping[str, Any], version: str = "", known_as: str = ""
) -> StartedFrom:
    """Describe the checkpoint that a new run starts from.

    Args:
        ckpt_path: The file, if the run starts from the full state.
        init_weights: The file, if the run starts from the weights alone.
        contents: Contents of the checkpoint.
        version: Version in W&B, see `StartedFrom`.
        known_as: Name of the other run in W&B, see `StartedFrom`.

    Returns:
        The description, for the record of the run and its loggers.
    """
    ours = contents.get(unsaved.KEY, {})
    step = int(ours.get("position", {}).get("step", 0))
    how = "ckpt_path" if ckpt_path else "init_weights"
    return StartedFrom(how, str(ckpt_path or init_weights), str(ours.get("run", "")), step, version, known_as)


def origin(seed: int) -> dict[str, Any]:
    """Return what each manifest records about its run, besides versions: the seed, and the commit of the project."""
    return {"seed": seed, "git": project_commit()}


def facts(
    directory: Path, git: str, num_parameters: int, start: StartedFrom | None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what loggers record about a run in addition to its configuration.

    Args:
        directory: Directory of the run.
        git: Commit of the code, as `git_commit` returns it.
        num_parameters: Number of parameters of the model.
        start: Checkpoint of another run that this one starts from.
        overrides: Overrides from the command line.

    Returns:
        Plain values by name.
    """
    return {
        "directory": str(directory),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "overrides": list(overrides),
        "git_commit": git.rstrip("+"),
        "git_dirty": git.endswith("+"),
        "num_parameters": num_parameters,
        **({"started_from": asdict(start)} if start else {}),
    }


@cache
def project_commit() -> str:
    """Return `git_commit` of the project as it was when this process first asked: later edits are not imported."""
    return git_commit(os.environ.get(command_line.ROOT, "."))


def git_commit(root: Path | str) -> str:
    """Return the commit of the code in `root`, with a + if files have changed since; empty outside a repository."""
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changes else "")
