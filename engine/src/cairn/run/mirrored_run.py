"""The run directory of a run that lies in an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cairn import bounded_yaml, records
from cairn.errors import CheckpointError, ConfigError, RemoteError, ResumeError
from cairn.remote import local_files, origin, start
from cairn.remote.address import check_apart, run_path
from cairn.remote.objects import Objects
from cairn.remote.record import Record, RunFile
from cairn.remote.start import Found
from cairn.run.directory import ADDRESS_FILE, RunDirectory
from cairn.store import disk
from cairn.store.catalog import Catalog


def bring(text: str, logs: Path, to: Path | None = None, what: str = "") -> tuple[RunDirectory, Found]:
    """Bring the run files of a run, without its checkpoints.

    Args:
        text: Address of the run.
        logs: Directory of all runs on this machine; the run lies where it lay below that of the other machine.
        to: The run directory; None: below `logs`.
        what: The address as messages name it, such as `resume=ADDRESS`; empty: as it is.

    Returns:
        The run directory, whose `record` is None if the mirror holds checkpoints only; and the mirror.

    Raises:
        ConfigError: It is not an address, the store refuses access, or another run has this directory.
        ResumeError: There is no run, or the store cannot be used.
    """
    named, what = origin.parse(text), what or text
    if not named.is_newest:
        raise ResumeError(
            f"{what} is a checkpoint: give the address of its run, or start a new run from it with ckpt_path={text}."
        )
    found = start.look(named.run)

    def use(objects: Objects, record: Record) -> RunDirectory:
        run = RunDirectory(to or logs / _path(objects, record))
        check_apart(objects.address, run.path)
        disk.make_directory(run.path)
        with disk.locked(run.path):  # the processes of a run may all be here
            if (own := run.record()) is not None and own.id != found.run:
                raise ConfigError(
                    f"{what}: {run.path} holds another run ({own.id}): move it away, or choose another directory."
                )
            local_files.bring(objects, record.files, run.path, replaces_own=is_behind(run, record))
        return run

    try:
        run = found.first(use)
    except (RemoteError, ResumeError) as error:
        raise ResumeError(f"{what} cannot be used: {error}") from error
    except OSError as error:
        raise ConfigError(f"{what}: the directory of the run cannot be written: {error}.") from error
    if run is None:
        raise ResumeError(f"{what}: {found.trouble or found.nothing()}")
    return run, found


def is_behind(run: RunDirectory, record: Record) -> bool:
    """Whether a run has gone on elsewhere: a mirrored checkpoint is newer than all of a directory that is not in use.

    Args:
        run: The run directory.
        record: The record of the mirrored checkpoint.
    """
    if run.record() is None:
        return True
    try:
        newest = Catalog(run.checkpoints()).newest()
    except ResumeError:  # its configuration cannot be read: what uses it next says so
        return False
    if newest is not None and newest.position >= record.saved.position:
        return False
    try:
        run.lock()
    except ResumeError:  # a process trains here: what it has written stays
        return False
    run.unlock()
    return True


def _path(objects: Objects, record: Record) -> str:
    """Return the path of the run below the directory of all runs: what its address has after `checkpoint.mirror`."""
    files = {item.path: item for item in record.files}
    if (item := files.get(ADDRESS_FILE)) is not None:
        known = _values(records.parse, objects, item)
        path = str(known.get("path") or "")
        if path and str(objects.address) == f"{known.get('prefix')}/{path}":
            return path
    item = files.get(local_files.CONFIG)
    paths = _values(bounded_yaml.parse, objects, item).get("paths") if item is not None else None
    paths = paths if isinstance(paths, dict) else {}
    # A run directory that lay elsewhere is known by its name.
    return run_path(str(paths.get("output_dir") or ""), str(paths.get("log_dir") or "")) or objects.address.name


def _values(parse: Callable[[str], Any], objects: Objects, item: RunFile) -> dict[str, Any]:
    try:
        found = parse(local_files.read(objects, item).decode())
    except ValueError as error:
        raise CheckpointError(f"its {item.path} cannot be read ({error})") from error
    return found if isinstance(found, dict) else {}
