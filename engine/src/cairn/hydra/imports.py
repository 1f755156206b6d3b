"""Shortens the import of torch and Lightning, which is most of a start, by a quarter.

For the entry of a process only: it changes `sys.modules` and the garbage collector.
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
    """Context for the first import of everything that a run needs. It does nothing once torch is imported.

    The garbage collector is off during the imports, and ignores what was imported from then on. torchmetrics looks for
    one name in scipy.signal, and does not have to load half of SciPy for it.
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
    """Takes the place of scipy.signal with the name that torchmetrics looks for; any other name loads the real module.

    The exception is `from scipy.signal import *` during these first imports, which finds nothing.
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
        if name.startswith("__") and name != "__path__":  # `inspect` asks every module for some
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(_SIGNAL), name)
