"""Calls to W&B's client that concern artifacts. Each may hash a file or wait for a server that does not answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from cairn.errors import CorruptCheckpointError, ResumeError, first_line
from cairn.store import catalog, disk, names
from cairn.trackers.remote import files_of
from cairn.types import Saved

log = logging.getLogger(__name__)

NAME = "wandb"
"""Name of the folder with files about W&B."""
TYPE = "model"


def collection(run_id: str) -> str:
    """The name of the artifact that holds a run's checkpoints."""
    return f"model-{run_id}"


def versions(named: str) -> list[Any]:
    """List the committed versions of an artifact.

    Args:
        named: `entity/project/name`.

    Returns:
        The client's objects, oldest first; none if there is no such artifact.

    Raises:
        wandb.errors.CommError: W&B does not answer.
    """
    try:
        found = list(wandb.Api().artifacts(TYPE, named))
    except (wandb.errors.CommError, ValueError) as error:
        if not any(words in str(error) for words in ("not find", "not found", "Unable to parse 'Artifacts' response")):
            raise
        return []  # the run has made none yet
    committed = [version for version in found if version.state == "COMMITTED"]
    return sorted(committed, key=lambda version: int(version.version.removeprefix("v")))


def again(handle: Any) -> Any:
    """The version as W&B has it now."""
    return wandb.Api().artifact(handle.qualified_name)


def digest_of(handle: Any) -> str:
    """The digest of the checkpoint in a version; empty if it holds none."""
    plain = handle.metadata.get("sha256")  # what manifests of format 1 had
    return handle.metadata.get("digest") or (disk.PLAIN + plain if plain else "")


def holds(handle: Any, saved: Saved) -> bool:
    """Whether a version has the bytes of this checkpoint, and not only a reference to them."""
    entries = handle.manifest.entries
    for name, num_bytes in files_of(saved):
        entry = entries.get(name)
        if entry is None or entry.ref is not None or entry.size != num_bytes:
            return False
    return True


def download(named: str, into: Path) -> tuple[Path, str]:
    """Fetch a checkpoint from W&B and compare it with its checksum.

    Args:
        named: `entity/project/name:alias`.
        into: Folder for the checkpoint. An intact one that is there already is not fetched again.

    Returns:
        The path of the checkpoint, and `entity/project/name:v3`, which stays the same when aliases move.

    Raises:
        ResumeError: There is no such version, or it does not hold the bytes that were saved.
    """
    try:
        version = wandb.Api().artifact(named)
        name, digest = version.metadata.get("name"), digest_of(version)
        entries = version.manifest.entries
    except (wandb.errors.Error, ValueError, OSError) as error:  # those of requests are OSErrors
        raise ResumeError(f"Could not fetch {named} from W&B: {first_line(error)}.") from error
    # The name is checked, so that it cannot be a path to somewhere else.
    if not digest or names.parse_name(str(name)) is None:
        raise ResumeError(f"{named} is not a checkpoint of Cairn: its metadata has no checkpoint name or no digest.")
    files = _files_in(entries, str(name))
    if not files or any(entries[file].ref is not None for file in files):
        raise ResumeError(f"{named} holds no bytes. Upload them where the run is: `python -m cairn sync RUN`.")
    path = into / name
    if path.exists() and not _is_intact(path, digest):  # left by a download that was killed
        _remove(path)
    if not path.exists():
        for file in files:
            _fetch(version, file, into, named)
    if not _is_intact(path, digest):
        _remove(path)
        raise ResumeError(f"{named} is not what was saved: its checksum is not {digest}.")
    return path, f"{version.entity}/{version.project}/{version.name.partition(':')[0]}:{version.version}"


def _files_in(entries: Mapping[str, Any], name: str) -> list[str]:
    """Return the names of a checkpoint's files in a version; of a directory, only those that are shards."""
    if name in entries:
        return [name]
    found = [entry for entry in entries if entry.startswith(f"{name}/")]
    return [entry for entry in found if names.shard_rank(entry.removeprefix(f"{name}/")) is not None]


def _is_intact(path: Path, digest: str) -> bool:
    try:
        return catalog.digest(path, digest) == digest
    except CorruptCheckpointError:
        return False


def _fetch(version: Any, name: str, into: Path, named: str) -> None:
    try:
        version.get_entry(name).download(str(into), skip_cache=True)
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ResumeError(f"Could not download {named} from W&B: {first_line(error)}.") from error


def _remove(path: Path) -> None:
    try:
        disk.remove(path)
    except OSError as error:
        raise ResumeError(
            f"{path} is not intact, and could not be deleted: {error.strerror or error}. Delete it yourself."
        ) from error


def forget() -> None:
    """End what the client has running, such as a failed attempt to reach W&B."""
    wandb.teardown()


def kill() -> bool:
    """End the client's process. What it has not sent is lost; its log, written every second, stays.

    When this process ends, it would otherwise wait for the client, without a limit. Nothing public sets one or says
    which process it is: these are private names of wandb 0.31. Where they do not exist, the process is left alone.

    Returns:
        Whether there was such a process.
    """
    try:
        setup = wandb.sdk.wandb_setup._singleton
        service = setup._connection._proc if setup is not None and setup._connection is not None else None
        if service is None:  # another process has started it: this one does not wait for it
            return False
        service._process.kill()
    except (AttributeError, OSError) as error:
        log.error("W&B: could not end its client (%s): this process waits until the client gives up.", error)
        return False
    return True
