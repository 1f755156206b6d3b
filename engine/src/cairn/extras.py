"""What to install for an optional part of the library: a command that works however Cairn itself was installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

_DISTRIBUTION = "cairn-checkpoint"


def how_to_install(extra: str) -> str:
    """Return the command that installs what an extra needs.

    It names the packages, not the extra: Cairn may come from a folder or a git URL, and pip would look for it on the
    package index.

    Args:
        extra: `hydra`, `wandb`, `mlflow`, `trackio`, `slurm`, `report`, `remote` or `all`.
    """
    try:
        needed = _needed(extra, metadata.requires(_DISTRIBUTION) or [])
    except metadata.PackageNotFoundError:  # used from a folder, without an installation
        needed = []
    if not needed:  # or installed before there was this extra
        needed = [f"{Path(__file__).resolve().parents[2]}[{extra}]"]
    return "pip install " + " ".join(f"'{requirement}'" for requirement in needed)


def _needed(extra: str, requirements: list[str]) -> list[str]:
    """Return what an extra adds, without the version of the library; an extra may name others."""
    found: list[str] = []
    for requirement in requirements:
        package, _, marker = (part.strip() for part in requirement.partition(";"))
        if marker.replace('"', "'") != f"extra == '{extra}'":
            continue
        if package.startswith(_DISTRIBUTION):
            inner = package.partition("[")[2].partition("]")[0].split(",")
            found += [item for name in inner for item in _needed(name.strip(), requirements)]
        else:
            found.append(package)
    return list(dict.fromkeys(found))
