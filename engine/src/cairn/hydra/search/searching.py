"""A search from its command to its table: what `hydra/sweeper=halving` and `optuna` do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cairn.errors import CairnError, named
from cairn.hydra.search import losers, parsing, place, results, settings
from cairn.hydra.search.jobs import Jobs
from cairn.run import summary, terminal
from cairn.search import sampler, state
from cairn.search.driver import Driver
from cairn.search.journal import Journal
from cairn.search.space import Space
from cairn.search.state import Search

log = logging.getLogger(__name__)


class Searching:
    """A search of one command.

    Args:
        sweeper: `halving`, or `optuna`: one rung.
        given: Keys of `hydra.sweeper`.
        context: Hydra's.
        task_function: The function that a job calls.
        config: Configuration of the sweep; its directory becomes that of an earlier command, if that was killed.

    Raises:
        CompactHydraException: This command cannot be searched with.
    """

    def __init__(
        self,
        sweeper: Literal["halving", "optuna"],
        given: Mapping[str, Any],
        context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        with _explained():
            self._settings = settings.parse(sweeper, given)
            task = [str(item) for item in config.hydra.overrides.task]
            self._space, self._shared = parsing.parse(self._settings.params, task, context.config_loader)
            self._new = settings.search(self._settings, config, self._space, place.command(config))
            self._lock = place.choose(config)
        self._context, self._config = context, config
        # After the directory is chosen: launchers read it.
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

    def run(self) -> Search:
        """Search until the end, and print the result.

        Returns:
            The finished search.

        Raises:
            CompactHydraException: A key is invalid, or no trial has a score.
        """
        with _explained():
            try:
                return self._run()
            finally:
                self._lock.close()

    def _run(self) -> Search:
        directory = Path(str(self._config.hydra.sweep.dir)).absolute()
        search = place.known(directory, self._new)
        # Samplers draw the parameters in their order; the overrides of a repeated command may have another one.
        self._space = Space({key: self._space.parameters[key] for key in search.parameters})
        if search.state == "running":
            log.info("Search: %s", summary.relative(directory))
            log.info("%s", _plan(search, self._settings.num_trials))
            losers.warn_of_mirror(self._settings.losers, self._config.get("checkpoint") or {})
            journal = Journal(directory, self._space)

            def save(now: Search) -> None:
                state.write(directory, now)
                journal.follow(now)

            try:
                search = self._driver(search, save).run()
                results.write(directory, search)
                self._show(directory, search)
                save(search)  # last: until then, the same command shows the results, and does not begin another search
            except (KeyboardInterrupt, SystemExit):
                log.info("The search is interrupted: the same command goes on with it.")
                raise
        else:
            log.info("This search is finished: %s", summary.relative(directory))
            self._show(directory, search)
        if results.best(search) is None:
            errors = [trial.error for trial in search.trials if trial.error]
            raise CompactHydraException(
                f"No trial has a score. {errors[0].rstrip('.') if errors else 'None of them is a finite number'}."
            )
        return search

    def _driver(self, search: Search, save: Callable[[Search], None]) -> Driver:
        config, given, space, launcher = self._config, self._settings, self._space, self._config.hydra.launcher
        jobs = Jobs(self._launcher, self._context, config, space, self._shared, given.losers, search.trials)
        jobs.check()
        place.save_config(config, is_begun=bool(search.trials))
        num_parallel = settings.num_parallel(given, launcher, search.num_trials)
        together = 1 if settings.is_sequential(launcher) else None
        return Driver(search, lambda now: sampler.ask(space, now), jobs, save, num_parallel, together)

    def _show(self, directory: Path, search: Search) -> None:
        results.show(directory, search, self._space, self._shared, terminal.console())


def _plan(search: Search, asked: int | None) -> str:
    less = f" (there are no more than {search.num_trials} different ones)" if asked != search.num_trials else ""
    where = "to the end" if len(search.rungs) == 1 else f"by {search.schedule}, eta={search.eta}, stops: "
    stops = "" if len(search.rungs) == 1 else ", ".join(search.rungs)
    return f"{search.num_trials} trials{less} {where}{stops}; {search.sampler}, {search.mode} {search.metric}"


@contextmanager
def _explained() -> Iterator[None]:
    """Raise errors for users as Hydra prints them, with the keys of the configuration."""
    try:
        yield
    except CairnError as error:
        raise CompactHydraException(named(error, f"hydra.sweeper.{error.parameter}")) from error
