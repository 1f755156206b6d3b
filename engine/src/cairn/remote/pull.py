"""Copies the checkpoints of a mirror into a directory, without starting the run."""

from __future__ import annotations

from cairn.errors import CheckpointError
from cairn.policy import keep
from cairn.remote import listed, origin, staged
from cairn.remote.copied import Copied
from cairn.remote.fetch import Target
from cairn.remote.objects import Objects
from cairn.remote.progress_bar import Bar
from cairn.remote.record import Record
from cairn.remote.start import Found
from cairn.store import disk, links, names
from cairn.store.catalog import Catalog, refuse_newer
from cairn.types import Saved

_OTHER = "another checkpoint of this name is in the directory: move it away, or pull into another one"


def pull(found: Found, target: Target) -> Copied:
    """Download the checkpoints that the rules of a target keep, and make the links.

    Args:
        found: The mirror.
        target: The run on this machine.

    Raises:
        ResumeError: The store cannot be used, there is no room, or a later version of Cairn wrote to the directory.
    """
    return origin.asked(found.address, lambda objects: _pull(objects, target))


def _pull(objects: Objects, target: Target) -> Copied:
    there = listed.look(objects)
    records, bad = listed.read_records(objects, there)
    skipped = [(stem.name, str(why)) for stem, why in bad.items()]
    good = {item.saved.name: item for item in sorted(records, key=lambda item: item.saved.created)}
    downloaded: list[Saved] = []
    present: list[Saved] = []
    seen: set[str] = set()
    refuse_newer(Catalog(target.directory).rejected(), " Nothing was downloaded.")
    disk.make_directory(target.directory)
    with disk.locked(target.directory):
        left = _chosen(good, target)
        while left:
            item = left.pop()
            seen.add(item.saved.name)
            here = staged.described(target.directory / item.saved.name)
            if here is not None:
                is_same = here.digest == item.saved.digest
                present.append(item.saved) if is_same else skipped.append((here.name, _OTHER))
                continue
            try:
                if missing := there.missing_data(item):
                    raise CheckpointError(f"{missing[0]} is missing, or has another size")
                with Bar(f"Downloading {item.saved.name}", item.saved.num_bytes) as bar:
                    staged.stage(objects, item, target.directory, bar.advance).commit()
                downloaded.append(item.saved)
            except CheckpointError as error:
                skipped.append((item.saved.name, str(error)))
                del good[item.saved.name]
                # A damaged one does not take the place of an intact one: the rules choose again.
                left = [other for other in _chosen(good, target) if other.saved.name not in seen]
        _link(target)
    return Copied(downloaded, present, skipped)


def _chosen(good: dict[str, Record], target: Target) -> list[Record]:
    """Return what the rules keep of the checkpoints that can be copied, oldest first."""
    rules, mode = target.rules or ((), None)
    saved = sorted((item.saved for item in good.values()), key=lambda item: item.position)
    return [good[item.name] for item in keep.survivors(rules, saved, mode)]


def _link(target: Target) -> None:
    saved = Catalog(target.directory).committed()
    if not saved:
        return
    links.move(target.directory / names.LAST, saved[-1].name)
    mode = target.rules[1] if target.rules else None
    if mode and (best := keep.best_of(saved, mode)) is not None:
        links.move(target.directory / names.BEST, best.name)
