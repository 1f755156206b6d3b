"""The number of a batch is passed to a training step just where Lightning passes it."""

import functools

import pytest
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from cairn.lightning.loops.step_arguments import takes_index


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


class Steps:
    def batch_alone(self, batch): ...

    def batch_by_another_name(self, x): ...

    def with_index(self, batch, batch_idx): ...

    def index_by_another_name(self, batch, number): ...

    def index_alone(self, batch_idx): ...

    def with_default(self, batch, batch_idx=0): ...

    def positional_only(self, batch, batch_idx, /): ...

    def keyword_only(self, batch, *, batch_idx=0): ...

    def any_keywords(self, batch, **kwargs): ...

    def any_arguments(self, *args): ...

    def no_self(*args): ...

    def three(self, batch, batch_idx, dataloader_idx=0): ...

    @classmethod
    def of_class(cls, batch, batch_idx): ...


class Special:
    @decorated
    def of_one_argument(self, batch): ...

    @decorated
    def of_two_arguments(self, batch, batch_idx): ...

    @staticmethod
    def static(batch, batch_idx): ...

    partial = functools.partialmethod(Steps.three, batch_idx=3)


NAMES = [name for name in vars(Steps) if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_method_gets_the_index_where_lightning_passes_it(name):
    step = getattr(Steps(), name)
    assert takes_index(step) is is_param_in_hook_signature(step, "batch_idx", min_args=2)


@pytest.mark.parametrize("name", [name for name in vars(Special) if not name.startswith("_")])
def test_lightning_is_asked_about_any_other_step(name):
    assert takes_index(getattr(Special(), name)) is None


def test_a_method_with_a_signature_of_its_own_is_left_to_lightning():
    class Net(Steps):
        def training_step(self, batch): ...

    assert takes_index(Net().training_step) is False
    Net.training_step.__wrapped__ = Steps.with_index
    assert takes_index(Net().training_step) is None


def test_a_step_that_is_replaced_is_judged_by_its_own_code():
    net = Steps()
    net.training_step = net.with_index
    assert takes_index(net.training_step) is True
    net.training_step = net.batch_alone
    assert takes_index(net.training_step) is False
    net.training_step = lambda batch: None
    assert takes_index(net.training_step) is None
