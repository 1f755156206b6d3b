"""Where a run comes from: code, versions, command line, and the checkpoint of another run that it starts from."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig

from cairn import __version__
from cairn.hydra import command_line
from cairn.lightning import state


@dataclass(frozen=True)
class Start:
    """A checkpoint of another run that this one starts from."""

    how: str
    """`ckpt_path` or `init_weights`."""
    named: str
    """As the command line names it."""
    run: str = ""
    """Id of the run that made it; empty if it was not made by this project."""
    step: int = 0
    version: str = ""
    """Of what lies in W&B: `entity/project/name:v3`, whatever its aliases mean later."""
    known_as: str = ""
    """What W&B calls that run, as its configuration says: `entity/project/id`, less what that leaves to the account."""


def start(cfg: DictConfig, contents: Mapping[str, Any], version: str = "", known_as: str = "") -> Start:
    """What `contents`, a checkpoint that a new run starts from, says of its origin; the rest see `Start`."""
    how = "ckpt_path" if cfg.get("ckpt_path") else "init_weights"
    ours = contents.get(state.KEY, {})
    step = int(ours.get("position", {}).get("step", 0))
    return Start(how, str(cfg[how]), str(ours.get("run", "")), step, version, known_as)


def versions(seed: int) -> dict[str, Any]:
    """What each manifest says of its run."""
    ours = {"cairn": __version__, "torch": str(torch.__version__), "lightning": lightning.__version__}
    return {"seed": seed, "git": git_commit(), "python": sys.version.split()[0], **ours}


def facts(
    directory: Path, git: str, num_parameters: int, start: Start | None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """What loggers are told of a run beside its configuration."""
    return {
        "directory": str(directory),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "overrides": list(overrides),
        "git_commit": git.rstrip("+"),
        "git_dirty": git.endswith("+"),
        "num_parameters": num_parameters,
        **({"started_from": asdict(start)} if start else {}),
    }


def git_commit() -> str:
    """The commit of the code, with a + if files differ from it; empty outside a repository."""
    git = ["git", "-C", os.environ.get(command_line.ROOT, ".")]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changes else "")
