"""What `predict_step` returns, as columns with one value per sample; and columns as what it returned, for all samples.

returned for a batch of 2                          structure
tensor (2, 10)                                     a tensor
{"logits": tensor (2, 10), "text": ["a", "b"]}     a mapping of a tensor and of values
(tensor (2, 10), tensor (2,))                      a tuple of two tensors
[{"boxes": tensor (5, 4)}, {"boxes": ...}]         values: a list has one item per sample
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cairn.errors import ModelError

Structure = Mapping[str, Any]
_TENSOR, _VALUES, _MAPPING, _TUPLE = "tensor", "values", "mapping", "tuple"
_REFERENCE = "__tensor__"
"""Key of an object that stands for a tensor in a value."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Outputs for one batch."""

    structure: Structure
    num_rows: int
    tensors: Mapping[str, Tensor]
    """By path: `/logits`; a row per sample."""
    values: Mapping[str, Sequence[Any]]
    """By path; an item per sample, plain values with references to `parts`."""
    parts: Mapping[str, Tensor]
    """Tensors in the values, by their references."""


def encode(output: Any, num_rows: int | None) -> Columns:
    """Return an output as columns.

    Args:
        output: What `predict_step` returned for a batch.
        num_rows: Number of samples in the batch; None: not known.

    Raises:
        ModelError: It does not have one value per sample.
    """
    rows = _num_rows(output) if num_rows is None else num_rows
    tensors: dict[str, Tensor] = {}
    values: dict[str, list[Any]] = {}
    parts: dict[str, Tensor] = {}

    def structure(value: Any, path: str) -> dict[str, Any]:
        value = _plain_container(value)
        if isinstance(value, Tensor):
            if not value.dim() or len(value) != rows:
                raise _refusal(path, f"a tensor of shape {tuple(value.shape)}", rows)
            tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"kind": _TENSOR}
        if isinstance(value, Mapping):
            return {
                "kind": _MAPPING,
                "items": {_name(key, path): structure(item, _below(path, key)) for key, item in value.items()},
            }
        if isinstance(value, tuple):
            return {"kind": _TUPLE, "items": [structure(item, _below(path, at)) for at, item in enumerate(value)]}
        if not isinstance(value, list):
            raise _refusal(path, f"a {type(value).__name__}", rows)
        _check_list(value, path, rows)
        values[path] = [_plain(item, f"{path}#{row}", parts) for row, item in enumerate(value)]
        return {"kind": _VALUES}

    return Columns(structure(output, ""), rows, tensors, values, parts)


def decode(structure: Structure, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Return columns in the form of the output.

    Args:
        structure: The structure.
        tensors: What stands for each tensor, by path.
        values: What stands for each list of values, by path.
    """

    def build(node: Structure, path: str) -> Any:
        kind = node["kind"]
        if kind == _MAPPING:
            return {name: build(item, _below(path, name)) for name, item in node["items"].items()}
        if kind == _TUPLE:
            return tuple(build(item, _below(path, at)) for at, item in enumerate(node["items"]))
        return tensors[path] if kind == _TENSOR else values[path]

    return build(structure, "")


def paths(structure: Structure, path: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of each column, and whether it is a tensor."""
    items = structure.get("items", {})
    for name, item in items.items() if isinstance(items, Mapping) else enumerate(items):
        yield from paths(item, _below(path, name))
    if structure["kind"] in (_TENSOR, _VALUES):
        yield path, structure["kind"] == _TENSOR


def with_tensors(value: Any, parts: Mapping[str, Tensor]) -> Any:
    """Return a plain value with its tensors in place of the references."""
    if isinstance(value, Mapping):
        if set(value) == {_REFERENCE}:
            return parts[value[_REFERENCE]]
        return {name: with_tensors(item, parts) for name, item in value.items()}
    return [with_tensors(item, parts) for item in value] if isinstance(value, list) else value


def joined(pieces: Sequence[Tensor]) -> Any:
    """Return the rows of several batches as one tensor; as a list of rows if their shapes differ."""
    shapes = {(value.shape[1:], value.dtype) for value in pieces}
    return torch.cat(list(pieces)) if len(shapes) == 1 else [row for value in pieces for row in value]


def _num_rows(output: Any) -> int:
    """Return the number of samples that an output is for."""
    value = _plain_container(output)
    while isinstance(value, Mapping | tuple) and value:
        value = _plain_container(next(iter(value.values() if isinstance(value, Mapping) else value)))
    if isinstance(value, list) or (isinstance(value, Tensor) and value.dim()):
        return len(value)
    raise _refusal("", f"a {type(output).__name__}", None)


def _plain_container(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return value


def _check_list(value: list[Any], path: str, rows: int) -> None:
    if len(value) != rows:
        raise _refusal(path, f"a list of {len(value)}", rows)
    if rows > 1 and all(isinstance(item, Tensor) and item.dim() and len(item) == rows for item in value):
        raise ModelError(
            f"predict_step returned a list of {rows} tensors{_at(path)}, each with {rows} rows, for a batch of {rows}"
            f" samples: return a tuple if these are {rows} outputs, or torch.stack them if there is one per sample."
        )


def _plain(value: Any, path: str, parts: dict[str, Tensor]) -> Any:
    value = _plain_container(value)
    if isinstance(value, Tensor):
        name = f"{path}.{len(parts)}"
        parts[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_REFERENCE: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        if _REFERENCE in value:
            raise ModelError(f"predict_step returned the key {_REFERENCE}{_at(path)}, which is reserved: rename it.")
        return {_name(key, path): _plain(item, path, parts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, path, parts) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ModelError(
        f"predict_step returned a {type(value).__name__}{_at(path.partition('#')[0])}: return tensors, texts, numbers, "
        f"lists and dicts."
    )


def _name(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise ModelError(f"predict_step returned a dict{_at(path)} with the key {key!r}: use texts as keys.")
    return key


def _below(path: str, name: Any) -> str:
    return f"{path}/" + str(name).replace("~", "~0").replace("/", "~1").replace("#", "~2")


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _refusal(path: str, what: str, rows: int | None) -> ModelError:
    batch = "a batch" if rows is None else f"a batch of {rows} samples"
    return ModelError(
        f"predict_step returned {what}{_at(path)} for {batch}: return one row per sample, in tensors whose first size "
        f"is the number of samples, or in lists of that length; and a tuple or a dict for several outputs."
    )
