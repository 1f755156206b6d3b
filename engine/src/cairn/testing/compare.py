"""Definition of "exact": how two runs are compared, and how their first difference is described."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
"""Contents of the report of a recorded run: `batches` (facts by batch number), `rows` (metrics.csv) and `kept`."""

_KINDS = ("sample", "attribute", "tensor", "optimizer", "scheduler", "metric", "generator")
"""Kinds of facts, causes before their effects."""
_CURES = {
    "sample": "Training used different samples: cairn.DataLoader is a drop-in for torch's that saves its position; a "
    "generator that the dataset owns must be a function of (epoch, index).",
    "attribute": "It is not in a checkpoint: keep it in a buffer (register_buffer), or save it in on_save_checkpoint "
    "or state_dict.",
    "tensor": "State that is not in a checkpoint has changed the weights: look for plain attributes that training "
    "changes, and for hooks at the start of an epoch.",
    "optimizer": "State that is not in a checkpoint has changed the optimizer.",
    "scheduler": "State that is not in a checkpoint has changed the scheduler.",
    "metric": "It depends on state that is not in a checkpoint: log through self.log, or keep the state in a "
    "torchmetrics object that is an attribute of the model.",
    "generator": "Random numbers were drawn in one run and not in the other: look for draws in hooks that a resume "
    "does not repeat.",
}


@dataclass(frozen=True)
class Difference:
    """First difference between two runs."""

    batch: int
    """Number of batches of the run at this point."""
    kind: str
    name: str
    text: str
    """A sentence: what differs, and what to do."""


def known_noise(one: Report, other: Report) -> set[str]:
    """Return the attributes that differ between two undisturbed runs, such as times, and say nothing about a resume."""
    found = set()
    for batch, facts in one["batches"].items():
        mine, theirs = facts["attribute"], other["batches"].get(batch, {}).get("attribute", {})
        found |= {name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)}
    return found


def first_difference(whole: Report, other: Report, noise: Collection[str], after: int = 0) -> Difference | None:
    """Compare a run with the undisturbed one.

    Args:
        whole: The undisturbed run.
        other: The run to compare.
        noise: Attributes that are not compared.
        after: Number of batches before the start of `other`.

    Returns:
        The first difference; None if they are equal.
    """
    for number in sorted(map(int, whole["batches"])):
        if number > after and (found := _in_batch(number, whole, other, noise)) is not None:
            return found
    last = max(map(int, whole["batches"]), default=0)
    if any(number not in whole["batches"] for number in other["batches"]):
        return Difference(last, "end", "", f"it continues after batch {last}, the end of the undisturbed run.")
    for name in ("rows", "kept"):
        for index, (mine, theirs) in enumerate(zip(whole[name], other[name], strict=False)):
            if mine != theirs:
                what = "row {} of metrics.csv" if name == "rows" else "kept checkpoint {}"
                return Difference(last, name, "", f"{what.format(index)} is {theirs} instead of {mine}.")
        if len(whole[name]) != len(other[name]):
            what = "rows in metrics.csv" if name == "rows" else "kept checkpoints"
            return Difference(last, name, "", f"there are {len(other[name])} {what} instead of {len(whole[name])}.")
    return None


def _in_batch(number: int, whole: Report, other: Report, noise: Collection[str]) -> Difference | None:
    mine, theirs = whole["batches"][str(number)], other["batches"].get(str(number))
    if theirs is None:
        return Difference(number, "end", "", f"it ends before batch {number}, which the undisturbed run reaches.")
    found = list(_differing(mine, theirs, noise))
    if not found:
        return None
    kind, name = found[0]
    values = f" is {theirs[kind].get(name)} instead of {mine[kind].get(name)}" if kind != "sample" else " differs"
    more = f" ({len(found) - 1} more differ there)" if len(found) > 1 else ""
    return Difference(number, kind, name, f"{kind} {name}{values} at batch {number}{more}. {_CURES[kind]}")


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any], noise: Collection[str]) -> Iterator[tuple[str, str]]:
    for kind in _KINDS:
        for name in {**mine[kind], **theirs[kind]}:
            if mine[kind].get(name) != theirs[kind].get(name) and not (kind == "attribute" and name in noise):
                yield kind, name
