"""W&B: each committed checkpoint is a version of one artifact of the run, and what is deleted is taken back.

The only module of ours that imports wandb. All of its calls are made by a thread of their own: some of them hash the
file, and all of them wait for a server that may not answer.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import wandb

from cairn.errors import CorruptCheckpointError, ResumeError, first_line
from cairn.store import catalog, disk, names
from cairn.store.listener import Links
from cairn.types import Saved
from cairn.units import size
from cairn.wandb.deleted import Pruned
from cairn.wandb.outbox import Outbox

log = logging.getLogger(__name__)

TYPE = "model"
NOTE = "checkpoint.json"
_SHOW_AFTER_S, _SHOW_EVERY_S = 1.0, 5.0
_USE = "what this run starts from could not be noted"
_COMPARE = "what it has of this run could not be looked up"
_UPLOAD = "a checkpoint could not be uploaded"
_TAKE_BACK = "a version of a deleted checkpoint could not be taken back"
_NAME = "an alias could not be given"
_END = "not everything could be put in order at the end"
_Task = tuple[str, Callable[[], Any]]
"""What is told if it fails, and what is to be done."""
_ALIASES = {"latest": names.LAST, "best": names.BEST}


@dataclass(frozen=True)
class Wishes:
    """What of a run's checkpoints shall be in W&B."""

    which: Literal["all", "best", "final", "none"] = "all"
    every: int = 1
    """Of those that are neither the best nor the last of the run, every so many."""
    pruned: Literal["delete", "untag", "keep"] = "delete"
    """What becomes of the version of a checkpoint that retention deletes; `untag`: it loses its aliases."""
    queue_bytes: int | None = None
    """No more than this waits to be uploaded; what comes on top of it is left to the end of the run."""

    def wants(self, saved: Saved, links: Links, finished: bool = False) -> bool:
        """Shall this one be there? `finished`: the run has come to its end."""
        if finished and links.get(names.LAST) == saved.name and self.which in ("all", "final"):
            return True
        if links.get(names.BEST) == saved.name:
            return self.which in ("all", "best")
        return self.which == "all" and saved.number % self.every == 0


@dataclass(frozen=True)
class Place:
    """Where a run's checkpoints lie, and what is said of all of them."""

    run: Path
    checkpoints: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the metadata of each version: the git commit, where the run started from, ..."""


def collection(run_id: str) -> str:
    """The name of the artifact that holds a run's checkpoints."""
    return f"model-{run_id}"


def alias(step: int) -> str:
    """Of the version that was saved after so many steps of the optimizer."""
    return f"step-{step}"


class WandbTracker:
    """Sees to it that W&B has what is kept. See `tracker.Tracker`.

    Args:
        run: W&B's run, online or offline.
        place: of the checkpoints.
        wishes: what shall be there.
        uses: artifacts that the run starts from.
    """

    def __init__(self, run: Any, place: Place, wishes: Wishes = Wishes(), uses: Sequence[str] = ()) -> None:
        self._run, self._place, self._wishes = run, place, wishes
        self._online = not run.offline
        self._outbox = Outbox(place.checkpoints)
        self._pruned = Pruned(place.run)
        # Of who commits:
        self._digests: dict[str, str] = {}
        self._gone: set[str] = set()
        # Of the thread:
        self._kept: dict[str, Saved] = {}
        self._versions: dict[str, Any] = {}
        self._missing: dict[str, Saved] = {}
        self._links: Links = {}
        self._sending = ""
        """Its bytes are being read."""
        self._unsettled: tuple[Saved, ...] | None = None
        """W&B has not been compared with the run: what waited when that began."""
        self._told: set[str] = set()
        self._abandoned = False
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb-tracker", daemon=True)
        self._thread.start()
        for name in uses if self._online else ():
            self._tasks.put((_USE, partial(run.use_artifact, name)))

    # What is told, by whoever commits

    def opened(self, kept: Sequence[Saved], links: Links, dropped: Sequence[Saved] = ()) -> None:
        """See `Tracker`: what W&B lacks of this is sent, and what was pruned without its knowledge is taken back."""
        for saved in dropped:
            self._pruned.note(saved.digest)
        self._digests.update({saved.name: saved.digest for saved in kept})
        late = [saved for saved in self._outbox.waiting() if saved.name not in self._digests]
        self._tasks.put((_COMPARE, partial(self._open, tuple(kept), dict(links), tuple(late))))

    def committed(self, saved: Saved, links: Links) -> None:
        """See `Tracker`."""
        self._gone.discard(saved.name)
        self._digests[saved.name] = saved.digest
        wanted = self._wishes.wants(saved, links)
        if wanted and self._online:
            wanted = self._hold(saved)
        self._tasks.put((_UPLOAD, partial(self._commit, saved, dict(links), wanted)))

    def pruning(self, names: Sequence[str]) -> None:
        """See `Tracker`: noted before, since a kill may come in between; what is kept after all, is kept."""
        for name in names:
            self._pruned.note(self._digests.get(name, ""))

    def pruned(self, names: Sequence[str]) -> None:
        """See `Tracker`: nobody waits for the server before the bytes are gone from the disk."""
        self._gone.update(names)
        for name in names:
            self._digests.pop(name, None)
            if self._is_unwanted(name) and name != self._sending:  # asked in this order, and `_send` in the other one
                self._outbox.drop(name)
        self._tasks.put((_TAKE_BACK, partial(self._prune, tuple(names))))

    def close(self, finished: bool, limit_s: float) -> None:
        """See `Tracker`."""
        until = time.monotonic() + limit_s
        self._tasks.put((_END, partial(self._end, finished)))
        self._tasks.put(None)
        try:
            self._thread.join(min(_SHOW_AFTER_S, limit_s))
            while self._thread.is_alive() and (left_s := until - time.monotonic()) > 0:
                num_bytes = self._outbox.num_bytes
                what = f"{size(num_bytes)} are still to be uploaded" if num_bytes else "its last answer is waited for"
                log.info("W&B: %s; %.0f s are left.", what, left_s)
                self._thread.join(min(_SHOW_EVERY_S, left_s))
        except KeyboardInterrupt:
            log.info("W&B is not waited for any more.")
        self._abandoned = self._thread.is_alive()
        if self._wishes.which != "none" and (self._abandoned or self._missing or self._unsettled is not None):
            waiting = ", ".join(saved.name for saved in self._outbox.waiting()) or ", ".join(self._missing)
            log.warning(
                "W&B does not have all checkpoints of this run (%s). `python -m cairn sync %s` sends what is kept.",
                waiting or "it did not answer in time",
                self._place.run,
            )

    def _hold(self, saved: Saved) -> bool:
        """Keep the bytes until they are uploaded; False if that is not possible."""
        limit = self._wishes.queue_bytes
        if limit is not None and self._outbox.num_bytes + saved.num_bytes > limit:
            self._tell("queue", f"more than {size(limit)} wait to be uploaded: {saved.name} is left to the end of it")
            return False
        try:
            self._outbox.put(saved)
        except OSError as error:
            self._tell("outbox", f"{saved.name} cannot be held for the upload: {error.strerror}")
            return False
        return True

    # What is done, by the thread

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._attempt(*task)

    def _attempt(self, what: str, task: Callable[[], Any]) -> bool:
        """One that fails does not keep the others from being tried, nor training from going on. Was it done?"""
        if self._abandoned:
            return False
        try:
            task()
        except Exception as error:
            self._tell(f"{what} {type(error).__name__}", f"{what} ({first_line(error)})")
            return False
        return True

    def _tell(self, what: str, why: str) -> None:
        """Once for each kind of trouble."""
        if what not in self._told and not self._abandoned:
            self._told.add(what)
            log.error("W&B: %s. Training goes on; this is told once.", why)

    def _is_unwanted(self, name: str) -> bool:
        """Was it deleted, and shall W&B not have it then?"""
        return name in self._gone and self._wishes.pruned == "delete"

    def _commit(self, saved: Saved, links: Links, wanted: bool) -> None:
        """Make a version of it, if it is wanted, and let `best` be where it should."""
        before, replaced = self._links.get(names.BEST), self._versions.pop(saved.name, None)
        self._kept[saved.name], self._links = saved, links
        if wanted and not self._is_unwanted(saved.name):
            self._send(saved, _aliases(saved, links))
        else:
            self._missing |= {saved.name: saved} if self._wishes.wants(saved, links) else {}
            self._outbox.drop(saved.name)
        new = self._versions.get(saved.name)
        if replaced is not None and self._online and (new is None or new.id != replaced.id):
            self._take_back(replaced)
        if links.get(names.BEST) not in (before, saved.name, None):
            self._restore_aliases(self._there() if self._online else [])

    def _send(self, saved: Saved, aliases: Sequence[str]) -> None:
        """Unless it is deleted meanwhile, it is missing until it is there."""
        self._sending = saved.name
        try:
            self._missing[saved.name] = saved
            if self._is_unwanted(saved.name) or (artifact := self._artifact_of(saved)) is None:
                del self._missing[saved.name]
                return
            version = self._run.log_artifact(artifact, aliases=[alias(saved.position.step), *aliases])
            self._versions[saved.name] = version.wait() if self._online else version
            del self._missing[saved.name]
        finally:
            self._sending = ""
        self._outbox.drop(saved.name)

    def _artifact_of(self, saved: Saved) -> Any:
        """None: it was deleted, which this thread will hear later, and offline there is nothing to refer to."""
        try:
            return self._artifact(saved)
        except (OSError, ValueError):
            if self._online or (self._place.checkpoints / saved.name).exists():
                raise
            return None

    def _artifact(self, saved: Saved) -> Any:
        """Online the bytes, from the outbox; offline a reference to them, and a note that tells versions apart."""
        facts = metadata(saved, self._place)
        artifact = wandb.Artifact(collection(self._run.id), TYPE, metadata=facts)
        _add_note(artifact, facts, self._place.run / "wandb")
        held, path = self._outbox.path(saved.name), self._place.checkpoints / saved.name
        if not self._online:
            artifact.add_reference(path.absolute().as_uri(), name=saved.name, checksum=False)
        elif (source := held if held.exists() else path).is_dir():
            artifact.add_dir(str(source), name=saved.name, policy="immutable", skip_cache=True)
        else:
            artifact.add_file(str(source), name=saved.name, policy="immutable", skip_cache=True)
        return artifact

    def _prune(self, names: Sequence[str]) -> None:
        for name in names:
            self._kept.pop(name, None)
            version = self._versions.pop(name, None)
            if version is not None and self._online:
                self._attempt(_TAKE_BACK, partial(self._take_back, version))
            if self._wishes.pruned == "delete":
                self._missing.pop(name, None)
                self._outbox.drop(name)

    def _take_back(self, version: Any) -> None:
        if self._wishes.pruned == "delete":
            version.delete(delete_aliases=True)
        elif self._wishes.pruned == "untag":
            _rename(version, lambda aliases: [])

    def _open(self, kept: Sequence[Saved], links: Links, late: tuple[Saved, ...]) -> None:
        """Note what W&B should have before it is asked what it has: it may not answer yet."""
        self._kept, self._links = {saved.name: saved for saved in kept}, links
        self._missing |= {saved.name: saved for saved in kept if self._wishes.wants(saved, links)}
        self._reconcile(late)

    def _reconcile(self, late: tuple[Saved, ...]) -> None:
        """Let W&B have what it should, after a start that it may have heard nothing of.

        Args:
            late: what waited to be sent when this start began, and is not kept any more.
        """
        self._unsettled = late
        there = self._there() if self._online else []
        self._take_back_pruned(there)
        for saved in [item for item in self._missing.values() if item.name not in self._kept and _of(item, there)]:
            del self._missing[saved.name]  # deleted here since, and there from before
        done = [self._attempt(_UPLOAD, partial(self._settle, saved, there)) for saved in list(self._kept.values())]
        for saved in late if self._online and self._wishes.pruned != "delete" else ():
            if not _of(saved, there):
                done.append(self._attempt(_UPLOAD, partial(self._send, saved, [])))
        for saved in [*late, *self._kept.values()]:
            if saved.name not in self._missing:
                self._outbox.drop(saved.name)
        if self._online:
            self._restore_aliases(self._there())
        if all(done):
            self._unsettled = None

    def _settle(self, saved: Saved, there: Sequence[Any]) -> None:
        """Let W&B have one that is kept, once."""
        same = _of(saved, there)
        whole = next((version for version in same if holds(version, saved)), None)
        if whole is not None:
            self._versions[saved.name] = whole
            self._missing.pop(saved.name, None)
        elif self._wishes.wants(saved, self._links):
            self._send(saved, _aliases(saved, self._links))
            for version in same:  # a mere reference, which W&B's own sync has sent
                self._attempt(_TAKE_BACK, partial(version.delete, delete_aliases=True))

    def _take_back_pruned(self, there: Sequence[Any]) -> None:
        """Also what arrived late: the client of a run that was killed may still have been sending."""
        pruned = self._pruned.digests() - {saved.digest for saved in self._kept.values()}
        for version in there:
            if digest_of(version) in pruned and (version.aliases or self._wishes.pruned == "delete"):
                self._attempt(_TAKE_BACK, partial(self._take_back, version))

    def _there(self) -> list[Any]:
        """The versions that W&B has, oldest first."""
        return versions(f"{self._run.entity}/{self._run.project}/{collection(self._run.id)}")

    def _restore_aliases(self, there: Sequence[Any]) -> None:
        """Let each alias be where its link is: W&B gives `latest` to whatever was sent last."""
        if not self._online:  # the same content again: W&B makes no new version, and moves the aliases
            for link in (names.BEST, names.LAST):
                saved = self._kept.get(self._links.get(link) or "")
                if saved is not None and saved.name in self._versions:
                    self._send(saved, _aliases(saved, self._links))
            return
        named = {version.metadata.get("name"): version for version in there}
        for name, link in _ALIASES.items():
            version = named.get(self._links.get(link))
            if version is not None and name not in version.aliases:
                _rename(version, lambda aliases, name=name: [*aliases, name])  # type: ignore[misc]

    def _end(self, finished: bool) -> None:
        """Send what could not be sent before, and see that nothing is there, or is called, as it should not be."""
        if self._unsettled is not None:  # it did not answer at the start
            self._attempt(_COMPARE, partial(self._reconcile, self._unsettled))
        late = list(self._missing.values())
        for saved in late:
            self._attempt(_UPLOAD, partial(self._send, saved, []))
        if finished:
            self._attempt(_NAME, self._call_final)
        there = self._there() if self._online and (late or self._wishes.pruned != "keep") else []
        if late:
            self._restore_aliases(there)
        if self._wishes.pruned != "keep":
            self._take_back_pruned(there)

    def _call_final(self) -> None:
        """Give the newest of a finished run its last alias."""
        newest = self._kept.get(self._links.get(names.LAST) or "")
        version = self._versions.get(newest.name) if newest is not None else None
        if version is not None and self._online:
            _rename(version, lambda aliases: [*aliases, "final"])
        elif newest is not None and (version is not None or self._wishes.wants(newest, self._links, finished=True)):
            self._send(newest, [*_aliases(newest, self._links), "final"])


def _add_note(artifact: Any, facts: Mapping[str, Any], folder: Path) -> None:
    """Not by `new_file`, which leaves a folder in $TMPDIR to the garbage collector, and after a kill to nobody."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        note = Path(made) / NOTE
        note.write_text(json.dumps(facts, indent=2))
        artifact.add_file(str(note), name=NOTE, skip_cache=True)  # W&B takes a copy


def metadata(saved: Saved, place: Place) -> dict[str, Any]:
    """What a version says of its checkpoint."""
    path = place.checkpoints / saved.name
    return {
        "name": saved.name,
        "epoch": saved.position.epoch,
        "batch": saved.position.batch,
        "global_step": saved.position.step,
        "samples": saved.position.samples,
        "metrics": dict(saved.metrics),
        "reasons": list(saved.reasons),
        "bytes": saved.num_bytes,
        "digest": saved.digest,
        "path": str(path.relative_to(place.run) if path.is_relative_to(place.run) else path),
        "run_directory": str(place.run),
        **place.facts,
    }


def versions(named: str) -> list[Any]:
    """All committed versions of `entity/project/name`, oldest first; none if there is no such artifact.

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


def digest_of(version: Any) -> str:
    """Of the checkpoint that a version is of; empty if it is of none. `sha256` is from times of manifest format 1."""
    plain = version.metadata.get("sha256")
    return version.metadata.get("digest") or (disk.PLAIN + plain if plain else "")


def _of(saved: Saved, there: Sequence[Any]) -> list[Any]:
    """The versions of one checkpoint."""
    return [version for version in there if digest_of(version) == saved.digest]


def holds(version: Any, saved: Saved) -> bool:
    """Has W&B the bytes of this checkpoint, and not only a reference to them?"""
    entries = version.manifest.entries
    entry = entries.get(saved.name)
    if entry is not None:
        return entry.ref is None and entry.size == saved.num_bytes
    return any(name.startswith(f"{saved.name}/") and entry.ref is None for name, entry in entries.items())


def download(named: str, into: Path) -> tuple[Path, str]:
    """Fetch a checkpoint from W&B, and see that it is the one that was saved.

    Args:
        named: `entity/project/name:alias`.
        into: folder for the file; one that is there already, and whole, is not fetched again.

    Returns:
        Where it lies, and `entity/project/name:v3`, which stays what it is when aliases move.

    Raises:
        ResumeError: there is no such version, it holds no bytes, or others than were saved.
    """
    try:
        version = wandb.Api().artifact(named)
        name, digest = version.metadata.get("name"), digest_of(version)
        entries = version.manifest.entries
    except (wandb.errors.Error, ValueError) as error:
        raise ResumeError(f"{named} is not to be had from W&B: {first_line(error)}.") from error
    if not digest or names.parse_name(str(name)) is None:  # nor any path that leads elsewhere
        raise ResumeError(f"{named} is no checkpoint of this project: its metadata names no file of one, or no digest.")
    if name not in entries and any(path.startswith(f"{name}/") for path in entries):
        raise ResumeError(f"{named} is a sharded checkpoint, which cannot be started from: download it by W&B's tools.")
    if name not in entries or entries[name].ref is not None:
        raise ResumeError(f"{named} holds no bytes: `python -m cairn sync RUN` uploads them from where the run lies.")
    path = into / name
    if path.is_file() and not _is_whole(path, digest):  # of a download that was killed
        path.unlink()
    if not path.is_file():
        _fetch(version, name, into, named)
    if not _is_whole(path, digest):
        path.unlink()
        raise ResumeError(f"{named} is not what was saved: its checksum is not {digest}.")
    return path, f"{version.entity}/{version.project}/{version.name.partition(':')[0]}:{version.version}"


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return catalog.digest(path, digest) == digest
    except CorruptCheckpointError:
        return False


def _fetch(version: Any, name: str, into: Path, named: str) -> None:
    try:
        version.get_entry(name).download(str(into), skip_cache=True)
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ResumeError(f"{named} cannot be downloaded: {first_line(error)}.") from error


def forget() -> None:
    """End what the client has running, a try to reach W&B that came to nothing among it."""
    wandb.teardown()


def kill() -> bool:
    """End the client's process, and lose what it has not sent; its file is written every second. Was there one?

    When ours ends, it is waited for as long as it tries to send. Nothing public sets a limit to that, or says which
    process it is: these are private names of wandb 0.31. Where they are gone, the process is left alone.
    """
    try:
        setup = wandb.sdk.wandb_setup._singleton
        service = setup._connection._proc if setup is not None and setup._connection is not None else None
        if service is None:  # somebody else has started it, and nobody waits for it
            return False
        service._process.kill()
    except (AttributeError, OSError) as error:
        log.error("W&B: its client could not be ended (%s): this process waits until that gives up.", error)
        return False
    return True


def _aliases(saved: Saved, links: Links) -> list[str]:
    return [name for name, link in _ALIASES.items() if links.get(link) == saved.name]


def _rename(version: Any, change: Callable[[list[str]], list[str]]) -> None:
    """Change the aliases that a version has now: others may have taken some since it was sent."""
    now = again(version)
    now.aliases = change(list(now.aliases))
    now.save()


def again(version: Any) -> Any:
    """The version as W&B has it now."""
    return wandb.Api().artifact(version.qualified_name)
