"""The sweepers, under the name that Hydra demands. `cairn.hydra.search.searching` holds what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from cairn.hydra.search.searching import Searching


class Halving(Sweeper):
    """Runs a search by successive halving or Hyperband.

    Args:
        **given: Keys of `hydra.sweeper`.
    """

    kind: Literal["halving", "optuna"] = "halving"

    def __init__(self, **given: Any) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher = None
        self._given = given
        self._searching: Searching | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepare the search; see `Searching`."""
        from cairn.hydra.search.searching import Searching  # not in each Hydra application of this environment

        self.hydra_context, self.config = hydra_context, config
        self._searching = Searching(self.kind, self._given, hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search; see `Searching.run`."""
        assert self._searching is not None
        return self._searching.run()  # it has read the same overrides


class Optuna(Halving):
    """Runs a search whose trials all train to their end."""

    kind = "optuna"


def register(plugins: Plugins) -> None:
    """Make the sweepers known to Hydra."""
    for sweeper in (Halving, Optuna):
        plugins.register(sweeper)
