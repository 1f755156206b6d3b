"""Settings that a module saves itself: in `on_save_checkpoint`, in an extra state, or in the state of a datamodule.

Its code loads them again, before the optimizers are built. So what a module had before the checkpoint was loaded is
compared with what it has right afterwards: only attributes that the loading has set matter here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from cairn.lightning.reading.code import library_names
from cairn.lightning.settings import parts
from cairn.lightning.settings.parts import Part


def owners(trainer: Trainer) -> Iterator[Part]:
    """Yield the module, those of its submodules whose code loads a state, and the datamodule."""
    for key, module in trainer.lightning_module.named_modules():
        kind = type(module)
        loads = kind.set_extra_state is not nn.Module.set_extra_state
        loads |= kind._load_from_state_dict is not nn.Module._load_from_state_dict
        if not key or (loads and not kind.__module__.startswith(("torch.", "torchmetrics."))):
            yield _part(f"module {key}", module)
    if trainer.datamodule is not None:
        yield _part("data", trainer.datamodule)


def _part(key: str, owner: Any) -> Part:
    theirs = library_names(type(owner))
    made = parts.settings_of({name: value for name, value in vars(owner).items() if name not in theirs})
    names = inspect.signature(type(owner).__init__).parameters
    arguments = frozenset(name for name in made if name.lstrip("_") in names)
    return Part(key, type(owner).__name__, functools.partial(parts.attributes, owner), made, arguments)


class Loaded:
    """The settings that the loading of a checkpoint has replaced.

    Args:
        found: The owners, read before the loading.
        then: Their settings in the checkpoint, by key.
        resumes: Whether the run is the same: it keeps those of its checkpoint.
    """

    def __init__(self, found: Sequence[Part], then: Mapping[str, Any], resumes: bool) -> None:
        self.followed: list[str] = []
        self.kept: list[str] = []
        """Texts."""
        self._old: list[tuple[Part, str, Any]] = []
        """What was replaced, with the value that the earlier run was made with."""
        self._resumes = resumes
        for part in found:
            values = part.loaded()
            for name, (old, new) in part.changed(then.get(part.key, {})).items():
                value = values.get(name)
                if parts.same(value, new):
                    continue
                if not parts.same(value, old) and name not in part.arguments:
                    continue  # state, which training has changed, and which this process has as an earlier fit left it
                self._old.append((part, name, old))
                if resumes or not parts.same(value, old):
                    self.kept += _texts(part, name, value, new, kept=True)
                else:
                    self.followed += _texts(part, name, old, new)
        self.follow()

    def follow(self) -> None:
        """Set what a new run configures itself: at once, and after the module has loaded the checkpoint again."""
        for part, name, old in self._old:
            if not self._resumes and parts.same(part.loaded().get(name), old):
                part.set(name)

    def remember(self, saved: Mapping[str, dict[str, Any]]) -> None:
        """Let the checkpoints of a resumed run go on saying what it was made with.

        Args:
            saved: What the next checkpoint says about the owners, by key.
        """
        for part, name, old in self._old:
            saved[part.key][name] = old


def _texts(part: Part, name: str, old: Any, new: Any, kept: bool = False) -> list[str]:
    return [f"{part.name}: {text}" for text in parts.describe({name: (old, new)}, kept)]
