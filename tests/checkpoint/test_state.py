"""What goes into a checkpoint can be read again without running anything, and is what it was."""

import dataclasses
import enum
import functools
import io
import random
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from cairn.checkpoint import state
from cairn.checkpoint.errors import UnsafeStateError


class Color(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Settings:
    lr: float = 0.1


class Text(str):
    pass


class Tagged(torch.Tensor):
    pass


Pair = namedtuple("Pair", "one two")
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.tuples(st.text(), st.integers()))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


def reloaded(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# Plain values


@given(VALUES)
def test_plain_values_pass_unchanged_and_are_loaded_again(value):
    found = state.plain(value)
    assert found == value
    assert type(found) is type(value)
    assert reloaded(found) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Counter({2: np.int64(1)}), Counter({2: 1})),
    ],
)
def test_numbers_of_numpy_become_pythons(value, expected):
    for found in (state.plain(value), state.plain({"a": [value]})["a"][0]):
        assert found == expected
        assert type(found) is type(expected)
        reloaded(found)
    values = state.plain(value).values() if isinstance(value, Counter) else ()
    assert all(type(item) is int for item in values)


def test_a_parameter_becomes_a_tensor_that_shares_its_memory():
    parameter = nn.Parameter(torch.randn(3))
    found = state.plain(parameter)
    assert type(found) is torch.Tensor
    assert not found.requires_grad
    assert found.data_ptr() == parameter.data_ptr()


def test_tensors_are_not_copied():
    tensor = torch.randn(3)
    assert state.plain([tensor])[0] is tensor


def test_a_state_dict_keeps_its_metadata():
    own = nn.BatchNorm1d(2).state_dict(keep_vars=True)
    found = state.plain(own)
    assert type(found) is OrderedDict
    assert found._metadata == own._metadata
    assert reloaded(found)._metadata == own._metadata
    assert {type(value) for value in found.values()} == {torch.Tensor}
    assert {type(value) for value in own.values()} == {torch.Tensor, nn.Parameter}  # what was given is left alone


def test_a_counter_stays_one():
    found = state.plain({"milestones": Counter([2, 2, 5])})["milestones"]
    assert type(found) is Counter
    assert reloaded(found) == Counter({2: 2, 5: 1})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (functools.partial(max, 1), "functools.partial"),
        (Path("a"), "PosixPath"),
        (np.zeros(2), "numpy.ndarray"),
        (np.datetime64("2020-01-01"), "numpy.datetime64"),
        (b"", "builtins.bytes"),
        ({1, 2}, "builtins.set"),
        (range(3), "builtins.range"),
        (Color.RED, "Color"),
        (Settings(), "Settings"),
        (Pair(1, 2), "Pair"),
        (Text("a"), "Text"),
        (Tagged([1.0]), "Tagged"),
        (defaultdict(list), "collections.defaultdict"),
        (OmegaConf.create({"a": 1}), "omegaconf.dictconfig.DictConfig"),
        (torch.nn.Linear, "builtins.type"),
        (lambda: 1, "builtins.function"),
        (object(), "builtins.object"),
    ],
)
def test_what_could_run_code_is_refused_with_its_place(value, kind):
    contents = {"callbacks": {"mine": [0, {"deep": (value,)}]}}
    with pytest.raises(UnsafeStateError) as error:
        state.plain(contents)
    assert "checkpoint['callbacks']['mine'][1]['deep'][0] is a " in str(error.value)
    assert kind in str(error.value).split(":")[0]


def test_a_partial_in_the_hyperparameters_comes_with_the_way_out():
    contents = {"hyper_parameters": {"optimizer": functools.partial(torch.optim.SGD, lr=0.1)}}
    with pytest.raises(
        UnsafeStateError, match=r"\['hyper_parameters'\]\['optimizer'\] is a functools.partial"
    ) as error:
        state.plain(contents)
    assert "self.save_hyperparameters(ignore=[...])" in str(error.value)


@pytest.mark.parametrize("key", [np.int64(1), Path("a"), Color.RED, Text("a"), ("a", Path("b")), frozenset()])
def test_a_key_that_could_not_be_loaded_is_refused_by_name(key):
    for mapping in ({key: 1}, OrderedDict({key: 1}), Counter([key])):
        with pytest.raises(UnsafeStateError) as error:
            state.plain({"milestones": mapping})
        assert f"checkpoint['milestones'] has the key {key!r}" in str(error.value)


def test_the_state_of_optimizers_and_schedulers_is_plain():
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    schedulers = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]),
        torch.optim.lr_scheduler.StepLR(optimizer, 2),
    ]
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    contents = {"optimizer": optimizer.state_dict(), "schedulers": [item.state_dict() for item in schedulers]}
    found = reloaded(state.plain(contents))
    schedulers[0].load_state_dict(found["schedulers"][0])
    optimizer.load_state_dict(found["optimizer"])


# Random number generators


def draws():
    """Three of each: an odd number of normal variates leaves one in numpy's and Python's hands."""
    python = [random.gauss(0, 1) for _ in range(3)] + [random.random()]
    numpy = [float(np.random.randn()) for _ in range(3)] + [float(np.random.rand())]
    return python, numpy, torch.randn(3).tolist(), torch.randint(9, (3,)).tolist()


@pytest.mark.parametrize("before", range(4))
def test_generators_go_on_where_they_were(before):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    for _ in range(before):
        random.gauss(0, 1), np.random.randn(), torch.rand(1)
    kept = reloaded(state.plain(state.rng_state()))
    expected = draws()
    random.seed(7), np.random.seed(8), torch.manual_seed(9)
    draws()
    state.set_rng_state(kept)
    assert draws() == expected


def test_asking_for_the_state_of_the_generators_draws_nothing():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    first = draws()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    state.rng_state()
    assert draws() == first


# Buffers and gradients


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(2)
        self.inner.register_buffer("count", torch.zeros(2), persistent=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("unused", None, persistent=False)


def test_buffers_are_those_that_no_state_dict_has():
    assert set(state.buffers(Net(), every=False)) == {"inner.count", "seen"}


def test_every_buffer_is_saved_where_each_rank_has_its_own():
    names = {"inner.count", "seen", "inner.running_mean", "inner.running_var", "inner.num_batches_tracked"}
    assert set(state.buffers(Net(), every=True)) == names


@pytest.mark.parametrize("every", [True, False])
def test_buffers_are_put_back_in_place(every):
    one, other = Net(), Net()
    one.inner.count += 3
    one.seen += 2
    one.inner.running_mean += 1
    alias = other.inner.count
    state.set_buffers(other, reloaded(state.plain(state.buffers(one, every))))
    assert other.inner.count is alias
    assert other.inner.count.tolist() == [3, 3]
    assert other.seen.item() == 2
    assert other.inner.running_mean.tolist() == ([1, 1] if every else [0, 0])


def test_buffers_that_grew_or_came_later_are_put_back_too():
    one, other = Net(), Net()
    one.inner.count = torch.arange(5.0)
    one.unused = torch.ones(3)
    state.set_buffers(other, reloaded(state.plain(state.buffers(one, every=False))))
    assert other.inner.count.tolist() == [0, 1, 2, 3, 4]
    assert other.unused.tolist() == [1, 1, 1]
    assert set(dict(other.named_buffers())) == set(dict(one.named_buffers()))
    other.unused.zero_()
    assert one.unused.tolist() == [1, 1, 1]


def test_modes_are_put_back():
    one, other = Net(), Net()
    one.inner.eval()
    one.inner.weight.requires_grad_(False)
    other.inner.bias.requires_grad_(False)
    state.set_modes(other, reloaded(state.plain(state.modes(one))))
    assert (other.training, other.inner.training) == (True, False)
    assert (other.inner.weight.requires_grad, other.inner.bias.requires_grad) == (False, True)


def test_gradients_are_put_back_and_only_those_that_were_there():
    one, other = nn.Linear(2, 1), nn.Linear(2, 1)
    one.weight.grad = torch.tensor([[1.0, 2.0]])
    kept = state.gradients(one)
    assert set(kept) == {"weight"}
    state.set_gradients(other, kept)
    assert torch.equal(other.weight.grad, one.weight.grad)
    assert other.bias.grad is None
    other.weight.grad.zero_()
    assert one.weight.grad.tolist() == [[1, 2]]
