"""The opcodes of a tensor in a pickle of `Encoder`, each recognized as a whole: see `decode`.

c torch._utils _rebuild_tensor_v2 ( ... )      a type of old: its storage is typed, and counts elements
c torch._utils _rebuild_tensor_v3 ( ... )      a newer type, such as float8: its storage counts bytes
"""

from __future__ import annotations

import re
import struct

import torch

from cairn.writing.encode import STORAGE_NAMES

DTYPES = {name.encode(): dtype for dtype, name in STORAGE_NAMES.items()}
"""Types by the names of their storages."""
_NUMBER = rb"(?:K.|J....|" + b"|".join(rb"\x8a\x%02x.{%d}" % (size, size) for size in range(5, 9)) + rb")"
_STORAGE = rb"X(?P<length>.)\0\0\0(?P<number>[0-9]+)X\x03\0\0\0cpu"
_LAYOUT = rb"(?P<rest>" + _NUMBER + rb"tQ" + _NUMBER + rb"\(" + _NUMBER + rb"*t\(" + _NUMBER + rb"*t)"
_NO_HOOKS = rb"\x89ccollections\nOrderedDict\n\)R"
TENSOR = re.compile(
    rb"ctorch\._utils\n_rebuild_tensor_v2\n\(\(X\x07\0\0\0storagectorch\n(?P<kind>\w+)\n"
    + (_STORAGE + _LAYOUT + _NO_HOOKS + rb"tR"),
    re.DOTALL,
)
NEWER_TENSOR = re.compile(
    rb"ctorch\._utils\n_rebuild_tensor_v3\n\(\(X\x07\0\0\0storagectorch\.storage\nUntypedStorage\n"
    + (_STORAGE + _LAYOUT + _NO_HOOKS + rb"ctorch\n(?P<kind>\w+)\ntR"),
    re.DOTALL,
)
Spec = tuple[torch.dtype, int, int, tuple[int, ...], tuple[int, ...]]
"""Type, size of the storage in bytes, offset in it, shape and strides."""


def spec_of(match: re.Match[bytes]) -> Spec:
    """Parse what tensors of one shape have in common.

    Args:
        match: A match of `TENSOR` or `NEWER_TENSOR`.

    Raises:
        ValueError: The tensor reaches beyond its storage.
        LookupError: There is no such type.
    """
    is_newer, rest = match.re is NEWER_TENSOR, match["rest"]
    length, at = _integer(rest, 0)
    offset, at = _integer(rest, at + 2)
    groups: list[tuple[int, ...]] = []
    for _ in range(2):
        values = []
        at += 1
        while rest[at] != b"t"[0]:
            value, at = _integer(rest, at)
            values.append(value)
        groups.append(tuple(values))
        at += 1
    dtype = _dtype(match["kind"].decode()) if is_newer else DTYPES[match["kind"]]
    shape, strides = groups
    num_bytes = length if is_newer else length * dtype.itemsize
    last = 0 if 0 in shape else 1 + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    if min((length, offset, *shape, *strides)) < 0 or (last and (offset + last) * dtype.itemsize > num_bytes):
        raise ValueError("it reaches beyond its storage")
    return dtype, num_bytes, offset, shape, strides


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise LookupError(name)
    return dtype


def _integer(data: bytes, at: int) -> tuple[int, int]:
    if data[at] == b"K"[0]:
        return data[at + 1], at + 2
    if data[at] == b"J"[0]:
        return struct.unpack_from("<i", data, at + 1)[0], at + 5
    end = at + 2 + data[at + 1]
    return int.from_bytes(data[at + 2 : end], "little", signed=True), end
