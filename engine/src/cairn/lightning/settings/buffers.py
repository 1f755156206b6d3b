"""Settings that a module keeps in buffers: the weights of a loss, a mean of the data, the thresholds of a metric.

A buffer that this run builds with other values than the earlier run did was configured, or is random. Training has not
changed it if the checkpoint still has the values that it was built with.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch import Tensor

from cairn.lightning.settings import parts

_SMALL = 32
"""A saved buffer with more values may be random, such as a projection: other weights were trained with it."""
_MAX_READ = 1 << 20
"""Values of a buffer that are read."""

Record = list[Any]
"""Type, shape, and values or a checksum."""


class Buffers:
    """The buffers of a module as they are built.

    Args:
        trainer: The trainer, before a checkpoint is loaded.
    """

    def __init__(self, trainer: Trainer) -> None:
        own = dict(trainer.lightning_module.named_buffers())
        read = {name: record(value, trainer) for name, value in own.items()}
        self._built = {name: found for name, found in read.items() if found is not None}
        self._small = {name: own[name].clone() for name, found in self._built.items() if isinstance(found[2], list)}
        self._generators = zlib.crc32(torch.get_rng_state().numpy().tobytes())
        self.followed: list[str] = []
        self.kept: list[str] = []
        """Texts."""
        self.metrics: dict[str, list[str]] = {}
        """Texts about followed buffers of metrics, by the name of the metric: its sums cannot go on."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint says about them."""
        return {"built": dict(self._built), "generators": self._generators}

    def resume(self, then: Mapping[str, Any]) -> None:
        """Note what a resumed run keeps.

        Args:
            then: What `state` returned in the run of the checkpoint.
        """
        seeded = then.get("generators") == self._generators
        for name, (old, new) in self._changed(then).items():
            if seeded or isinstance(new[2], list):
                self.kept.append(_kept(name, old, new))
            self._built[name] = old  # the checkpoints of this run go on saying what it was made with

    def new_run(self, trainer: Trainer, then: Mapping[str, Any], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Follow what is configured in another way, as far as training has not changed it.

        Args:
            trainer: The trainer, whose module has loaded the checkpoint.
            then: What `state` returned in the run of the checkpoint.
            saved: Buffers in the checkpoint that are not in its state_dict.

        Returns:
            Those that are to be restored.
        """
        module, rest = trainer.lightning_module, dict(saved)
        own, changed = dict(module.named_buffers()), self._changed(then)
        in_state_dict = {*module.state_dict()} if changed else set()
        metrics = {part.key for part in parts.metrics(module)} if changed else set()
        for name, (old, new) in changed.items():
            loaded = record(saved.get(name, own[name]), trainer)
            small = name in self._small and name in own and own[name].shape == self._small[name].shape
            if loaded is None or not _same(loaded, old) or (name in in_state_dict and not small):
                self.kept.append(_kept(name, loaded or old, new))
                continue
            rest.pop(name, None)
            if name in in_state_dict:
                with torch.no_grad():
                    own[name].copy_(self._small[name])
            owner, _, leaf = name.rpartition(".")
            found = self.metrics.setdefault(owner, []) if owner in metrics else self.followed
            what = leaf if owner in metrics else f"buffer {name}"
            found.append(f"{what}{_values(new, '=')}{_values(old, ' (', ' in the checkpoint)') or ' has other values'}")
        return rest

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
