"""A run that is stopped after any batch and resumed ends bit for bit where the undisturbed one ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
)
from tests.support.equality import differences, outcome
from tests.support.toy import (
    BATCHES_PER_EPOCH,
    NUM_SAMPLES,
    Awkward,
    Cell,
    FindsLater,
    Iterates,
    Resizes,
    Searched,
    StreamData,
    TwoLayers,
    TwoValidations,
    copied_as_late_as_possible,
    train,
)

from cairn.store.catalog import Catalog


def five(*, data: Mapping[str, Any] | None = None, num_boundaries: int = 15, **options: Any) -> Cell:
    """Return a cell with five batches in an epoch and not eight, the last one smaller: enough for most of them."""
    return Cell(data={"batch_size": 5, **(data or {})}, num_boundaries=num_boundaries, **options)


CELLS = {
    "plain": Cell(),
    "augmented, 2 workers": five(data={"num_workers": 2}),
    "2 persistent workers": five(data={"num_workers": 2, "persistent_workers": True}),
    "accumulation 3": five(trainer={"accumulate_grad_batches": 3}, num_boundaries=6),
    "accumulation 3, validation 0.25": Cell(
        trainer={"accumulate_grad_batches": 3, "val_check_interval": 0.25}, num_boundaries=9
    ),
    "accumulation schedule": five(
        callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})], num_boundaries=10
    ),
    "validation 0.4": five(trainer={"val_check_interval": 0.4}),
    "validation every 3 batches": five(trainer={"val_check_interval": 3}),
    "validation every 3 batches, over epochs": five(trainer={"val_check_interval": 3, "check_val_every_n_epoch": None}),
    "validation every 2 epochs": five(trainer={"check_val_every_n_epoch": 2}),
    "no validation": five(trainer={"limit_val_batches": 0}, monitor=None),
    "no sanity check": five(trainer={"num_sanity_val_steps": 0}),
    "max_steps inside an epoch": five(trainer={"max_epochs": -1, "max_steps": 13}, num_boundaries=13),
    "max_steps at the end of one": five(trainer={"max_epochs": -1, "max_steps": 15}),
    "max_steps and max_epochs": five(trainer={"max_steps": 13}, num_boundaries=13),
    "max_steps on a validation": Cell(
        trainer={"max_epochs": -1, "max_steps": 12, "val_check_interval": 0.25}, num_boundaries=12
    ),
    "plateau by epoch": five(module={"scheduler": "plateau-epoch"}),
    "plateau by step, validation 0.4": five(module={"scheduler": "plateau-step"}, trainer={"val_check_interval": 0.4}),
    "plateau by step, accumulation 3": five(
        module={"scheduler": "plateau-step"}, trainer={"accumulate_grad_batches": 3}, num_boundaries=6
    ),
    "multi-step by epoch": five(module={"scheduler": "epoch"}),
    "one-cycle": five(module={"scheduler": "onecycle"}),
    "one-cycle, 2 workers": five(module={"scheduler": "onecycle"}, data={"num_workers": 2}),
    "no scheduler": five(module={"scheduler": "none"}),
    "early stopping on validations": five(
        callbacks=lambda: [EarlyStopping("val/loss", patience=1, check_on_train_epoch_end=False)],
        trainer={"val_check_interval": 0.4, "max_epochs": 20},
        num_boundaries=-1,
    ),
    "early stopping at the end of epochs": five(
        callbacks=lambda: [EarlyStopping("train/late", patience=1, check_on_train_epoch_end=True)],
        trainer={"max_epochs": 20},
        num_boundaries=-1,
    ),
    "EMA weights": five(callbacks=lambda: [EMAWeightAveraging(decay=0.9)]),
    "EMA weights, validation 0.4": five(
        callbacks=lambda: [EMAWeightAveraging(decay=0.9, update_every_n_steps=3)], trainer={"val_check_interval": 0.4}
    ),
    "learning-rate finder": five(
        module_class=Searched, callbacks=lambda: [LearningRateFinder(num_training_steps=20, min_lr=1e-4)]
    ),
    "learning-rate finder at the start of epochs": five(
        module_class=Searched, callbacks=lambda: [FindsLater(num_training_steps=20, min_lr=1e-4)]
    ),
    "batch-size finder": Cell(
        module_class=Searched,
        callbacks=lambda: [BatchSizeFinder(steps_per_trial=1, max_trials=2)],
        num_boundaries=18,
    ),
    "pruning": five(
        callbacks=lambda: [ModelPruning("random_unstructured", amount=0.3, use_lottery_ticket_hypothesis=False)]
    ),
    "pruning inside epochs, lottery ticket, not made permanent": five(
        callbacks=lambda: [
            ModelPruning("l1_unstructured", amount=0.1, prune_on_train_epoch_end=False, make_pruning_permanent=False)
        ],
        trainer={"val_check_interval": 0.4},
    ),
    "pruning of rows, manual optimization": five(
        callbacks=lambda: [
            ModelPruning(
                "ln_structured",
                amount=0.2,
                pruning_dim=0,
                pruning_norm=2,
                parameter_names=["weight"],
                use_global_unstructured=False,
            )
        ],
        module={"manual": True},
        module_class=TwoLayers,
    ),
    "clipping": five(trainer={"gradient_clip_val": 0.1}),
    "learning-rate monitor": five(callbacks=lambda: [LearningRateMonitor()]),
    "manual optimization": five(module={"manual": True}),
    "manual optimization, validation 3": five(module={"manual": True}, trainer={"val_check_interval": 3}),
    "bf16-mixed": five(trainer={"precision": "bf16-mixed"}),
    "limit_train_batches 3": five(trainer={"limit_train_batches": 3}, num_boundaries=9),
    "limit_train_batches 0.5": five(trainer={"limit_train_batches": 0.5}, num_boundaries=6),
    "drop_last": five(data={"drop_last": True}, num_boundaries=12),
    "reload every epoch": five(trainer={"reload_dataloaders_every_n_epochs": 1}),
    "two validation sets": five(data_class=TwoValidations, monitor="val/loss/dataloader_idx_0"),
    "min_epochs beyond early stopping": five(
        callbacks=lambda: [EarlyStopping("val/loss", patience=1, check_on_train_epoch_end=False)],
        trainer={"min_epochs": 2, "max_epochs": 4},
        num_boundaries=-1,
    ),
    # One epoch is ended before its last batch: the end of that epoch is a boundary, too.
    "awkward state": Cell(module_class=Awkward, trainer={"limit_train_batches": 6}, num_boundaries=18),
    "awkward state, validation 0.25": Cell(
        module_class=Awkward, trainer={"val_check_interval": 0.25}, num_boundaries=21
    ),
    "buffers of other forms": Cell(module_class=Resizes),
    "iterable": five(data_class=StreamData),
    "iterable, 1 worker, accumulation 3": five(
        data_class=StreamData, data={"num_workers": 1}, trainer={"accumulate_grad_batches": 3}, num_boundaries=6
    ),
    "iterable, max_steps, validation every 3": Cell(
        data_class=StreamData,
        trainer={"max_epochs": -1, "max_steps": 12, "val_check_interval": 3},
        num_boundaries=12,
    ),
    "training_step(dataloader_iter)": five(module_class=Iterates),
    "interval 3": five(interval=3),
    "interval longer than an epoch": five(interval=7),
    "interval 0.25ep": Cell(interval="0.25ep"),
    "interval 2st, accumulation 3": Cell(interval="2st", trainer={"accumulate_grad_batches": 3}, num_boundaries=9),
}


QUICK = {"accumulation 3, validation 0.25", "max_steps on a validation"}

# What these cells vary shows in each epoch, and two of them have all kinds of boundaries.
TWO_EPOCHS = {
    "augmented, 2 workers",
    "2 persistent workers",
    "validation 0.4",
    "validation every 3 batches",
    "no sanity check",
    "one-cycle, 2 workers",
    "no scheduler",
    "EMA weights, validation 0.4",
    "clipping",
    "learning-rate monitor",
    "manual optimization",
    "manual optimization, validation 3",
    "bf16-mixed",
    "limit_train_batches 3",
    "limit_train_batches 0.5",
    "drop_last",
    "two validation sets",
    "awkward state, validation 0.25",
    "buffers of other forms",
    "iterable",
    "interval 0.25ep",
    "one-cycle",
    "no validation",
    "EMA weights",
    "reload every epoch",
    "plateau by step, accumulation 3",
    "plateau by step, validation 0.4",
    "accumulation 3",
    "interval 3",
    "iterable, 1 worker, accumulation 3",
    "multi-step by epoch",
    "learning-rate finder",
    "learning-rate finder at the start of epochs",
    "batch-size finder",
    "pruning",
    "pruning inside epochs, lottery ticket, not made permanent",
    "training_step(dataloader_iter)",
}


SAVING = {
    "sync": {"writer": "sync"},
    "process": {"writer": "process"},
    "thread": {"writer": "thread"},
    "one buffer": {"writer": "thread", "buffers": 1},
    "overlap": {"writer": "thread", "overlap": True},
}


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")  # Lightning: its behavior may change
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS])
def test_a_resume_after_any_batch_is_exact(name: str, tmp_path: Path) -> None:
    """Each cell uses one of the ways to save, in turn. CAIRN_TEST_SAVING selects one way for all cells."""
    way = os.environ.get("CAIRN_TEST_SAVING", list(SAVING)[list(CELLS).index(name) % len(SAVING)])
    cell, copies = replace(CELLS[name], saving=SAVING[way], audit="error"), tmp_path / "copies"
    if name in TWO_EPOCHS:
        cell = replace(cell, trainer={**cell.trainer, "max_epochs": 2}, num_boundaries=cell.num_boundaries * 2 // 3)
    copies.mkdir()
    with copied_as_late_as_possible():
        check_every_stop(cell, copies, tmp_path)


def check_every_stop(cell: Cell, copies: Path, tmp_path: Path) -> None:
    """Resume a run from each of its boundaries, and compare the end with that of the undisturbed run."""
    (tmp_path / "whole").mkdir()
    samples = train(tmp_path / "whole", cell, copies=copies)
    whole = outcome(tmp_path / "whole", samples)

    stops = sorted(copies.iterdir())
    assert len(stops) == cell.num_boundaries or (cell.num_boundaries < 0 and len(stops) > 8)
    unequal = {}
    for stop in stops:
        done = _batches_done(stop)
        # Another seed shows that everything comes from the checkpoint. Before the first one, there is only the seed.
        resumed = train(stop, cell, seed=99 if done else 7)
        if found := differences(whole, outcome(stop, samples[:done] + resumed)):
            unequal[stop.name] = found[:4]
    assert not unequal, f"{len(unequal)} of {len(stops)} stops: {unequal}"


EXTENSIONS = {
    "max_epochs": ({"max_epochs": 2}, {"max_epochs": 3}),
    "max_steps": ({"max_epochs": -1, "max_steps": 13}, {"max_epochs": -1, "max_steps": 24}),
    "max_steps on the last batch": ({"max_epochs": -1, "max_steps": 16}, {"max_epochs": -1, "max_steps": 24}),
    "max_steps with accumulation": (
        {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 3},
        {"max_epochs": -1, "max_steps": 8, "accumulate_grad_batches": 3},
    ),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extending_a_finished_run_is_exact(name: str, tmp_path: Path) -> None:
    short, long = (Cell(trainer=settings) for settings in EXTENSIONS[name])
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole", long))
    first = train(tmp_path / "extended", short)
    rest = train(tmp_path / "extended", long, seed=99)
    assert 0 < len(first) < len(whole.samples)
    assert differences(whole, outcome(tmp_path / "extended", first + rest)) == []


def test_the_number_of_workers_does_not_change_the_run(tmp_path: Path) -> None:
    """The noise depends only on the sample and the epoch, so a resume may use another number of workers."""
    cells = {workers: Cell(data={"num_workers": workers}) for workers in (0, 2)}
    one, other = (outcome(tmp_path / str(n), train(tmp_path / str(n), cell)) for n, cell in cells.items())
    assert differences(one, other) == []


@pytest.mark.slow
def test_restarting_after_each_batch_is_exact(tmp_path: Path) -> None:
    run, copies = tmp_path / "run", tmp_path / "copies"
    copies.mkdir()
    run.mkdir()
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole", Cell()))
    samples = train(run, Cell(), copies=copies)[:1]
    for batch in range(1, 3 * BATCHES_PER_EPOCH):
        # Each run resumes from what the previous one had left after one batch.
        run = copies / f"{0:03d}"
        run.rename(run := tmp_path / f"after {batch}")
        for left in copies.iterdir():
            shutil.rmtree(left)
        samples += train(run, Cell(), copies=copies, seed=99)[:1]
    assert differences(whole, outcome(run, samples)) == []


@pytest.mark.slow
@settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    accumulate=st.integers(1, 4),
    validation=st.sampled_from([1.0, 0.5, 0.25, 2, 3, 7]),
    interval=st.integers(1, 9),
    limit=st.sampled_from([{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 5}, {"max_epochs": 2, "max_steps": 9}]),
    batch_size=st.integers(2, 7),
    scheduler=st.sampled_from(["step", "epoch", "plateau-epoch", "plateau-step"]),
    data=st.data(),
)
def test_random_runs_that_are_stopped_twice_are_exact(
    tmp_path_factory: pytest.TempPathFactory,
    accumulate: int,
    validation: float,
    interval: int,
    limit: dict[str, int],
    batch_size: int,
    scheduler: str,
    data: st.DataObject,
) -> None:
    batches = -(-NUM_SAMPLES // batch_size)
    if NUM_SAMPLES % batch_size == 1:
        batch_size = 3  # BatchNorm needs two samples
    settings_ = {**limit, "accumulate_grad_batches": accumulate, "val_check_interval": validation}
    if isinstance(validation, int):
        settings_["val_check_interval"] = min(validation, batches)
    cell = Cell(trainer=settings_, data={"batch_size": batch_size}, interval=interval, module={"scheduler": scheduler})
    base = tmp_path_factory.mktemp("run")
    whole = outcome(base / "whole", train(base / "whole", cell))
    run, samples = base / "run", []
    for number in range(2):
        copies = base / f"copies {number}"
        copies.mkdir()
        run.mkdir(exist_ok=True)
        done = _batches_done(run)
        seen = train(run, cell, copies=copies, seed=99 if done else 7)
        stops = sorted(copies.iterdir())
        if not stops:
            break
        run = data.draw(st.sampled_from(stops))
        samples = samples[:done] + seen
    done = _batches_done(run)
    samples = samples[:done] + train(run, cell, seed=99 if done else 7)
    assert differences(whole, outcome(run, samples)) == []


def _batches_done(run: Path) -> int:
    catalog = Catalog(run / "checkpoints")
    newest = next((item for item in reversed(catalog.committed()) if item.name == catalog.linked("last.ckpt")), None)
    return newest.position.total_batches if newest else 0
