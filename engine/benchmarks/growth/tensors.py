"""Curves over the number of tensors in a state: the pause of a save and the load, next to torch's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.growth.curve import Curve, clock

_VALUES = 64
"""Values of a tensor: small, so that the number of tensors decides and not their bytes."""


def _state(size: int) -> dict[str, Any]:
    """Return a checkpoint with `size` tensors as a model and Adam have them, a third of them weights."""
    import torch

    names = [f"layers.{number // 4}.block.{number % 4}.weight" for number in range(size // 3)]
    weights = {name: torch.full((_VALUES,), float(number)) for number, name in enumerate(names)}
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(_VALUES), "exp_avg_sq": torch.zeros(_VALUES)}
        for number in range((size - len(names)) // 3)
    }
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": list(moments)}]
    return {"state_dict": weights, "optimizer_states": [{"state": moments, "param_groups": groups}], "epoch": 0}


def _seconds(act: Callable[[], Any]) -> float:
    import gc

    gc.collect()
    gc.disable()  # as a save does
    try:
        started = clock()
        act()
        return clock() - started
    finally:
        gc.enable()


def first_pause(folder: Path, size: int) -> float:
    """The first save of a state: encode it, lay out the file, copy."""
    return _pauses(size)[0]


def pause(folder: Path, size: int) -> float:
    """A later save of the same state."""
    return min(_pauses(size)[1:])


def _pauses(size: int) -> list[float]:
    from cairn.writing.buffers import Buffer
    from cairn.writing.copying import Copier
    from cairn.writing.form_encoder import FormEncoder

    state, encoder, copier, buffer = _state(size), FormEncoder(), Copier(), Buffer()
    buffer.allocate(2_000 * size)
    return [_seconds(lambda: copier.copy(encoder.encode(state), buffer)) for _ in range(4)]


def torch_save(folder: Path, size: int) -> float:
    """`torch.save` of the same state to the same disk, during which training waits."""
    import torch

    state = _state(size)
    return min(_seconds(lambda: torch.save(state, folder / "plain.ckpt")) for _ in range(2))


def load(folder: Path, size: int) -> float:
    """Our reader, on a file that is verified already."""
    from cairn.writing.load import load

    path = _file(folder, size)
    return _seconds(lambda: load(path, verify=False))


def torch_load(folder: Path, size: int) -> float:
    """`torch.load(weights_only=True, mmap=True)` of the same file."""
    import torch

    path = _file(folder, size)
    return _seconds(lambda: torch.load(path, weights_only=True, mmap=True))


def verify(folder: Path, size: int) -> float:
    """Compare every byte of the file with its checksums, as before each resume."""
    from cairn.store import file_format

    path = _file(folder, size)
    return _seconds(lambda: file_format.read(path))


def _file(folder: Path, size: int) -> Path:
    from cairn.store.file_format import sealed
    from cairn.writing.buffers import Buffer
    from cairn.writing.copying import Copier
    from cairn.writing.encode import encode

    buffer, path = Buffer(), folder / "ours.ckpt"
    Copier().copy(encode(_state(size)), buffer)
    path.write_bytes(b"".join(sealed(buffer.view[: buffer.num_bytes], 2**22)))
    buffer.close()
    return path


_SIZES = (25_000, 50_000, 100_000)
_OF = "tensors"
CURVES = (
    Curve("pause", "the pause of a save: encode and copy", _OF, _SIZES, pause),
    Curve("pause, first", "the same for the first save of a run", _OF, _SIZES, first_pause),
    Curve("torch.save", "`torch.save` of the same state", _OF, _SIZES, torch_save),
    Curve("load", "our reader, of a verified file", _OF, _SIZES, load),
    Curve("torch.load", "`torch.load` of the same file", _OF, _SIZES, torch_load),
    Curve("verify", "every byte of the file against its checksums", _OF, _SIZES, verify),
)
