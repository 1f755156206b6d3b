"""Addresses of mirrors: `s3://bucket/prefix/RUN`. They are parsed, joined and refused here, and nowhere else.

    s3://bucket/prefix/RUN      Amazon S3, and servers that speak its protocol
    gs://bucket/prefix/RUN      Google Cloud Storage
    az://container/prefix/RUN   Azure Blob Storage
    file:///disk/RUN            another disk
    memory://name/RUN           this process only, for tests

An address never holds credentials: it is logged, and is part of the configuration of a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from cairn.errors import ConfigError

Scheme = Literal["s3", "gs", "az", "file", "memory"]

SCHEMES = ("s3", "gs", "az", "file", "memory")
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
"""Environment variables with credentials, for messages."""
_HEAD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Address:
    """Where objects are: a bucket, and what their keys begin with."""

    scheme: Scheme
    bucket: str
    """Bucket or container; empty for `file`."""
    prefix: str = ""
    """What all keys begin with, without slashes at its ends; of `file` the directory without the first slash."""

    def __str__(self) -> str:
        below = f"/{self.prefix}" if self.prefix or self.scheme == "file" else ""
        return f"{self.scheme}://{self.bucket}{below}"

    @property
    def name(self) -> str:
        """Last part of the address, which is the name of a run."""
        return self.prefix.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> Address:
        """The address without its last part."""
        return replace(self, prefix=self.prefix.rpartition("/")[0])

    def key(self, name: str) -> str:
        """Key of an object in the bucket, from its name below this address."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def joined(self, path: str) -> Address:
        """Return an address below this one.

        Args:
            path: Parts with slashes between them. A backslash is left out: Hydra writes it before some characters in
                the name of a job, and stores take it for a slash.

        Raises:
            ConfigError: A part cannot be in an address.
        """
        path = path.replace("\\", "")
        if "?" in path:  # `parse` would take it for a query
            raise ConfigError(f"{path} cannot be part of an address: it contains a question mark.")
        return parse(f"{str(self).rstrip('/')}/{path}") if path else self


def is_address(text: object) -> bool:
    """Whether a text is meant as an address and not as a path."""
    return isinstance(text, str) and _HEAD.match(text) is not None


def parse(text: str) -> Address:
    """Read an address.

    Args:
        text: Such as `s3://bucket/prefix`. It is taken literally: `%20` does not mean a space.

    Raises:
        ConfigError: It is not an address, or it holds credentials.
    """
    head = _HEAD.match(text)
    scheme = head[1] if head else ""
    if head is None or scheme not in SCHEMES:
        # Without its text: a wrong one may hold a password.
        found = f"it begins with {scheme}://" if scheme else "it has no scheme"
        raise ConfigError(f"This is not the address of an object store: {found}. Use {_examples()}.")
    rest = text[head.end() :]
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise ConfigError(_holds_more(scheme))
    if _CONTROL.search(rest):
        raise ConfigError(f"{text!a} cannot be an address: it contains a control character. Correct it.")
    parts = [part for part in rest.split("/") if part]
    if any(part in (".", "..") for part in parts):
        odd = ".." if ".." in parts else "."
        raise ConfigError(f"{text} cannot be an address: one of its parts is {odd!r}. Remove it.")
    if "\\" in rest and scheme != "file":  # Azure, among others
        raise ConfigError(f"{text} cannot be an address: it contains a backslash, which stores take for a slash.")
    if scheme == "file":
        if not rest.startswith("/"):
            raise ConfigError(f"{text} does not name a directory: write three slashes, as in file:///disk/mirror.")
        return Address("file", "", "/".join(parts))
    if not parts or rest.startswith("/"):
        raise ConfigError(f"{text} does not name a bucket. Use {_examples()}.")
    return Address(cast(Scheme, scheme), parts[0], "/".join(parts[1:]))


def run_path(run: str, logs: str) -> str | None:
    """Return the path of a run directory below the directory of all runs; None if it is not there.

    Args:
        run: The run directory, on any machine.
        logs: The directory of all runs.
    """
    path, base = PurePosixPath(run), PurePosixPath(logs)
    is_below = bool(logs) and path != base and path.is_relative_to(base) and ".." not in path.parts
    return path.relative_to(base).as_posix() if is_below else None


def _examples() -> str:
    return "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory"


def _holds_more(scheme: str) -> str:
    names = CREDENTIALS.get(scheme)
    cure = f"set {names} in the environment" if names else "give them in the environment"
    return (
        f"An address of an object store must not hold a user, a password or a query (@ or ?), because it is logged and "
        f"stored: remove them from the {scheme}:// address, and {cure}."
    )


def check_apart(where: Address, *folders: Path | None) -> None:
    """Check that a mirror does not lie in what it is a copy of: it would copy itself.

    Args:
        where: The mirror.
        *folders: Directories of the run; None: it has none.

    Raises:
        ConfigError: It does.
    """
    for folder in folders:
        if where.scheme == "file" and folder and Path("/", where.prefix).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"mirror={where} lies in {folder}, which it would be a copy of: choose another directory.",
                parameter="mirror",
            )
