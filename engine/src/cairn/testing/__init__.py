"""Test whether a project resumes exactly: `assert_exact(make)` stops and resumes a short run, and compares."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from cairn.store import names
from cairn.store.catalog import Catalog
from cairn.testing.compare import Difference, Report, first_difference, known_noise
from cairn.testing.fresh import FreshProcesses

__all__ = ["assert_exact"]


def assert_exact(
    make: Callable[[], tuple[Any, Any, Any]],
    stops: Iterable[int] | None = None,
    *,
    epochs: int | None = 2,
    batches: int | None = 4,
) -> None:
    """Assert that a run that is stopped and resumed is bit-identical to an undisturbed run.

    This trains a short undisturbed run and resumes it after each of its batches, each time in a fresh process. After
    every batch it compares the samples, the weights, optimizers and schedulers, the logged metrics, the random number
    generators, and plain attributes of the model, the callbacks and the data. At the end it also compares
    `metrics.csv` and the kept checkpoints.

        def make():
            return Trainer(max_epochs=2), Net(), cairn.DataLoader(train_set, batch_size=16, shuffle=True)

        def test_my_project_is_exact():
            cairn.testing.assert_exact(make)

    Args:
        make: Builds trainer, model and data as the project does: data is a datamodule, a loader, or a tuple of the
            arguments that `fit` takes after the model. It must be a function at the top level of a module, because
            fresh processes import it. Its loggers and checkpoint callbacks are replaced.
        stops: Numbers of batches after which to stop; None: after every batch.
        epochs: Limit for the epochs of the run; None: the trainer's own.
        batches: Limit for the batches of an epoch, of training and of validation; None: the trainer's own.

    Raises:
        AssertionError: A resumed run differs: the message names the first difference and its likely cause. Or two
            undisturbed runs differ.
        ValueError: `make` is not at the top level of a module, or the run cannot be stopped at one of `stops`.
    """
    with tempfile.TemporaryDirectory(prefix="cairn-exact-") as folder, FreshProcesses(make) as fresh:
        root, limits = Path(folder), {"epochs": epochs, "batches": batches}
        whole, twin = (fresh.run(root / name, seed=0, **limits) for name in ("whole", "twin"))
        noise = known_noise(whole, twin)
        if (found := first_difference(whole, twin, noise)) is not None:
            raise AssertionError(
                f"Two undisturbed runs differ, so no resume can be exact. Does `make` begin with seed_everything? "
                f"{found.text}"
            )
        saved = {item.position.total_batches: item for item in Catalog(root / "whole" / "checkpoints").committed()}
        chosen = _chosen(stops, saved)
        different: dict[int, Difference] = {}
        for stop in chosen:
            run = _stopped_copy(root / "whole", root / f"stop_{stop}", saved[stop].name)
            resumed: Report = fresh.run(run, seed=1, **limits)
            if (found := first_difference(whole, resumed, noise, after=stop)) is not None:
                different[stop] = found
            shutil.rmtree(run)
    if different:
        stop, found = next(iter(different.items()))
        raise AssertionError(
            f"Not exact: {len(different)} of {len(chosen)} resumed runs differ from the undisturbed one. "
            f"Resumed after batch {stop}, {found.text}"
        )


def _stopped_copy(whole: Path, run: Path, name: str) -> Path:
    """Create the files that a `kill -9` some batches after a save leaves: one checkpoint, and later metrics."""
    (run / "checkpoints").mkdir(parents=True)
    for file in (name, names.manifest_name(name)):
        shutil.copy2(whole / "checkpoints" / file, run / "checkpoints" / file)
    shutil.copytree(whole / "csv", run / "csv")
    return run


def _chosen(stops: Iterable[int] | None, possible: Collection[int]) -> list[int]:
    chosen = sorted(possible) if stops is None else sorted(set(stops))
    if unknown := [stop for stop in chosen if stop not in possible]:
        raise ValueError(f"The run cannot be stopped after batch {unknown[0]}, only after {sorted(possible)}.")
    if not chosen:
        raise ValueError("The run has no batch after which it could be stopped: train at least 2 batches.")
    return chosen
