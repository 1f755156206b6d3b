"""Hooks of a callback that do nothing, hidden from Lightning.

Lightning calls six hooks of each callback for every training batch, and profiles each call, which takes 5 us even if
the hook is empty. It skips a hook that is not callable.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback

_OF_A_BATCH = ("_batch_start", "_batch_end", "_before_zero_grad", "_before_backward", "_after_backward")
"""Ends of the names of the hooks that are called for each batch."""
PER_BATCH = tuple(name for name in dir(Callback) if name.startswith("on_") and name.endswith(_OF_A_BATCH))


def hide(callback: Callback, names: Iterable[str] = PER_BATCH, base: type = Callback) -> None:
    """Hide hooks from Lightning that a callback has from `base`; the class keeps them, for `super()`.

    Args:
        callback: One of ours, or of a class that derives from it.
        names: Names of the hooks.
        base: Class whose hooks do nothing.
    """
    for name in names:
        if getattr(type(callback), name) is getattr(base, name):
            vars(callback).setdefault(name, None)  # the user may have set one on the object
