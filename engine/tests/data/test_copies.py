"""Trials of data leave the user's objects alone, and copy nothing that is large or that a copy could release."""

import functools
import os
import tempfile
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from cairn.data.copies import changing_sample, draws_nothing

CALLS = []


class Counting:
    """Samples that depend on how many were read before."""

    def __init__(self, **attributes):
        self.num_read = 0
        vars(self).update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        CALLS.append(index)
        self.num_read += 1
        return torch.tensor(self.num_read)


def test_the_trial_runs_in_another_process():
    data = Counting()
    assert "depends on which samples were read" in changing_sample(data, None, 0, True)
    assert (data.num_read, CALLS) == (0, [])


class Owner:
    """Owns a file that ends with it."""

    def __init__(self):
        self.file = os.open(tempfile.gettempdir(), os.O_RDONLY)

    def __del__(self):
        os.close(self.file)


class Opaque:
    """Has places without names."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


MODEL = LightningModule()
LARGE = np.zeros(1 << 26, np.uint8)


@pytest.mark.parametrize(
    "attribute",
    [
        Owner(),
        MODEL.training_step,
        functools.partial(print, MODEL),
        np.array([LARGE, None], object),
        deque([LARGE]),
        Opaque(LARGE),
        SimpleNamespace(inner=[LARGE]),
        memoryview(b"unknown size"),
    ],
    ids=["owner", "method of a model", "partial", "object array", "deque", "slots", "nested", "unknown size"],
)
def test_what_is_large_or_owns_something_is_not_copied(attribute, monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it is tried"))
    assert changing_sample(Counting(attribute=attribute), None, 0, True) == ""


def test_a_trial_that_hangs_is_ended(monkeypatch):
    class Hangs(Counting):
        def __getitem__(self, index):
            while True:
                pass

    fork, pids = os.fork, []
    monkeypatch.setattr(os, "fork", lambda: pids.append(fork()) or pids[0])
    monkeypatch.setattr("cairn.data.copies._LIMIT_S", 0.05)
    assert changing_sample(Hangs(), None, 0, True) == ""
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize(("scale", "expected"), [(0, True), (0.1, False)])
def test_samples_that_draw_are_recognized(scale, expected):
    class Noisy(Counting):
        def __getitem__(self, index):
            return torch.tensor(1.0) + (scale * torch.rand(()) if scale else 0)

    assert draws_nothing(Noisy(), torch.stack) is expected
