"""The launchers of sweeps, under the name that Hydra demands. `cairn.hydra.sweep.launcher` holds what they share."""

import logging
import math
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cairn.errors import first_line
from cairn.hydra.sweep import launcher, parallel
from cairn.hydra.sweep.sweep_job import SweepJob
from cairn.run.ledger import SubmittedJob, states

log = logging.getLogger(__name__)


class LocalLauncher(launcher.Resumable, submitit_launcher.LocalLauncher):
    """Runs the jobs as processes of this machine, some at a time."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See `Resumable.launch`. SIGTERM does what Ctrl-C does: it stops the jobs, each with a checkpoint."""
        before = signal.signal(signal.SIGTERM, _leave)
        try:
            return super().launch(job_overrides, initial_job_idx)
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ids(self, jobs: Sequence[SweepJob], arguments: Sequence[tuple[Any, ...]]) -> list[str]:
        if self.params["tasks_per_node"] != 1:
            raise CompactHydraException(
                "hydra.launcher.tasks_per_node must be 1 for submitit_local: Lightning starts the other processes."
            )
        given, gpus_per_job = self.params.get("array_parallelism"), self.params.get("gpus_per_node")
        chosen = parallel.choose(given, gpus_per_job, parallel.gpus(), parallel.num_cores())
        log.info("%s", chosen)
        submit, folder = super()._ids, parallel.place_of_locks(self._slots())

        def submit_waiting() -> list[str]:
            parallel.let_jobs_wait(folder, chosen)
            return submit(jobs, arguments)

        return launcher.in_own_session(submit_waiting)

    def _parameters(self) -> dict[str, Any]:
        """Leave out what submitit does not know."""
        return {name: value for name, value in self.params.items() if name != "array_parallelism"}

    def _slots(self) -> Path:
        assert self.config is not None
        return Path(self.config.hydra.sweep.dir).absolute() / ".submitit" / "slots"

    def _interrupted(self, jobs: Sequence[SweepJob], sweep: Path, entries: Mapping[str, SubmittedJob]) -> None:
        """Stop the jobs: submitit's watcher of each job passes the signal on."""
        log.info("Stopping the jobs, each with a checkpoint. The same command resumes them.")
        found = [entries.get(job.name_in(sweep)) for job in jobs]
        alive = states([entry for entry in found if entry is not None and entry.scheduler == "local"])
        for job in reversed([*alive]):  # those that wait first: the end of another one would start them
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGTERM)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


class SlurmLauncher(launcher.Resumable, submitit_launcher.SlurmLauncher):
    """Runs the jobs as a SLURM job array."""

    def __init__(self, **params: Any) -> None:
        try:
            OmegaConf.merge(OmegaConf.structured(SlurmConf), params)  # for the types of the values
        except OmegaConfBaseException as error:
            raise CompactHydraException(f"hydra.launcher.{error.full_key or ''}: {first_line(error)}.") from error
        super().__init__(**params)

    def _parameters(self) -> dict[str, Any]:
        """Let the jobs import the clone that submits them, and ask for the signal early enough for a save."""
        exports = [f"export {name}={shlex.quote(os.environ[name])}" for name in ("PYTHONPATH", "PROJECT_ROOT")]
        setup = [*exports, *(self.params["setup"] or [])]
        return {**super()._parameters(), "setup": setup, "signal_delay_s": self._signal_delay_s()}

    def _signal_delay_s(self) -> int:
        delay_s, needed_s = self.params["signal_delay_s"], math.ceil(3 * self.save_s)
        if needed_s > delay_s:
            log.info("Saves are slow in this sweep: SLURM sends its signal %d s before the time limit.", needed_s)
            delay_s = needed_s
        if delay_s > (half_s := 60 * self.params["timeout_min"] // 2):  # else the job would stop before it has trained
            log.warning(
                "The time limit of %s min is short: SLURM sends its signal %d s before it instead of %d s. "
                "Raise hydra.launcher.timeout_min.",
                *(self.params["timeout_min"], half_s, delay_s),
            )
            delay_s = half_s
        return int(delay_s)


# The keys and types of hydra-submitit-launcher, and one more. (Hydra executes this file before it is in sys.modules, so
# that annotations must not be strings.)


@dataclass
class LocalConf(LocalQueueConf):
    """Settings of `hydra/launcher=submitit_local`."""

    _target_: str = f"{__name__}.LocalLauncher"
    wait: bool = True
    timeout_min: int = (
        7 * 24 * 60
    )  # of one attempt: 30 s before it, the job is asked to save and stop, and is restarted
    max_num_timeout: int = 100  # never reached: submitit gives up after 6 attempts; the same command resumes the job
    stderr_to_stdout: bool = True
    array_parallelism: int | None = None  # jobs that run at the same time; null: one per GPU, else one per core


@dataclass
class SlurmConf(SlurmQueueConf):
    """Settings of `hydra/launcher=submitit_slurm`; configs/hydra/launcher/slurm.yaml has those of a cluster."""

    _target_: str = f"{__name__}.SlurmLauncher"
    wait: bool = True


def register(plugins: Plugins) -> None:
    """Make `submitit_local` and `submitit_slurm`, names of hydra-submitit-launcher, mean these launchers."""
    for launcher_class in (LocalLauncher, SlurmLauncher):
        plugins.register(launcher_class)
    for name, conf in (("submitit_local", LocalConf), ("submitit_slurm", SlurmConf)):
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="cairn")
