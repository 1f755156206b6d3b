"""Our own reader returns what `torch.load(weights_only=True)` returns, or leaves the file to it."""

import math
import random
import struct
from collections import Counter, OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.values import file_of
from tests.writing.test_encode import DTYPES, VALUES
from torch import nn

from cairn.errors import CheckpointError
from cairn.store.file_format import Layout, sealed
from cairn.writing import decode
from cairn.writing.load import load


def equal(one, other):
    """Whether two states are the same in every bit, with the same types, strides and order of keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        same = (one.dtype, one.shape, one.stride(), one.storage_offset(), one.requires_grad) == (
            *(other.dtype, other.shape, other.stride(), other.storage_offset(), other.requires_grad),
        )
        sizes = one.untyped_storage().nbytes() == other.untyped_storage().nbytes()
        return same and sizes and bytes(one.untyped_storage()) == bytes(other.untyped_storage())
    if isinstance(one, dict):
        return [*map(repr, one)] == [*map(repr, other)] and all(map(equal, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


def written(path, contents):
    path.write_bytes(b"".join(sealed(file_of(contents), 2**22)))
    return path


def torch_load(path):
    return torch.load(path, weights_only=True, mmap=True)


def with_pickle(path, pickle, sizes=()):
    """Write a file of our format around another pickle, with storages of the given sizes."""
    layout = Layout(sizes)
    data = bytearray(layout.num_bytes(len(pickle)))
    layout.write_frame(memoryview(data))
    layout.write_tail(memoryview(data), pickle)
    path.write_bytes(b"".join(sealed(memoryview(data), 2**22)))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("decode") / "state.ckpt"


@given(VALUES)
def test_plain_values_are_what_torch_reads(file, value):
    written(file, {"value": value})
    assert equal(decode.read(file), torch_load(file))


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_tensors_are_what_torch_reads(file, seed):
    written(file, state(random.Random(seed)))
    assert equal(decode.read(file), torch_load(file))


def state(rng):
    """A checkpoint as a training makes it, with every type of tensor, views, shared memory and odd strides."""
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    tensors = []
    for _ in range(rng.randrange(1, 8)):
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        tensor = torch.rand(shape, generator=generator).to(rng.choice([*DTYPES]))
        if rng.random() < 0.3 and tensor.ndim > 1:
            tensor = tensor.transpose(0, 1)
        if rng.random() < 0.3 and tensor.ndim and len(tensor) > 1:
            tensor = tensor[1:]
        tensors.append(tensor if rng.random() < 0.7 else rng.choice([tensor, *tensors]))
    weights = OrderedDict((f"layer.{number}", tensor) for number, tensor in enumerate(tensors))
    if rng.random() < 0.5:
        weights._metadata = OrderedDict({"": {"version": rng.randrange(3)}})
    return {
        "state_dict": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0), "lr": math.pi}}, "groups": [{"betas": (0.9, 0.999)}]},
        "sizes": [torch.Size([1, 2]), torch.device("cuda", 1), torch.float16, Counter("abba"), b"\xff\0", {1, "a"}, 1j],
        "large": [2**31, -(2**31) - 1, 255, 256, -1, 2**100],
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_tensor_is_what_torch_reads(tmp_path, dtype):
    contents = {"state_dict": {"weight": torch.zeros(3, 2).to(dtype)}}
    path = written(tmp_path / "a.ckpt", contents)
    found = decode.read(path)
    assert equal(found, torch_load(path))
    assert equal(load(path), torch_load(path))


def test_tensors_that_share_memory_share_it_after_loading(tmp_path):
    weight = torch.arange(6.0)
    found = decode.read(written(tmp_path / "a.ckpt", {"one": weight, "two": weight[2:4], "three": torch.ones(2)}))
    found["one"][2] = 7.0
    assert found["two"].tolist() == [7.0, 3.0]
    assert found["three"].tolist() == [1.0, 1.0]


def test_a_change_of_a_loaded_tensor_does_not_change_the_file(tmp_path):
    path = written(tmp_path / "a.ckpt", {"weight": torch.ones(4)})
    before = path.read_bytes()
    decode.read(path)["weight"].zero_()
    assert path.read_bytes() == before


def test_the_state_of_a_module_and_its_optimizer_can_be_loaded_into_them(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    contents = {"state_dict": module.state_dict(), "optimizer": optimizer.state_dict()}
    found = decode.read(written(tmp_path / "a.ckpt", contents))
    twin = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    twin.load_state_dict(found["state_dict"])
    torch.optim.Adam(twin.parameters()).load_state_dict(found["optimizer"])
    assert equal(dict(twin.state_dict()), dict(module.state_dict()))
    assert found["state_dict"]._metadata == module.state_dict()._metadata


def test_texts_of_earlier_versions_are_numbered(tmp_path):
    metadata = b"ccollections\nOrderedDict\n)R(u}(X\x09\0\0\0_metadatar\x02\0\0\0}(uub"
    again = b"ccollections\nOrderedDict\n)R(u}(j\x02\0\0\0}(uub"
    pickle = b"\x80\x02}(X\1\0\0\0ar\0\0\0\0](X\1\0\0\0br\1\0\0\0j\0\0\0\0ej\1\0\0\0(" + metadata + again + b"tu."
    path = with_pickle(tmp_path / "a.ckpt", pickle)
    found = decode.read(path)
    assert found == {"a": ["b", "a"], "b": (OrderedDict(), OrderedDict())}
    assert [item._metadata for item in found["b"]] == [{}, {}]
    assert equal(found, torch_load(path))
    assert decode.read(with_pickle(path, pickle.replace(b"r\1\0\0\0", b"r\7\0\0\0"))) is None


def test_a_file_of_torch_save_is_left_to_torch(tmp_path):
    torch.save({"state_dict": {"weight": torch.ones(2)}}, tmp_path / "a.ckpt")
    assert decode.read(tmp_path / "a.ckpt") is None
    assert load(tmp_path / "a.ckpt")["state_dict"]["weight"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("content", [b"", b"no zip file", bytes(100), b"PK\5\6" + bytes(18)])
def test_another_file_is_left_to_torch(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    assert decode.read(tmp_path / "a.ckpt") is None


HOSTILE = {
    "a class": b"\x80\x02cbuiltins\neval\n.",
    "a call": b"\x80\x02cos\nsystem\n(X\x04\0\0\0truer\0\0\0\0tR.",
    "a codec": b"\x80\x02c_codecs\nencode\n(X\1\0\0\0ar\0\0\0\0X\5\0\0\0rot13r\1\0\0\0tR.",
    "not a type": b"\x80\x02ctorch\nsave\n.",
    "an attribute": b"\x80\x02ccollections\nOrderedDict\n)R(u}(X\5\0\0\0itemsr\0\0\0\0Nub.",
    "a device": b"\x80\x02ctorch\ndevice\n(X\7\0\0\0../../xr\0\0\0\0tR.",
    "a size of texts": b"\x80\x02ctorch\nSize\n((X\1\0\0\0ar\0\0\0\0ttR.",
    "a later text": b"\x80\x02j\0\0\0\0.",
    "a skipped number": b"\x80\x02X\1\0\0\0ar\5\0\0\0.",
    "a list as a key": b"\x80\x02}(](eNu.",
    "no end": b"\x80\x02](N",
    "more after the end": b"\x80\x02N.N",
    "deep lists": b"\x80\x02" + b"](" * 50_000 + b"e" * 50_000 + b".",
    "another protocol": b"\x80\x04N.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_encoder_does_not_write_is_left_to_torch(tmp_path, name):
    assert decode.read(with_pickle(tmp_path / "a.ckpt", HOSTILE[name])) is None


def tensor(number=b"0", length=b"K\2", offset=b"K\0", shape=b"K\2", strides=b"K\1", kind=b"FloatStorage"):
    name = b"X" + struct.pack("<I", len(number)) + number
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\n" + kind + b"\n" + name
        + b"X\3\0\0\0cpu" + length + b"tQ" + offset + b"(" + shape + b"t(" + strides
        + b"t\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


def test_the_tensor_that_the_next_test_changes_is_one(tmp_path):
    assert decode.read(with_pickle(tmp_path / "a.ckpt", tensor(), [8])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", range(5, 9))
def test_a_number_beyond_32_bits_is_read(tmp_path, size):
    path = with_pickle(tmp_path / "a.ckpt", tensor(length=b"\x8a%c\2%s" % (size, bytes(size - 1))), [8])
    assert equal(decode.read(path), torch_load(path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": b"\x8a\5\2\0\0\0\1"},
        {"length": b"\x8a\5\2\0\0\0\xff"},
        {"length": b"\x8a\4\2\0\0\0"},
        {"offset": b"\x8a\5\xff\xff\xff\xff\xff"},
        {"number": b"1"},
        {"number": b"00"},
        {"length": b"K\3"},
        {"offset": b"K\1"},
        {"offset": b"J\xff\xff\xff\xff"},
        {"shape": b"K\3"},
        {"shape": b"J\xff\xff\xff\xff"},
        {"strides": b"K\2"},
        {"strides": b"J\xff\xff\xff\xff"},
        {"strides": b"K\1K\1"},
        {"kind": b"Tensor"},
        {"kind": b"DoubleStorage"},
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_its_storage_is_not_read(tmp_path, wrong):
    if wrong != {"number": b"00"}:
        assert decode.read(with_pickle(tmp_path / "a.ckpt", tensor(**wrong), [8])) is None
        return
    assert decode.read(with_pickle(tmp_path / "a.ckpt", tensor(**wrong), [8])).tolist() == [0.0, 0.0]


def test_no_damaged_pickle_is_read_as_something_else_than_torch_reads(tmp_path):
    rng = random.Random(0)
    path, num_read = tmp_path / "a.ckpt", 0
    with open(written(path, state(random.Random(3))), "rb") as found:
        data = found.read()
    first = data.index(b"\x80\x02}")
    end = data.index(b"PK\7\10", first)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 3)):
            damaged[rng.randrange(first, end)] = rng.choice([0, 1, 255, *b"()jXKJGtRu}].", rng.randrange(256)])
        path.write_bytes(damaged)
        ours = decode.read(path)
        if ours is None:
            continue
        num_read += 1
        try:
            theirs = torch_load(path)
        except Exception as error:
            pytest.fail(f"torch refuses what we read: {error}")
        assert equal(ours, theirs)
    assert 40 < num_read < 360, "both happens: a changed text or number is read, a changed opcode is not"


def test_a_file_with_a_lost_storage_is_refused(tmp_path):
    path = with_pickle(tmp_path / "a.ckpt", tensor(), [])
    with pytest.raises(CheckpointError):
        load(path)
