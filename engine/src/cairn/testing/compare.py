"""Definition of "exact": how two runs are compared, and how their first difference is described."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cairn.testing.cures import NO_ADVICE, Advice, advice

_ABSENT = object()
Noise = Collection[tuple[str, str]]
"""Kinds and names of facts that are not compared."""
Report = Mapping[str, Any]
"""Contents of the report of a recorded run: `batches` (facts by batch number), `rows` (metrics.csv) and `kept`."""

_KINDS = (
    "sample",
    "attribute",
    "callback",
    "mode",
    "tensor",
    "optimizer",
    "scheduler",
    "metric",
    "loop",
    "generator",
)
"""Kinds of facts, causes before their effects."""
_GENERATORS = ("<Generator", "<RandomState", "<Random", "<PCG64", "<MT19937", "<Philox", "<SFC64")
"""Beginnings of the facts of attributes that are generators."""
_NOISY = ("attribute", "callback", "metric")
"""Kinds that may differ between two undisturbed runs without an effect on the training, such as times."""
_OF_RANKS = ("sample", "mode", "tensor", "optimizer", "scheduler", "loop", "generator")
"""Kinds of facts that are compared on each rank. Which attributes are only caches is known for rank 0."""


@dataclass(frozen=True)
class Difference:
    """First difference between two runs."""

    batch: int
    """Number of batches of the run at this point."""
    kind: str
    name: str
    what: str
    """Clause: what differs, and where."""
    advice: Advice = NO_ADVICE

    @property
    def text(self) -> str:
        """What differs, why, and what to do."""
        return " ".join(filter(None, [self.what, self.advice.cause, self.advice.cure]))


def add_rank(report: Report, rank: int, other: Report) -> None:
    """Add the facts of another rank to the report of rank 0.

    Args:
        report: The report of rank 0.
        rank: The other rank.
        other: Its report.
    """
    for number, facts in report["batches"].items():
        for kind in _OF_RANKS:
            of_rank = other["batches"].get(number, {}).get(kind, {})
            facts.setdefault(kind, {}).update({f"{name} on rank {rank}": value for name, value in of_rank.items()})


def known_noise(one: Report, other: Report) -> set[tuple[str, str]]:
    """Return the kinds and names of facts that differ between two undisturbed runs, and say nothing about a resume.

    These are times, for example, in attributes, states of callbacks and metrics. Other facts must be equal.
    """
    found: set[tuple[str, str]] = set()
    for part in ("batches", "starts"):
        for batch, facts in one.get(part, {}).items():
            found |= set(_differing(facts, other.get(part, {}).get(batch, {}), (), _NOISY))
    return found


def differing_at_start(one: Report, other: Report) -> list[str]:
    """Return the attributes that differ between two undisturbed runs before their first batch, generators first."""
    facts: Mapping[str, Any] = next(iter(one.get("starts", {}).values()), {})
    others: Mapping[str, Any] = next(iter(other.get("starts", {}).values()), {})
    names = [name for _, name in _differing(facts, others, (), ("attribute",))]
    return sorted(names, key=lambda name: not str(facts["attribute"].get(name)).startswith(_GENERATORS))


def first_difference(whole: Report, other: Report, noise: Noise, after: int = 0) -> Difference | None:
    """Compare a run with the undisturbed one.

    Args:
        whole: The undisturbed run.
        other: The run to compare.
        noise: Attributes, states of callbacks and metrics that are not compared.
        after: Number of batches before the start of `other`.

    Returns:
        The first difference; None if they are equal.
    """
    last = max(map(int, whole["batches"]), default=0)
    for number in sorted(map(int, whole["batches"])):
        if number > after and (found := _in_batch(number, whole, other, noise, after)) is not None:
            return found
    if any(number not in whole["batches"] for number in other["batches"]):
        return Difference(last, "end", "", f"it continues after batch {last}, the end of the undisturbed run.")
    for name in ("rows", "kept"):
        for index, (mine, theirs) in enumerate(zip(whole[name], other[name], strict=False)):
            if _without(mine, noise) != _without(theirs, noise):
                mine, theirs = _without(mine, noise), _without(theirs, noise)
                what = _row_difference(index, mine, theirs) if name == "rows" else _kept_difference(index, mine, theirs)
                return Difference(last, name, "", what, advice(name, "", whole))
        if len(whole[name]) != len(other[name]):
            what = "rows in metrics.csv" if name == "rows" else "kept checkpoints"
            text = f"there are {len(other[name])} {what} instead of {len(whole[name])}."
            return Difference(last, name, "", text, advice(name, "", whole))
    return None


def differences_of_resumed(whole: Report, resumed: Report, noise: Noise, after: int) -> list[Difference]:
    """Compare a resumed run with the undisturbed one; see `first_difference`.

    Returns:
        The first difference; then what else the resume has lost, because each loss needs a cure of its own. Empty if
        the runs are equal.
    """
    if again := [int(number) for number in resumed["batches"] if int(number) <= after]:
        return [Difference(min(again), "start", "", f"it trains batch {min(again)} again, which was saved.")]
    first = first_difference(whole, resumed, noise, after)
    return [] if first is None else [first, *also_lost(whole, resumed, noise, after, first)]


def also_lost(whole: Report, resumed: Report, noise: Noise, after: int, first: Difference) -> list[Difference]:
    """Return what differs right after the resume, except for the first difference."""
    begun = min((int(number) for number in resumed.get("starts", {}) if int(number) > after), default=0)
    ended = min((int(number) for number in resumed["batches"] if int(number) > after), default=0)
    found = []
    mine, theirs = (report["batches"].get(str(ended)) for report in (whole, resumed))
    names = _lost(begun, whole, resumed, noise, begun - 1)
    if mine is not None and theirs is not None:
        # What the batch has set again is not a loss.
        still = list(_differing(mine, theirs, noise, ("sample", "attribute")))
        still = [item for item in still if not _is_cache(item, mine, theirs, whole)]
        names = [name for name in names if ("attribute", name) in still]
        found += [
            Difference(ended, kind, name, f"{kind} {name} differs at batch {ended}.", advice(kind, name, whole, names))
            for kind, name in still
            if kind == "sample" and not _explains_samples(names, whole)
        ]
    for name in names:
        before, now = (_value(report["starts"][str(begun)]["attribute"], name) for report in (whole, resumed))
        what = f"attribute {name} is {now} instead of {before} before batch {begun}."
        found.append(Difference(begun, "attribute", name, what, advice("attribute", name, whole)))
    return [item for item in found if (item.kind, item.name) != (first.kind, first.name)]


def _without(item: Any, noise: Noise) -> Any:
    """Return a row of metrics.csv without the metrics that are noise."""
    return (
        {name: value for name, value in item.items() if ("metric", name) not in noise}
        if isinstance(item, dict)
        else item
    )


def _row_difference(index: int, mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    column = next(name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name))
    return (
        f"row {index + 1} of metrics.csv has {column}={theirs.get(column) or 'nothing'} instead of "
        f"{mine.get(column) or 'nothing'}."
    )


def _kept_difference(index: int, mine: Any, theirs: Any) -> str:
    return f"kept checkpoint {index + 1} is {_checkpoint(theirs)} instead of {_checkpoint(mine)}."


def _checkpoint(item: Any) -> str:
    name, reasons, score = item
    return f"{name} ({', '.join(reasons)}{f'; score {score:.6g}' if score is not None else ''})"


def _in_batch(number: int, whole: Report, other: Report, noise: Noise, after: int) -> Difference | None:
    mine, theirs = whole["batches"][str(number)], other["batches"].get(str(number))
    if theirs is None:
        return Difference(number, "end", "", f"it ends before batch {number}, which the undisturbed run reaches.")
    found = [item for item in _differing(mine, theirs, noise, _KINDS) if not _is_cache(item, mine, theirs, whole)]
    if not found:
        return None
    more = f" ({len(found) - 1} more differ there)" if len(found) > 1 else ""
    lost = _lost(number, whole, other, noise, after)
    # A sample that changes together with an attribute of a dataset is the effect of that attribute.
    kind, name = _cause_first(found, lost, whole)
    values = (
        f" is {_value(theirs[kind], name)} instead of {_value(mine[kind], name)}" if kind != "sample" else " differs"
    )
    what = f"{kind} {name}{values} at batch {number}{more}."
    return Difference(number, kind, name, what, advice(kind, name, whole, lost))


def _is_cache(item: tuple[str, str], mine: Mapping[str, Any], theirs: Mapping[str, Any], whole: Report) -> bool:
    """Return whether a fact looks like something that is computed when it is needed first, and not like state.

    Its effects, if it has any, are other facts.
    """
    kind, name = item
    if kind != "attribute":
        return False
    values = [facts[kind].get(name, _ABSENT) for facts in (mine, theirs)]
    if _ABSENT in values:
        return True
    roles = whole.get("roles", {})
    owner = max((owner for owner in roles if name.startswith(f"{owner}.")), key=len, default="")
    if None in values:  # None is a value like any other, except where data are read when they are needed first
        return roles.get(owner) in ("dataset", "datamodule")
    is_dict = all(str(value).startswith(("{", "<dict")) for value in values)
    return is_dict and roles.get(owner) in ("dataset", "datamodule", "module")


def _value(facts: Mapping[str, Any], name: str) -> Any:
    return facts.get(name, "not set")


def _lost(number: int, whole: Report, other: Report, noise: Noise, after: int) -> list[str]:
    """Return the attributes that differed before any batch up to this one: a resume has lost them."""
    found: dict[str, None] = {}
    for batch in range(after + 1, number + 1):
        mine, theirs = (report.get("starts", {}).get(str(batch)) for report in (whole, other))
        if mine is not None and theirs is not None:
            found |= {name: None for _, name in _differing(mine, theirs, noise, ("attribute",))}
    return list(found)


def _cause_first(found: list[tuple[str, str]], lost: list[str], whole: Report) -> tuple[str, str]:
    """Return the first difference; an attribute of a dataset in place of the samples that it has changed."""
    changed = [name for kind, name in found if kind == "attribute" and name in lost]
    if found[0][0] == "sample" and (causes := _explains_samples(changed, whole)):
        return "attribute", causes[0]
    return found[0]


def _explains_samples(names: list[str], whole: Report) -> list[str]:
    """Return the attributes among them that belong to a dataset or a sampler, and make other samples."""
    if any(not loader["has_state"] for loader in whole.get("loaders", ())):
        return []  # the loader does not save its position: this has to be named
    roles = whole.get("roles", {})
    owners = [owner for owner, role in roles.items() if role in ("dataset", "collate", "sampler")]
    return [name for name in names if any(name.startswith(f"{owner}.") for owner in owners)]


def _differing(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], noise: Noise, kinds: Collection[str]
) -> Iterator[tuple[str, str]]:
    for kind in kinds:
        ours, others = mine.get(kind, {}), theirs.get(kind, {})
        for name in {**ours, **others}:
            if ours.get(name) != others.get(name) and (kind, name) not in noise:
                yield kind, name
