"""Settings that a module keeps in buffers: the weights of a loss, a mean of the data, the thresholds of a metric.

A buffer that this run builds with other values than the earlier run did was configured, or is random, or was loaded
with the weights of another model. The freshly built parameters and the generators say which: if they are as in the
earlier run, everything random or loaded is, too, and the buffer was configured. If training has changed it, it is state
all the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch import Tensor
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from cairn.lightning.saved import as_built
from cairn.lightning.settings import parts

_SMALL = 32
"""A buffer with more values may be random, such as a projection, if nothing says that it was configured."""
_MAX_FOLLOWED = 4096
"""Values of a saved buffer of which a copy is kept, so that a new run can follow it."""
_MAX_READ = 1 << 20
"""Values of a buffer that are read."""
_NUM_OF_PARAMETER = 16
"""Values of a parameter that are read."""
_NUM_NAMED = 3
"""Buffers that a message names."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of the layers that normalize batches: state in any case."""

Record = list[Any]
"""Type, shape, and values or a checksum."""


def _head(parameter: Tensor, trainer: Trainer) -> Any:
    """Return the first values of a parameter; None if it is of a special kind, such as sparse."""
    try:
        return record(parameter.detach().reshape(-1)[:_NUM_OF_PARAMETER], trainer)
    except (RuntimeError, NotImplementedError):
        return None


class Buffers:
    """The buffers of a module as they are built.

    Args:
        trainer: The trainer, before a checkpoint is loaded.
    """

    def __init__(self, trainer: Trainer) -> None:
        module = trainer.lightning_module
        own = {name: value for name, value in module.named_buffers() if name.rpartition(".")[2] not in _STATISTICS}
        read = {name: record(value, trainer) for name, value in own.items()}
        self._built = {name: found for name, found in read.items() if found is not None}
        self._values = {name: own[name].clone() for name in self._built if own[name].numel() <= _MAX_FOLLOWED}
        self._start = zlib.crc32(torch.get_rng_state().numpy().tobytes())
        for parameter in module.parameters():
            if not is_lazy(parameter):
                head = _head(parameter, trainer)
                self._start = zlib.crc32(repr(head).encode(), self._start)
        self.followed: list[str] = []
        self.kept: list[str] = []
        """Texts."""
        self.metrics: dict[str, list[str]] = {}
        """Texts about followed buffers of metrics, by the name of the metric: its sums cannot go on."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about them."""
        return {"built": dict(self._built), "start": self._start}

    def restore(
        self, trainer: Trainer, then: Mapping[str, Any], saved: Mapping[str, Tensor], resumes: bool
    ) -> dict[str, Tensor]:
        """Follow what is configured in another way, in a new run and as far as training has not changed it.

        Args:
            trainer: The trainer, whose module has loaded the checkpoint.
            then: What `state` returned in the run of the checkpoint.
            saved: Buffers in the checkpoint that are not in its state_dict.
            resumes: Whether the run is the same.

        Returns:
            Those that are to be restored.
        """
        module, rest, configured = trainer.lightning_module, dict(saved), then.get("start") == self._start
        own, changed = dict(module.named_buffers()), self._changed(then)
        in_state_dict = {*as_built.persistent(module)} if changed else set()
        kept = []
        for name, (old, new) in changed.items():
            if name not in own:  # training has removed it
                continue
            loaded, small = record(saved.get(name, own[name]), trainer), isinstance(new[2], list)
            untouched = loaded is not None and _same(loaded, old)
            is_saved = name in in_state_dict
            can_follow = untouched and (name in self._values or not is_saved)
            if not resumes and can_follow and (configured or ((small or old[1] != new[1]) and not is_saved)):
                rest.pop(name, None)
                if is_saved:
                    with torch.no_grad():
                        own[name].copy_(self._values[name])
                self._follow(module, name, old, new)
                continue
            if configured or (untouched and (small or not resumes)):
                kept.append(_kept(name, loaded or old, new))
            if resumes:
                self._built[name] = old  # the checkpoints of this run go on saying what it was made with
        more = [f"{len(kept) - _NUM_NAMED} more buffers"] if len(kept) > _NUM_NAMED else []
        self.kept = kept[:_NUM_NAMED] + more
        if resumes and "start" in then:
            self._start = then["start"]
        return rest

    def _follow(self, module: LightningModule, name: str, old: Record, new: Record) -> None:
        owner, _, leaf = name.rpartition(".")
        is_metric = isinstance(module.get_submodule(owner), Metric)
        found = self.metrics.setdefault(owner, []) if is_metric else self.followed
        text = f"{_values(new, '=')}{_values(old, ' (', ' in the checkpoint)')}" or " has other values"
        found.append(f"{leaf if is_metric else f'buffer {name}'}{text}")

    def _changed(self, then: Mapping[str, Any]) -> dict[str, tuple[Record, Record]]:
        before = then.get("built", {})
        return {
            name: (before[name], now)
            for name, now in self._built.items()
            if name in before and not _same(before[name], now)
        }


def record(value: Tensor, trainer: Trainer) -> Record | None:
    """Return the values of a buffer in a short form; None: they cannot be read."""
    try:
        flat = value.detach().resolve_conj().resolve_neg().reshape(-1)
        # An odd stride does not fall on the same columns of each row.
        part = flat[:: (flat.numel() // _MAX_READ) | 1].to("cpu", _dtype(value.dtype, trainer)).contiguous()
        small = flat.numel() <= _SMALL and not part.is_complex()
        content = part.tolist() if small else zlib.crc32(part.view(torch.uint8).numpy().data)
    except Exception:  # sparse, quantized, nested, without memory, or a subclass of its own
        return None
    return [str(part.dtype), list(value.shape), content]


def _dtype(dtype: torch.dtype, trainer: Trainer) -> torch.dtype:
    """Return the type that a buffer has in training: the precision is applied after a checkpoint is loaded."""
    precision = trainer.precision_plugin
    if not isinstance(precision, HalfPrecision | DoublePrecision) or not dtype.is_floating_point:
        return dtype
    probe = torch.nn.Module()
    probe.register_buffer("value", torch.zeros(1, dtype=dtype))
    return next(precision.convert_module(probe).buffers()).dtype


def _same(one: Record, other: Record) -> bool:
    if one[0] == other[0] or one[1] != other[1]:
        return parts.same(one, other)
    if not (isinstance(one[2], list) and isinstance(other[2], list)):
        return True  # another precision: unknown
    return torch.allclose(torch.tensor(one[2]).double(), torch.tensor(other[2]).double(), rtol=1e-2, equal_nan=True)


def _shown(found: Record) -> Any:
    """Return the values as a message shows them; None: they are too many."""
    if not isinstance(found[2], list) or len(found[2]) > 4:
        return None
    return found[2] if found[1] else found[2][0]


def _kept(name: str, old: Record, new: Record) -> str:
    shown = _values(new, " (", " is configured)") or " (it is built with other values)"
    return f"buffer {name}{_values(old, '=')}{shown}"


def _values(found: Record, before: str, after: str = "") -> str:
    shown = _shown(found)
    return "" if shown is None else f"{before}{shown!r}{after}"
