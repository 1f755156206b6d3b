"""A training that is longer than its learning-rate schedule is named before its first batch."""

import functools
import logging
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from tests.support.configured import BATCHES, Net, cosine, fit, one_cycle
from torch.optim import lr_scheduler

from cairn.errors import ConfigError
from cairn.lightning.settings import schedules


def falling(step, *, num_training_steps):
    return max(0.0, 1 - step / num_training_steps)


class Falling:
    """A function of a LambdaLR with its length as an attribute, as the template's WarmupCosine has it."""

    def __init__(self, total_steps):
        self.total_steps = total_steps

    def __call__(self, step):
        return falling(step, num_training_steps=self.total_steps)


def closure(total_steps):
    return lambda step: falling(step, num_training_steps=total_steps)


def with_function(function):
    return lambda optimizer, _: lr_scheduler.LambdaLR(optimizer, function)


def after_warm_up(steps):
    def make(optimizer, _):
        parts = [lr_scheduler.LinearLR(optimizer, total_iters=4), lr_scheduler.CosineAnnealingLR(optimizer, steps - 4)]
        return lr_scheduler.SequentialLR(optimizer, parts, [4])

    return make


def some_fast(names, fast):
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in names]


RISES, STAYS = "the learning rate rises again", "the learning rate stays at its last value"
STEPS, LONG = 2 * BATCHES, 3 * BATCHES
FIXED = {
    "cosine": (cosine(STEPS), "step", f"CosineAnnealingLR ends after {STEPS} steps", RISES, "T_max", LONG),
    "cosine of epochs": (cosine(2), "epoch", "CosineAnnealingLR ends after 2 epochs", RISES, "T_max", 3),
    "polynomial": (
        lambda o, _: lr_scheduler.PolynomialLR(o, STEPS),
        "step",
        f"PolynomialLR ends after {STEPS} steps",
        STAYS,
        "total_iters",
        LONG,
    ),
    "linear": (
        lambda o, _: lr_scheduler.LinearLR(o, 1.0, 0.1, STEPS),
        "step",
        f"LinearLR ends after {STEPS} steps",
        STAYS,
        "total_iters",
        LONG,
    ),
    "keywords": (
        with_function(functools.partial(falling, num_training_steps=STEPS)),
        "step",
        f"LambdaLR ends after {STEPS} steps",
        STAYS,
        "num_training_steps",
        LONG,
    ),
    "closure": (
        with_function(closure(STEPS)),
        "step",
        f"LambdaLR ends after {STEPS} steps",
        STAYS,
        "total_steps",
        LONG,
    ),
    "attribute": (
        with_function(Falling(STEPS)),
        "step",
        f"LambdaLR ends after {STEPS} steps",
        STAYS,
        "total_steps",
        LONG,
    ),
    "warm-up": (after_warm_up(STEPS), "step", f"CosineAnnealingLR ends after {STEPS} steps", RISES, "T_max", LONG - 4),
}


@pytest.mark.parametrize("name", some_fast(FIXED, {"cosine of epochs", "closure", "warm-up"}))
def test_a_schedule_that_ends_before_a_longer_training_is_named(tmp_path, name, caplog):
    schedule, interval, what, effect, setting, needed = FIXED[name]
    old = fit(tmp_path / "old", Net(schedule=schedule, interval=interval))
    assert "ends after" not in caplog.text
    start = f"{what}, and the training has {LONG if interval == 'step' else 3}: from then on, {effect}. "
    fit(tmp_path / "new", Net(schedule=schedule, interval=interval), old.path(), epochs=3)
    assert f"{start}{setting} of the " in caplog.text
    assert f"decides: set it to {needed}." in caplog.text
    caplog.clear()
    fit(tmp_path / "old", Net(schedule=schedule, interval=interval), "resume", epochs=3)
    assert f"{start}A resumed run keeps its schedule. For a longer one, start a new run" in caplog.text


QUIET = {
    "long enough": (cosine(LONG), 3),
    "warm-up only": (lambda o, _: lr_scheduler.LinearLR(o, total_iters=10), 3),
    "periodic": (lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, 5), 3),
    "steps": (lambda o, _: lr_scheduler.StepLR(o, 5), 3),
    "rose already": (cosine(6), 3),
    "not longer": (cosine(4), 2),
}


@pytest.mark.parametrize("name", some_fast(QUIET, {"warm-up only", "not longer"}))
def test_other_schedules_are_not_named(tmp_path, name, caplog):
    schedule, epochs = QUIET[name]
    fit(tmp_path, Net(schedule=schedule), max_steps=8)
    fit(tmp_path, Net(schedule=schedule), "resume", epochs=epochs)
    assert "ends after" not in caplog.text


def test_a_schedule_that_would_raise_is_refused_before_the_first_batch(tmp_path):
    old, net = fit(tmp_path / "old", Net(schedule=one_cycle(), momentum=0.9)), Net(schedule=one_cycle(), momentum=0.9)
    sentence = f"OneCycleLR ends after {STEPS} steps, and the training has {LONG}: from then on, it raises an error"
    with pytest.raises(ConfigError, match=sentence):
        fit(tmp_path / "old", net, "resume", epochs=3)
    assert net.rates == []
    with pytest.raises(ConfigError, match=rf"{sentence}\. total_steps of the OneCycleLR decides: set it to {LONG}\."):
        fit(tmp_path / "new", Net(schedule=one_cycle(STEPS), momentum=0.9), old.path(), epochs=3)


def test_a_schedule_that_would_raise_is_named_if_the_training_may_end_before(tmp_path, caplog):
    old = fit(tmp_path / "old", Net(schedule=one_cycle(), momentum=0.9))
    net, stop = Net(schedule=one_cycle(STEPS + 3 * BATCHES), momentum=0.9), EarlyStopping("val/loss", patience=1)
    fit(tmp_path / "new", net, old.path(), callbacks=[stop], epochs=-1)
    assert (
        f"OneCycleLR ends after {5 * BATCHES} steps, and the training has no limit: from then on, it raises an error"
        in caplog.text
    )
    assert len(net.rates) == 2 * BATCHES


@pytest.mark.parametrize("function", [closure, lambda n: functools.partial(falling, num_training_steps=n)])
def test_a_schedule_that_a_resume_makes_longer_is_named(tmp_path, function, caplog):
    net = lambda: Net(schedule=lambda o, net: lr_scheduler.LambdaLR(o, function(net.total_steps)))  # noqa: E731
    fit(tmp_path, net())
    fit(tmp_path, net(), "resume", epochs=3)
    assert "The resumed run follows its configuration, not its checkpoint: LambdaLR: " in caplog.text
    assert f"steps={LONG} ({STEPS} in the checkpoint)" in caplog.text


def test_a_schedule_that_a_resume_keeps_short_is_named(tmp_path, caplog):
    net = lambda: Net(schedule=lambda o, net: lr_scheduler.CosineAnnealingLR(o, net.total_steps))  # noqa: E731
    fit(tmp_path, net())
    fit(tmp_path, net(), "resume", epochs=3)
    assert f"keeps settings of its checkpoint: CosineAnnealingLR: T_max={STEPS} ({LONG} is configured)" in caplog.text
    assert f"CosineAnnealingLR ends after {STEPS} steps" in caplog.text


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model": {"scheduler": {"scheduler": {"T_max": None}}}}, "model.scheduler.scheduler.T_max"),
        ({"model": {"T_max": 3, "other": {"T_max": 4}}}, "model.T_max"),
        ({"data": {"T_max": 3}}, ""),
        ({}, ""),
    ],
)
def test_the_key_that_decides_is_that_of_the_configuration(config, key):
    assert schedules.key_of(config, "T_max") == key


@pytest.mark.parametrize(
    ("then", "now", "longer"),
    [
        ((2, -1), (4, -1), True),
        ((2, -1), (2, -1), False),
        ((4, -1), (2, -1), False),
        ((2, -1), (-1, -1), True),
        ((2, 10), (2, 20), True),
        ((2, 10), (2, -1), True),
    ],
)
def test_a_training_is_longer_if_one_of_its_limits_is(then, now, longer):
    limits = {"max_epochs": now[0], "max_steps": now[1], "num_training_batches": 8, "accumulate_grad_batches": 1}
    trainer = SimpleNamespace(**limits, fit_loop=SimpleNamespace(epoch_loop=None))
    limits = dict(zip(("max_epochs", "max_steps"), then, strict=True))
    assert schedules.is_longer(trainer, {"settings": {"limits": limits}}) == longer
    assert schedules.is_longer(trainer, {"config": {"trainer": limits}}) == longer  # of an earlier version
    assert not schedules.is_longer(trainer, {})


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")
