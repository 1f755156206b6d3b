"""The launchers of sweeps, where Hydra looks for them. `cairn.hydra.launcher` holds what they share."""

import logging
import math
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

from cairn.hydra import launcher
from cairn.runs.ledger import Entry, states

log = logging.getLogger(__name__)


class LocalLauncher(launcher.Resumable, submitit_launcher.LocalLauncher):
    """Jobs are processes of this machine, all at once."""

    def _ids(self, jobs: Sequence[launcher.Job], arguments: Sequence[tuple[Any, ...]]) -> list[str]:
        if self.params["tasks_per_node"] != 1:
            raise CompactHydraException(
                "hydra.launcher.tasks_per_node: here Lightning starts the others: leave it at 1."
            )
        submit = super()._ids
        return launcher.in_own_session(lambda: submit(jobs, arguments))

    def _interrupted(self, jobs: Sequence[launcher.Job], sweep: Path, entries: Mapping[str, Entry]) -> None:
        """Nobody else would stop them. Who watches over a job hands the signal on."""
        log.info("The jobs are stopped, each with a checkpoint. The same command goes on with them.")
        found = [entries.get(self._name(job, sweep)) for job in jobs]
        for job in states([entry for entry in found if entry is not None and entry.scheduler == "local"]):
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGTERM)


class SlurmLauncher(launcher.Resumable, submitit_launcher.SlurmLauncher):
    """Jobs are an array of SLURM."""

    def _parameters(self) -> dict[str, Any]:
        """The jobs import the clone that they are submitted from, and are asked to stop early enough for a save."""
        exports = [f"export {name}={shlex.quote(os.environ[name])}" for name in ("PYTHONPATH", "PROJECT_ROOT")]
        setup = [*exports, *(self.params["setup"] or [])]
        return {**super()._parameters(), "setup": setup, "signal_delay_s": self._signal_delay_s()}

    def _signal_delay_s(self) -> int:
        delay_s, needed_s = self.params["signal_delay_s"], math.ceil(3 * self.save_s)
        if needed_s > delay_s:
            log.info("Saves take long here: SLURM's signal comes %d s before the time limit.", needed_s)
            delay_s = needed_s
        if delay_s > (half_s := 60 * self.params["timeout_min"] // 2):  # else a job would end before it has trained
            log.warning(
                "The time limit of %s min is short: SLURM's signal comes %d s before it and not %d s. More is better: "
                "hydra.launcher.timeout_min=...",
                *(self.params["timeout_min"], half_s, delay_s),
            )
            delay_s = half_s
        return int(delay_s)


# The plugin's keys and types, and one more. (Hydra reads this file without registering it as a module, so that its
# annotations must not be strings.)


@dataclass
class LocalConf(LocalQueueConf):
    """`hydra/launcher=submitit_local`."""

    _target_: str = f"{__name__}.LocalLauncher"
    wait: bool = True
    timeout_min: int = 7 * 24 * 60  # of one start: 30 s before it a job is asked to stop, saved, and started again
    max_num_timeout: int = 100  # never reached: after 6 starts submitit leaves it stopped, and the same command goes on
    stderr_to_stdout: bool = True


@dataclass
class SlurmConf(SlurmQueueConf):
    """`hydra/launcher=submitit_slurm`; configs/hydra/launcher/slurm.yaml has the settings."""

    _target_: str = f"{__name__}.SlurmLauncher"
    wait: bool = True


def register() -> None:
    """Let the plugin's own names mean these as well: `hydra/launcher=submitit_local`, `submitit_slurm`.

    After all plugins are found, since the other one gives these names to its own.
    """
    Plugins.instance()
    _store("submitit_local", LocalConf)
    _store("submitit_slurm", SlurmConf)


def _store(name: str, conf: type) -> None:
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="resumable_submitit")


_store("resumable_local", LocalConf)
_store("resumable_slurm", SlurmConf)
