"""The source files of a text, and one file that joins them."""

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

# Packages of the standard library that belong to the default text, in addition to its top-level modules. They are
# listed because other folders there (site-packages, tests) differ between installations.
_PACKAGES = [
    *("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json", "logging"),
    *("multiprocessing", "sqlite3", "unittest", "urllib", "wsgiref", "xml", "xmlrpc"),
]


@dataclass(frozen=True)
class Corpus:
    """A text: the bytes of sorted files, one after the other."""

    files: tuple[Path, ...]

    @classmethod
    def find(cls, pattern: str | None) -> "Corpus":
        """Find the files of a text.

        Args:
            pattern: A glob (`**` matches folders); None uses the sources of Python's standard library.

        Returns:
            The corpus of all files that match.

        Raises:
            FileNotFoundError: No file matches.
        """
        files = _standard_library() if pattern is None else _matches(pattern)
        if not files:
            raise MissingFileError(f"No file matches data.files={pattern} in {os.getcwd()}.")
        return cls(tuple(sorted(files)))

    @cached_property
    def num_bytes(self) -> int:
        """Length of the text in bytes."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of relative names and sizes; equal for the same text in another folder or on another machine."""
        folder = os.path.commonpath([file.parent for file in self.files])
        return _hash(f"{os.path.relpath(file, folder)}\0{file.stat().st_size}" for file in self.files)

    @cached_property
    def cache_name(self) -> str:
        """Name of the joined file; it changes with the path, size or modification time of any source file."""
        key = _hash(f"{file.absolute()}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}" for file in self.files)
        return f"text_{key}.bin"

    def cache_in(self, folder: Path) -> Path:
        """Return the path of the joined file; write the file if it does not exist.

        Several processes may call this at the same time: each of them sees a complete file.

        Args:
            folder: Directory of the joined file.

        Returns:
            The path of the file.

        Raises:
            RuntimeError: A source file changed while it was read.
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
                raise RuntimeError(f"The text changed from {self.num_bytes} to {num_written} bytes while it was read.")
            os.replace(temporary, cached)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _standard_library() -> list[Path]:
    home = Path(sysconfig.get_path("stdlib"))
    in_packages = (file for name in _PACKAGES for file in (home / name).rglob("*.py"))
    return [*home.glob("*.py"), *(file for file in in_packages if not {"test", "tests"} & set(file.parts))]


def _matches(pattern: str) -> list[Path]:
    paths = glob.iglob(os.path.expanduser(pattern), recursive=True)
    return [Path(path) for path in paths if os.path.isfile(path)]


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
