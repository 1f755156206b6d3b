"""The weights of a model as a file of safetensors, read back and compared before it gets its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from cairn.errors import ModelError
from cairn.export import outputs
from cairn.export.example import Example
from cairn.writing import exported


def write(path: Path, state: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write the file, with each tensor once. `safetensors.torch.load_model` restores tied weights.

    Args:
        path: The file.
        state: The `state_dict` of the model.
        metadata: Facts about the run, by names that no tensor has.

    Raises:
        ModelError: The state holds what such a file cannot hold.
    """
    tensors, aliases = separated(state)
    exported.write_tensors(path, tensors, {"format": "pt", **metadata, **aliases})


def separated(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors of which no two share memory, and the other names of those that are the same tensor.

    Args:
        state: The `state_dict` of a model.

    Raises:
        ModelError: A value is not a tensor.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name} is a {type(value).__name__}, and a file of safetensors holds tensors only: let "
                f"get_extra_state() return a tensor, or export to a file of Cairn (--to FILE.ckpt, of shards)."
            )
    places: dict[Any, str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    for name, value in state.items():
        place = _place(value)
        if place is not None and place in places:
            aliases[name] = places[place]
            continue
        if place is not None:
            places[place] = name
        kept[name] = value
    sharing = Counter(_storage(value) for value in kept.values())
    parts = {name: value.clone() if sharing[_storage(value)] > 1 else value for name, value in kept.items()}
    return {name: value.detach().cpu().contiguous() for name, value in parts.items()}, aliases


def _place(value: Tensor) -> Any:
    """Return what two names for the same tensor have in common; None: it shares nothing."""
    if not value.numel():
        return None
    return _storage(value), value.storage_offset(), value.shape, value.stride(), value.dtype


def _storage(value: Tensor) -> Any:
    try:
        return value.untyped_storage().data_ptr() or id(value)
    except (NotImplementedError, RuntimeError):  # a subclass without memory of its own
        return id(value)


def verify(path: Path, model: LightningModule, example: Example | None) -> None:
    """Compare the file with a model, and what the model returns with the weights in the file; in every bit.

    The weights of the model are set to zero first, and are those of the file afterwards.

    Args:
        path: The file.
        model: The model whose weights were written.
        example: A batch for it; None: only the weights are compared.

    Raises:
        ModelError: Something differs.
    """
    found = exported.read_weights(path)
    state = model.state_dict()
    if missing := state.keys() ^ found.keys():
        raise ModelError(f"it does not have the same names as the model: {sorted(missing)[0]}")
    for name, value in state.items():
        if not outputs.are_equal([value], [found[name]]):
            raise ModelError(f"{name} differs from the model")
    if example is None:
        return
    expected = outputs.of(model, example.args, example.kwargs)
    with torch.no_grad():
        for value in state.values():
            with suppress(RuntimeError, NotImplementedError):
                value.zero_()
    model.load_state_dict(found, strict=model.strict_loading)
    compare(model, expected, example)


def compare(model: LightningModule, expected: list[Tensor], example: Example) -> None:
    """Compare what a model returns with expected outputs, in every bit.

    Raises:
        ModelError: They differ.
    """
    found = outputs.of(model, example.args, example.kwargs)
    if outputs.are_equal(expected, found):
        return
    if not outputs.are_equal(found, outputs.of(model, example.args, example.kwargs)):
        raise ModelError("forward returns something else each time, so that its outputs cannot be compared")
    raise ModelError(f"the outputs for {example.source} differ")
