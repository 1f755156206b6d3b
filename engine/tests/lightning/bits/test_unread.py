"""A batch has no gradients before its backward pass, whichever batches its process has worked on before."""

import pytest
import torch
from tests.support import bits_fit

from cairn.errors import ConfigError

quiet = pytest.mark.filterwarnings("ignore")


class Reads(bits_fit.Net):
    """A penalty on the gradients of the step before, from a step on."""

    def __init__(self, from_step=0):
        super().__init__()
        self.from_step, self.seen, self.at_step = from_step, [], []

    def training_step(self, batch):
        if self.global_step >= self.from_step:
            self.seen.append(self.rare.weight.grad)
        return super().training_step(batch)

    def on_before_zero_grad(self, optimizer):
        self.at_step.append(self.gpt.norm.weight.grad)
        super().on_before_zero_grad(optimizer)


@quiet
def test_a_gradient_that_is_read_in_the_first_global_batch_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"training_step reads the gradient of a parameter \(\.grad\), and with elastic"
    ):
        bits_fit.fit(tmp_path, net=Reads())
    assert isinstance(torch.nn.Parameter(torch.zeros(1)).grad, type(None))
    assert "grad" not in vars(torch.nn.Parameter)


@quiet
def test_later_there_is_none_and_hooks_of_the_step_see_that_of_the_step_before(tmp_path):
    net = Reads(from_step=1)
    bits_fit.fit(tmp_path, net=net, max_steps=2, num_sanity_val_steps=0)
    assert net.seen == [None] * 12
    assert [one is not None for one in net.at_step] == [False, True]


class Adversary(bits_fit.Net):
    """Computes the gradient of its input by a backward pass of its own."""

    def training_step(self, batch):
        scale = torch.ones(1, requires_grad=True)
        self.loss(batch)[0].mul(scale).sum().backward()
        assert self.gpt.norm.weight.grad is not None
        return super().training_step(batch) * (1 + 0.01 * scale.grad.sign().item())


@quiet
def test_gradients_that_a_step_makes_itself_may_be_read_and_do_not_count(tmp_path):
    trainer, _ = bits_fit.fit(tmp_path, net=Adversary(), max_steps=2, num_sanity_val_steps=0)
    assert trainer.global_step == 2
