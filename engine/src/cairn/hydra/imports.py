"""Makes the import of torch and Lightning cheaper, which is most of a start: a quarter of it serves nobody here."""

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
    """A context for the first import of all that a run needs; does nothing after that, as in the next job of a sweep.

    No garbage is looked for meanwhile, as there is next to none, nor ever again among what was imported, which stays.
    And torchmetrics does not load half of SciPy for an alias that another package once needed.
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
    """Stands in for scipy.signal with the alias that torchmetrics looks for; asked for more, it makes way for it.

    Only `from scipy.signal import *` gets nothing, should a module do so while it is first imported.
    """

    hamming = None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # `find_spec` wants one of every module that is there

    def leave(self) -> None:
        """Whoever imports scipy.signal from now on gets the real one."""
        if sys.modules.get(_SIGNAL) is self:
            del sys.modules[_SIGNAL]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` asks all modules for such
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(_SIGNAL), name)
