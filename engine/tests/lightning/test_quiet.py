"""Boundaries at which nothing can be due: they are counted, and everything else happens as without them."""

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

import cairn
from cairn.lightning import engine, quiet
from cairn.lightning.agreement import Alone
from cairn.lightning.loops.calls import Stopped
from cairn.lightning.moments import Moments

NUM_BATCHES, BATCH_SIZE = 24, 4


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch[0]).mean())


class Patient:
    """Watcher that may learn of boundaries late."""

    is_patient = True

    def __init__(self):
        self.seen, self.num_ended = [], 0

    def at_boundary(self, moment):
        self.seen.append(moment.position.total_batches)

    def fit_ended(self):
        self.num_ended += 1


class Impatient(Patient):
    is_patient = False


class FailsIn(Callback):
    """Raises an error in one of the batches."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.batch:
            raise RuntimeError("the data is broken")


@pytest.fixture
def asked(monkeypatch):
    """Batches of the run at the boundaries that were asked in full; only limits and events lead to one."""
    monkeypatch.setattr(quiet, "_LONGEST_S", math.inf)
    found, now = [], Moments.now

    def recorded(self, *arguments, **options):
        made = now(self, *arguments, **options)
        found.append(made.position.total_batches)
        return made

    monkeypatch.setattr(Moments, "now", recorded)
    return found


def fit(directory, every, *, watchers=(), callbacks=(), epochs=1, val_every=None, **options):
    checkpoints = cairn.Checkpointer(
        directory / "checkpoints",
        every,
        keep_last=-1,
        audit="off",
        watchdog="off",
        writing=cairn.Writing(writer="sync"),
        **options,
    )
    checkpoints.watchers.extend(watchers)
    trainer = Trainer(
        default_root_dir=directory,
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[checkpoints, *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=val_every,
    )
    seeded = torch.Generator().manual_seed(0)
    samples = TensorDataset(torch.randn(NUM_BATCHES * BATCH_SIZE, 2, generator=seeded))
    torch.manual_seed(0)
    loader = cairn.DataLoader(samples, BATCH_SIZE, seed=0)
    if val_every:
        trainer.fit(Validated(), loader, DataLoader(samples, BATCH_SIZE))
    else:
        trainer.fit(Net(), loader)
    return checkpoints


def saved(checkpoints):
    found = [(item.position, item.reasons) for item in checkpoints.engine.history.saved]
    return [(where.total_batches, where.step, where.samples, reasons) for where, reasons in found]


def test_boundaries_between_two_saves_are_not_asked(tmp_path, asked):
    checkpoints = fit(tmp_path, 10)
    assert saved(checkpoints) == [
        (10, 10, 40, ("interval",)),
        (20, 20, 80, ("interval",)),
        (24, 24, 96, ("end",)),
    ]
    assert len(asked) < NUM_BATCHES / 2
    assert {10, 20, 24} <= set(asked)
    assert not {5, 6, 7, 8, 9, 15, 16, 17, 18, 19} & set(asked)


def test_without_triggers_only_the_first_and_last_boundaries_are_asked(tmp_path, asked):
    fit(tmp_path, None, triggers=dict.fromkeys(("interval", "best", "end", "stop")))
    assert len(asked) <= 4
    assert asked[-1] == NUM_BATCHES


@pytest.mark.parametrize("every", ["7st", "0.25ep", "9ba"])
def test_what_is_saved_does_not_depend_on_quiet_boundaries(tmp_path, asked, every):
    quiet_run = fit(tmp_path / "quiet", every, epochs=2)
    num_asked = len(asked)
    loud_run = fit(tmp_path / "loud", every, epochs=2, watchers=[Impatient()])
    assert saved(quiet_run) == saved(loud_run)
    assert num_asked < len(asked) - num_asked


def test_a_validation_is_an_event(tmp_path, asked):
    checkpoints = fit(tmp_path, None, monitor="val/loss", keep_best=-1, val_every=6)
    assert [item[0] for item in saved(checkpoints)] == [6, 12, 18, 24]
    assert all(item.score is not None for item in checkpoints.engine.history.saved)


def test_a_reason_to_stop_that_is_given_once_is_obeyed_at_that_batch(tmp_path, asked):
    answers = iter([None] * 15 + ["SIGTERM"])
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, 1000, stop=lambda save_s: next(answers, None))
    assert stopped.value.saved.reasons == ("stop",)
    assert stopped.value.saved.position.total_batches == asked[-1] < NUM_BATCHES


class OneOfSeveral(Alone):
    """What one of several ranks hears: news one boundary later."""

    def __init__(self):
        self.said = False

    def has_news(self, mine):
        heard, self.said = self.said, mine and not self.said
        return heard

    def end_of_news(self):
        self.said = False


@pytest.mark.parametrize("options", [{"every": "7st"}, {"every": None, "monitor": "val/loss", "val_every": 6}])
def test_several_ranks_save_at_the_same_boundaries_as_one(tmp_path, asked, monkeypatch, options):
    alone = fit(tmp_path / "alone", epochs=2, **options)
    monkeypatch.setattr(engine, "Alone", OneOfSeveral)
    assert saved(fit(tmp_path / "one of several", epochs=2, **options)) == saved(alone)
    assert len(asked) < NUM_BATCHES * 2


def test_several_ranks_stop_one_batch_later(tmp_path, asked, monkeypatch):
    def last_batch(folder):
        answers = iter([None] * 15 + ["SIGTERM"])
        with pytest.raises(Stopped) as stopped:
            fit(folder, 1000, stop=lambda save_s: next(answers, None))
        assert stopped.value.saved.reasons == ("stop",)
        return stopped.value.saved.position.total_batches

    alone = last_batch(tmp_path / "alone")
    monkeypatch.setattr(engine, "Alone", OneOfSeveral)
    assert last_batch(tmp_path / "one of several") == alone + 1


def test_a_patient_watcher_learns_of_the_last_boundary_before_an_error(tmp_path, asked):
    watcher = Patient()
    with pytest.raises(RuntimeError):
        fit(tmp_path, 1000, watchers=[watcher], callbacks=[FailsIn(17)])
    assert watcher.seen[-1] == 17
    assert watcher.num_ended == 1
    assert len(watcher.seen) < 10


def test_an_impatient_watcher_learns_of_every_boundary(tmp_path, asked):
    watcher = Impatient()
    fit(tmp_path, 1000, watchers=[watcher])
    assert watcher.seen == list(range(1, NUM_BATCHES + 1))


def test_the_last_boundary_is_known_exactly_while_boundaries_are_quiet(tmp_path, asked):
    class Reads(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            checkpoints = next(item for item in trainer.callbacks if isinstance(item, cairn.Checkpointer))
            found.append(checkpoints.engine.moments.previous)

    found = []
    fit(tmp_path, 1000, callbacks=[Reads()])
    assert [(item.batch, item.total_batches, item.step, item.samples) for item in found] == [
        (done, done, done, done * BATCH_SIZE) for done in range(NUM_BATCHES)
    ]


def test_a_patient_watcher_can_ask_for_the_latest_boundary_inside_a_batch(tmp_path, asked):
    class Asks(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            later = watcher.latest()
            found.append(watcher.seen[-1:] if later is None else [later.position.total_batches])

    watcher, found = Patient(), []
    fit(tmp_path, 1000, watchers=[watcher], callbacks=[Asks()])
    assert found == [[], *([done] for done in range(1, NUM_BATCHES))]
