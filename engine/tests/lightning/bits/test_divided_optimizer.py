"""Which optimizers compute the same for parts of a parameter as for the whole."""

import re

import pytest
import torch
from torch import nn

from cairn.lightning.bits.divided_optimizer import why_not


class Noisy(torch.optim.SGD):
    """Adds noise to each value."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter += 0.01 * torch.rand_like(parameter)


class Scaled(torch.optim.SGD):
    """Divides a gradient by its norm, as LAMB does."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= parameter.grad.norm()
        return super().step(closure)


def made(kind, **options):
    rate = {} if kind is torch.optim.Adafactor else {"lr": 0.1}
    return kind([nn.Parameter(torch.ones(3, 2))], **rate, **options)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize(
    "kind", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Rprop]
)
def test_those_that_go_by_value_do(kind, foreach):
    assert why_not(made(kind, foreach=foreach)) == ""


def test_a_learning_rate_of_zero_hides_nothing():
    assert why_not(made(Scaled, momentum=0.9)) != ""
    optimizer = made(Scaled)
    optimizer.param_groups[0]["lr"] = 0.0
    assert why_not(optimizer) != ""


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (torch.optim.AdamW, {"fused": True}, "AdamW with fused=True computes other bits .* use fused=False"),
        (torch.optim.Adafactor, {}, "Adafactor computes something else for a part"),
        (torch.optim.Muon, {}, "Muon computes something else for a part"),
        (Noisy, {}, "Noisy computes something else for a part"),
        (Scaled, {}, "Scaled computes something else for a part"),
        (torch.optim.LBFGS, {}, "a step of LBFGS cannot be tried on parts"),
    ],
)
def test_others_are_named(kind, options, text):
    optimizer, before = made(kind, **options), torch.get_rng_state()
    parameter = optimizer.param_groups[0]["params"][0]
    assert re.search(text, why_not(optimizer))
    assert torch.equal(parameter, torch.ones(3, 2))
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), before)
