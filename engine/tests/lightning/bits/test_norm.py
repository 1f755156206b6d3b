"""The norm of gradients does not depend on how their rows are divided."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from cairn.lightning import clipping
from cairn.lightning.bits import norm


def gradients(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


SHAPES = [(7, 5), (1, 1000), (33,), (), (4, 3, 3, 2), (0, 3), (3, 0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_norm(dtype):
    found = gradients(*SHAPES, dtype=dtype)
    expected = torch.cat([one.double().reshape(-1) for one in found]).norm()
    torch.testing.assert_close(norm.norm(found).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 64, 1001])
def test_the_sum_of_a_row_does_not_depend_on_the_other_rows(width):
    (whole,) = gradients((24, width))
    expected = norm._sums_of_rows(whole)
    for parts in (1, 2, 3, 5, 24):
        found = torch.cat([norm._sums_of_rows(part.clone()) for part in whole.chunk(parts)])
        assert torch.equal(found, expected)


def test_nor_on_the_number_of_threads():
    (whole,) = gradients((1, 200_000))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(norm.norm([whole]).item())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


def fitted(clip_val):
    """Gradients of a model after a trainer has clipped them, and as they were before."""
    module = nn.Linear(3, 2)
    for parameter, value in zip(module.parameters(), gradients((2, 3), (2,)), strict=True):
        parameter.grad = value.clone()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    clipping.install(trainer.precision_plugin, norm.norm)
    optimizer = torch.optim.SGD([*module.parameters(), nn.Parameter(torch.zeros(2))], lr=1.0)
    trainer.precision_plugin.clip_gradients(optimizer, clip_val)
    clipping.remove(trainer.precision_plugin)
    assert "clip_grad_by_norm" not in vars(trainer.precision_plugin)
    return [parameter.grad for parameter in module.parameters()], gradients((2, 3), (2,))


def test_gradients_are_clipped_as_by_torch():
    found, before = fitted(0.5)
    twins = [nn.Parameter(torch.zeros_like(one)) for one in before]
    for twin, value in zip(twins, before, strict=True):
        twin.grad = value.clone()
    nn.utils.clip_grad_norm_(twins, 0.5)
    torch.testing.assert_close(found, [twin.grad for twin in twins])


def test_small_gradients_stay():
    found, before = fitted(100.0)
    assert all(map(torch.equal, found, before))
