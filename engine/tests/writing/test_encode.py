"""A checkpoint is loaded without running code, and every value is what it was."""

import dataclasses
import enum
import functools
import io
import math
import weakref
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tests.support.values import file_of, reloaded
from torch import nn

from cairn.errors import UnsafeStateError
from cairn.writing.encode import Constant, Encoder, encode


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
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    *(st.complex_numbers(allow_nan=False), st.sets(st.one_of(st.integers(), st.text()), max_size=3)),
)
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


# Plain values


@pytest.mark.parametrize(
    "value",
    [torch.Size([2, 3]), torch.Size([]), torch.device("cuda", 1), torch.device("cpu"), torch.bfloat16, torch.uint32],
    ids=str,
)
def test_sizes_devices_and_types_of_torch_are_loaded_unchanged(value):
    found = reloaded({"a": [value]})["a"][0]
    assert type(found) is type(value)
    assert found == value


def test_equal_sets_make_equal_files():
    assert encode({"b", "a", "c"}).pickle == encode({"c", "b", "a"}).pickle


@given(VALUES)
def test_plain_values_are_loaded_unchanged(value):
    found = reloaded(value)
    assert found == value
    assert type(found) is type(value)


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
def test_numbers_of_numpy_become_numbers_of_python(value, expected):
    for found in (reloaded(value), reloaded({"a": [value]})["a"][0]):
        assert found == expected
        assert type(found) is type(expected)


def test_a_parameter_becomes_a_tensor_and_its_memory_is_referred_to():
    parameter = nn.Parameter(torch.randn(3))
    (storage,) = encode([parameter]).storages
    assert storage.data_ptr() == parameter.data_ptr()
    found = reloaded(parameter)
    assert type(found) is torch.Tensor
    assert not found.requires_grad
    assert torch.equal(found, parameter)


def test_a_state_dict_keeps_its_metadata():
    own = nn.BatchNorm1d(2).state_dict(keep_vars=True)
    found = reloaded(own)
    assert type(found) is OrderedDict
    assert found._metadata == own._metadata
    assert {type(value) for value in found.values()} == {torch.Tensor}
    assert {type(value) for value in own.values()} == {torch.Tensor, nn.Parameter}  # the given state is unchanged


def test_a_counter_stays_a_counter():
    found = reloaded({"milestones": Counter([2, 2, 5])})["milestones"]
    assert type(found) is Counter
    assert found == Counter({2: 2, 5: 1})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (functools.partial(max, 1), "functools.partial"),
        (Path("a"), "PosixPath"),
        (np.zeros(2), "numpy.ndarray"),
        (np.datetime64("2020-01-01"), "numpy.datetime64"),
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
def test_a_value_that_could_run_code_is_refused_with_its_path(value, kind):
    contents = {"callbacks": {"mine": [0, {"deep": (value,)}]}}
    with pytest.raises(UnsafeStateError) as error:
        encode(contents)
    assert "checkpoint['callbacks']['mine'][1]['deep'][0] is a " in str(error.value)
    assert kind in str(error.value).split(":")[0]


def test_a_refused_hyperparameter_comes_with_a_hint():
    contents = {"hyper_parameters": {"optimizer": functools.partial(torch.optim.SGD, lr=0.1)}}
    with pytest.raises(
        UnsafeStateError, match=r"\['hyper_parameters'\]\['optimizer'\] is a functools.partial"
    ) as error:
        encode(contents)
    assert "self.save_hyperparameters(ignore=[...])" in str(error.value)


@pytest.mark.parametrize("key", [np.int64(1), Path("a"), Color.RED, Text("a"), ("a", Path("b")), frozenset()])
def test_a_key_that_could_not_be_loaded_is_refused_by_name(key):
    for mapping in ({key: 1}, OrderedDict({key: 1}), Counter([key])):
        with pytest.raises(UnsafeStateError) as error:
            encode({"milestones": mapping})
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
    found = reloaded(contents)
    schedulers[0].load_state_dict(found["schedulers"][0])
    optimizer.load_state_dict(found["optimizer"])


# Tensors

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_number_is_loaded_bit_for_bit(dtype):
    data = torch.arange(256).to(torch.uint8).repeat(2)
    tensor = (data % 2).view(dtype) if dtype is torch.bool else data.view(dtype)
    found = reloaded({"a": tensor})["a"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert bool((found.view(torch.uint8) == tensor.view(torch.uint8)).all())


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    start=st.integers(0, 5),
)
def test_shapes_strides_and_offsets_are_kept(shape, order, step, start):
    base = torch.arange(start + step * max(1, math.prod(shape)) + 7, dtype=torch.float64)
    dims = list(range(len(shape)))
    order.shuffle(dims)
    tensor = base[start::step][: math.prod(shape)].reshape(shape).permute(dims)
    found = reloaded([tensor])[0]
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


def test_a_view_of_a_large_storage_takes_only_its_own_bytes_into_the_file():
    big = torch.randn(100_000)
    assert len(file_of({"view": big[500:600]})) < 3000
    assert torch.equal(reloaded({"view": big[500:600]})["view"], big[500:600])


@given(spans=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=5))
def test_tensors_that_share_memory_share_it_after_loading(spans):
    base = torch.arange(41.0)
    views = [base[min(span) : max(span)] for span in spans]
    found = reloaded(views)
    assert all(torch.equal(one, other) for one, other in zip(found, views, strict=True))
    for view in found:
        view += 100.0  # visible in each tensor that overlaps it, as often as it does
    for view in views:
        view += 100.0
    assert all(torch.equal(one, other) for one, other in zip(found, views, strict=True))


def test_special_kinds_of_tensors_become_plain_or_are_refused():
    conjugate = torch.tensor([1 + 2j]).conj()
    assert torch.equal(reloaded([conjugate])[0], torch.tensor([1 - 2j]))
    assert torch.equal(reloaded([conjugate.imag])[0], torch.tensor([-2.0]))
    assert reloaded([torch.ones(2, requires_grad=True) * 2])[0].requires_grad is False
    for special in (torch.eye(2).to_sparse(), torch.empty(2, device="meta")):
        with pytest.raises(UnsafeStateError, match=r"checkpoint\['a'\] is a tensor of a special kind"):
            encode({"a": special})


def test_a_checkpoint_reads_like_one_that_torch_has_saved():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = nn.Parameter(net[2].weight.t())
    contents = {"state_dict": net.state_dict(), "twice": [net[0].weight] * 2, "epoch": 3, "name": "\u00e9\ud800"}
    buffer = io.BytesIO()
    torch.save({**contents, "twice": [net[0].weight.detach()] * 2}, buffer)
    ours, theirs = reloaded(contents), torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    assert list(ours) == list(theirs)
    assert (ours["epoch"], ours["name"]) == (theirs["epoch"], theirs["name"])
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    for key, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], tensor)
        assert ours["state_dict"][key].stride() == tensor.stride()
    first, second = ours["twice"]
    assert first.data_ptr() == second.data_ptr() == ours["state_dict"]["0.weight"].data_ptr()


def flat_halves():
    flat = torch.zeros(8, dtype=torch.bfloat16)
    return {"half": flat[1:3], "whole": flat[4:8].view(torch.float32)}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([torch.ones(4), torch.ones(4).clone(), (x := torch.ones(4)), x.view(torch.int32)], "checkpoint[3]"),
        (flat_halves(), "checkpoint['whole']"),
        ({"a": {"z": (z := torch.ones(3, dtype=torch.complex64))}, "b": torch.view_as_real(z)}, "checkpoint['b']"),
    ],
    ids=["integers", "a flat buffer", "complex numbers"],
)
def test_memory_that_is_read_as_two_types_is_refused_with_its_path(value, where):
    with pytest.raises(UnsafeStateError) as error:
        encode(value)
    assert str(error.value).startswith(f"{where} shares memory with a tensor of another type")
    assert "clone()" in str(error.value)


def test_an_integer_of_any_size_is_kept_or_refused():
    values = [0, 255, 256, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63, 2**2000]
    assert reloaded(values) == values
    with pytest.raises(UnsafeStateError, match=r"checkpoint\[0\] is an integer of more than 255 bytes"):
        encode([2**3000])


# One state after the other


def state_in_a_run():
    torch.manual_seed(7)
    weight, moment = torch.randn(4, 6), torch.randn(4, 6)
    return {"net": {"weight": weight, "tied": weight}, "optimizer": {0: {"step": 3, "moment": moment}}, "rng": [1, 2]}


def change(path):
    """Register a function that makes the next state from the one before; `path` leads to the value it replaces."""

    def marked(new):
        def changed(state):
            *way, last = path
            functools.reduce(lambda part, key: part[key], way, state)[last] = new(state)

        changed.__name__ = new.__name__
        CHANGES.append(changed)
        return new

    return marked


CHANGES = []
WEIGHT, TIED, MOMENT = ("net", "weight"), ("net", "tied"), ("optimizer", 0, "moment")


@change(("optimizer", 0, "step"))
def a_number(state):
    return 4


@change(("rng", 1))
def a_tensor_for_a_number(state):
    return torch.arange(3)


@change(MOMENT)
def other_memory(state):
    return torch.ones(4, 6)


@change(MOMENT)
def another_type(state):
    return torch.ones(4, 6, dtype=torch.float64)


@change(MOMENT)
def other_strides(state):
    return torch.arange(24.0).view(6, 4).t()


@change(MOMENT)
def more_numbers(state):
    return torch.arange(30.0)


@change(MOMENT)
def the_same_memory(state):
    return state["net"]["weight"]


@change(MOMENT)
def a_part_of_the_same_memory(state):
    return state["net"]["weight"][1:3, ::2]


@change(TIED)
def no_longer_tied(state):
    return state["net"]["weight"].clone()


@change(TIED)
def a_negative_view(state):
    return torch._neg_view(state["net"]["tied"])


@change(WEIGHT)
def a_parameter(state):
    return nn.Parameter(state["net"]["tied"])


@change(MOMENT)
def nothing_in_it(state):
    return state["net"]["weight"][:0]


@change(MOMENT)
def what_cannot_be_saved(state):
    return torch.empty(4, 6, device="meta")


def outcome(encode_it, state):
    """The pickle and the storages, or the reason for a refusal."""
    try:
        encoded = encode_it(state)
    except UnsafeStateError as error:
        return str(error)
    parts = [part.detach() for part in encoded.storages]
    assert encoded.sizes == tuple(part.nbytes for part in parts)
    assert encoded.specs == [(part.dtype, part.shape, part.stride(), part.storage_offset()) for part in parts]
    return encoded.pickle, [part.flatten().view(torch.uint8).tolist() for part in parts]


@given(st.lists(st.sampled_from([None, *CHANGES]), max_size=6))
def test_a_reused_encoder_encodes_each_state_as_a_new_one_does(changes):
    encoder, state = Encoder(), state_in_a_run()
    assert outcome(encoder.encode, state) == outcome(encode, state)
    for made in changes:
        if made is not None:
            made(state)
        assert outcome(encoder.encode, state) == outcome(encode, state)
        assert outcome(encoder.encode, state_in_a_run()) == outcome(encode, state_in_a_run())


def test_texts_that_differ_in_each_save_do_not_pile_up():
    encoder = Encoder()
    for number in range(100):
        encoder.encode({"weights": number, "digest": f"{number}", "log": f"{number}" * 1000})
    assert len(encoder._texts) <= 10


def test_a_constant_part_is_encoded_once_and_as_if_it_were_none():
    values = {"names": ["a", "b"], "limits": {"steps": 5, "rate": 0.5}}
    constant, encoder = Constant(values), Encoder()
    for number in range(3):
        state = {"step": number, "settings": constant, "names": ["a"]}
        assert outcome(encoder.encode, state) == outcome(encode, state | {"settings": values})
    assert constant.opcodes is not None


@pytest.mark.parametrize("values", [{"weight": torch.ones(2)}, {"number": np.float64(1.0)}])
def test_a_constant_part_with_tensors_or_numbers_of_numpy_is_encoded_each_time(values):
    constant, encoder = Constant(values), Encoder()
    for number in range(2):
        state = {"step": number, "settings": constant}
        assert outcome(encoder.encode, state) == outcome(encode, state | {"settings": values})
    assert encoder.encode({"settings": constant}).num_converted == ("number" in values)


def test_a_value_that_is_refused_in_a_constant_part_is_named_with_its_path():
    for _ in range(2):
        with pytest.raises(UnsafeStateError, match=r"checkpoint\['settings'\]\['model'\]\[0\] is a "):
            encode({"settings": Constant({"model": [object()]})})


def test_an_encoder_keeps_no_tensor_alive():
    encoder, state = Encoder(), state_in_a_run()
    encoder.encode(state)
    gone = weakref.ref(state["optimizer"][0]["moment"])
    del state
    assert gone() is None
