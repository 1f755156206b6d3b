"""What a tracker should have of a run's checkpoints, what it has, and the next steps from the one to the other.

Pure: facts go in, operations come out. The executor puts the result of each into `actual` and asks again:

    wanted  (kept, links, chosen, deleted, ...)  \\
                                                   reconcile -> Upload, Delete, Untag, AddAliases, Release
    actual  (versions and their aliases)         /                 |
        ^----------------- taken(actual, result) <-----------------+

Nothing is left to do when `reconcile` returns no operation. Each operation may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cairn.store import names
from cairn.store.listener import Links
from cairn.trackers.settings import ArtifactSettings
from cairn.types import Saved

LATEST, BEST, FINAL = "latest", "best", "final"


@dataclass(frozen=True)
class Version:
    """A version of the run's artifact, as the tracker has it."""

    id: str
    name: str
    """File name of its checkpoint."""
    digest: str
    """Digest of its checkpoint."""
    aliases: frozenset[str] = frozenset()
    has_bytes: bool | None = True
    """False: it only refers to a file; None: this could not be found out."""
    handle: Any = field(default=None, compare=False, repr=False)
    """The client's object."""


@dataclass(frozen=True)
class Wanted:
    """What a tracker should have."""

    settings: ArtifactSettings
    kept: Mapping[str, Saved] = field(default_factory=dict)
    """The checkpoints in the directory, by file name, oldest first."""
    links: Links = field(default_factory=dict)
    chosen: Mapping[str, Saved] = field(default_factory=dict)
    """Checkpoints that were wanted when they were committed; those not in `kept` wait in the outbox."""
    held: frozenset[str] = frozenset()
    """File names of what is in the outbox."""
    deleted: frozenset[str] = frozenset()
    """Digests of checkpoints that retention has deleted."""
    postponed: frozenset[str] = frozenset()
    """File names of checkpoints to leave alone for now."""
    finished: bool = False
    """The run has reached its end."""


@dataclass(frozen=True)
class Upload:
    """Make a version of a checkpoint."""

    saved: Saved
    aliases: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this operation, when it is asked for again."""
        return ("upload", self.saved.name, self.saved.digest)


@dataclass(frozen=True)
class Delete:
    """Delete a version."""

    version: Version

    @property
    def key(self) -> tuple[str, ...]:
        """See `Upload`."""
        return ("delete", self.version.id)


@dataclass(frozen=True)
class Untag:
    """Remove all aliases of a version."""

    version: Version

    @property
    def key(self) -> tuple[str, ...]:
        """See `Upload`."""
        return ("untag", self.version.id)


@dataclass(frozen=True)
class AddAliases:
    """Give aliases to a version; other versions lose them."""

    version: Version
    aliases: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """See `Upload`."""
        return ("aliases", self.version.id, *self.aliases)


@dataclass(frozen=True)
class Release:
    """Remove a checkpoint from the outbox."""

    name: str

    @property
    def key(self) -> tuple[str, ...]:
        """See `Upload`."""
        return ("release", self.name)


Operation = Upload | Delete | Untag | AddAliases | Release


def reconcile(wanted: Wanted, actual: Sequence[Version]) -> list[Operation]:
    """The operations that are left to do, in the order in which to do them.

    Args:
        wanted: What the tracker should have.
        actual: The versions that the tracker has.

    Returns:
        No operation if the tracker has what it should have.
    """
    lacking, known = missing(wanted, actual), _by_checkpoint(actual)
    # First what is new: what it replaces stays there until then, and `latest` goes to whatever was uploaded last.
    uploads = [
        Upload(saved, _aliases(wanted, saved, references))
        for saved in lacking
        if not _is_unknown(wanted, saved, references := known.get((saved.name, saved.digest), []))
    ]
    return [*uploads, *_taken_back(wanted, actual), *_moved_aliases(wanted, actual), *_released(wanted, actual)]


def missing(wanted: Wanted, actual: Sequence[Version]) -> list[Saved]:
    """Checkpoints that the tracker should have and does not have, as far as this is known, oldest first."""
    # What was deleted here is still wanted if the tracker is to keep it.
    chosen = [s for s in wanted.chosen.values() if s.name in wanted.kept or wanted.settings.deleted != "delete"]
    now = [s for s in wanted.kept.values() if wanted.settings.wants(s, wanted.links, wanted.finished)]
    candidates = {saved.name: saved for saved in (*chosen, *now)}.values()
    there = {(version.name, version.digest) for version in actual if version.has_bytes}
    lacking = [saved for saved in candidates if (saved.name, saved.digest) not in there]
    return sorted(lacking, key=lambda saved: saved.position)


def versions_of(saved: Saved, actual: Sequence[Version]) -> list[Version]:
    """The versions of one checkpoint, those with its bytes first."""
    return _by_checkpoint(actual).get((saved.name, saved.digest), [])


def _by_checkpoint(actual: Sequence[Version]) -> dict[tuple[str, str], list[Version]]:
    """The versions of each checkpoint, by its name and digest; those with its bytes first."""
    found: dict[tuple[str, str], list[Version]] = {}
    for version in sorted(actual, key=lambda version: not version.has_bytes):
        found.setdefault((version.name, version.digest), []).append(version)
    return found


def taken(actual: Sequence[Version], version: Version) -> list[Version]:
    """The versions that the tracker has after one was made or changed: an alias belongs to one version only."""
    # In place: of two versions of one checkpoint, the first one must stay the first one.
    found = [version if v.id == version.id else replace(v, aliases=v.aliases - version.aliases) for v in actual]
    return found if version in found else [*found, version]


def without(actual: Sequence[Version], version: Version) -> list[Version]:
    """The versions that the tracker has after one was deleted."""
    return [other for other in actual if other.id != version.id]


def step_alias(step: int) -> str:
    """The alias of the version that was saved after this many optimizer steps."""
    return f"step-{step}"


def _is_unknown(wanted: Wanted, saved: Saved, versions: Sequence[Version]) -> bool:
    return saved.name in wanted.postponed or any(version.has_bytes is None for version in versions)


def _links(wanted: Wanted) -> dict[str, str | None]:
    """The checkpoint of each alias, `latest` last."""
    last = wanted.links.get(names.LAST)
    final = {FINAL: last} if wanted.finished else {}
    return {BEST: wanted.links.get(names.BEST), **final, LATEST: last}


def _aliases(wanted: Wanted, saved: Saved, references: Sequence[Version]) -> tuple[str, ...]:
    """The aliases of a new version, with those that its user gave to a reference which it replaces.

    `final` is given when everything else is there.
    """
    own = step_alias(saved.position.step)
    linked = [alias for alias, name in _links(wanted).items() if name == saved.name and alias != FINAL]
    others = {alias for version in references for alias in version.aliases} - {own, LATEST, BEST, FINAL}
    return (own, *(linked if saved.name in wanted.kept else ()), *sorted(others))


def _taken_back(wanted: Wanted, actual: Sequence[Version]) -> list[Operation]:
    kept = {saved.digest for saved in wanted.kept.values()}
    there = {(version.name, version.digest) for version in actual if version.has_bytes}
    found: list[Operation] = []
    for version in actual:
        if version.digest in wanted.deleted and version.digest not in kept:
            if wanted.settings.deleted == "delete":
                found.append(Delete(version))
            elif wanted.settings.deleted == "untag" and version.aliases:
                found.append(Untag(version))
        elif version.has_bytes is False and (version.name, version.digest) in there:
            found.append(Delete(version))  # a mere reference, left by "wandb sync" of an offline run
    return found


def _moved_aliases(wanted: Wanted, actual: Sequence[Version]) -> list[Operation]:
    lacking: dict[str, tuple[Version, list[str]]] = {}
    for alias, name in _links(wanted).items():
        saved = wanted.kept.get(name or "")
        found = versions_of(saved, actual) if saved else []
        if found and alias not in found[0].aliases:
            lacking.setdefault(found[0].id, (found[0], []))[1].append(alias)
    return [AddAliases(version, tuple(aliases)) for version, aliases in lacking.values()]


def _released(wanted: Wanted, actual: Sequence[Version]) -> list[Operation]:
    waiting = {saved.name for saved in missing(wanted, actual)}
    return [Release(name) for name in sorted(wanted.held - waiting - wanted.postponed)]
