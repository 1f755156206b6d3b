"""Launches sweeps that can be repeated: finished jobs are skipped, living ones waited for, the others submitted.

Otherwise as hydra-submitit-launcher does, but that a job which fails says so to its scheduler, and that waiting for the
jobs is a choice. `hydra_plugins/resumable_submitit.py` makes it known to Hydra.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import open_dict

from cairn.errors import CairnError, first_line
from cairn.hydra import job_name
from cairn.jobs import slurm
from cairn.runs import attempts
from cairn.runs.directory import Record, RunDirectory
from cairn.runs.ledger import Entry, Ledger, Scheduler, states
from cairn.store.catalog import Catalog

log = logging.getLogger(__name__)
job_name.register()  # also where a job is unpickled

_POLL_S, _SLOWEST_POLL_S = 2.0, 30.0
_LATE_S = 20.0
"""A job that has ended may tell its result so much later, by way of a slow file system."""


class JobFailed(CompactHydraException):
    """One job of a sweep has failed; the others are not affected."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    number: int
    overrides: tuple[str, ...]
    run: RunDirectory
    special: str
    """What tells it from the others."""

    def __str__(self) -> str:
        return f"#{self.number} {self.special}".strip()

    @property
    def record(self) -> Record | None:
        """Of its run; None if there is none, or it is damaged, which the run itself refuses when it is started."""
        try:
            return self.run.record()
        except CairnError as error:
            log.warning("%s", error)
            return None

    @property
    def is_finished(self) -> bool:
        """Has its run come to its end?"""
        record = self.record
        return record is not None and record.status == "finished"

    @property
    def save_s(self) -> float:
        """What its newest save has taken until it was whole, in seconds; 0 if there is none."""
        try:
            saved = Catalog(self.run.checkpoints()).committed() if self.run.record() else []
        except CairnError:
            return 0.0
        return saved[-1].stall_s + saved[-1].write_s if saved else 0.0


class Resumable(submitit_launcher.BaseSubmititLauncher):
    """What both launchers share.

    Args:
        wait: until the jobs have ended; False: return as soon as they are submitted.
        params: as the plugin has them.
    """

    def __init__(self, wait: bool = True, **params: Any) -> None:
        super().__init__(**params)
        self.wait = wait
        self.save_s = 0.0
        """What a save takes at most in this sweep, as far as it is known."""

    # In the job

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Run it. A failure is raised, or its scheduler would take it for a success."""
        _remove_unfinished(_own_paths().result_pickle)
        result = super().__call__(*args, **kwargs)
        if result.status == JobStatus.FAILED:
            raise result._return_value
        return result

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """What submitit starts again: the same. From here on nobody may disturb the requeue, which sends signals."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        _remove_unfinished(_own_paths().submitted_pickle)
        return super().checkpoint(*args, **kwargs)

    # Where they are submitted

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Have all jobs run that have not: one result for each, in their order."""
        assert self.config is not None
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        if not self.wait and "BasicSweeper" not in self.config.hydra.sweeper._target_:
            raise CompactHydraException("hydra.launcher.wait=false: this sweeper needs the results of its jobs.")
        shared = set.intersection(*map(set, job_overrides))
        jobs = [self._job(tuple(given), initial_job_idx + at, shared) for at, given in enumerate(job_overrides)]
        ledger = Ledger(sweep)
        entries = ledger.newest()
        try:
            alive = states(entries.values())
        except slurm.SlurmError as error:
            raise CompactHydraException(f"Which jobs of this sweep are alive is not known: {error}.") from error
        log.info("Sweep: %s", sweep)
        todo, finished = [], []
        for job in jobs:
            entry = entries.get(self._name(job, sweep))
            if job.is_finished:
                finished.append(job)
                log.info("  %s: finished before", job)
            elif entry is not None and entry.job in alive:
                log.info("  %s: %s as job %s", job, alive[entry.job].lower(), entry.job)
            else:
                todo.append(job)
        if todo:
            self.save_s = max(job.save_s for job in jobs)
            self._submit(todo, sweep, ledger)
        if not self.wait:
            log.info("To look at it: python -m cairn status %s", sweep)
            return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in jobs]
        try:
            found = self._collect([job for job in jobs if job not in finished], sweep, ledger.newest())
        except KeyboardInterrupt:
            self._interrupted(jobs, sweep, ledger.newest())
            raise
        found |= {job.number: _success(job) for job in finished}
        num_failed = sum(result.status == JobStatus.FAILED for result in found.values())
        log.info(
            "Sweep: %d of %d jobs are finished, %d failed. %s", len(jobs) - num_failed, len(jobs), num_failed, sweep
        )
        return [found[job.number] for job in jobs]

    def _job(self, overrides: tuple[str, ...], number: int, shared: set[str]) -> Job:
        assert self.hydra_context is not None
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.num = cfg.hydra.job.id = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(cfg)  # the names of directories may ask for it
        try:
            run = RunDirectory(Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir)
            special = [override for override in filter_overrides(overrides) if override not in shared]
            return Job(number, overrides, run, " ".join(special))
        finally:
            HydraConfig.instance().cfg = before

    @staticmethod
    def _name(job: Job, sweep: Path) -> str:
        return os.path.relpath(job.run.path, sweep)

    def _submit(self, jobs: Sequence[Job], sweep: Path, ledger: Ledger) -> None:
        sweep.mkdir(parents=True, exist_ok=True)
        state = Singleton.get_state()
        arguments = [(list(job.overrides), "hydra.sweep.dir", job.number, str(job.number), state) for job in jobs]
        ids = self._ids(jobs, arguments)
        kind: Scheduler = "local" if self._EXECUTOR == "local" else "slurm"
        folder = str(Path(self.params["submitit_folder"]).expanduser().absolute())
        ledger.add(Entry(self._name(job, sweep), kind, number, folder) for job, number in zip(jobs, ids, strict=True))
        for job, number in zip(jobs, ids, strict=True):
            log.info("  %s: submitted as job %s", job, number)

    def _ids(self, jobs: Sequence[Job], arguments: Sequence[tuple[Any, ...]]) -> list[str]:
        """Submit, and return what the scheduler calls the jobs."""
        return [item.job_id for item in self._executor().map_array(self, *zip(*arguments, strict=True))]

    def _interrupted(self, jobs: Sequence[Job], sweep: Path, entries: Mapping[str, Entry]) -> None:
        """Somebody does not want to wait any more."""
        log.info("The jobs go on without this command, which waits for them again when it is given again.")

    def _executor(self) -> Any:
        import submitit  # it takes a while

        params = self._parameters()
        more = {f"{self._EXECUTOR}_max_num_timeout": params.pop("max_num_timeout", 0)}
        executor = submitit.AutoExecutor(folder=params.pop("submitit_folder"), cluster=self._EXECUTOR, **more)
        shared = set(BaseQueueConf.__dataclass_fields__)
        executor.update_parameters(
            **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in params.items()}
        )
        return executor

    def _parameters(self) -> dict[str, Any]:
        """What the configuration says of a submission."""
        return dict(self.params)

    def _collect(self, jobs: Sequence[Job], sweep: Path, entries: Mapping[str, Entry]) -> dict[int, JobReturn]:
        """Wait for all of them; what became of each is told when it is known. By their numbers."""
        own = {job.number: entries.get(self._name(job, sweep)) for job in jobs}
        found: dict[int, JobReturn] = {}
        gone: dict[int, float] = {}
        began = time.monotonic()
        while waiting := [job for job in jobs if job.number not in found]:
            left = [entry for job in waiting if (entry := own[job.number]) is not None]
            alive = _alive(left)
            for job in waiting:
                if (result := self._look(job, own[job.number], alive, gone)) is not None:
                    found[job.number] = result
            if len(found) < len(jobs):
                is_local = all(entry.scheduler == "local" for entry in left)
                waited_s = 0.0 if is_local else time.monotonic() - began  # a controller has more to do than this
                time.sleep(min(_SLOWEST_POLL_S, max(_POLL_S, waited_s / 20)))
        return found

    def _look(
        self, job: Job, entry: Entry | None, alive: Mapping[str, str] | None, gone: dict[int, float]
    ) -> JobReturn | None:
        """What became of a job; None while it lives or nobody can tell: what is written may be of an earlier start.

        Args:
            entry: None: it was submitted, and nobody has noted as what.
            alive: the jobs that are; None if nobody can tell.
            gone: since when each is over.
        """
        if entry is None:
            return self._failed(job, None, "which job of the scheduler it is was not noted")
        if alive is None or entry.job in alive:
            gone.pop(job.number, None)
            return None
        now = time.monotonic()
        return self._result(job, entry, is_late=now - gone.setdefault(job.number, now) > _LATE_S)

    def _result(self, job: Job, entry: Entry, is_late: bool) -> JobReturn | None:
        """What became of a job that is over; None if its result may still come."""
        folders = [job.run.path, self._paths(entry).folder]
        for folder in folders if is_late else ():
            _look_again(folder)
        outcome, value = _outcome(self._paths(entry).result_pickle)
        if outcome == "success":
            log.info("  %s: finished", job)
            return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=value.return_value)
        if outcome == "error":
            return self._failed(job, entry, self._why(job, entry) or str(value).strip().splitlines()[-1])
        if not is_late:
            return None
        if job.is_finished:
            log.info("  %s: finished", job)
            return _success(job)
        record = job.record
        state = f"{record.status} {record.why}".strip() if record else "not begun, or not readable"
        return self._failed(job, entry, f"it has ended without a result, and its run is {state}")

    @staticmethod
    def _why(job: Job, entry: Entry) -> str:
        """What the run itself says of the failure of this job; empty if it speaks of another one, or of none."""
        record = job.record
        try:
            is_its_own = attempts.read(job.run)[-1].job == entry.job
        except (OSError, IndexError):
            is_its_own = False
        return record.why.partition("\n")[0] if is_its_own and record and record.status == "failed" else ""

    def _paths(self, entry: Entry) -> Any:
        from submitit.core.utils import JobPaths

        return JobPaths(entry.folder or self.params["submitit_folder"], entry.job, 0)  # today's may be another one

    def _failed(self, job: Job, entry: Entry | None, why: str) -> JobReturn:
        text = f"{job} failed: {why.rstrip('.')}. See {self._log_of(job, entry)}"
        log.error("  %s", text)
        return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=JobFailed(text))

    def _log_of(self, job: Job, entry: Entry | None) -> Path:
        """The run's own log; if it has come to none, what the scheduler has of it."""
        own = job.run.path / "train.log"
        return own if entry is None or (own.is_file() and own.stat().st_size) else Path(self._paths(entry).stdout)


def _success(job: Job) -> JobReturn:
    record = job.record
    return JobReturn(
        overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=record.result if record else None
    )


def _outcome(path: Path) -> tuple[str, Any]:
    """What submitit has noted as the end of a job: `success` or `error`, and the value; nothing if it has not (yet)."""
    from submitit.core.utils import pickle_load

    if not path.is_file():
        return "", None
    try:
        outcome, value = pickle_load(path)
    except Exception as error:  # a file that is not all there, or made by other versions, says anything
        log.warning("%s cannot be read (%s): the record of the run is asked instead.", path, first_line(error))
        return "", None
    return outcome, value


def _own_paths() -> Any:
    """Of the job that this process is."""
    import submitit

    return submitit.JobEnvironment().paths


def _remove_unfinished(path: Path) -> None:
    """What a kill has left of submitit's writing: it refuses to write again beside that."""
    path.with_suffix(f"{path.suffix}.save_tmp").unlink(missing_ok=True)


def _look_again(folder: Path) -> None:
    """Have a network file system ask anew what is in a folder."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)


def _alive(entries: Sequence[Entry]) -> Mapping[str, str] | None:
    """None if nobody can tell at the moment."""
    try:
        return states(entries)
    except slurm.SlurmError as error:
        log.warning("%s; it is asked again.", error)
        return None


def in_own_session(action: Callable[[], list[str]]) -> list[str]:
    """What `action` returns in a child that leaves this terminal: what it starts outlives this process, and its Ctrl-C.

    Raises:
        CompactHydraException: it has failed; why, it has said.
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
        raise CompactHydraException("The jobs could not be submitted.")
    return found
