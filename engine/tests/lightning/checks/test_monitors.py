"""The metric that ranks checkpoints: which values count, and what is refused before the first batch."""

import logging

import pytest
import torch
from lightning.pytorch import Callback
from tests.support.monitored import (
    BATCHES,
    ByHand,
    LogsLater,
    Model,
    Nameless,
    NotInTheSanityCheck,
    OneStep,
    Rare,
    RareLater,
    ReadsItsMetrics,
    Shared,
    TwoLoaders,
    WithoutValidation,
    fit,
)

from cairn.errors import ConfigError
from cairn.lightning.checks import monitors

pytestmark = [
    # Lightning's own, where this page trains without a validation.
    pytest.mark.filterwarnings("ignore:(You defined|You passed in) a `val"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]
LATER = "is not logged by the sanity check: checkpoints are ranked only after a validation, or an epoch, that logs it"


# Which values count


@pytest.mark.parametrize("model", [Rare, ReadsItsMetrics])
def test_a_score_counts_only_if_this_validation_logged_it(tmp_path, model):
    assert fit(tmp_path, model(), "val/f1") == [(0, 4.0), (2, 12.0), (3, None)]


@pytest.mark.parametrize("model", [RareLater, Nameless])
@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_a_metric_that_is_first_logged_later_is_accepted(tmp_path, model, sanity_steps, caplog):
    assert fit(tmp_path, model(), "val/f1", num_sanity_val_steps=sanity_steps) == [(1, 8.0), (3, 16.0)]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("cairn")]
    assert [text for text in said if "monitor=" in text and "ranked only after a validation" in text] == said[:1]


@pytest.mark.parametrize("every", [1, 2])
def test_a_callback_that_logs_computed_names_after_the_sanity_check_trains(tmp_path, every, caplog):
    """Also if the name differs from a logged one in a sign only."""
    scores = fit(tmp_path, Model(), "val_loss", callbacks=[LogsLater()], check_val_every_n_epoch=every)
    assert scores == [(e, 4.0 * (e + 1)) for e in range(every - 1, 4, every)]
    assert f"monitor='val_loss' {LATER}. Did you mean 'val/loss'?" in caplog.text


def test_a_name_that_is_probably_meant_is_refused_after_the_first_validation_without_it(tmp_path):
    class Computes(Model):
        def validation_step(self, batch, batch_idx):
            self.log_dict({"/".join(["val", "loss"]): self.weight}, batch_size=1)

    model = Computes()
    with pytest.raises(ConfigError, match=r"monitor='val_loss' is not logged .* Did you mean 'val/loss'\?"):
        fit(tmp_path, model, "val_loss")
    assert model.num_batches == BATCHES


def test_the_advice_to_log_nan_works(tmp_path):
    class Advised(Nameless):
        def on_validation_epoch_end(self):
            self.log("val/" + "".join(self.name), self.weight if self.current_epoch % 2 else torch.nan)

    assert fit(tmp_path, Advised(), "val/f1") == [(1, 8.0), (3, 16.0)]


def test_a_metric_outside_of_the_sanity_check_is_accepted(tmp_path, caplog):
    assert fit(tmp_path, NotInTheSanityCheck(), "val/f1") == [(e, 4.0 * (e + 1)) for e in range(4)]
    assert f"monitor='val/f1' {LATER}" in caplog.text


def test_a_metric_set_by_hand_counts_when_it_is_set(tmp_path):
    assert fit(tmp_path, ByHand(), "val/f1") == [(0, 4.0), (2, 12.0), (3, None)]


@pytest.mark.parametrize("stop_at", [9, *(pytest.param(batch, marks=pytest.mark.slow) for batch in (5, 10, 13))])
def test_a_resumed_run_does_not_rank_by_an_earlier_validation(tmp_path, stop_at):
    class Stops(Callback):
        count = 0

        def on_train_batch_start(self, *args):
            self.count += 1
            if self.count == stop_at:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "run", Rare(), "val/f1", callbacks=[Stops()], every=1)
    resumed = fit(tmp_path / "run", Rare(), "val/f1", resume=True, every=1)
    assert resumed == fit(tmp_path / "whole", Rare(), "val/f1", every=1)


@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_a_run_that_never_logs_its_metric_says_so(tmp_path, sanity_steps, caplog):
    class Never(Model):
        def on_validation_epoch_end(self):
            if self.current_epoch > 100:
                self.log("val/f1", self.weight)

    assert fit(tmp_path, Never(), "val/f1", num_sanity_val_steps=sanity_steps) == [(3, None)]
    assert (
        "monitor='val/f1' was never logged, so no checkpoint is the best one. Log it in validation_step." in caplog.text
    )
    assert "What was logged: val/loss." in caplog.text


# Names


@pytest.mark.parametrize("monitor", ["val_loss", "val/los", "valid/loss", "Val/Loss"])
@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_a_misspelt_name_is_refused_with_the_right_one(tmp_path, monitor, sanity_steps):
    model = Model()
    with pytest.raises(ConfigError, match=f"monitor='{monitor}' is not logged .*: val/loss. Did you mean 'val/loss'?"):
        fit(tmp_path, model, monitor, num_sanity_val_steps=sanity_steps)
    assert model.num_batches == (0 if sanity_steps else BATCHES)


def test_an_unknown_name_is_refused_with_those_that_are_logged(tmp_path):
    model = Shared()
    with pytest.raises(ConfigError, match=r"monitor='accuracy' is not logged .*; what is logged: val/loss\. No code"):
        fit(tmp_path, model, "accuracy")
    assert model.num_batches == 0


@pytest.mark.parametrize("monitor", ["val/loss", "val/los"])
def test_with_two_loaders_their_names_are_proposed_before_training(tmp_path, monitor):
    model = TwoLoaders()
    with pytest.raises(ConfigError, match=r"'?val/loss/dataloader_idx_0'? or '?val/loss/dataloader_idx_1'?[.?]"):
        fit(tmp_path, model, monitor, "two")
    assert model.num_batches == 0


def test_with_two_loaders_the_name_of_one_is_accepted(tmp_path, caplog):
    assert fit(tmp_path, TwoLoaders(), "val/loss/dataloader_idx_1", "two")[0] == (0, 4.0)
    assert LATER not in caplog.text


class BothForks(Model):
    """Logs the value of each batch and of the epoch, in training."""

    def training_step(self, batch, batch_idx):
        self.log("train/loss", self.weight, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("model", "val", "monitor", "words"),
    [
        (
            TwoLoaders,
            "two",
            "val/loss/dataloader_idx_2",
            "Choose val/loss/dataloader_idx_0 or val/loss/dataloader_idx_1",
        ),
        (Model, "one", "val/loss/dataloader_idx_0", "the validation loaders log val/loss. Choose val/loss."),
        (Model, "one", "val/loss_step", "is not a value of a whole validation: choose val/loss."),
        (Model, "one", "val/loss_epoch", "is not a value of a whole validation: choose val/loss."),
        (OneStep, "one", "val/loss", "is logged with on_epoch=False, so .*: log it with on_epoch=True."),
        (BothForks, "one", "train/loss_step", "is the value of a single batch, .*: choose 'train/loss_epoch'."),
        (BothForks, "none", "train/loss_step", "is the value of a single batch, .*: choose 'train/loss_epoch'."),
    ],
)
def test_a_name_that_can_never_be_logged_is_refused_before_training(tmp_path, model, val, monitor, words):
    made = model()
    with pytest.raises(ConfigError, match=f"monitor='{monitor}' .*{words}"):
        fit(tmp_path, made, monitor, val)
    assert made.num_batches == 0


def test_the_forks_that_have_a_value_are_accepted(tmp_path, caplog):
    assert fit(tmp_path, BothForks(), "train/loss_epoch")[0] == (0, 1.5)
    assert "train/loss" not in caplog.text.replace(LATER, "").partition("is ranked")[2]


def test_a_metric_of_single_batches_is_reported_at_the_first_epoch(tmp_path, caplog):
    class StepOnly(Model):
        def training_step(self, batch, batch_idx):
            self.log("train/loss", self.weight)
            return super().training_step(batch, batch_idx)

    assert fit(tmp_path, StepOnly(), "train/loss") == [(3, None)]
    said = [record.getMessage() for record in caplog.records if "'train/loss' was" in record.getMessage()]
    assert said == [
        "monitor='train/loss' was logged for single batches only, which gives no value to rank this epoch by: log "
        "it with on_epoch=True."
    ]


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("train/loss", {"train", "/loss"}, True),
        ("val/acc5", {"val/acc"}, True),
        ("val/los", {"val", "/loss"}, False),
        ("val/loss", {"val/loss2"}, False),
        ("", set(), True),
    ],
)
def test_a_name_may_be_made_of_pieces(name, texts, expected):
    assert monitors._consists_of(name, texts) == expected


# Triggers that can never be due


@pytest.mark.parametrize(
    ("model", "val", "options"),
    [
        (Model, "none", {}),
        (Model, "empty", {}),
        (WithoutValidation, "one", {}),
        (Model, "one", {"limit_val_batches": 0}),
        (Shared, "none", {}),
    ],
)
def test_a_run_without_validations_is_refused(tmp_path, model, val, options):
    made = model()
    with pytest.raises(ConfigError, match="monitor='val/loss' needs a validation, and this fit has none"):
        fit(tmp_path, made, "val/loss", val, **options)
    assert made.num_batches == 0


NEVER = [
    {"check_val_every_n_epoch": 5},
    {"check_val_every_n_epoch": 5, "num_sanity_val_steps": 0},
    {"val_check_interval": 100, "check_val_every_n_epoch": None},
    {"max_steps": 3},
    {"check_val_every_n_epoch": 2, "max_steps": 7},
]


@pytest.mark.parametrize("options", [*NEVER[:1], *(pytest.param(item, marks=pytest.mark.slow) for item in NEVER[1:])])
def test_validations_after_the_end_of_the_run_are_refused(tmp_path, options, caplog):
    model = Model()
    with pytest.raises(ConfigError, match="monitor='val/loss' needs a validation, and none takes place before the end"):
        fit(tmp_path / "best only", model, "val/loss", **options)
    assert model.num_batches == 0
    # With an interval, a short trial of a longer run is saved all the same.
    fit(tmp_path / "interval, too", model, "val/loss", every=2, **options)
    assert "monitor='val/loss' needs a validation, and none takes place" in caplog.text


@pytest.mark.parametrize("options", [{"check_val_every_n_epoch": 4}, {"max_steps": 4}, {"val_check_interval": 0.5}])
def test_a_run_with_one_validation_is_accepted(tmp_path, options, caplog):
    assert fit(tmp_path, Model(), "val/loss", **options)[0][1] is not None
    assert "needs a validation" not in caplog.text


# Metrics of the training


@pytest.mark.parametrize("val", ["one", "none"])
def test_a_metric_of_the_training_needs_no_validation(tmp_path, val):
    # The means of the weights of an epoch, in the checkpoint of its end.
    assert fit(tmp_path, Shared(), "train/loss", val) == [(0, 1.5), (1, 5.5), (2, 9.5), (3, 13.5)]


def test_a_metric_of_the_training_that_some_epochs_log_counts_in_those(tmp_path):
    class Sometimes(Model):
        def on_train_epoch_end(self):
            if self.current_epoch % 2 == 1:
                self.log("train/f1", self.weight)

    assert fit(tmp_path, Sometimes(), "train/f1", "none") == [(1, 8.0), (3, 16.0)]


def test_a_name_that_training_and_validations_share_is_that_of_the_validation(tmp_path):
    class Same(Model):
        def training_step(self, batch, batch_idx):
            self.log("val/loss", -self.weight, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    assert fit(tmp_path, Same(), "val/loss") == [(e, 4.0 * (e + 1)) for e in range(4)]


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")
