"""Write constraints.txt: the exact version of everything that requirements.txt installs, dependencies included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# Exact versions of everything that requirements.txt installs, dependencies included. Written by "make lock".
# Without these pins, pip installs the newest release of each dependency, whatever it contains: lightning 2.6.2 and
# 2.6.3 on the package index were malware. Read the diff before you commit a new lock.
# The CUDA libraries of torch are not listed: torch itself requires exact versions of them.
"""


def unlocked(requirements: str) -> str:
    """Return the requirements without their reference to the current lock."""
    return "".join(line for line in requirements.splitlines(keepends=True) if not line.startswith("-c"))


def pins(installed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one sorted `name==version` per package of pip's report, without the packages of this repository.

    Args:
        installed: The entries `install` of pip's installation report.
    """
    found = {}
    for package in installed:
        if "dir_info" in package["download_info"]:  # a folder of this repository
            continue
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        # "2.13.0+cpu" is a build of 2.13.0; another machine may need another build of the same version.
        found[name] = package["metadata"]["version"].partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def resolve(root: Path) -> list[dict[str, Any]]:
    """Ask pip what it would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        requirements.write_text(unlocked((root / "requirements.txt").read_text()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), "-r", str(requirements)], cwd=root, check=True)
        return list(json.loads(report.read_text())["install"])


def main() -> int:
    lines = pins(resolve(ROOT))
    (ROOT / "constraints.txt").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    print(f"constraints.txt: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
