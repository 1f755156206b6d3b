"""Load a checkpoint for a resume: mapped into memory, so that each byte is read once and copied once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import UninitializedParameter

from cairn.data.position import between_epochs
from cairn.data.sampler import rank_and_world_size
from cairn.errors import CheckpointError
from cairn.lightning.saved import ranks, unsaved
from cairn.store import links, shards
from cairn.writing import forms
from cairn.writing.load import load, load_parted
from cairn.writing.mismatch import mismatch
from cairn.writing.sharded.parted import Parted

_WEIGHTS = "state_dict"
_MARK = "restores_forms"
"""Attribute of a `load_checkpoint` that is extended already."""


class MappedCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin that reads checkpoints, for files that `resume` has verified.

    The weights stay mapped, because the module copies them into its own parameters. Everything else is copied here:
    an optimizer keeps the tensors it gets, and would hold on to a file that may be deleted during training.
    """

    mapped: tuple[str, ...] = (_WEIGHTS,)
    """Keys whose tensors stay mapped: what takes them copies what it keeps."""
    reads_rows = False
    """Whether the strategy reads the states of optimizers from `parted`, each rank its own rows."""
    parted: Parted | None = None
    """Contents of the last checkpoint, if it is one of shards."""

    def __init__(self) -> None:
        self._peeked: tuple[Path, dict[str, Any]] | None = None

    def peek(self, path: Path) -> dict[str, Any]:
        """Return the contents of the file, which stays mapped until `load_checkpoint`.

        Args:
            path: The file, or the directory of shards.
        """
        if self._peeked is None or self._peeked[0] != path:
            self.parted = load_parted(path) if shards.is_sharded(links.target(path)) else None
            self._peeked = (path, self.parted.contents if self.parted else load(path, verify=False))
        return self._peeked[1]

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        is_sharded = shards.is_sharded(links.target(Path(path)))
        if Path(path).is_dir() and not is_sharded:
            raise CheckpointError(f"{path} is a directory: name a checkpoint in it, or use checkpointer.resume().")
        if not Path(path).is_file() and not is_sharded:  # a URL, or it is missing
            return super().load_checkpoint(path, map_location, weights_only=True)
        contents = self.peek(Path(path))
        self._peeked = None
        if self.parted and not self.reads_rows:
            contents = self.parted.joined()
        _name_lazy(contents)
        copied = {key: value if key in self.mapped else _copied(value) for key, value in contents.items()}
        forms.restore(copied)
        ranks.lay_over(copied, *rank_and_world_size())
        _mark_epoch_start(copied)
        return copied


def understanding(checkpoint_io: CheckpointIO) -> CheckpointIO:
    """Return a plugin that understands what Cairn saves: Lightning's own is replaced, another one is extended.

    Args:
        checkpoint_io: The plugin of the trainer; one that the user has chosen stays, and loads as it does.
    """
    if type(checkpoint_io) is TorchCheckpointIO:
        return MappedCheckpointIO()
    inner: Any = checkpoint_io
    while inner is not None:
        if isinstance(inner, MappedCheckpointIO) or hasattr(inner.load_checkpoint, _MARK):
            return checkpoint_io
        inner = getattr(inner, "checkpoint_io", None)  # AsyncCheckpointIO wraps another one
    load_checkpoint = checkpoint_io.load_checkpoint

    @functools.wraps(load_checkpoint)
    def understood(*args: Any, **kwargs: Any) -> dict[str, Any]:
        path = args[0] if args else kwargs.get("path")
        if isinstance(path, str | Path) and shards.is_sharded(links.target(Path(path))):  # plugins read single files
            return MappedCheckpointIO().load_checkpoint(path)
        contents = load_checkpoint(*args, **kwargs)
        if isinstance(contents, dict):
            _name_lazy(contents)
            forms.restore(contents)
            ranks.lay_over(contents, *rank_and_world_size())
            _mark_epoch_start(contents)
        return contents

    setattr(understood, _MARK, True)
    checkpoint_io.load_checkpoint = understood  # type: ignore[method-assign]
    return checkpoint_io


def before_loading(checkpoint_io: CheckpointIO, act: Callable[[], None]) -> Callable[[], None]:
    """Do something once, right before the next checkpoint is loaded: the model is built then, also in `setup`.

    Args:
        checkpoint_io: The plugin of the trainer.
        act: What to do.

    Returns:
        A function that ends the wait.
    """
    load_checkpoint, own = checkpoint_io.load_checkpoint, vars(checkpoint_io).get("load_checkpoint")

    @functools.wraps(load_checkpoint)
    def once(*args: Any, **kwargs: Any) -> dict[str, Any]:
        end()
        act()
        return load_checkpoint(*args, **kwargs)

    def end() -> None:
        if vars(checkpoint_io).get("load_checkpoint") is once:
            vars(checkpoint_io).pop("load_checkpoint")
            if own is not None:
                checkpoint_io.load_checkpoint = own  # type: ignore[method-assign]

    checkpoint_io.load_checkpoint = once  # type: ignore[method-assign]
    return end


def explain(exception: BaseException, module: LightningModule) -> None:
    """Add to torch's list of all names what matters in it, if the weights of a checkpoint did not fit the model."""
    found = mismatch(exception)
    if found is not None and found.model == type(module).__name__:
        exception.add_note(f"The weights in the checkpoint do not fit {found.model}: {found}.")


def _name_lazy(contents: dict[str, Any]) -> None:
    """Add the weights of lazy modules that no batch had reached: the module still expects their names."""
    for name in contents.get(unsaved.KEY, {}).get("lazy", []):
        contents[_WEIGHTS][name] = UninitializedParameter()


def _mark_epoch_start(contents: dict[str, Any]) -> None:
    """Mark the states of loaders and datamodules that were saved between two epochs."""
    if contents.get(unsaved.KEY, {}).get("place") != "epoch":
        return
    for key, state in contents.items():
        if not key.endswith("hyper_parameters"):
            contents[key] = between_epochs(state)
    loaders = contents.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
    loaders[:] = map(between_epochs, loaders)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _copied(item)
    elif isinstance(value, list):
        value[:] = [_copied(item) for item in value]
    elif type(value) is tuple:
        return tuple(_copied(item) for item in value)
    return value
