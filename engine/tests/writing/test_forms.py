"""Values that a file cannot hold come back from it as what they were, and other programs read a plain form."""

import collections
import dataclasses
import datetime
import enum
import io
import logging
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tests.support import values as support

from cairn.errors import UnsafeStateError
from cairn.lightning.saved import unsaved
from cairn.writing import forms
from cairn.writing.encode import Constant
from cairn.writing.form_encoder import FormEncoder


class Mode(enum.Enum):
    FAST = "fast"
    BOTH = (1, 2)
    CALL = print


class Level(enum.IntEnum):
    LOW = 1


class Bits(enum.Flag):
    ONE = 1
    TWO = 2


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Stage:
    number: int
    files: list


UTC = datetime.UTC
VALUES = {
    "enum": (Mode.FAST, "fast"),
    "enum of tuples": (Mode.BOTH, (1, 2)),
    "enum of functions": (Mode.CALL, "CALL"),
    "integer enum": (Level.LOW, 1),
    "flags": (Bits.ONE | Bits.TWO, 3),
    "named tuple": (Pair(1, [np.float32(0.5)]), (1, [0.5])),
    "dataclass": (Stage(1, [pathlib.Path("a")]), {"number": 1, "files": ["a"]}),
    "float32": (np.float32(0.1), float(np.float32(0.1))),
    "float64": (np.float64(0.1), 0.1),
    "int64": (np.int64(3), 3),
    "bool": (np.bool_(True), True),
    "text of numpy": (np.str_("a"), "a"),
    "complex64": (np.complex64(1 + 2j), 1 + 2j),
    "time of numpy": (np.datetime64("1970-01-03"), 2),
    "path": (pathlib.Path("a/b"), "a/b"),
    "pure path": (pathlib.PureWindowsPath("a/b"), "a\\b"),
    "frozenset": (frozenset({2, 1}), [1, 2]),
    "deque": (collections.deque([1, np.int64(2)], maxlen=3), [1, 2]),
    "defaultdict": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "defaultdict without a factory": (collections.defaultdict(None, a=1), {"a": 1}),
    "bytearray": (bytearray(b"ab"), b"ab"),
    "range": (range(1, 9, 2), [1, 9, 2]),
    "timedelta": (datetime.timedelta(days=-1, microseconds=5), [-1, 0, 5]),
    "datetime": (datetime.datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(3, 4), "03:04:00"),
    "OmegaConf dict": (OmegaConf.create({"a": [1, "${b}"], "b": 2}), {"a": [1, 2], "b": 2}),
    "OmegaConf list": (OmegaConf.create([8, 8]), [8, 8]),
    "OmegaConf with a hole": (OmegaConf.create({"a": "???", "b": "${c}"}), {"a": "???", "b": "${c}"}),
}
ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.arange(6.0, dtype=np.float32)[::-2],
    np.array(3.5),
    np.array([], dtype=np.float16),
    np.array([True, False]),
    np.array([1, 2**40], dtype=np.uint64),
    np.array([1, 2], dtype=">i4"),
    np.array([1j]),
    np.array(["a", "bcd"]),
    np.array(["2026-01-02"], dtype="M8[D]"),
    np.array([5], dtype="m8[s]"),
]


def file_of(contents, monkeypatch, encoder=None):
    """Bytes of the file of a checkpoint."""
    monkeypatch.setattr(support, "encode", (encoder or FormEncoder()).encode)
    return bytes(support.file_of({"cairn": {"format": 1}, **contents}))


def saved(contents, monkeypatch):
    """Contents of the file, as other programs read it."""
    return torch.load(io.BytesIO(file_of(contents, monkeypatch)), weights_only=True)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("place", ["in a dict", "in a tuple", "at the top"])
def test_a_value_is_plain_for_others_and_comes_back_as_it_was(monkeypatch, name, place):
    value, plain = VALUES[name]
    mine = {"in a dict": {"x": [value]}, "in a tuple": (0, (value, value)), "at the top": value}[place]
    contents = saved({"callbacks": {"Mine": mine}}, monkeypatch)

    def inside(found):
        return {"in a dict": lambda: found["x"][0], "in a tuple": lambda: found[1][0], "at the top": lambda: found}[
            place
        ]()

    assert inside(contents["callbacks"]["Mine"]) == plain
    forms.restore(contents)
    found = inside(contents["callbacks"]["Mine"])
    assert type(found) is type(value)
    assert (repr(found), found) == (repr(value), value) or OmegaConf.is_config(value)
    assert str(found) == str(value) or found == value  # references of OmegaConf are resolved
    assert found is value or not isinstance(value, Mode | Level)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_an_array_comes_back_bit_for_bit(monkeypatch, array):
    contents = saved({"mine": [array]}, monkeypatch)
    assert isinstance(contents["mine"][0], torch.Tensor | list)
    forms.restore(contents)
    (found,) = contents["mine"]
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    found[...] = found  # it can be written to


def test_the_state_itself_is_not_changed(monkeypatch):
    own = {"mine": {"array": np.zeros(2), "inner": (Mode.FAST,)}, "cairn": {"format": 1}}
    saved(own, monkeypatch)
    assert own == {"mine": {"array": own["mine"]["array"], "inner": (Mode.FAST,)}, "cairn": {"format": 1}}
    assert type(own["mine"]["array"]) is np.ndarray


def test_keys_of_numpy_become_equal_keys_of_python(monkeypatch):
    own = collections.Counter(np.array([2, 2, 5]))
    found = saved({"milestones": own, "mine": {np.str_("a"): [np.float32(1)]}}, monkeypatch)
    assert (type(found["milestones"]), found["milestones"]) == (collections.Counter, own)
    assert {type(key) for key in found["milestones"]} == {int}
    forms.restore(found)
    assert found["mine"] == {"a": [1]}
    assert type(found["mine"]["a"][0]) is np.float32


def test_a_state_dict_keeps_its_metadata(monkeypatch):
    own = torch.nn.BatchNorm1d(1).state_dict()
    own["_extra_state"] = np.float32(1)
    assert saved({"state_dict": own}, monkeypatch)["state_dict"]._metadata == own._metadata


def test_a_plain_state_gets_no_table(monkeypatch):
    assert saved({"mine": {"a": 1}}, monkeypatch)["cairn"] == {"format": 1}


def test_a_constant_part_is_searched_for_values_with_a_form():
    plain, mixed = Constant({"lr": 0.1}), Constant({"path": pathlib.PurePosixPath("a")})
    found, table = forms.to_plain({"plain": plain, "mixed": mixed})
    assert found == {"plain": plain, "mixed": {"path": "a"}}
    assert table == [[["mixed", "path"], "path", "PurePosixPath"]]


def test_each_save_has_the_values_of_its_time(monkeypatch):
    encoder, array = FormEncoder(), np.zeros(2)
    first = file_of({"mine": 1}, monkeypatch, encoder)
    assert torch.load(io.BytesIO(first), weights_only=True)["mine"] == 1
    for number in (1, 2):
        array += 1
        contents = torch.load(io.BytesIO(file_of({"mine": array}, monkeypatch, encoder)), weights_only=True)
        forms.restore(contents)
        assert contents["mine"].tolist() == [number, number]


def _local():
    class Local(enum.Enum):
        A = 1

    return Local.A


class OwnDict(dict):
    pass


@pytest.mark.parametrize(
    "value",
    [
        _local(),
        OwnDict(a=1),
        collections.defaultdict(lambda: 0),
        np.array([object()]),
        types.MappingProxyType({}),
        object(),
        print,
        torch.optim.SGD,
        Stage(1, [object()]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_could_not_come_back_is_refused_with_its_path(value):
    with pytest.raises(UnsafeStateError, match=r"checkpoint\['callbacks'\]\['Mine'\]"):
        FormEncoder().encode({"callbacks": {"Mine": value}, "cairn": {}})


def test_a_class_that_is_not_imported_stays_plain_with_a_warning(monkeypatch, caplog):
    contents = saved({"callbacks": {"Mine": {"mode": Mode.FAST}}}, monkeypatch)
    monkeypatch.delitem(sys.modules, __name__)
    with caplog.at_level(logging.WARNING):
        forms.restore(contents)
    assert contents["callbacks"]["Mine"] == {"mode": "fast"}
    assert "checkpoint['callbacks']['Mine']['mode'] was saved as enum and is loaded as a plain value" in caplog.text


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        ("enum", ["builtins:print", "x"]),
        ("enum", ["os:system", "x"]),
        ("namedtuple", "subprocess:Popen"),
        ("dataclass", "subprocess:Popen"),
        ("path", "os"),
        ("defaultdict", "system"),
        ("exec", "x"),
        ("numpy", "O"),
        ("ndarray", "O"),
    ],
)
def test_a_table_of_another_program_cannot_call_anything(kind, argument):
    contents = {"x": ["true"], "cairn": {"forms": [[["x", 0], kind, argument]]}}
    forms.restore(contents)
    assert isinstance(contents["x"][0], str | pathlib.PurePath | np.ndarray)


def test_the_key_is_that_of_our_part_of_a_checkpoint():
    assert forms.OURS == unsaved.KEY
