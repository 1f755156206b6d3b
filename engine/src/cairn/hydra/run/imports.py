"""Import torch and Lightning in three quarters of the usual time; these imports take most of a start.

Use it only in the main module of a process: it changes `sys.modules` and the garbage collector.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SIGNAL = "scipy.signal"


@contextmanager
def quick() -> Iterator[None]:
    """Context for the first import of everything that a run needs. Does nothing if torch is already imported.

    The garbage collector is off during the imports, and afterwards ignores the objects that they have created.
    torchmetrics looks up one name in scipy.signal; a placeholder for that module avoids loading half of SciPy.
    """
    if "torch" in sys.modules:
        yield
        return
    collects = gc.isenabled()
    gc.disable()
    stands_in = _Signal(_SIGNAL)
    sys.modules.setdefault(_SIGNAL, stands_in)
    try:
        yield
    finally:
        stands_in.leave()
        gc.freeze()
        if collects:
            gc.enable()


class _Signal(ModuleType):
    """Placeholder for scipy.signal with the name that torchmetrics looks up. Any other name loads the real module.

    One case does not work: `from scipy.signal import *` during these first imports imports nothing.
    """

    hamming = None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # `find_spec` expects one on every loaded module

    def leave(self) -> None:
        """Let the next import of scipy.signal load the real module."""
        if sys.modules.get(_SIGNAL) is self:
            del sys.modules[_SIGNAL]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` looks up such names on every module
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(_SIGNAL), name)
