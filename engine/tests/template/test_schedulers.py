"""The learning rate over the steps, and the state of its scheduler."""

import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.project import example

module = example("models.schedulers")
Factor, WarmupCosine = module.Factor, module.WarmupCosine


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.2), (3, 0.8), (4, 1.0), (9, 0.55), (14, 0.1), (100, 0.1)],
)
def test_the_factor_follows_the_formula(step, expected):
    assert Factor(4, 14, 0.1)(step) == pytest.approx(expected)


STEPS = st.integers(min_value=0, max_value=40)


@given(STEPS, STEPS, st.floats(min_value=0, max_value=1))
def test_the_factor_rises_then_falls_within_its_limits(warmup_steps, total_steps, min_factor):
    factors = [Factor(warmup_steps, total_steps, min_factor)(step) for step in range(90)]
    assert all(0 < factor <= 1 or factor == min_factor for factor in factors)
    rising, falling = factors[: warmup_steps + 1], factors[warmup_steps:]
    assert rising == sorted(rising)
    assert all(after <= before + 1e-12 for before, after in pairwise(falling))
    assert factors[-1] == pytest.approx(min_factor)


def course(num_steps, state=None):
    """Return the learning rates of `num_steps` steps, and the state after them, read from a file."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = WarmupCosine(optimizer, 3, 12, 0.1)
    if state:
        scheduler.load_state_dict(state["scheduler"])
        optimizer.load_state_dict(state["optimizer"])
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return rates, torch.load(file, weights_only=True)


@pytest.mark.parametrize("done", [0, 1, 3, 7, 14])
def test_a_resumed_schedule_is_exact(done):
    head, state = course(done)
    assert head + course(15 - done, state)[0] == course(15)[0]


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="warmup_steps=-1"):
        WarmupCosine(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1), -1, 5)
