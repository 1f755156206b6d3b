"""State that Lightning does not save: random number generators, non-persistent buffers, gradients and modes."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cairn.lightning.reading import modules
from cairn.lightning.saved import placed

KEY = "cairn"
"""Key of Cairn's state in a Lightning checkpoint. Part of the file format: it stays if the package is renamed."""
FORMAT = 1
"""Version of what lies under `KEY`."""
_HAS_MPS = torch.backends.mps.is_available()


def rng_state() -> dict[str, Any]:
    """Return the state of each generator that training may use: torch (and its current device), numpy, Python."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, torch.from_numpy(np.fromiter(words, np.int64, len(words))), gauss],
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    if _HAS_MPS:
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore each generator to a state that `rng_state` returned."""
    kind, keys, position, has_gauss, cached = state["numpy"]
    version, words, gauss = state["python"]
    torch.set_rng_state(state["torch"].cpu())
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate((version, tuple(words.tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "mps" in state and _HAS_MPS:
        torch.mps.set_rng_state(state["mps"].cpu())


def buffers(module: nn.Module, every: bool) -> dict[str, Tensor]:
    """Return the buffers of a module that its state_dict does not contain.

    Args:
        module: The module.
        every: Return all buffers: under DDP each rank has its own, and Lightning saves the state_dict of rank 0.
    """
    # Most models have none, and asking torch for the names takes longer.
    found = dict(module.named_buffers()) if any(part._buffers for _, part in modules.named(module)) else {}
    if found and not every:  # building a state_dict is slow
        for name in module.state_dict():
            found.pop(name, None)
    return {name: placed.local(value) for name, value in found.items()}


def set_buffers(module: nn.Module, state: Mapping[str, Tensor], replaced: Collection[str] = ()) -> None:
    """Copy saved buffers into the module's own.

    Args:
        module: The module.
        state: The buffers by name.
        replaced: Names of buffers that get new tensors, because training has put others in the place of the first ones.
            DistributedDataParallel copies rank 0's values into the first ones only.
    """
    own, lost = dict(module.named_buffers()), []
    for name, value in state.items():
        mine = own.get(name)
        if mine is not None and mine.shape == value.shape and mine.dtype == value.dtype and name not in replaced:
            with torch.no_grad():
                placed.local(mine).copy_(value)
        elif not put_buffer(module, name, value, persistent=False):
            lost.append(name)
    if lost:
        rank_zero_warn(
            f"This resume may not be exact: the checkpoint holds {', '.join(lost)}, of a layer that training has added "
            f"and that the model does not have yet. Add it in __init__, configure_model() or setup()."
        )


def put_buffer(
    module: nn.Module, name: str, value: Tensor | None, is_registered: bool = True, persistent: bool = True
) -> bool:
    """Set a buffer to a copy of a tensor, whether it is registered or not; return False if it has no owner.

    Args:
        module: The module.
        name: Name of the buffer.
        value: The tensor; None: the buffer gets none.
        is_registered: Whether a buffer without a tensor stays registered.
        persistent: Whether a new buffer belongs to the state_dict.
    """
    parent, _, leaf = name.rpartition(".")
    try:
        part = module.get_submodule(parent)
    except AttributeError:
        return False
    if value is not None:
        value = value.detach().to(_device(part._buffers.get(leaf), module), copy=True)
    if leaf in part._buffers and (value is not None or is_registered):
        setattr(part, leaf, value)
    elif leaf in part._buffers:
        delattr(part, leaf)
    elif value is not None or is_registered:
        vars(part).pop(leaf, None)  # a plain attribute, whose place the buffer takes
        part.register_buffer(leaf, value, persistent)
    return True


def _device(own: Tensor | None, module: nn.Module) -> torch.device:
    for tensor in (own, *module.parameters(), *module.buffers()):
        if tensor is not None:
            return tensor.device
    return torch.device("cpu")


def modes(module: nn.Module) -> dict[str, Any]:
    """Return which modules are in training mode and which parameters are frozen.

    Hooks may set both in the middle of an epoch. A resumed epoch repeats only those at its start.
    """
    parts = modules.named(module)
    own = (param for _, part in parts for param in part._parameters.values())
    any_frozen = any(param is not None and not param.requires_grad for param in own)
    return {
        "training": {name: part.training for name, part in parts},
        "frozen": [name for name, param in module.named_parameters() if not param.requires_grad] if any_frozen else [],
    }


def set_modes(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore what `modes` returned."""
    for name, part in module.named_modules():
        part.training = state["training"].get(name, part.training)
    for name, param in module.named_parameters():
        param.requires_grad = name not in state["frozen"]  # `requires_grad_` refuses a lazy one without a shape


def lazy(weights: Mapping[str, Any]) -> list[str]:
    """Return the names of weights in a state_dict that belong to lazy modules and have no shape yet."""
    return [name for name, value in weights.items() if isinstance(value, Tensor) and is_lazy(value)]


def without(weights: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """Return a state_dict without these weights."""
    if not names:
        return weights
    rest = OrderedDict((name, value) for name, value in weights.items() if name not in names)
    if hasattr(weights, "_metadata"):  # torch keeps the versions of the modules there
        rest._metadata = weights._metadata
    return rest


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients between two batches: with manual optimization they may belong to an unfinished window."""
    return {name: param.grad for name, param in module.named_parameters() if param.grad is not None}


def set_gradients(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore what `gradients` returned."""
    for name, param in module.named_parameters():
        if name in state:
            param.grad = placed.rows_of(state[name], param).to(param.device, copy=True)
