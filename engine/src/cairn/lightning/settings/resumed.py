"""A resumed run keeps the settings of its checkpoint, and says which of them were changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cairn.lightning.settings import parts
from cairn.lightning.settings.parts import Part


def compare(
    found: Mapping[str, Sequence[Part]], then: Mapping[str, Any], saved: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Compare the settings with those in the checkpoint.

    Args:
        found: The parts, by kind.
        then: What the checkpoint says about them.
        saved: What the next checkpoint says about them, which is changed: the checkpoints of a run go on saying what
            it was made with.

    Returns:
        Texts of the changed settings that the run follows all the same, and of those that it keeps.
    """
    followed: list[str] = []
    kept: list[str] = []
    for kind in ("optimizers", "schedulers", "metrics"):
        for part in found[kind]:
            changed, loaded = part.changed(then.get(kind, {}).get(part.key, {})), part.loaded()
            new = {name: pair for name, pair in changed.items() if parts.same(loaded.get(name), pair[1])}
            old = {name: pair for name, pair in changed.items() if name not in new}
            saved[kind][part.key] |= {name: before for name, (before, _) in old.items()}
            followed += [f"{part.name}: {text}" for text in parts.describe(new)]
            kept += [f"{part.name}: {text}" for text in parts.describe(old, kept=True)]
    before = then.get("start", saved["start"])
    if names := {*before["frozen"]} ^ {*saved["start"]["frozen"]}:
        saved["start"] = before
        kept.append(f"frozen parameters ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})")
    return followed, kept
