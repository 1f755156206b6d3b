"""W&B: each committed checkpoint is a version of one artifact of the run, and what is deleted is taken back.

The only module that imports wandb. All of its calls are made by a thread of their own: some of them hash the file, and
all of them wait for a server that may not answer.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import wandb

from cairn.checkpoint import disk, layout
from cairn.checkpoint.errors import ResumeError
from cairn.checkpoint.outbox import Outbox
from cairn.checkpoint.space import size
from cairn.checkpoint.tracker import Links
from cairn.checkpoint.types import Saved

log = logging.getLogger(__name__)

TYPE = "model"
NOTE = "checkpoint.json"
_SHOW_EVERY_S = 5.0


@dataclass(frozen=True)
class Wishes:
    """What of a run's checkpoints shall be in W&B."""

    which: Literal["all", "best", "final", "none"] = "all"
    every: int = 1
    """Of those that are neither the best nor the last of the run, every so many."""
    pruned: Literal["delete", "untag", "keep"] = "delete"
    """What becomes of the version of a checkpoint that retention deletes; `untag`: it loses its aliases."""
    queue_bytes: int | None = None
    """No more than this waits to be uploaded; what comes on top of it is left out, and told."""


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
        self._versions: dict[str, Any] = {}
        self._saved: dict[str, Saved] = {}
        """What there is, whether it is in W&B or not."""
        self._links: Links = {}
        self._best: str | None = None
        self._gone: set[str] = set()
        self._num_seen = 0
        self._missing: dict[str, Saved] = {}
        self._told: set[str] = set()
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb-tracker", daemon=True)
        self._thread.start()
        if self._online:
            for name in uses:
                self._tasks.put(partial(self._use, name))

    # What is told, by whoever commits

    def opened(self, kept: Sequence[Saved], links: Links) -> None:
        """See `Tracker`: what W&B lacks of this is sent, and what it has beyond it is taken back."""
        self._tasks.put(partial(self._reconcile, tuple(kept), dict(links)))

    def committed(self, saved: Saved, links: Links) -> None:
        """See `Tracker`."""
        self._gone.discard(saved.name)
        self._num_seen += 1
        wanted = self._is_wanted(saved, links)
        if self._online and wanted:
            wanted = self._hold(saved)
        self._tasks.put(partial(self._commit, saved, dict(links), wanted))

    def pruned(self, names: Sequence[str]) -> None:
        """See `Tracker`."""
        self._gone.update(names)
        self._tasks.put(partial(self._prune, tuple(names)))

    def close(self, finished: bool, limit_s: float) -> None:
        """See `Tracker`."""
        until = time.monotonic() + limit_s
        self._tasks.put(partial(self._end, finished))
        self._tasks.put(None)
        self._thread.join(min(_SHOW_EVERY_S, limit_s))
        while self._thread.is_alive() and (left_s := until - time.monotonic()) > 0:
            log.info("W&B: %s are still to be uploaded; %.0f s are left.", size(self._outbox.num_bytes()), left_s)
            self._thread.join(min(_SHOW_EVERY_S, left_s))
        if self._thread.is_alive() or self._missing:
            waiting = ", ".join(saved.name for saved in self._outbox.waiting()) or ", ".join(self._missing)
            log.warning(
                "W&B does not have all checkpoints of this run (%s). `python -m cairn sync %s` sends what is kept.",
                waiting or "it did not answer in time",
                self._place.run,
            )

    def _is_wanted(self, saved: Saved, links: Links) -> bool:
        if links.get(layout.BEST) == saved.name:
            return self._wishes.which in ("all", "best")
        return self._wishes.which == "all" and (self._num_seen - 1) % self._wishes.every == 0

    def _hold(self, saved: Saved) -> bool:
        """Keep the bytes until they are uploaded; False if that is not possible."""
        limit = self._wishes.queue_bytes
        if limit is not None and self._outbox.num_bytes() + saved.num_bytes > limit:
            self._tell("queue", f"more than {size(limit)} wait to be uploaded, and {saved.name} is left out")
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
            try:
                task()
            except Exception as error:  # whatever it is: training goes on
                self._tell(type(error).__name__, _first_line(error))

    def _tell(self, what: str, why: str) -> None:
        """Once for each kind of trouble."""
        if what not in self._told:
            self._told.add(what)
            log.error("W&B: %s. Training goes on; this is told once.", why)

    def _use(self, name: str) -> None:
        self._run.use_artifact(name)

    def _commit(self, saved: Saved, links: Links, wanted: bool) -> None:
        """Make a version of it, if it is wanted, and let `best` be where it should."""
        replaced = self._versions.pop(saved.name, None)
        self._saved[saved.name], self._links = saved, links
        if wanted and not self._is_gone(saved.name):
            self._log(saved, [f"step-{saved.position.step}", *_aliases(saved, links)])
        else:
            self._outbox.drop(saved.name)
        if replaced is not None and self._online:
            self._take_back(replaced)
        self._move_best(links)

    def _is_gone(self, name: str) -> bool:
        return name in self._gone and self._wishes.pruned == "delete"

    def _log(self, saved: Saved, aliases: Sequence[str]) -> None:
        try:
            version = self._run.log_artifact(self._artifact(saved), aliases=list(aliases))
            if self._online:
                version = version.wait()
        except Exception:
            self._missing[saved.name] = saved
            raise
        self._versions[saved.name] = version
        self._best = saved.name if "best" in aliases else self._best
        self._missing.pop(saved.name, None)
        self._outbox.drop(saved.name)

    def _artifact(self, saved: Saved) -> Any:
        """Online the bytes, from the outbox; offline a reference to them, and a note that tells versions apart."""
        facts = metadata(saved, self._place)
        artifact = wandb.Artifact(collection(self._run.id), TYPE, metadata=facts)
        with artifact.new_file(NOTE) as file:
            json.dump(facts, file, indent=2)
        held, path = self._outbox.path(saved.name), self._place.checkpoints / saved.name
        if not self._online:
            artifact.add_reference(path.absolute().as_uri(), name=saved.name, checksum=False)
        elif (source := held if held.exists() else path).is_dir():
            artifact.add_dir(str(source), name=saved.name, policy="immutable", skip_cache=True)
        else:
            artifact.add_file(str(source), name=saved.name, policy="immutable", skip_cache=True)
        return artifact

    def _move_best(self, links: Links) -> None:
        """`best` may go back to an older one, when the best is deleted."""
        best = links.get(layout.BEST)
        if best is None or best == self._best or (version := self._versions.get(best)) is None:
            return
        self._best = best
        if self._online:
            _give(version, "best")
        else:  # the same content again: W&B makes no new version and moves the alias; and then `latest` back
            newest = self._saved[links[layout.LAST] or best]
            self._log(self._saved[best], ["best"])
            self._log(newest, _aliases(newest, links))

    def _prune(self, names: Sequence[str]) -> None:
        for name in names:
            self._saved.pop(name, None)
            self._missing.pop(name, None)
            version = self._versions.pop(name, None)
            if version is not None and self._online:
                self._take_back(version)
            if self._wishes.pruned == "delete":
                self._outbox.drop(name)

    def _take_back(self, version: Any) -> None:
        if self._wishes.pruned == "delete":
            version.delete(delete_aliases=True)
        elif self._wishes.pruned == "untag":
            version.aliases = []
            version.save()

    def _reconcile(self, kept: Sequence[Saved], links: Links) -> None:
        there = {v.metadata.get("name"): v for v in self._there()} if self._online else {}
        for saved in kept:
            self._saved[saved.name] = saved
            version = there.get(saved.name)
            if version is not None and version.metadata.get("sha256") == saved.sha256:
                self._versions[saved.name] = there.pop(saved.name)
                self._outbox.drop(saved.name)
            elif self._is_wanted(saved, links) or saved.name == links.get(layout.LAST):
                self._attempt(partial(self._commit, saved, links, self._wishes.which != "final"))
        for version in there.values():
            self._attempt(partial(self._take_back, version))
        for saved in list(self._outbox.waiting()) if self._online else []:
            if saved.name not in self._versions:  # deleted since, and not wanted back
                late = self._wishes.pruned != "delete" and saved.name not in self._saved
                self._attempt(partial(self._log, saved, [f"step-{saved.position.step}"]) if late else _nothing)
                self._outbox.drop(saved.name)
        self._links = links
        self._attempt(self._restore_aliases if self._online else partial(self._move_best, links))

    def _attempt(self, task: Callable[[], None]) -> None:
        """One that fails does not keep the others from being tried."""
        try:
            task()
        except Exception as error:
            self._tell(type(error).__name__, _first_line(error))

    def _restore_aliases(self) -> None:
        """What was sent out of its turn has taken `latest` along, which W&B gives to whatever comes last."""
        there = {version.metadata.get("name"): version for version in self._there()}
        for alias, link in {"latest": layout.LAST, "best": layout.BEST}.items():
            version = there.get(self._links.get(link))
            if version is not None and alias not in version.aliases:
                _give(version, alias)
            if version is not None:
                self._versions[version.metadata["name"]] = version
        self._best = self._links.get(layout.BEST)

    def _there(self) -> Iterator[Any]:
        """The versions that W&B has, oldest first."""
        run = self._run
        yield from versions(f"{run.entity}/{run.project}/{collection(run.id)}")

    def _end(self, finished: bool) -> None:
        """Try again what has failed; and give the newest of a finished run its last alias."""
        again = list(self._missing.values())
        for saved in again:
            self._attempt(partial(self._log, saved, [f"step-{saved.position.step}"]))
        if again and self._online:
            self._attempt(self._restore_aliases)
        newest = max(self._saved.values(), key=lambda saved: saved.position, default=None)
        if not finished or newest is None:
            return
        version = self._versions.get(newest.name)
        if version is not None and self._online:
            _give(version, "final")
        elif version is not None or self._wishes.which in ("all", "final"):
            best = ["best"] if newest.name == self._best else []
            self._log(newest, [f"step-{newest.position.step}", *best, "final"])


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
        "sha256": saved.sha256,
        "path": str(path.relative_to(place.run) if path.is_relative_to(place.run) else path),
        "run_directory": str(place.run),
        **place.facts,
    }


def versions(named: str) -> list[Any]:
    """All committed versions of `entity/project/name`, oldest first; none if there is no such artifact."""
    try:
        found = list(wandb.Api().artifacts(TYPE, named))
    except (wandb.errors.CommError, ValueError):  # W&B says so when the run has made none yet
        return []
    committed = [version for version in found if version.state == "COMMITTED"]
    return sorted(committed, key=lambda version: int(version.version.removeprefix("v")))


def download(named: str, into: Path) -> Path:
    """Fetch a checkpoint from W&B, and see that it is the one that was saved.

    Args:
        named: `entity/project/name:alias`.
        into: folder for the file.

    Raises:
        ResumeError: there is no such version, it holds no bytes, or others than were saved.
    """
    try:
        version = wandb.Api().artifact(named)
        name, digest = version.metadata.get("name"), version.metadata.get("sha256")
        entry = version.manifest.entries.get(name)
    except (wandb.errors.Error, ValueError) as error:
        raise ResumeError(f"{named} is not to be had from W&B: {_first_line(error)}.") from error
    if not name or not digest:
        raise ResumeError(f"{named} is no checkpoint of this project: its metadata names no file and no sha256.")
    if entry is None or entry.ref is not None:
        raise ResumeError(f"{named} holds no bytes: `python -m cairn sync RUN` uploads them from where the run lies.")
    try:
        path = Path(version.get_entry(name).download(str(into)))
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ResumeError(f"{named} cannot be downloaded: {_first_line(error)}.") from error
    if (found := disk.sha256(path)) != digest:
        path.unlink()
        raise ResumeError(f"{named} is not what was saved: its sha256 is {found}, and it should be {digest}.")
    return path


def _give(version: Any, alias: str) -> None:
    version.aliases = sorted({*version.aliases, alias})
    version.save()


def forget() -> None:
    """End what the client has running, a try to reach W&B that came to nothing among it."""
    wandb.teardown()


def _aliases(saved: Saved, links: Links) -> list[str]:
    names = {"latest": layout.LAST, "best": layout.BEST}
    return [alias for alias, link in names.items() if links.get(link) == saved.name]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _nothing() -> None:
    pass
