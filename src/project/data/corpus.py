"""Decides which files make up a text, and puts them into one file that can be read at any place."""

import glob
import hashlib
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cairn.errors import MissingFileError

# Beside the modules at the top of the standard library. Named one by one: what else lies there
# (site-packages, tests, tables) differs from one installation to the next.
_PACKAGES = [
    *("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json", "logging"),
    *("multiprocessing", "sqlite3", "unittest", "urllib", "wsgiref", "xml", "xmlrpc"),
]


@dataclass(frozen=True)
class Corpus:
    """Files, sorted, whose bytes one after the other are the text."""

    files: tuple[Path, ...]

    @classmethod
    def find(cls, pattern: str | None) -> "Corpus":
        """The files that match a glob (`**` goes into folders), or the sources of Python's standard library.

        Raises:
            FileNotFoundError: if nothing matches.
        """
        files = _standard_library() if pattern is None else _matches(pattern)
        if not files:
            raise MissingFileError(f"No file matches data.files={pattern}, seen from {os.getcwd()}.")
        return cls(tuple(sorted(files)))

    @cached_property
    def num_bytes(self) -> int:
        """Length of the text."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names and sizes: the same for the same text on another machine, or in another folder."""
        folder = os.path.commonpath([file.parent for file in self.files])
        return _hash(f"{os.path.relpath(file, folder)}\0{file.stat().st_size}" for file in self.files)

    @cached_property
    def cache_name(self) -> str:
        """A file name that changes with any path, size or time of change."""
        key = _hash(f"{file.absolute()}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}" for file in self.files)
        return f"text_{key}.bin"

    def cache_in(self, folder: Path) -> Path:
        """The one file that holds the whole text, made if it is not there. Processes may race: each sees it
        whole.

        Raises:
            RuntimeError: if a file changes while it is read.
        """
        cached = folder / self.cache_name
        # The size is checked because a power cut can leave an empty file under the final name.
        if not cached.exists() or cached.stat().st_size != self.num_bytes:
            folder.mkdir(parents=True, exist_ok=True)
            self._write(cached)
        return cached

    def _write(self, cached: Path) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{cached.name}.", dir=cached.parent)
        try:
            with open(descriptor, "wb") as target:
                for file in self.files:
                    with open(file, "rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                num_written = target.tell()
            if num_written != self.num_bytes:
                raise RuntimeError(f"The text changed while it was read: {self.num_bytes} bytes, then {num_written}.")
            os.replace(temporary, cached)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _standard_library() -> list[Path]:
    home = Path(sysconfig.get_path("stdlib"))
    of_packages = (file for name in _PACKAGES for file in (home / name).rglob("*.py"))
    return [*home.glob("*.py"), *(file for file in of_packages if not {"test", "tests"} & set(file.parts))]


def _matches(pattern: str) -> list[Path]:
    paths = glob.iglob(os.path.expanduser(pattern), recursive=True)
    return [Path(path) for path in paths if os.path.isfile(path)]


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
