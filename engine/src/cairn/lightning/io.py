"""How Lightning gets a checkpoint to go on from: mapped into memory, so that a byte is read once and copied once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from cairn.lightning.load import load

_WEIGHTS = "state_dict"


class MappedCheckpointIO(TorchCheckpointIO):
    """Loads files that `resume` has verified.

    The weights stay mapped: the module copies them into its own. Optimizers keep the tensors that they are given, and
    must not hold on to the file, which may be deleted while they train: all but the weights is copied here.
    """

    def __init__(self) -> None:
        self._at_hand: tuple[Path, dict[str, Any]] | None = None

    def peek(self, path: Path) -> dict[str, Any]:
        """What is in the file; it stays mapped until it is loaded."""
        if self._at_hand is None or self._at_hand[0] != path:
            self._at_hand = (path, load(path, verify=False))
        return self._at_hand[1]

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if not Path(path).is_file():
            return super().load_checkpoint(path, map_location, weights_only)
        contents = self.peek(Path(path))
        self._at_hand = None
        return {key: value if key == _WEIGHTS else _copied(value) for key, value in contents.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _copied(item)
    elif isinstance(value, list):
        value[:] = [_copied(item) for item in value]
    elif isinstance(value, tuple):
        return tuple(_copied(item) for item in value)
    return value
