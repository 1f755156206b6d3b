"""Launch sweeps that can be repeated: skip finished jobs, wait for running jobs, and submit the others.

The rest is hydra-submitit-launcher, with two differences: a failed job also fails for its scheduler, and waiting for
the jobs is optional. `plugins/hydra_plugins/resumable_submitit.py` defines the launchers that Hydra finds.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import open_dict

from cairn.errors import ResumeError
from cairn.hydra.sweep import job_name, plugins
from cairn.hydra.sweep.outcomes import Outcomes, success
from cairn.hydra.sweep.sweep_job import Division, SweepJob
from cairn.jobs import slurm
from cairn.run.directory import RunDirectory
from cairn.run.ledger import Ledger, Scheduler, SubmittedJob, states

log = logging.getLogger(__name__)
job_name.register()  # also in a job, when this module is unpickled


class Resumable(submitit_launcher.BaseSubmititLauncher):
    """Base class of the launchers for SLURM and for local jobs.

    Args:
        wait: Wait until the jobs have ended; False: return as soon as they are submitted.
        **params: Settings of hydra-submitit-launcher.
    """

    def __init__(self, wait: bool = True, **params: Any) -> None:
        super().__init__(**params)
        self.wait = wait
        self.save_s = 0.0
        """The longest known duration of a save in this sweep."""

    def __call__(self, *args: Any) -> JobReturn:
        """Run the job, in the process that the scheduler has started.

        Args:
            *args: Arguments that `launch` has passed to submitit.

        Returns:
            The result.

        Raises:
            Exception: The job failed. Without an exception, the scheduler would count it as a success.
        """
        _remove_unfinished(_own_paths().result_pickle)
        *rest, state = args
        # Restoring a state without `Plugins` makes Hydra scan for plugins, which redefines submitit_local.
        Singleton.set_state(state)
        plugins.register()
        result = super().__call__(*rest, {**state, "instances": Singleton._instances})
        if result.status == JobStatus.FAILED:
            raise result._return_value
        return result

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Return the call that submitit repeats in the requeued job."""
        # A requeue sends these signals to the job. A watchdog calls this in its thread, which may not set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
        _remove_unfinished(_own_paths().submitted_pickle)
        return super().checkpoint(*args, **kwargs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs that are neither finished nor running, and wait for all of them.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first job.

        Returns:
            The results, in the order of the jobs.

        Raises:
            CompactHydraException: The scheduler does not answer, or the sweeper needs results and `wait` is False.
        """
        assert self.config is not None
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        if not self.wait and "BasicSweeper" not in self.config.hydra.sweeper._target_:
            raise CompactHydraException("hydra.launcher.wait=false: this sweeper needs the results. Set wait=true.")
        shared = set.intersection(*map(set, job_overrides))
        jobs = [self._job(tuple(given), initial_job_idx + at, shared) for at, given in enumerate(job_overrides)]
        log.info("Sweep: %s", sweep)
        finished = self._submit_missing(jobs, sweep)
        if not self.wait:
            log.info("Status of the jobs: cairn status %s", sweep)
            return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in jobs]
        entries = Ledger(sweep).newest()
        waiting = {job: entries.get(job.name_in(sweep)) for job in jobs if job not in finished}
        try:
            found = Outcomes(self.params["submitit_folder"]).collect(waiting)
        except (KeyboardInterrupt, SystemExit):
            self._interrupted(jobs, sweep, entries)
            raise
        found |= {job.number: success(job) for job in finished}
        num_failed = sum(result.status == JobStatus.FAILED for result in found.values())
        num_done = len(jobs) - num_failed
        log.info("Sweep: %d of %d jobs are finished, %d failed. %s", num_done, len(jobs), num_failed, sweep)
        return [found[job.number] for job in jobs]

    def _submit_missing(self, jobs: Sequence[SweepJob], sweep: Path) -> list[SweepJob]:
        """Submit the jobs that are neither finished nor alive; return those that are finished."""
        ledger = Ledger(sweep)
        try:
            entries = ledger.newest()
            alive = states(entries.values())
        except ResumeError as error:
            raise CompactHydraException(str(error)) from error
        except slurm.SlurmError as error:
            raise CompactHydraException(f"Could not find out which jobs of this sweep are running: {error}.") from error
        divided = Division.of(jobs, sweep, entries, alive)
        if divided.missing:
            self.save_s = max(job.save_s for job in jobs)
            self._submit(divided.missing, sweep, ledger)
        return divided.finished

    def _job(self, overrides: tuple[str, ...], number: int, shared: set[str]) -> SweepJob:
        assert self.hydra_context is not None
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.num = cfg.hydra.job.id = number
        before = HydraConfig.instance().cfg
        # The configured names of directories may interpolate Hydra's own configuration.
        HydraConfig.instance().set_config(cfg)
        try:
            run = RunDirectory(Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir)
            special = [override for override in filter_overrides(overrides) if override not in shared]
            return SweepJob(number, overrides, run, " ".join(special))
        finally:
            HydraConfig.instance().cfg = before

    def _submit(self, jobs: Sequence[SweepJob], sweep: Path, ledger: Ledger) -> None:
        sweep.mkdir(parents=True, exist_ok=True)
        state = Singleton.get_state()
        arguments = [(list(job.overrides), "hydra.sweep.dir", job.number, str(job.number), state) for job in jobs]
        ids = self._ids(jobs, arguments)
        kind: Scheduler = "local" if self._EXECUTOR == "local" else "slurm"
        folder = str(Path(self.params["submitit_folder"]).expanduser().absolute())
        ledger.add(
            SubmittedJob(job.name_in(sweep), kind, number, folder) for job, number in zip(jobs, ids, strict=True)
        )
        for job, number in zip(jobs, ids, strict=True):
            log.info("  %s: submitted as job %s", job, number)

    def _ids(self, jobs: Sequence[SweepJob], arguments: Sequence[tuple[Any, ...]]) -> list[str]:
        """Submit the jobs, and return their ids."""
        return [item.job_id for item in self._executor().map_array(self, *zip(*arguments, strict=True))]

    def _interrupted(self, jobs: Sequence[SweepJob], sweep: Path, entries: Mapping[str, SubmittedJob]) -> None:
        """Handle Ctrl-C, or a signal that the launcher catches, during the wait for the jobs."""
        log.info("The jobs continue without this command. Run it again to wait for them.")

    def _executor(self) -> Any:
        import submitit  # slow to import

        params = self._parameters()
        more = {f"{self._EXECUTOR}_max_num_timeout": params.pop("max_num_timeout", 0)}
        executor = submitit.AutoExecutor(folder=params.pop("submitit_folder"), cluster=self._EXECUTOR, **more)
        shared = set(BaseQueueConf.__dataclass_fields__)
        executor.update_parameters(
            **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in params.items()}
        )
        return executor

    def _parameters(self) -> dict[str, Any]:
        """Return the settings of a submission."""
        return dict(self.params)


def _own_paths() -> Any:
    """Return submitit's files for the job of this process."""
    import submitit

    return submitit.JobEnvironment().paths


def _remove_unfinished(path: Path) -> None:
    """Remove the temporary file that a killed process has left: submitit does not write while it exists."""
    path.with_suffix(f"{path.suffix}.save_tmp").unlink(missing_ok=True)


def in_own_session(action: Callable[[], list[str]]) -> list[str]:
    """Run `action` in a child process outside of this terminal, so that processes it starts survive Ctrl-C.

    Args:
        action: Returns words without spaces.

    Returns:
        The words.

    Raises:
        CompactHydraException: The action failed. Its traceback has been printed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.write(writing, "\n".join(action()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with open(reading) as answer:
        found = answer.read().split()
    if os.waitpid(child, 0)[1] != 0:
        raise CompactHydraException("Could not submit the jobs: see the error above.")
    return found
