"""Deletes checkpoints of a mirror by keep rules, as `cairn prune` does on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cairn.policy import keep
from cairn.remote import checked, layout, listed, owner
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.store import audit
from cairn.types import Mode, Saved


@dataclass(frozen=True)
class Plan:
    """What a prune keeps and deletes in a mirror."""

    kept: Sequence[Record]
    to_delete: Sequence[Record]
    broken: Sequence[tuple[str, str]]
    """Names of damaged checkpoints, which count for no rule and are not deleted, and why."""
    leftovers: Sequence[str]
    """Objects that no record needs."""
    is_open: bool = False
    """Whether a process may be uploading: then only records are deleted, and the checkpoints that they are about."""


def plan(objects: Objects, rules: Sequence[keep.Rule], mode: Mode | None) -> Plan:
    """Apply keep rules to the intact checkpoints of a mirror. Those that would stay are downloaded and verified.

    Args:
        objects: The mirror.
        rules: The keep rules.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Raises:
        RemoteError: The store cannot be used.
    """
    is_open = bool(owner.open_since(objects))
    found = listed.look(objects)
    records, bad = listed.read_records(objects, found)
    by_stem = {item.stem: item for item in records}

    def damage(saved: Saved) -> str:
        return checked.damage(objects, found, by_stem[layout.stem_of(saved)])

    chosen = audit.choose([item.saved for item in records], rules, mode, damage)
    kept, to_delete = ([by_stem[layout.stem_of(item)] for item in some] for some in (chosen.kept, chosen.to_delete))
    broken = [*((stem.name, str(why)) for stem, why in bad.items()), *((it.path.name, it.why) for it in chosen.broken)]
    leftovers = [] if bad or is_open else found.unreferenced(records)
    return Plan(kept, to_delete, broken, leftovers, is_open)


def delete(objects: Objects, chosen: Plan) -> None:
    """Carry out a plan: first the records, then what no other record needs.

    Raises:
        RemoteError: The store cannot be used; the same command continues.
    """
    objects.delete([item.stem.record for item in chosen.to_delete])
    if chosen.is_open:
        # An upload under way has put its data there without a record, and may count on any run file that it has seen.
        objects.delete([name for item in chosen.to_delete for name, _, _ in layout.data_of(item.saved)])
        return
    found = listed.look(objects)
    records, bad = listed.read_records(objects, found)
    if not bad:
        objects.delete(found.unreferenced(records))
