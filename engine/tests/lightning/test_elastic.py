"""A run with global batches is the same run on any number of processes, also if the number changes on the way."""

import multiprocessing
from itertools import chain

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateFinder
from tests.support import elastic_fit
from tests.support.elastic_fit import FILES, NUM_VAL, WINDOWS, start
from tests.support.shards import split

from cairn.errors import ResumeError
from cairn.store.catalog import Catalog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks processes"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run on one process."""
    return start(tmp_path_factory.mktemp("run"), 1)


def assert_close(found, expected):
    """Equal as numbers of float32 that were added in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def assert_same(found, undisturbed, attempts=None):
    """The same run, except for the order of additions."""
    train = [window for attempt in attempts or [found] for window in attempt.train]
    assert train == undisturbed.train, "the same global batches, in the same order"
    assert [len(window) for window in train] == WINDOWS * 2
    assert found.checkpoints == undisturbed.checkpoints
    assert found.lr == undisturbed.lr
    assert_close(found.weights, undisturbed.weights)
    assert_close(found.metrics, undisturbed.metrics)
    assert_close(*([score for score in run.scores if score] for run in (found, undisturbed)))


def test_the_run_that_the_others_are_compared_with(undisturbed):
    assert [name for name, _ in undisturbed.checkpoints[:3]] == [
        "epoch_000_batch_000002.ckpt",
        "epoch_000_batch_000004.ckpt",
        "epoch_001_batch_000001.ckpt",
    ]
    assert [position for _, position in undisturbed.checkpoints[:3]] == [
        [0, 2, 2, 2, 24],
        [0, 4, 4, 4, 43],
        [1, 1, 6, 6, 62],
    ]
    assert all(val == list(range(NUM_VAL)) for val in undisturbed.val)
    assert undisturbed.metrics["index"] == pytest.approx(24.5), "each sample of the epoch once"
    assert undisturbed.lr == pytest.approx(0.1 * 0.8**2), "epochs of five steps: one third step in each"


@pytest.mark.parametrize("processes", [3, 4])
def test_any_number_of_processes(tmp_path, undisturbed, processes):
    found = start(tmp_path, processes)
    assert_same(found, undisturbed)
    assert all(val == list(range(NUM_VAL)) for val in found.val), "no sample of the validation twice"


MOVES = [
    [(3, 4, 1), (1, 12, 4), (2, 2, 7), (3, 4, -1)],
    [(1, 4, 3), (4, 4, 5), (2, 6, 9), (1, 5, -1)],  # one of them at the end of an epoch
]
"""Numbers of processes, each with its batch size and the step up to which it trains; an epoch has five steps."""


@pytest.mark.parametrize("moves", MOVES)
def test_a_run_that_moves(tmp_path, undisturbed, moves):
    attempts = [start(tmp_path, number, batch_size=size, max_steps=steps) for number, size, steps in moves]
    last = attempts[-1]
    regular = {name for name, *_ in undisturbed.checkpoints}  # a stop at max_steps is saved as well
    last.scores = [score for (name, *_), score in zip(last.checkpoints, last.scores, strict=True) if name in regular]
    last.checkpoints = [one for one in last.checkpoints if one[0] in regular]
    assert_same(last, undisturbed, attempts)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_goes_on_from_a_directory_of_shards(tmp_path, undisturbed, processes):
    folder, first = tmp_path / "checkpoints", start(tmp_path, 2, max_steps=6)
    for item in Catalog(folder).committed():
        split(folder, item.name)
    found = start(tmp_path, processes)
    assert_same(found, undisturbed, [first, found])


def test_a_run_without_global_batches_can_get_them(tmp_path):
    """Two processes with batches of 6 had global batches of 12; validation counts no sample twice from then on."""
    whole = start(tmp_path / "whole", 1, batch_size=12)
    options = {"limit_train_batches": 3, "val_check_interval": 3}
    start(tmp_path / "moved", 2, size=None, batch_size=6, max_steps=2, **options)
    found = start(tmp_path / "moved", 3, max_steps=3, **options)
    assert found.train == whole.train[2:3]


REFUSED = {
    "another global batch": (
        {"processes": 1, "size": None},
        r"ResumeError: .* saved by 2 processes, but this run has 1, which would change its global batch of 8 samples: "
        r"set global_batch_size=8 .*, or use 2 processes",
    ),
    "a size that the run did not have": (
        {"processes": 1, "size": 12},
        r"ResumeError: .* 2 processes without global_batch_size, with 8 samples .* global_batch_size=12: set it to 8",
    ),
    "a number that does not divide it": (
        {"processes": 3, "size": 8},
        "DataError: 3 processes cannot share a global batch of 8 samples equally: use one of 1, 2, 4, 8 processes",
    ),
}


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """A run of two processes without global batches that has stopped inside an epoch."""
    folder = tmp_path_factory.mktemp("without")
    start(folder, 2, size=None, max_steps=2)
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_global_batch_is_refused_before_the_first_batch(without, case):
    options, text = REFUSED[case]
    with pytest.raises(RuntimeError, match=text):
        start(without, **options)


CONTRADICTIONS = {
    "accumulation": ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2 contradicts it"),
    "overfitting": ({"overfit_batches": 2}, "overfit_batches replaces the sampler .* global_batch_size"),
    "validation after the end of an epoch": ({"val_check_interval": 6}, "val_check_interval=6 is longer than an epoch"),
}


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_refused(tmp_path, case):
    options, text = CONTRADICTIONS[case]
    with pytest.raises(ValueError, match=text):
        elastic_fit.fit(tmp_path, **options)


def test_limits_count_global_batches(tmp_path):
    options = {"limit_train_batches": 0.7, "limit_val_batches": 1, "max_epochs": 1, "val_check_interval": 1.0}
    one, three = (start(tmp_path / str(processes), processes, **options) for processes in (1, 3))
    assert one.train == three.train
    assert [len(window) for window in one.train] == [12, 12, 12]
    assert one.val == three.val == [list(range(7))], "the first of two global batches, of 7 and 6 samples"


def test_a_run_can_go_on_without_global_batches_at_the_end_of_an_epoch(tmp_path):
    elastic_fit.fit(tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="begins with other data than before: global_batch_size was 12 and is not set"):
        trainer, _ = elastic_fit.fit(tmp_path, size=None, batch_size=10)
    assert trainer.accumulate_grad_batches == 1, "as it is configured"
    assert trainer.global_step == 10, "five global batches, then five batches of ten"
    assert trainer.checkpoint_callback.saved[-1].position.total_batches == 10


def test_a_search_for_a_learning_rate_trains_on_global_batches(tmp_path, undisturbed):
    search = LearningRateFinder(num_training_steps=3, update_attr=False)
    trainer, net = elastic_fit.fit(tmp_path, callbacks=[search], max_epochs=1)
    searched = [samples for stage, step, samples in net.seen if stage == "train"][: 3 * 3]
    windows = [[*chain(*searched[first : first + 3])] for first in (0, 3, 6)]
    assert [sorted(window) for window in windows] == undisturbed.train[:3]
    assert trainer.global_step == len(WINDOWS), "the fit after it does, too"


@pytest.mark.filterwarnings("ignore:This checkpoint was not written by Cairn")
def test_a_checkpoint_of_lightning_counts_batches_of_each_process(tmp_path):
    """Its counters would end the epoch too early with other batches, so it is refused."""
    trainer, _ = elastic_fit.fit(tmp_path / "before", max_steps=2)
    trainer.save_checkpoint(tmp_path / "lightning.ckpt")
    with pytest.raises(ResumeError, match="counts 3 batches of each process for a global batch, and this run has 1"):
        elastic_fit.fit(tmp_path / "after", batch_size=12, ckpt_path=tmp_path / "lightning.ckpt")


class Grow(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.train_dataloader.dataset.wrapped.points = elastic_fit.Points(74).points


@pytest.mark.filterwarnings("ignore:The checkpoint was saved by")
def test_an_epoch_that_began_before_the_data_grew_has_as_many_global_batches(tmp_path, monkeypatch):
    elastic_fit.fit(tmp_path, callbacks=[Grow()], max_steps=7)
    monkeypatch.setattr(elastic_fit, "NUM_SAMPLES", 74)
    trainer, _ = elastic_fit.fit(tmp_path, batch_size=12)
    assert trainer.global_step == 10, "Lightning has set five batches for each epoch when the training began"


def test_a_second_fit_of_the_trainer_accumulates_as_well(tmp_path, undisturbed):
    trainer, net = elastic_fit.fit(tmp_path, max_epochs=1)
    assert trainer.accumulate_grad_batches == 1, "as it was configured"
    trainer.fit_loop.max_epochs = 2
    trainer.fit(net, trainer.datamodule)
    steps = {step for stage, step, _ in net.seen if stage == "train"}
    assert len(steps) == len(undisturbed.train)


# An iterable, by substreams

STREAM = {"size": 6, "batch_size": 1, "num_workers": 0}
"""Six batches of one sample make up a global batch."""


@pytest.fixture(scope="module")
def undisturbed_stream(tmp_path_factory):
    """The run over an iterable on one process, which loads itself."""
    return start(tmp_path_factory.mktemp("stream"), 1, **STREAM)


def test_the_run_over_an_iterable_that_the_others_are_compared_with(undisturbed_stream):
    assert [len(window) for window in undisturbed_stream.train] == [6] * 2 * min(FILES)
    epoch = undisturbed_stream.train[: min(FILES)]
    assert len({index for window in epoch for index in window}) == 6 * min(FILES), "no sample twice"
    assert epoch * 2 == undisturbed_stream.train
    assert [position[-1] for _, position in undisturbed_stream.checkpoints[:4]] == [12, 24, 36, 48]


def test_a_run_over_an_iterable_that_moves(tmp_path, undisturbed_stream):
    """The process that does not read the shortest file could go on when an epoch ends."""
    moves = [(1, 1, 3), (3, 2, 9), (2, 0, -1)]
    attempts = [
        start(tmp_path, number, **STREAM | {"num_workers": workers, "max_steps": steps})
        for number, workers, steps in moves
    ]
    assert [window for one in attempts for window in one.train] == undisturbed_stream.train
    last = attempts[-1]
    regular = {name for name, *_ in undisturbed_stream.checkpoints}  # a stop at max_steps is saved as well
    assert [one for one in last.checkpoints if one[0] in regular] == undisturbed_stream.checkpoints
    assert last.lr == undisturbed_stream.lr
    assert_close(last.weights, undisturbed_stream.weights)
    assert_close(last.metrics, undisturbed_stream.metrics)


def test_limits_count_global_batches_of_an_iterable(tmp_path, undisturbed_stream):
    options = {**STREAM, "limit_train_batches": 3, "val_check_interval": 1.0}
    found = start(tmp_path, 2, **options)
    assert found.train == undisturbed_stream.train[:3] * 2
    assert len(found.val) == 2, "after each epoch"


def test_new_loaders_of_a_run_keep_its_substreams(tmp_path):
    """Loaders of a later epoch are made with another number of workers than the run began with."""
    options = {**STREAM, "size": 3, "reload_dataloaders_every_n_epochs": 1}
    whole = start(tmp_path / "whole", 1, **options | {"num_workers": 2})
    start(tmp_path / "moved", 1, **options | {"num_workers": 2, "max_steps": 2})
    rest = start(tmp_path / "moved", 1, **options)
    assert rest.train == whole.train[2:]
    assert rest.weights == whole.weights
