"""`resume=ADDRESS`: the run directory of a run that lies in an object store."""

from __future__ import annotations

from pathlib import Path

from cairn import bounded_yaml
from cairn.errors import CheckpointError, ConfigError, RemoteError, ResumeError
from cairn.remote import local_files, origin, start
from cairn.remote.address import Address, run_path
from cairn.remote.objects import Objects
from cairn.remote.record import Record, RunFile
from cairn.runs.directory import RunDirectory
from cairn.store import disk

_address: Address | None = None


def resumed_address() -> Address | None:
    """Return the address that `resume=` of this process's command names; None: it names none."""
    return _address


def brought(text: str, logs: Path) -> RunDirectory:
    """Return the directory of a run, with its run files; its checkpoints are brought when the run starts.

    Args:
        text: Address of the run.
        logs: Directory of all runs on this machine; the run lies where it lay below that of the other machine.

    Raises:
        ConfigError: It is not an address, the store refuses access, or another run has this directory.
        ResumeError: There is no run, or the store cannot be used.
    """
    named = origin.parse(text)
    if not named.is_newest:
        raise ResumeError(
            f"resume={text} is a checkpoint: give the address of its run, or start a new run from it with "
            f"ckpt_path={text}."
        )
    global _address
    _address = named.run
    found = start.look(named.run)
    try:
        record = found.record()
        if found.objects is None or record is None:
            raise ResumeError(f"resume={text}: {found.trouble or 'there is no checkpoint of a run at this address.'}")
        run = RunDirectory(logs / _path(found.objects, record, named.run.name))
        disk.make_directory(run.path)
        with disk.locked(run.path):  # the processes of a run may all be here
            if (own := run.record()) is not None and own.id != found.run:
                raise ConfigError(
                    f"resume={text}: {run.path} holds another run ({own.id}): move it away, or set paths.log_dir=DIR."
                )
            start.bring_files(found, record, run.path)
        if run.record() is None:
            raise ResumeError(
                f"resume={text} holds checkpoints, but no run of this project: start a new run from one of them with "
                f"ckpt_path={text}."
            )
    except (RemoteError, CheckpointError) as error:
        raise ResumeError(f"resume={text} cannot be used: {error}") from error
    return run


def _path(objects: Objects, record: Record, name: str) -> str:
    """Return the path of the run below the directory of all runs."""
    paths = next((_paths(objects, item) for item in record.files if item.path == local_files.CONFIG), {})
    # A run directory elsewhere is mirrored under its name, see `parse.mirror_address`.
    return run_path(str(paths.get("output_dir") or ""), str(paths.get("log_dir") or "")) or name


def _paths(objects: Objects, item: RunFile) -> dict[str, object]:
    try:
        found = bounded_yaml.parse(local_files.read(objects, item).decode())
    except ValueError as error:
        raise CheckpointError(f"its config.yaml cannot be read ({error})") from error
    paths = found.get("paths") if isinstance(found, dict) else None
    return paths if isinstance(paths, dict) else {}
