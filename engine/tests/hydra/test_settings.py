"""What is refused before anything is built, and what a run that goes on takes from its new command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cairn.errors import ConfigError, ResumeError
from cairn.hydra import settings

GOOD = {
    "seed": 0,
    "ckpt_path": None,
    "init_weights": None,
    "trainer": {"max_time": None},
    "checkpoint": {"mode": "min", "save_interval": 50, "keep_last": 2, "save_top_k": 1, "triggers": {}},
}
# Before anything is built


def checked(**changes):
    cfg = OmegaConf.create(GOOD)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    settings.check(cfg)


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
def test_what_can_work_passes(changes):
    checked(**changes)


def test_a_preset_without_an_interval_passes():
    settings.check(OmegaConf.create({**GOOD, "checkpoint": {"mode": "min", "triggers": {}}}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ckpt_path": "a", "init_weights": "b"}, "ckpt_path= .*init_weights= .*give one"),
        ({"seed": -1}, "seed=-1 must be an integer from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 must be"),
        ({"seed": 1.5}, "seed=1.5 must be"),
        ({"seed": None}, "seed=None must be"),
        ({"seed": "x"}, "seed=x must be"),
        ({"checkpoint__mode": "best"}, "checkpoint.mode='best' must be min"),
        ({"checkpoint__save_interval": 0}, "save_interval=0 must be more than 0"),
        ({"checkpoint__save_interval": "10 parsecs"}, "save_interval='10 parsecs' is no interval"),
        ({"checkpoint__save_interval": None}, "save_interval=None is no interval"),
        ({"checkpoint__save_interval": "automatic"}, "save_interval='automatic' is no interval: .*or 'auto'"),
        ({"checkpoint__max_overhead": 0}, "max_overhead=0 must be a share between 0 and 1: 0.01 is 1 %"),
        ({"checkpoint__max_overhead": 1.0}, "max_overhead=1.0 must be a share between 0 and 1"),
        ({"checkpoint__max_overhead": "1%"}, "max_overhead='1%' must be a share between 0 and 1"),
        ({"checkpoint__max_overhead": None}, "max_overhead=None must be a share between 0 and 1"),
        ({"checkpoint__mtbf": 0}, "mtbf=0 must be more than 0: give the mean time between failures, as in '8h'"),
        ({"checkpoint__mtbf": "often"}, "mtbf='often' is no time: give seconds"),
        ({"checkpoint__mtbf": {"weeks": 1}}, "mtbf=.*weeks.* is no time"),
        ({"checkpoint__keep_last": -2}, "checkpoint.keep_last=-2 must be a number from 0, or -1"),
        ({"checkpoint__keep_last": "two"}, "checkpoint.keep_last='two' must be"),
        ({"checkpoint__save_top_k": 1.5}, "checkpoint.save_top_k=1.5 must be"),
        ({"checkpoint__save_top_k": None}, "checkpoint.save_top_k=None must be"),
        ({"trainer__max_time": "soon"}, "max_time='soon' is no time"),
        ({"trainer__max_time": {"weeks": 1}}, "max_time=.*weeks.* is no time"),
    ],
)
def test_what_cannot_work_is_one_sentence(changes, told):
    with pytest.raises(ConfigError, match=told) as error:
        checked(**changes)
    assert "\n" not in str(error.value)


def with_wandb(target="cairn.wandb.logger.WandbLogger", **values):
    return OmegaConf.create({**GOOD, "task_name": "digits/cnn", "logger": {"mine": {"_target_": target, **values}}})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"project": "a/b"}, "logger.mine.project='a/b' must have at most 128 characters, and none of / "),
        ({"project": "x" * 129}, "logger.mine.project='x*' must have at most 128 characters"),
        ({"project": "p", "tags": ["dev", "x" * 65]}, "logger.mine.tags: 'x*' must have from 1 to 64 characters"),
        ({"project": "p", "tags": [""]}, "logger.mine.tags: '' must have from 1"),
        ({"project": "p", "tags": "x" * 65}, "logger.mine.tags: 'x*' must have"),
    ],
)
def test_what_wandb_refuses_is_one_sentence_before_the_run_begins(values, told):
    with pytest.raises(ConfigError, match=told) as error:
        settings.check(with_wandb(**values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"project": "digits/cnn", "tags": ["dev", "x" * 64]},  # the task's name, which is made fit
        {"project": "x" * 128, "tags": None},
        {"project": None},
        {"target": "another.Logger", "project": "a/b"},
    ],
)
def test_what_wandb_takes_passes(values):
    settings.check(with_wandb(**values))


def test_the_best_needs_a_metric():
    group = {
        "mode": "min",
        "monitor": None,
        "triggers": {"mine": {"_target_": "cairn.policy.when.BestValidation"}},
    }
    with pytest.raises(ConfigError, match=r"checkpoint\.triggers\.mine needs a metric .*checkpoint\.monitor=val/loss"):
        settings.check(OmegaConf.create({**GOOD, "checkpoint": group}))
    settings.check(OmegaConf.create({**GOOD, "checkpoint": {**group, "monitor": "val/loss"}}))


def test_overfitting_takes_no_checkpoints():
    overfit = {"trainer": {"overfit_batches": 2}}
    settings.check(OmegaConf.create({**GOOD, **overfit}))
    group = {"mode": "min", "monitor": None, "triggers": {"end": {"_target_": "cairn.policy.when.AtEnd"}}}
    with pytest.raises(ConfigError, match=r"overfit_batches .* needs checkpoint=none"):
        settings.check(OmegaConf.create({**GOOD, **overfit, "checkpoint": group}))


