"""Record the steps on a disk, let any step fail, and copy the directory before each step."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STEPS = ("fsync", "replace", "symlink", "unlink")


class Disk:
    """Records fsync, rename, symlink and unlink below `directory`, by file names.

    Attributes:
        steps: What was done, in order: `fsync NAME`, `replace OLD NEW`, `symlink TARGET NAME`, `unlink NAME`.
        fail_at: Number of the step that fails, as if the disk were full.
        copies: Where the directory is copied before each step: what a `kill -9` there would leave.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.steps: list[str] = []
        self.fail_at: int | None = None
        self.copies: Path | None = None
        for name in STEPS:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def copy(self) -> None:
        """Copy what a kill now would leave."""
        assert self.copies is not None
        shutil.copytree(self.directory, self.copies / f"{len(self.steps):03d}", symlinks=True)

    def _watched(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            names = [self._name(arg) for arg in args if not isinstance(arg, bool)]  # symlink has a flag behind its two
            if names[-1] is None:
                return do(*args, **options)
            if self.copies is not None:
                self.copy()
            self.steps.append(" ".join([name, *map(str, names)]))
            if self.fail_at == len(self.steps) - 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return do(*args, **options)

        return step

    def _name(self, arg: Any) -> str | None:
        """Name of a file in the directory, `.` for the directory itself, None for a file elsewhere."""
        if isinstance(arg, int):
            return self._name_of_open(os.fstat(arg))
        path = Path(arg)
        if not path.is_absolute():
            return str(path)  # the target of a link
        return path.name if path.parent == self.directory else None

    def _name_of_open(self, found: os.stat_result) -> str | None:
        if stat.S_ISDIR(found.st_mode):
            return "." if os.path.samestat(found, self.directory.stat()) else None
        return next((p.name for p in self.directory.iterdir() if os.path.samestat(found, p.lstat())), None)


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Limit the size of files, so that a real write fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
