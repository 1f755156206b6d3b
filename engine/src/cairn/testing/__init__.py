"""Test whether a project resumes exactly: `assert_exact(make)` stops and resumes a short run, and compares."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cairn.store import names
from cairn.store.catalog import Catalog
from cairn.testing import fresh, proof
from cairn.testing.compare import first_difference, known_noise
from cairn.testing.fresh import FreshProcesses
from cairn.testing.proof import Proof
from cairn.testing.proof_run import ProofRun

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
    generators, the states of callbacks, and the attributes of the project's own objects and modules. At the end it also
    compares `metrics.csv` and the kept checkpoints.

        def make():
            return Trainer(max_epochs=2), Net(), cairn.DataLoader(train_set, batch_size=16, shuffle=True)

        def test_my_project_is_exact():
            cairn.testing.assert_exact(make)

    Nothing is killed: a stop is a copy of the files that a `kill -9` leaves. In a project with a train.py of
    `cairn.hydra`, the command `cairn prove` executes that file, and kills its processes.

    Args:
        make: Builds trainer, model and data as the project does: data is a datamodule, a loader, or a tuple of the
            arguments that `fit` takes after the model. It must be a function at the top level of a module, because
            fresh processes import it. Its loggers and checkpoint callbacks are replaced; saves come after each
            batch.
        stops: Numbers of batches after which to stop; None: after every batch.
        epochs: Limit for the epochs of the run; None: the trainer's own.
        batches: Limit for the batches of an epoch, of training and of validation; None: the trainer's own.

    Raises:
        AssertionError: A resumed run differs: the message names the first difference and its likely cause. Or two
            undisturbed runs differ, or a run fails.
        ValueError: `make` is not at the top level of a module, or the run cannot be stopped at one of `stops`.
    """
    source = fresh.source_of(make)
    with (
        tempfile.TemporaryDirectory(prefix="cairn-exact-") as folder,
        FreshProcesses("cairn.testing.record", source, fresh.temporary_files_in(folder)) as processes,
    ):
        root = Path(folder)
        whole, twin = (
            processes.run(ProofRun(root / name, "undisturbed", epochs, batches), seed=0) for name in ("whole", "twin")
        )
        noise = known_noise(whole, twin)
        if (found := first_difference(whole, twin, noise)) is not None:
            raise AssertionError(
                f"Two undisturbed runs differ, so no resume can be exact. Does `make` begin with seed_everything? "
                f"{found.text}"
            )
        trials = []
        for stop in proof.given_stops(whole, None if stops is None else set(stops)):
            run = stopped_copy(root / "whole", root / f"stop_{stop.after}", stop.after)
            resume = functools.partial(processes.run, ProofRun(run, "resumed", epochs, batches), seed=1)
            trials.append(proof.trial(whole, noise, stop, resume))
            proof.remove(run)
    _check(proof.of_trials(whole, trials, noise=noise))


def _check(result: Proof) -> None:
    """Raise an error with the whole table if a run differs."""
    if result.is_exact:
        return
    from cairn.testing import table

    first, text = result.different[0], table.as_text(result, width=120, verb="stopped")
    raise AssertionError(
        f"Not exact: {len(result.different)} of {len(result.trials)} resumed runs differ from the undisturbed one. "
        f"Resumed after batch {first.stop.after}, {first.found[0].text}\n{text}"
    )


def stopped_copy(whole: Path, run: Path, after: int) -> Path:
    """Create the files that a `kill -9` some batches after a save leaves: older checkpoints, and later metrics."""
    (run / "checkpoints").mkdir(parents=True)
    for saved in Catalog(whole / "checkpoints").committed():
        if saved.position.total_batches <= after:
            for file in (saved.name, names.manifest_name(saved.name)):
                (run / "checkpoints" / file).hardlink_to(whole / "checkpoints" / file)
    if (whole / "csv").is_dir():
        shutil.copytree(whole / "csv", run / "csv")
    return run
