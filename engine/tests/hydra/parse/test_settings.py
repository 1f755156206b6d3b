"""A configuration becomes settings, or one sentence that names the key, before anything heavy is built."""

import pytest
from omegaconf import OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.parse.settings import parse
from cairn.policy.keep import Latest
from cairn.policy.when import AtEnd, BestValidation

GOOD = {
    "task_name": "digits/cnn",
    "seed": 0,
    "ckpt_path": None,
    "init_weights": None,
    "data": {},
    "model": {},
    "trainer": {"max_time": None, "elastic": "samples"},
    "checkpoint": {
        "dirpath": "/runs/1/checkpoints",
        "mode": "min",
        "save_interval": 50,
        "keep_last": 2,
        "save_top_k": 1,
        "artifacts": {"which": "all", "every": 1, "pruned": "delete", "queue": "50GB", "wait": "10min"},
        "triggers": {},
        "keep": {},
    },
}
NONE = {"dirpath": "/runs/1/checkpoints", "monitor": None, "mode": "min", "triggers": {}, "keep": {}}
"""The preset without checkpoints."""


def parsed(**changes):
    """The settings of a good configuration with `changes` by dotted keys (`__` for the dot)."""
    cfg = OmegaConf.create(GOOD)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return parse(cfg)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 2**32 - 1},
        {"ckpt_path": "a.ckpt"},
        {"init_weights": "a.ckpt"},
        {"trainer__max_time": "2h"},
        {"trainer__max_time": {"hours": 2}},
        {"trainer__max_time": "00:02:00:00"},
        {"trainer__callbacks": None, "trainer__logger": None, "trainer__enable_checkpointing": True},
        {"checkpoint__mode": "max"},
        {"checkpoint__save_interval": "0.25ep"},
        {"checkpoint__save_interval": "auto"},
        {"checkpoint__save_interval": "auto", "checkpoint__max_overhead": 0.05, "checkpoint__mtbf": "8h"},
        {"checkpoint__max_overhead": 0.5, "checkpoint__mtbf": 3600},  # of no effect with a fixed interval
        {"checkpoint__mtbf": {"hours": 8}},
        {"checkpoint__mtbf": None},
        {"checkpoint__keep_last": -1},
        {"checkpoint__keep_last": 0},
        {"checkpoint__save_top_k": -1},
    ],
)
def test_what_can_work_is_accepted(changes):
    parsed(**changes)


def test_a_preset_without_an_interval_is_accepted():
    settings = parse(OmegaConf.create({**GOOD, "checkpoint": NONE}))
    assert settings.checkpoint.triggers == {}


def test_triggers_and_rules_become_objects_and_values_get_units():
    settings = parsed(
        checkpoint__triggers={"end": {"_target_": "cairn.policy.when.AtEnd"}, "removed": None},
        checkpoint__keep={"last": {"_target_": "cairn.policy.keep.Latest", "count": 3}},
        trainer__max_time="2h",
    )
    assert {name: type(trigger) for name, trigger in settings.checkpoint.triggers.items()} == {"end": AtEnd}
    assert {name: type(rule) for name, rule in settings.checkpoint.rules.items()} == {"last": Latest}
    assert settings.trainer.max_time_s == 7200


def test_settings_cannot_change():
    with pytest.raises(AttributeError):
        parsed().seed = 1


def test_a_null_callback_or_logger_is_left_out():
    settings = parsed(callbacks={"a": None, "b": {"_target_": "B"}}, logger={"csv": None})
    assert (list(settings.callbacks), list(settings.loggers)) == (["b"], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt_path": "a", "init_weights": "b"}, "ckpt_path= .*init_weights= .*set only one"),
        ({"seed": -1}, "seed=-1 must be an integer from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 must be"),
        ({"seed": 1.5}, "seed=1.5 must be"),
        ({"seed": None}, "seed=null must be"),
        ({"seed": "x"}, "seed=x must be"),
        ({"train": "no"}, "train='no' must be true or false"),
        ({"test": "off"}, "test='off' must be true or false"),
        ({"predict": 2}, "predict=2 must be true or false"),
        ({"checkpoint__mode": "best"}, "checkpoint.mode='best' must be min or max"),
        ({"checkpoint__save_interval": 0}, "checkpoint.save_interval=0"),
        ({"checkpoint__save_interval": "10 parsecs"}, "checkpoint.save_interval='10 parsecs'"),
        ({"checkpoint__save_interval": None}, "checkpoint.save_interval=null"),
        ({"checkpoint__save_interval": "automatic"}, "checkpoint.save_interval='automatic'"),
        ({"checkpoint__max_overhead": 0}, "checkpoint.max_overhead=0"),
        ({"checkpoint__max_overhead": 1.0}, "checkpoint.max_overhead=1.0"),
        ({"checkpoint__max_overhead": "1%"}, "checkpoint.max_overhead='1%'"),
        ({"checkpoint__max_overhead": None}, "checkpoint.max_overhead=null"),
        ({"checkpoint__mtbf": 0}, "checkpoint.mtbf=0"),
        ({"checkpoint__mtbf": "often"}, "checkpoint.mtbf='often'"),
        ({"checkpoint__mtbf": {"weeks": 1}}, "checkpoint.mtbf=.*weeks"),
        ({"checkpoint__keep_last": -2}, "checkpoint.keep_last=-2 must be"),
        ({"checkpoint__keep_last": "two"}, "checkpoint.keep_last='two' must be"),
        ({"checkpoint__save_top_k": 1.5}, "checkpoint.save_top_k=1.5 must be"),
        ({"checkpoint__save_top_k": None}, "checkpoint.save_top_k=null must be"),
        ({"trainer__elastic": "exact"}, "trainer.elastic='exact' must be samples or bits"),
        ({"trainer__max_time": "soon"}, "trainer.max_time='soon'"),
        ({"trainer__max_time": {"weeks": 1}}, "trainer.max_time=.*weeks"),
        ({"trainer__max_epochs": "abc"}, "trainer.max_epochs='abc' must be an integer"),
        ({"trainer__callbacks": []}, r"trainer.callbacks would have no effect: .*\+callbacks.NAME._target_=CLASS"),
        ({"trainer__logger": True}, "trainer.logger would have no effect: .*logger=csv or logger=none"),
        ({"trainer__enable_checkpointing": False}, "trainer.enable_checkpointing=false .* use checkpoint=none"),
        ({"checkpoint__dirpath": None}, "checkpoint.dirpath=null must be a directory"),
        ({"trainer__max_epochs": True}, "trainer.max_epochs=true must be an integer"),
        ({"checkpoint__triggers": None}, "checkpoint.triggers=null must map names to objects"),
        ({"checkpoint__keep": {"all": {"_target_": "cairn.Latest", "count": None}}}, "checkpoint.keep.all.count=null"),
        ({"checkpoint__triggers": 50}, "checkpoint.triggers=50 must map names to objects"),
        ({"checkpoint__audit": "loud"}, "checkpoint.audit='loud' must be warn, error or off"),
        ({"checkpoint__max_failed_saves": 0}, "checkpoint.max_failed_saves=0 must be an integer from 1, or -1"),
        ({"checkpoint__writer": "fast"}, "checkpoint.writer='fast' must be auto, process, thread or sync"),
        ({"checkpoint__buffers": True}, "checkpoint.buffers=true must be 1 or 2"),
        ({"checkpoint__overlap": 1}, "checkpoint.overlap=1 must be True or False"),
        ({"checkpoint__when_busy": "x"}, "checkpoint.when_busy='x' must be skip or wait"),
        ({"checkpoint__artifacts__which": "some"}, "checkpoint.artifacts.which='some' must be all, best"),
        ({"checkpoint__artifacts__every": 0}, "checkpoint.artifacts.every=0 must be an integer from 1"),
        ({"checkpoint__artifacts__wait": "soon"}, "checkpoint.artifacts.wait='soon'"),
        ({"checkpoint__artifacts__queue": "2XB"}, "checkpoint.artifacts.queue: Invalid size '2XB'"),
        ({"callbacks": {"mine": {"patience": 3}}}, "callbacks.mine has no _target_: set it to the class to build"),
        ({"callbacks": {"mine": {}}}, "callbacks.mine has no _target_"),
        ({"callbacks": {"mine": 3}}, "callbacks.mine has no _target_"),
        ({"logger": {"mine": {"project": "p"}}}, "logger.mine has no _target_"),
        ({"logger": {"mine": 3}}, "logger.mine has no _target_"),
        ({"logger": {"mine": {"_target_": "gone.Logger"}}}, "logger.mine._target_=gone.Logger cannot be imported"),
    ],
)
def test_what_cannot_work_is_one_sentence(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        parsed(**changes)
    assert "\n" not in str(error.value)


WANDB_LOGGERS = ("cairn.wandb.logger.WandbLogger", "lightning.pytorch.loggers.WandbLogger")


def with_logger(target, **values):
    return parsed(logger={"mine": {"_target_": target, **values}})


@pytest.mark.parametrize("target", WANDB_LOGGERS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"project": "a/b"}, "logger.mine.project='a/b' must have at most 128 characters, and none of / "),
        ({"project": "x" * 129}, "logger.mine.project='x*' must have at most 128 characters"),
        ({"project": "p", "tags": ["dev", "x" * 65]}, "logger.mine.tags: 'x*' must have from 1 to 64 characters"),
        ({"project": "p", "tags": [""]}, "logger.mine.tags: '' must have from 1"),
        ({"project": "p", "tags": "x" * 65}, "logger.mine.tags: 'x*' must have"),
    ],
)
def test_what_wandb_refuses_is_one_sentence_before_the_run_begins(values, message, target):
    with pytest.raises(ConfigError, match=message) as error:
        with_logger(target, **values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "values"),
    [
        (WANDB_LOGGERS[0], {"project": "digits/cnn", "tags": ["dev", "x" * 64]}),  # the task's name is made valid later
        (WANDB_LOGGERS[0], {"project": "x" * 128, "tags": None}),
        (WANDB_LOGGERS[0], {"project": None}),
        ("lightning.pytorch.loggers.CSVLogger", {"project": "a/b"}),
    ],
)
def test_what_wandb_allows_is_accepted(target, values):
    with_logger(target, **values)


class Improves(BestValidation):
    """A trigger of a user's own."""


@pytest.mark.parametrize("trigger", [BestValidation, Improves])
def test_a_trigger_that_ranks_needs_a_metric_and_validations(trigger, monkeypatch):
    monkeypatch.setattr("cairn.policy.when.Mine", trigger, raising=False)
    mine = {"checkpoint__triggers": {"mine": {"_target_": "cairn.policy.when.Mine"}}}
    with pytest.raises(ConfigError, match=r"checkpoint\.triggers\.mine needs a metric .*checkpoint\.monitor=val/loss"):
        parsed(**mine)
    ranked = {**mine, "checkpoint__monitor": "val/loss"}
    assert parsed(**ranked).checkpoint.by_score == "mine"
    with pytest.raises(ConfigError, match=r"mine saves after validations, but trainer\.limit_val_batches=0"):
        parsed(**ranked, trainer__limit_val_batches=0)
    # A metric of the training needs none; whether the model logs it is known at the start of the training.
    of_training = parsed(**{**mine, "checkpoint__monitor": "train/loss"}, trainer__limit_val_batches=0)
    assert of_training.checkpoint.monitor == "train/loss"


def test_overfitting_needs_a_run_without_checkpoints():
    parsed(trainer__overfit_batches=2)
    with pytest.raises(ConfigError, match=r"overfit_batches .* needs checkpoint=none"):
        parsed(trainer__overfit_batches=2, checkpoint__triggers={"end": {"_target_": "cairn.policy.when.AtEnd"}})


@pytest.mark.parametrize("value", [True, "true", "y", "yes", 1])
def test_a_proof_that_the_command_line_has_not_recognized_does_not_train(value):
    with pytest.raises(ConfigError, match=r"^prove=\w+ works only as prove=true on the command line of one run"):
        parse(OmegaConf.create({**GOOD, "prove": value}))
    for nothing in (False, None):
        parse(OmegaConf.create({**GOOD, "prove": nothing}))
