"""Launchers for sweeps that can be repeated: finished jobs are skipped, living ones waited for, the others submitted.

Hydra finds launchers in this package only. They are those of hydra-submitit-launcher but for three things: a sweep goes
on where it was, a job that fails says so to its scheduler, and waiting for the jobs is a choice.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from cairn import jobname
from cairn.checkpoint.catalog import Catalog
from cairn.cluster import slurm
from cairn.cluster.ledger import Entry, Ledger, Scheduler, states
from cairn.errors import CairnError
from cairn.rundir import RunDirectory

log = logging.getLogger(__name__)
jobname.register()  # also where a job is unpickled

_POLL_S = 2.0
_LATE_S = 20.0
"""A job that has ended may tell its result so much later, by way of a slow file system."""


class JobFailed(CompactHydraException):
    """One job of a sweep has failed; the others are not affected."""


@dataclass(frozen=True)
class _Job:
    number: int
    overrides: tuple[str, ...]
    run: RunDirectory

    def __str__(self) -> str:
        return f"#{self.number} {' '.join(filter_overrides(self.overrides)) or 'defaults'}"


class _Resumable(submitit_launcher.BaseSubmititLauncher):
    """What both launchers share.

    Args:
        wait: until the jobs have ended; False: return as soon as they are submitted.
        params: as the plugin has them.
    """

    def __init__(self, wait: bool = True, **params: Any) -> None:
        super().__init__(**params)
        self.wait = wait

    # In the job

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Run it. A failure is raised, or its scheduler would take it for a success."""
        result = super().__call__(*args, **kwargs)
        if result.status == JobStatus.FAILED:
            raise result._return_value
        return result

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """What submitit starts again: the same. From here on nobody may disturb the requeue, which sends signals."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        return super().checkpoint(*args, **kwargs)

    # Where they are submitted

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Have all jobs run that have not: one result for each, in their order."""
        assert self.config is not None
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        if not self.wait and "BasicSweeper" not in self.config.hydra.sweeper._target_:
            raise CompactHydraException("hydra.launcher.wait=false: this sweeper needs the results of its jobs.")
        jobs = [self._job(tuple(given), initial_job_idx + at) for at, given in enumerate(job_overrides)]
        ledger = Ledger(sweep)
        entries = ledger.newest()
        try:
            alive = states(entries.values())
        except slurm.SlurmError as error:
            raise CompactHydraException(f"Which jobs of this sweep are alive is not known: {error}.") from error
        log.info("Sweep: %s", sweep)
        todo = []
        for job in jobs:
            entry = entries.get(self._name(job, sweep))
            if _is_finished(job):
                log.info("  %s: finished before", job)
            elif entry is not None and entry.job in alive:
                log.info("  %s: %s as job %s", job, alive[entry.job].lower(), entry.job)
            else:
                todo.append(job)
        if todo:
            self._submit(todo, sweep, ledger)
        if not self.wait:
            log.info("To look at it: python -m cairn status %s", sweep)
            return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in jobs]
        try:
            return self._collect(jobs, sweep, ledger.newest())
        except KeyboardInterrupt:
            log.info("The jobs go on without this command, which goes on with them when it is given again.")
            raise

    def _job(self, overrides: tuple[str, ...], number: int) -> _Job:
        assert self.hydra_context is not None
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)  # the names of directories may ask for it
        try:
            return _Job(number, overrides, RunDirectory(Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir))
        finally:
            HydraConfig.instance().cfg = before

    @staticmethod
    def _name(job: _Job, sweep: Path) -> str:
        return os.path.relpath(job.run.path, sweep)

    def _submit(self, jobs: Sequence[_Job], sweep: Path, ledger: Ledger) -> None:
        sweep.mkdir(parents=True, exist_ok=True)
        state = Singleton.get_state()
        arguments = [(list(job.overrides), "hydra.sweep.dir", job.number, str(job.number), state) for job in jobs]
        submitted = self._executor(jobs).map_array(self, *zip(*arguments, strict=True))
        ids = [item.job_id for item in submitted]
        kind: Scheduler = "local" if self._EXECUTOR == "local" else "slurm"
        ledger.add(Entry(self._name(job, sweep), kind, number) for job, number in zip(jobs, ids, strict=True))
        for job, number in zip(jobs, ids, strict=True):
            log.info("  %s: submitted as job %s", job, number)

    def _executor(self, jobs: Sequence[_Job]) -> Any:
        import submitit  # it takes a while

        params = self._parameters(jobs)
        more = {f"{self._EXECUTOR}_max_num_timeout": params.pop("max_num_timeout", 0)}
        executor = submitit.AutoExecutor(folder=params.pop("submitit_folder"), cluster=self._EXECUTOR, **more)
        shared = set(BaseQueueConf.__dataclass_fields__)
        executor.update_parameters(
            **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in params.items()}
        )
        return executor

    def _parameters(self, jobs: Sequence[_Job]) -> dict[str, Any]:
        """What the configuration says, and that the jobs import the clone that they are submitted from."""
        exports = [f"export {name}={shlex.quote(os.environ[name])}" for name in ("PYTHONPATH", "PROJECT_ROOT")]
        return {**self.params, "setup": [*exports, *(self.params.get("setup") or [])]}

    def _collect(self, jobs: Sequence[_Job], sweep: Path, entries: Mapping[str, Entry]) -> list[JobReturn]:
        """Wait for all of them; what became of each is told when it is known."""
        waiting = {job.number: entries.get(self._name(job, sweep)) for job in jobs}
        found: dict[int, JobReturn] = {}
        gone: dict[int, float] = {}
        while len(found) < len(jobs):
            alive = _alive([entry for number, entry in waiting.items() if entry and number not in found])
            for job in (job for job in jobs if job.number not in found):
                entry = waiting[job.number]
                is_over = entry is None or (alive is not None and entry.job not in alive)
                late = is_over and time.monotonic() - gone.setdefault(job.number, time.monotonic()) > _LATE_S
                if (result := self._result(job, entry, final=late or entry is None, over=is_over)) is not None:
                    found[job.number] = result
                elif not is_over:
                    gone.pop(job.number, None)
            if len(found) < len(jobs):
                time.sleep(_POLL_S)
        failed = [job for job in jobs if found[job.number].status == JobStatus.FAILED]
        log.info("Sweep: %d of %d jobs are finished. %s", len(jobs) - len(failed), len(jobs), sweep)
        return [found[job.number] for job in jobs]

    def _result(self, job: _Job, entry: Entry | None, final: bool, over: bool) -> JobReturn | None:
        """What became of a job; None if that is not known yet."""
        record = job.run.record()
        if record is not None and record.status == "finished" and over:
            log.info("  %s: finished", job)
            return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=record.result)
        if record is not None and record.status == "failed" and over:
            return self._failed(job, entry, record.why)
        if final:
            why = f"{record.status} {record.why}".strip() if record else "it never began"
            return self._failed(job, entry, f"it has ended without a result ({why})")
        return None

    def _failed(self, job: _Job, entry: Entry | None, why: str) -> JobReturn:
        text = f"{job} failed: {why}. See {self._log_of(job, entry)}"
        log.error("  %s", text)
        return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=JobFailed(text))

    def _log_of(self, job: _Job, entry: Entry | None) -> Path:
        """The run's own log; if it has come to none, what the scheduler has of it."""
        own = job.run.path / "train.log"
        if entry is None or (own.is_file() and own.stat().st_size):
            return own
        from submitit.core.utils import JobPaths

        return Path(JobPaths(self.params["submitit_folder"], entry.job, 0).stdout)


def _is_finished(job: _Job) -> bool:
    record = job.run.record()
    return record is not None and record.status == "finished"


def _alive(entries: Sequence[Entry]) -> Mapping[str, str] | None:
    """None if nobody can tell at the moment."""
    try:
        return states(entries)
    except slurm.SlurmError as error:
        log.warning("%s; it is asked again.", error)
        return None


class LocalLauncher(_Resumable, submitit_launcher.LocalLauncher):
    """Jobs are processes of this machine, all at once."""


class SlurmLauncher(_Resumable, submitit_launcher.SlurmLauncher):
    """Jobs are an array of SLURM."""

    def _parameters(self, jobs: Sequence[_Job]) -> dict[str, Any]:
        params = super()._parameters(jobs)
        needed = int(max((2 * _save_s(job.run) for job in jobs), default=0) + 60)
        if needed > params["signal_delay_s"]:
            log.info("A save takes long here: SLURM's signal comes %d s before the time limit.", needed)
            params["signal_delay_s"] = needed
        return params


def _save_s(run: RunDirectory) -> float:
    """What the newest save of a run took, in seconds; 0 if there is none."""
    try:
        saved = Catalog(run.checkpoints()).committed() if run.record() else []
    except CairnError:
        return 0.0
    return saved[-1].stall_s + saved[-1].write_s if saved else 0.0
