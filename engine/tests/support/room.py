"""Full and forbidden places: a small file system in memory, and a command that obeys permissions."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a file system of this size; the test is skipped where that is not allowed."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={num_bytes}", "none", str(path)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True) if shutil.which("mount") else None
    if mounted is None or mounted.returncode:
        pytest.skip(f"a file system may not be mounted here: {mounted.stderr.strip() if mounted else 'no mount'}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def obedient() -> list[str]:
    """Return a prefix for a command so that permissions apply to it: root may ignore them."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and there is no setpriv to give that right up")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]
