"""What counts global batches in Lightning's loops, and what contradicts them."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from lightning.pytorch.loops.progress import _BatchProgress
from torch.utils.data import TensorDataset

from cairn.data.loader import DataLoader
from cairn.errors import ConfigError, ResumeError
from cairn.lightning.loops import dealing
from cairn.lightning.loops.dealing import SavedBy


def loader(batch_size=3, size=12, number=41):
    return DataLoader(TensorDataset(torch.arange(number)), batch_size, global_batch_size=size)


def test_loaders_without_global_batches_count_as_before():
    loaders = [loader(size=None), [1, 2]]
    assert dealing.dealt(loaders) is None
    assert dealing.limits(loaders, 5, [5, 2]) == [5, 2]


def test_several_loaders_divide_alike():
    dealt = dealing.dealt([loader(), loader(6, 24)])
    assert dealt.per_window == 4
    assert [dealt.num_samples(batches) for batches in (1, 3, 4, 12, 16)] == [0, 0, 12, 9, 8]


@pytest.mark.parametrize(
    ("others", "text"),
    [([loader(size=None)], r"others have none \(DataLoader\)"), ([loader(6)], "12 samples: 2 batches of 6; 12 samples: 4")],
)
def test_loaders_that_divide_differently_are_refused(others, text):
    with pytest.raises(ConfigError, match=text):
        dealing.dealt([loader(), *others])


class Manual(LightningModule):
    automatic_optimization = False


def trainer_of(module=None, *callbacks, **facts):
    module = LightningModule() if module is None else module
    usual = {"accumulate_grad_batches": 1, "val_check_batch": 0, "check_val_every_n_epoch": 1, "limit_val_batches": 1.0}
    return SimpleNamespace(lightning_module=module, callbacks=callbacks, **usual | facts)


def test_the_trainer_accumulates_a_global_batch():
    trainer = trainer_of()
    dealing.begin(trainer, dealing.dealt([loader()]), 1)
    assert trainer.accumulate_grad_batches == 4


@pytest.mark.parametrize(
    ("trainer", "configured", "text"),
    [
        (trainer_of(), 2, "accumulate_grad_batches=2 contradicts it"),
        (trainer_of(None, GradientAccumulationScheduler({0: 2})), 1, "GradientAccumulationScheduler contradicts it"),
        (trainer_of(None, BatchSizeFinder()), 1, "BatchSizeFinder cannot search"),
        (trainer_of(Manual()), 1, r"needs 4 batches for one, .* manual optimization: choose a larger batch_size"),
    ],
)
def test_whatever_else_decides_over_the_accumulation_is_refused(trainer, configured, text):
    with pytest.raises(ConfigError, match=text):
        dealing.begin(trainer, dealing.dealt([loader()]), configured)


def test_manual_optimization_needs_no_accumulation_if_a_batch_is_a_global_one():
    dealing.begin(trainer_of(Manual()), dealing.dealt([loader(12)]), 1)


@pytest.mark.parametrize(
    ("limit", "expected"), [(1.0, 16), (2, 8), (9, 16), (0.5, 8), (0.01, 4), (0.99, 12)]
)
def test_limits_are_numbers_of_global_batches(limit, expected):
    assert dealing.limits([loader()], limit, [1]) == [expected]


def test_no_batches_stay_none():
    assert dealing.limits([loader()], 0, [0]) == [0]


@pytest.mark.parametrize(("every", "expected"), [(1, 4), (3, 12), (1.0, 16), (0.5, 8), (0.3, 4), (0.01, 4)])
def test_a_validation_is_due_after_global_batches(every, expected):
    trainer = trainer_of(val_check_interval=every)
    assert dealing.val_check_batch(trainer, dealing.dealt([loader()]), 16) == expected


def test_a_validation_that_is_due_by_time_stays_so():
    trainer = trainer_of(val_check_interval=1.0, val_check_batch=None)
    assert dealing.val_check_batch(trainer, dealing.dealt([loader()]), 16) is None


@pytest.mark.parametrize("facts", [{}, {"check_val_every_n_epoch": None}, {"limit_val_batches": 0}])
def test_a_validation_beyond_the_end_of_an_epoch(facts):
    trainer, dealt = trainer_of(val_check_interval=5, **facts), dealing.dealt([loader()])
    if facts:
        assert dealing.val_check_batch(trainer, dealt, 16) == 20
    else:
        with pytest.raises(ConfigError, match="val_check_interval=5 is longer than an epoch, which has 4 global"):
            dealing.val_check_batch(trainer, dealt, 16)


def test_counters_of_a_checkpoint_become_those_of_this_process():
    progress = _BatchProgress()
    for counts, number in ((progress.total, 28), (progress.current, 12)):
        counts.ready = counts.started = counts.processed = counts.completed = number
    dealing.convert(progress, 4, 3)
    assert [*vars(progress.total).values(), *vars(progress.current).values()] == [21] * 4 + [9] * 4


SAME = [
    (SavedBy(2, None, 1, 3), None, 2),  # as many processes, with batches of their own
    (SavedBy(2, None, 3, 3), None, 2),
    (SavedBy(2, 12, 2), loader(), 1),
    (SavedBy(2, 12, 2), loader(), 3),
    (SavedBy(4, None, 1, 3), loader(), 1),  # global batches of 12, which were not called so
]
OTHER = [
    (SavedBy(2, None, 1, 3), None, 1, "its global batch of 6 samples: set global_batch_size=6"),
    (SavedBy(2, None, 2, 3), None, 1, "global batch of 12 samples.*devices or num_nodes"),
    (SavedBy(2, None, 1), None, 1, r"saved by 2 processes, but this run has 1\. An exact.*devices or num_nodes"),
    (SavedBy(1, 12, 4), None, 2, "saved by 1 process, .* global batch of 12 samples: set global_batch_size=12"),
    (SavedBy(2, None, 1, 3), loader(), 1, "with 6 samples between two steps, and now global_batch_size=12: set it to 6"),
    (SavedBy(2, None, 2, 3), loader(), 1, r"accumulate_grad_batches=2, with 12 .* cannot be counted as global ones"),
]


@pytest.mark.parametrize(("saved_by", "of", "world_size"), SAME)
def test_a_run_goes_on_with_its_global_batches(saved_by, of, world_size):
    dealing.check(saved_by, dealing.dealt([of or [1]]), world_size)


@pytest.mark.parametrize(("saved_by", "of", "world_size", "text"), OTHER)
def test_other_global_batches_are_refused_with_a_solution(saved_by, of, world_size, text):
    with pytest.raises(ResumeError, match=text):
        dealing.check(saved_by, dealing.dealt([of or [1]]), world_size)
