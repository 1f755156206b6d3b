"""Record every system call that changes a directory; let a call fail, kill there, or simulate a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

NAMES = ("open", "write", "fsync", "replace", "symlink", "unlink", "mkdir")
"""The calls that change something; a test compares them with what strace sees."""
WITH_DIRECTORIES = (*NAMES, "rmdir")
"""Those of a save into a directory."""


@dataclass(frozen=True)
class Call:
    """One system call, by names below the watched directory (`.` is itself)."""

    name: str
    path: str = ""
    other: str = ""
    """The new name of a `replace`; the target of a `symlink`; what a `report` says."""
    data: bytes = b""


class Killed(BaseException):
    """The process was killed: nothing after this reaches the disk, unless another process goes on."""

    is_last = True


class Tape:
    """Records what is done below `root` while it is entered.

    Args:
        before: Called before each call with its number, including failed calls. It may raise OSError (the call fails)
            or Killed (the process is killed before it), and return how many bytes a `write` takes.
        names: The calls.
    """

    def __init__(
        self,
        root: Path,
        before: Callable[[int, Call], int | None] = lambda number, call: None,
        names: Sequence[str] = NAMES,
    ) -> None:
        self.root, self.before, self.names = root, before, names
        self.calls: list[Call] = []
        self._files: dict[int, str] = {}
        self._tries = 0
        self._dead = False

    def __enter__(self) -> Tape:
        self._patch = pytest.MonkeyPatch()
        for name in self.names:
            self._patch.setattr(os, name, self._watched(name, getattr(os, name)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._patch.undo()

    def report(self, what: object) -> None:
        """Record that the program reported something to the outside."""
        self._tries += 1
        self.calls.append(Call("report", other=str(what)))

    def _watched(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            seen = self._describe(name, args)
            if seen is None:
                return self._remember(name, args, do(*args, **options))
            if self._dead:
                raise Killed
            self._tries += 1
            try:
                count = self.before(self._tries - 1, seen)
            except Killed as killed:
                self._dead = killed.is_last
                raise
            if count is not None and name == "write":
                args, seen = (args[0], bytes(args[1])[:count]), Call("write", seen.path, data=seen.data[:count])
            self.calls.append(seen)
            return self._remember(name, args, do(*args, **options))

        return call

    def _remember(self, name: str, args: tuple[Any, ...], result: Any) -> Any:
        if name == "open":
            self._files[result] = self._inside(args[0]) or ""
        return result

    def _describe(self, name: str, args: tuple[Any, ...]) -> Call | None:
        """The call in terms of names; None for files elsewhere and for opening a directory."""
        if name in ("write", "fsync"):
            path = self._files.get(args[0])
            data = bytes(args[1]) if name == "write" else b""
            return Call(name, path, data=data) if path else None
        path = self._inside(args[1] if name == "symlink" else args[0])
        if path is None or (name == "open" and not args[1] & os.O_CREAT):
            return None
        if name == "replace":
            return Call(name, path, self._inside(args[1]) or "")
        return Call(name, path, str(args[0]) if name == "symlink" else "")

    def _inside(self, path: Any) -> str | None:
        path = Path(path)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else None


# What a power cut leaves


@dataclass
class _File:
    data: bytes = b""
    synced: bytes = b""
    target: str | None = None
    """Target of a link, which is as durable as its name."""


@dataclass
class _Folder:
    synced: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[str, Any]] = field(default_factory=list)
    """Names with their new content, None for nothing; a rename changes two names at once."""


Tree = dict[str, bytes | str | None]
"""Path to the bytes of a file, `-> target` of a link, None for a folder."""


def after_a_power_cut(calls: Sequence[Call]) -> Iterator[Tree]:
    """Yield every state that the disk may be in after a power cut following `calls`.

    Whatever was synced is there. Of the changes to names in a folder since its last sync, any subset may be there. Of
    the bytes of a file since its last sync: none, half, all, or zeros in their place.
    """
    folders = _replay(calls)
    choices = [list(product([False, True], repeat=len(folder.pending))) for folder in folders.values()]
    for chosen in product(*choices):
        names = {path: _apply(folder, kept) for (path, folder), kept in zip(folders.items(), chosen, strict=True)}
        for lost in (_synced, _half, _zeros, _all):
            yield dict(_walk(".", names, lost))


def _replay(calls: Sequence[Call]) -> dict[str, _Folder]:
    """The folders, by the name under which each was created: a renamed one keeps it as its key."""
    folders = {".": _Folder()}
    now: dict[str, dict[str, Any]] = {".": {}}

    def key(folder: str) -> str:
        found = "."
        for name in filter(None, folder.split("/")):
            found = now[found][name] if name != "." else found
        return found

    def enter(path: str, what: Any, leaving: str | None = None) -> None:
        folder, name = os.path.split(path)
        changes = [(name, what)] + ([(os.path.basename(leaving), None)] if leaving else [])
        folders[key(folder)].pending.append(("", changes))
        for name, value in changes:
            now[key(folder)][name] = value

    for number, call in enumerate(calls):
        folder, name = os.path.split(call.path)
        if call.name == "mkdir":
            if now[key(folder)].get(name) is not None:
                continue  # it failed: the directory was there
            own = f"{call.path} {number}" if call.path in folders else call.path
            folders[own], now[own] = _Folder(), {}
            enter(call.path, own)
        elif call.name == "open":
            enter(call.path, _File())
        elif call.name == "write":
            now[key(folder)][name].data += call.data
        elif call.name == "fsync" and (call.path == "." or isinstance(now[key(folder)].get(name), str)):
            own = key(call.path)
            folders[own].synced, folders[own].pending = dict(now[own]), []
        elif call.name == "fsync":
            file = now[key(folder)][name]
            file.synced = file.data
        elif call.name == "replace":
            enter(call.other, now[key(folder)][name], leaving=call.path)
        elif call.name == "symlink":
            enter(call.path, _File(target=call.other))
        elif call.name in ("unlink", "rmdir"):
            enter(call.path, None)
    return folders


def _apply(folder: _Folder, kept: Sequence[bool]) -> dict[str, Any]:
    names = dict(folder.synced)
    for (_, changes), there in zip(folder.pending, kept, strict=True):
        names.update(changes if there else [])
    return {name: what for name, what in names.items() if what is not None}


def _walk(
    path: str, names: dict[str, dict[str, Any]], lost: Callable[[_File], bytes], key: str = "."
) -> Iterator[tuple[str, Any]]:
    for name, what in names[key].items():
        here = os.path.normpath(os.path.join(path, name))
        if isinstance(what, str):
            yield here, None
            yield from _walk(here, names, lost, what)
        else:
            yield here, lost(what) if what.target is None else f"-> {what.target}"


def _synced(file: _File) -> bytes:
    return file.synced


def _half(file: _File) -> bytes:
    return file.data[: len(file.synced) + (len(file.data) - len(file.synced)) // 2]


def _zeros(file: _File) -> bytes:
    return file.synced + bytes(len(file.data) - len(file.synced))


def _all(file: _File) -> bytes:
    return file.data


def put_up(tree: Tree, root: Path) -> None:
    """Create the files of a state."""
    root.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (root / path).mkdir()
        elif isinstance(content, str):
            (root / path).symlink_to(content.removeprefix("-> "))
        else:
            (root / path).write_bytes(content)
