"""Curves over the number of kept checkpoints in one directory."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth import made
from benchmarks.growth.commands import timed
from benchmarks.growth.curve import Curve, clock
from cairn.policy.keep import Best, EveryNth, Latest, Rule, WithinBytes
from cairn.store import manifest, names, resume
from cairn.store.commit import CommitPlan, Committed
from cairn.store.history import History
from cairn.types import Saved

_SAVES = 9
_SIZES = (2_500, 5_000, 10_000)
_BOUNDARIES = 10
"""Boundaries between two saves at which the triggers look at what is kept."""


def _save(folder: Path, size: int, rules: Sequence[Rule]) -> float:
    """Return the median time of what a save decides and records, without the write of its own file."""
    directory = folder / "checkpoints"
    made.store(directory, size)
    history = History(directory, rules, "min")
    history.take_over(made.RUN, resume.find_resume_point(directory))
    assert len(history.saved) == size
    taken = []
    for number in range(size, size + _SAVES):
        coming = made.draft(number)
        started = clock()
        history.add_pending(coming)
        for _ in range(_BOUNDARIES):
            assert history.with_pending[-1].position == coming.position
        plan = history.plan_commit(coming, {})
        taken.append(clock() - started)
        saved = _committed(plan)
        started = clock()
        history.resolve_pending(coming, plan, Committed(saved))
        for _ in range(_BOUNDARIES):
            assert history.with_pending[-1].name == coming.name
        taken[-1] += clock() - started
    return statistics.median(taken)


def _committed(plan: CommitPlan) -> Saved:
    """Do what a writer does, without syncing: the disk is measured elsewhere."""
    for name in plan.make_room:
        _delete(plan.directory, name)
    path = plan.directory / plan.draft.name
    path.write_bytes(made.file_bytes())
    saved = made.saved_of(plan.draft)
    path.with_name(names.manifest_name(path.name)).write_text(manifest.dump(saved, {}))
    for link, target in plan.links.items():
        if target is not None:
            (plan.directory / names.temp_name(link)).symlink_to(target)
            os.replace(plan.directory / names.temp_name(link), plan.directory / link)
    for name in plan.to_delete:
        _delete(plan.directory, name)
    return saved


def _delete(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / names.manifest_name(name)).unlink()


def save_all(folder: Path, size: int) -> float:
    """A save with `keep_last=-1`."""
    return _save(folder, size, [Latest(-1), Best(1)])


def save_bytes(folder: Path, size: int) -> float:
    """A save with a byte budget that is used up: each save deletes one before it writes."""
    return _save(folder, size, [Latest(1), Best(1), WithinBytes(size * len(made.file_bytes()))])


def save_rules(folder: Path, size: int) -> float:
    """A save with every keep rule."""
    budget = WithinBytes(size * len(made.file_bytes()))
    return _save(folder, size, [Latest(3), Best(3), EveryNth(2), budget])


def start(folder: Path, size: int) -> float:
    """The start of a run that goes on: find the newest intact checkpoint, and take over the others."""
    directory = folder / "checkpoints"
    made.store(directory, size)
    started = clock()
    history = History(directory, [Latest(-1), Best(1)], "min")
    history.take_over(made.RUN, resume.find_resume_point(directory))
    return clock() - started


def ls(folder: Path, size: int) -> float:
    """`cairn ls`, with its table."""
    run = made.run(folder / "run", number=0, checkpoints=size)
    return timed("ls", str(run))


def prune(folder: Path, size: int) -> float:
    """`cairn prune --yes`, which deletes all but two."""
    run = made.run(folder / "run", number=0, checkpoints=size)
    return timed("prune", str(run), "--yes")


_OF = "kept checkpoints"
CURVES = (
    Curve("save, keep all", "a save with keep_last=-1: decide and record", _OF, _SIZES, save_all, 0.01),
    Curve("save, byte budget", "a save with a full byte budget", _OF, _SIZES, save_bytes, 0.01),
    Curve("save, every rule", "a save with every keep rule", _OF, _SIZES, save_rules, 0.01),
    Curve("start", "find where to resume, and take over the directory", _OF, _SIZES, start, 2.0),
    Curve("ls", "`cairn ls`", _OF, _SIZES, ls, 5.0),
    Curve("prune", "`cairn prune --yes`: delete all but two", _OF, _SIZES, prune, 5.0),
)
