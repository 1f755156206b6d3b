"""A dataset in a loader behaves like the one of the user inside of it: attributes are read and set there."""

from __future__ import annotations

from typing import Any


class Wrapped:
    """Reads and sets attributes of the object in `wrapped`, except for its own ones."""

    _OWN: frozenset[str]
    """Names of its own attributes."""
    wrapped: Any

    def __getattr__(self, name: str) -> Any:
        # Unpickling looks up special names before `wrapped` exists: passing those on would recurse without end.
        if name == "wrapped" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.wrapped, name, value)

    @property
    def dataset(self) -> Any:
        """The dataset that a `Subset` and the like wrap; of another one, the dataset itself."""
        return getattr(self.wrapped, "dataset", self.wrapped)
