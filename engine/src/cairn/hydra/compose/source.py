"""The files that a command composes its configuration from, and what they say about the runs of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from cairn.errors import ResumeError, first_line
from cairn.hydra.command.arguments import Arguments
from cairn.hydra.command.overrides import key
from cairn.hydra.compose import loader, stored
from cairn.run.directory import below


@dataclass(frozen=True)
class Source:
    """The files that a command composes its configuration from."""

    configs: Path
    name: str = "train"
    more: Path | None = None
    """Directory that `--config-dir` adds."""

    @classmethod
    def of(cls, given: Arguments, configs: Path, name: str, root: Path) -> Source:
        """Return the files that the flags of a command name.

        Args:
            given: The command.
            configs: Directory of the project's configuration.
            name: Name of the project's primary file.
            root: Directory of train.py, from which Hydra reads `--config-path`.
        """
        path, more = given.value("--config-path"), given.value("--config-dir")
        configs = root / path if path else configs
        return cls(configs, given.value("--config-name") or name, Path(more).absolute() if more else None)

    def task(self, given: Sequence[str]) -> tuple[Path, str]:
        """Return the directory of all runs and the task name that result from these overrides.

        Raises:
            ResumeError: The files do not compose, and the records of the runs do not name exactly one task.
        """
        try:
            cfg = self.compose(given)
        except Exception as error:  # the run itself may still be intact, and know its task
            return self._task_of_records(given, first_line(error))
        return Path(cfg.paths.log_dir), str(cfg.task_name)

    def logs(self, given: Sequence[str]) -> Path:
        """Return the directory of all runs that results from these overrides, also if the files do not compose."""
        try:
            cfg = self.compose(given)
        except Exception:  # the run itself may still be intact
            _, cfg = self._directories(given)
        return Path(cfg.paths.log_dir)

    def compose(self, given: Sequence[str], packaged: bool = False) -> DictConfig:
        """Compose a configuration without Hydra's own part.

        Args:
            given: Overrides.
            packaged: Use only the files of the library, which know the directories of runs.
        """
        return self.compose_with_choices(given, packaged)[0]

    def compose_with_choices(
        self, given: Sequence[str], packaged: bool = False
    ) -> tuple[DictConfig, Mapping[str, str | None]]:
        """Compose as `compose`, and return the chosen option of each group as well."""
        from hydra import initialize_config_dir
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.config_search_path import SearchPathQuery
        from hydra.core.global_hydra import GlobalHydra

        with initialize_config_dir(str(self.configs.absolute()), version_base="1.3"):
            path = GlobalHydra.instance().config_loader().get_search_path()
            if self.more is not None:
                path.prepend("command-line", f"file://{self.more}", anchor=SearchPathQuery(provider="schema"))
            hydra = ConfigLoaderImpl(path)
            if packaged:
                cfg = stored.packaged(hydra, given)
            else:
                cfg = hydra.load_configuration(self.name, list(given), RunMode.RUN)
        choices = dict(cfg.hydra.runtime.choices) if "hydra" in cfg else {}
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg, choices

    def _directories(self, given: Sequence[str]) -> tuple[list[str], DictConfig]:
        """Return the overrides that are about directories and the task, and a configuration with only these."""
        values = [item for item in given if key(item).startswith("paths.") or key(item) == "task_name"]
        try:
            return values, self.compose(values)
        except Exception:
            return values, self.compose(values, packaged=True)

    def _task_of_records(self, given: Sequence[str], why: str) -> tuple[Path, str]:
        """Return the task of the runs that have recorded the options among these overrides."""
        values, cfg = self._directories(given)
        logs = Path(cfg.paths.log_dir)
        if any(key(item) == "task_name" for item in values):
            return logs, str(cfg.task_name)
        records = [record for run in below(logs) if (record := loader.record_in(run.path)) is not None]
        known = {item for record in records for item in record.overrides}
        options = {
            item
            for item in given
            if "." not in key(item)
            and isinstance(cfg.get(key(item)), DictConfig | None)
            # A value of a key that is not known here may be new; an option of a group never is.
            and (item in known or (self.configs / key(item)).is_dir())
        }
        tasks = {record.task_name for record in records if options <= set(record.overrides)}
        if len(tasks) == 1:
            return logs, tasks.pop()
        found = f"the runs in {logs} have the tasks {', '.join(sorted(tasks))}" if tasks else f"{logs} has no such run"
        raise ResumeError(
            f"resume= cannot find out the task, because configs/ does not compose ({why}), and {found}. "
            f"Name the run directory, or set task_name=NAME."
        )
