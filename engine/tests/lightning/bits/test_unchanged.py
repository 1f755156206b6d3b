"""A parameter that changes in batches depends on how many of them a process works on."""

import time

import pytest
import torch
from lightning.pytorch import Callback
from tests.support import bits_fit
from torch import nn

from cairn.errors import ConfigError
from cairn.lightning.bits.unchanged import Unchanged

TEXT = r"The parameter {} changes in a batch, by training_step or a hook .* change it in on_before_zero_grad"


class Teacher(bits_fit.Net):
    """A part follows another one by a moving average, in one of the hooks."""

    def __init__(self, hook):
        super().__init__()
        self.teacher = nn.Linear(16, 16).requires_grad_(False)
        setattr(self, hook, self.follow)

    def follow(self, *_):
        self.teacher.weight.data.lerp_(self.rare.weight.data, 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
def test_a_teacher_that_follows_in_each_batch_is_refused(tmp_path, hook):
    with pytest.raises(ConfigError, match=TEXT.format("teacher.weight")):
        bits_fit.fit(tmp_path, net=Teacher(hook))


@pytest.mark.filterwarnings("ignore")
def test_one_that_follows_once_in_a_global_batch_is_not(tmp_path):
    trainer, _ = bits_fit.fit(tmp_path, net=Teacher("on_before_zero_grad"), max_steps=2)
    assert trainer.global_step == 2


def test_what_only_the_first_batch_changes_is_the_same_on_any_number_of_processes():
    layer = nn.Linear(2, 2)
    unchanged = Unchanged(layer)
    for number in range(3):
        unchanged.check(number)
        layer.weight.data.clamp_(0, 0.1)
    unchanged.check(2, is_last=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5)])
def test_any_other_change_is_noticed(dtype, shape):
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(shape, dtype=dtype))
    unchanged = Unchanged(module)
    unchanged.check(1)
    module.weight.data.mul_(1.5)
    if not module.weight.numel():
        unchanged.check(1, is_last=True)
    else:
        with pytest.raises(ConfigError, match=TEXT.format("weight")):
            unchanged.check(1, is_last=True)


class Counts(nn.Module):
    """Counts its batches; one number stays, and one is not a number that code outside reads."""

    def __init__(self):
        super().__init__()
        self.num_batches, self.rate, self._private = 0, float("nan"), 0

    def step(self):
        self.num_batches += 1
        self._private += 1


class Every(Callback):
    """Counts its batches, and measures time."""

    num_batches, started_at = 0, 0.0

    def on_train_batch_end(self, *_):
        self.num_batches, self.started_at = self.num_batches + 1, time.monotonic()


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_a_callback_counts_is_named_and_a_time_is_not(tmp_path):
    with pytest.warns(UserWarning, match=r"^Every\.num_batches: changes in each batch"):
        bits_fit.fit(tmp_path, max_steps=1, num_sanity_val_steps=0, callbacks=[Every()])


def test_a_number_that_batches_count_is_named():
    module = nn.Module()
    module.part = Counts()
    unchanged = Unchanged(module)
    unchanged.check(1)
    module.part.step()
    text = (
        r"^part\.num_batches: changes in each batch, .* use global_step or a hook of the step, or keep it in a buffer"
    )
    with pytest.warns(UserWarning, match=text):
        unchanged.check(1, is_last=True)
