"""A proof that a project resumes exactly: runs are stopped, resumed, and compared with an undisturbed run."""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cairn.testing.compare import (
    Difference,
    Noise,
    Report,
    also_lost,
    differences_of_resumed,
    differing_at_start,
    first_difference,
    known_noise,
)
from cairn.testing.cures import NO_ADVICE, Advice
from cairn.testing.fresh import RunError
from cairn.testing.proof_run import ProofRun

_MOST_NAMED = 10
"""Facts that a line lists."""


class Run(Protocol):
    """Trains in a fresh process."""

    def __call__(self, given: ProofRun, is_resumed: bool) -> Report:
        """Start a run in its directory, or resume the run in it, and return the report."""
        ...


@dataclass(frozen=True)
class Stop:
    """A boundary at which a run is stopped."""

    after: int
    """Number of batches of the run so far."""
    epoch: int
    batch: int
    """Number of batches in the epoch so far."""
    where: str
    """What is special about it."""


@dataclass(frozen=True)
class Trial:
    """A run that was stopped and resumed."""

    stop: Stop
    num_batches: int
    """Number of batches after the stop, each of which was compared."""
    found: Sequence[Difference] = ()
    """First difference from the undisturbed run, then what else was lost; empty: equal."""


@dataclass(frozen=True)
class Proof:
    """Result of all trials."""

    trials: Sequence[Trial]
    unequal: Difference | None = None
    """First difference between two undisturbed runs: then no resume can be exact, and none is tried."""
    num_batches: int = 0
    num_epochs: int = 0
    not_covered: Sequence[str] = field(default_factory=tuple)

    @property
    def different(self) -> list[Trial]:
        """The trials that were not equal."""
        return [trial for trial in self.trials if trial.found]

    @property
    def is_exact(self) -> bool:
        """Whether all runs were equal."""
        return self.unequal is None and not self.different


def prove(
    root: Path,
    whole_in: Run,
    resumed_in: Run,
    limits: Mapping[str, Any],
    num_stops: int,
    seed: int,
    keep: bool,
    show: Callable[[str], None],
) -> Proof:
    """Train an undisturbed run, kill others with `kill -9` and resume them, and compare.

    Args:
        root: Directory for the runs.
        whole_in: Starts undisturbed runs, and runs that are killed.
        resumed_in: Resumes killed runs, in processes that have nothing in common with those.
        limits: Fields of a `ProofRun` that limit the runs.
        num_stops: Number of boundaries to try.
        seed: Seed for the choice of boundaries.
        keep: Keep the runs.
        show: Called with a line about each step.

    Raises:
        RunError: An undisturbed run failed, or could not be killed.
        ValueError: The run has no boundary, or only one.
    """
    show("Training an undisturbed run ...")
    whole = whole_in(ProofRun(root / "whole", "undisturbed", **limits), is_resumed=False)
    show("Training it again, to see whether two undisturbed runs are equal ...")
    twin = resumed_in(ProofRun(root / "twin", "undisturbed", **limits), is_resumed=False)
    noise = known_noise(whole, twin)
    chosen = choose_stops(whole, num_stops, seed)
    if (found := first_difference(whole, twin, noise)) is not None:
        return of_trials(whole, (), replace(found, advice=of_two_undisturbed_runs(found, whole, twin)))
    trials = []
    for number, stop in enumerate(chosen, 1):
        show(f"[{number}/{len(chosen)}] Killing a run after batch {stop.after} ({stop.where}), and resuming it ...")
        run = root / f"stop_{stop.after}"
        whole_in(ProofRun(run, "killed", kill_after=stop.after, **limits), is_resumed=False)
        resume = functools.partial(resumed_in, ProofRun(run, "resumed", **limits), is_resumed=True)
        trials.append(trial(whole, noise, stop, resume))
        if not keep:
            remove(run)
    return of_trials(whole, trials, noise=noise)


def of_trials(whole: Report, trials: Sequence[Trial], unequal: Difference | None = None, noise: Noise = ()) -> Proof:
    """Return the proof that consists of some trials.

    Args:
        whole: Report of the undisturbed run.
        trials: The trials.
        unequal: First difference between two undisturbed runs.
        noise: See `known_noise`.
    """
    notes = [f"{text} that differ between two undisturbed runs: {names}" for text, names in _named(noise)]
    if whole.get("sampled"):
        notes.append(f"parts of large attributes, of which only samples are read: {_listed(whole['sampled'])}")
    epochs = {position[0] for position in whole["positions"].values()}
    return Proof(trials, unequal, len(whole["batches"]), len(epochs), (*whole.get("notes", ()), *notes))


def _named(noise: Noise) -> Iterator[tuple[str, str]]:
    for kind, text in (("attribute", "attributes"), ("callback", "states of callbacks"), ("metric", "metrics")):
        if names := sorted(name for other, name in noise if other == kind):
            yield text, _listed(names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def trial(whole: Report, noise: Noise, stop: Stop, resume: Callable[[], Report]) -> Trial:
    """Resume a run, and compare it with the undisturbed one.

    Args:
        whole: Report of the undisturbed run.
        noise: See `known_noise`.
        stop: Where the run was stopped.
        resume: Trains the rest and returns the report.
    """
    num_batches = sum(int(number) > stop.after for number in whole["batches"])
    try:
        found = differences_of_resumed(whole, resume(), noise, stop.after)
    except RunError as error:
        first = failed(stop.after, error)
        found = [first, *also_lost(whole, error.report, noise, stop.after, first)]
    return Trial(stop, num_batches, found)


def failed(after: int, error: RunError) -> Difference:
    """Describe a run that could not be resumed."""
    advice = NO_ADVICE
    if not error.is_expected:
        advice = Advice(
            "The resumed run needs something that the process before had set, and that is in no checkpoint.",
            "Set it in a hook that a resume repeats, such as setup or on_fit_start, or save it in state_dict of the "
            "callback or in on_save_checkpoint of the model.",
        )
    return Difference(after, "error", "", f"the resumed run fails: {error.reason.rstrip('.')}.", advice)


def of_two_undisturbed_runs(found: Difference, whole: Report, twin: Report) -> Advice:
    """Return why two undisturbed runs differ.

    Args:
        found: Their first difference.
        whole: Report of the first one.
        twin: Report of the second one.
    """
    cure = (
        "Set a seed before anything is built (seed_everything). On a GPU, use Trainer(deterministic=True). Sort what "
        "comes from a set, because its order differs between processes. Do not train on times."
    )
    cause = "Two undisturbed runs differ, so no resume can be exact."
    if names := differing_at_start(whole, twin):
        return Advice(f"{cause} Before the first batch, {_listed(names)} differed.", f"Build it from a seed. {cure}")
    return Advice(cause, f"{found.advice.cure} {cure}" if found.kind == "sample" else cure)


def choose_stops(whole: Report, number: int, seed: int) -> list[Stop]:
    """Choose boundaries: one of each kind, then random ones.

    Args:
        whole: Report of the undisturbed run.
        number: How many to choose.
        seed: Seed for the choice.

    Raises:
        ValueError: The run has fewer than two boundaries.
    """
    found = all_stops(whole)
    if len(found) < 2:
        raise ValueError(
            f"The run has {len(found)} boundaries at which it could be stopped: train at least 2 optimizer steps."
        )
    draws = random.Random(seed)
    kinds = dict.fromkeys(stop.where for stop in found.values())
    order = sorted(kinds, key=lambda kind: _WHERE.index(kind))
    chosen = {draws.choice([stop.after for stop in found.values() if stop.where == kind]) for kind in order[:number]}
    rest = [after for after in found if after not in chosen]
    chosen |= set(draws.sample(rest, min(len(rest), max(0, number - len(chosen)))))
    return [found[after] for after in sorted(chosen)]


_FIRST, _LAST, _END, _NEXT = "start of the run", "last batch of an epoch", "end of the run", "first batch of an epoch"
_VALIDATED, _BEFORE, _INSIDE = "right after a validation", "right before a validation", "inside an epoch"
_WHERE = (_INSIDE, _LAST, _NEXT, _FIRST, _VALIDATED, _BEFORE, _END)
"""Kinds of boundaries, the most telling first."""


def all_stops(whole: Report) -> dict[int, Stop]:
    """Return all boundaries of a run by their number of batches."""
    positions = {int(number): position for number, position in whole["positions"].items()}
    numbers = sorted(positions)
    found = {}
    for index, after in enumerate(numbers):
        epoch, batch, is_last, validated = positions[after]
        following = positions[numbers[index + 1]] if index + 1 < len(numbers) else None
        if index == 0:
            where = _FIRST
        elif following is None:
            where = _END
        elif is_last:
            where = _LAST
        elif validated:
            where = _VALIDATED
        elif following[3]:
            where = _BEFORE
        else:
            where = _NEXT if positions[numbers[index - 1]][2] else _INSIDE
        found[after] = Stop(after, epoch, batch, where)
    return found


def given_stops(whole: Report, stops: Collection[int] | None) -> list[Stop]:
    """Return the named boundaries; None: all.

    Raises:
        ValueError: There is no such boundary, or none at all.
    """
    found = all_stops(whole)
    if unknown := sorted(set(stops or ()) - set(found)):
        raise ValueError(f"The run cannot be stopped after batch {unknown[0]}, only after {sorted(found)}.")
    if not found or (stops is not None and not stops):
        raise ValueError("The run has no batch after which it could be stopped: train at least 2 batches.")
    return [found[after] for after in sorted(found if stops is None else set(stops))]


def remove(run: Path) -> None:
    """Remove a run that was compared; its checkpoints may be large."""
    shutil.rmtree(run, ignore_errors=True)
