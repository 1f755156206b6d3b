"""A run that pauses at points of its schedule ends bit for bit where one ends that never paused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from tests.support.equality import differences, outcome
from tests.support.toy import BATCHES_PER_EPOCH, EPOCHS, Cell, StreamData, train

import cairn
from cairn.errors import ConfigError
from cairn.store.catalog import Catalog

CELLS: dict[str, tuple[Cell, list[str], list[int]]] = {
    # name: (cell, where it pauses, batches by then)
    "epochs, saved only at the best and at the end": (Cell(interval="100ep"), ["1ep", "2ep"], [8, 16]),
    "parts of epochs, saved every 3 batches": (
        Cell(interval=3, module={"scheduler": "onecycle"}),
        ["0.5ep", "1ep", "1.5ep", "2.75ep"],
        [4, 8, 12, 22],
    ),
    "steps, with accumulation and validations in epochs": (
        Cell(interval="5st", trainer={"accumulate_grad_batches": 3, "val_check_interval": 0.25}),
        ["2st", "5st"],
        [6, 14],
    ),
    "batches, early stopping": (
        Cell(
            interval=7,
            callbacks=lambda: [EarlyStopping("val/loss", patience=1, check_on_train_epoch_end=False)],
            trainer={"val_check_interval": 0.5, "max_epochs": 8},
        ),
        ["3ba", "8ba"],
        [3, 8],
    ),
    "data without a length": (Cell(interval=5, data_class=StreamData), ["1ep", "2ep"], [8, 16]),
}


QUICK = ("parts",)


@pytest.mark.parametrize("name", [n if n.startswith(QUICK) else pytest.param(n, marks=pytest.mark.slow) for n in CELLS])
def test_a_run_that_pauses_is_exact(name: str, tmp_path: Path) -> None:
    """Weights, optimizers, metrics.csv, best score, kept checkpoints with their reasons and numbers, samples."""
    cell, pauses, expected = CELLS[name]
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole", cell))
    run, samples, counts = tmp_path / "run", [], []
    for number, point in enumerate([*pauses, None]):
        # Another seed shows that everything comes from the checkpoint.
        samples += train(run, replace(cell, pause_at=point), seed=99 if number else 7)
        counts.append(Catalog(run / "checkpoints").newest().position.total_batches)
    assert counts[:-1] == expected
    assert differences(whole, outcome(run, samples)) == []


def test_a_fit_at_its_pause_or_after_it_trains_nothing(tmp_path: Path) -> None:
    cell = Cell(pause_at="1ep", interval="100ep")
    assert len(train(tmp_path, cell)) == BATCHES_PER_EPOCH
    before = outcome(tmp_path, [])
    for point in ("1ep", "3st", "0.5ep"):
        assert train(tmp_path, replace(cell, pause_at=point), seed=99) == []
    assert differences(before, outcome(tmp_path, [])) == []
    assert len(train(tmp_path, replace(cell, pause_at="99ep"), seed=99)) == (EPOCHS - 1) * BATCHES_PER_EPOCH


def test_the_checkpoint_of_a_pause_says_so_and_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    cell = Cell(monitor=None, interval=10)
    train(tmp_path, replace(cell, pause_at="12ba"))
    newest = Catalog(tmp_path / "checkpoints").newest()
    assert (newest.reasons, newest.lasting, newest.position.total_batches) == (("pause",), False, 12)
    train(tmp_path, replace(cell, pause_at="20ba"), seed=99)
    kept = [(item.reasons, item.position.total_batches) for item in Catalog(tmp_path / "checkpoints").committed()]
    assert kept == [(("interval",), 10), (("interval",), 20)], "where an interval ends, that is the reason"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pause_at": "soon"}, "pause_at='soon' is not a point of a run"),
        ({"every": None, "triggers": {"end": None, "stop": None}}, "pause_at='3ep' needs checkpoints"),
        ({"triggers": {"pause": cairn.AtEnd()}}, "Give yours another one"),
    ],
)
def test_what_cannot_pause_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        cairn.Checkpointer(tmp_path, **{"pause_at": "3ep", **more})
