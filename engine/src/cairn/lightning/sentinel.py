"""A process that ends a run whose watchdog cannot: C code holds Python's lock, so that no thread of it can run.

    training process                        sentinel
    watchdog thread, every few seconds:
        limit, last boundary  --- pipe -->  for how long has nothing come?
    signal handler in C       <-- signal -  too long: asks for the stack traces
                                            notes the hang, records it, lets SLURM requeue the job
                              <-- SIGKILL - ends the run

The exit code of such a run is that of a kill. It is started by the first look of the watchdog, because it costs a tenth
of a second, and ends with the fit. No torch is imported here.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cairn import opening, records
from cairn.account.watchdog import Silence
from cairn.helper_process import HelperProcess
from cairn.jobs import allocation, slurm, stacks
from cairn.store import disk, hang_reports, hangs
from cairn.store.hangs import Hang
from cairn.types import Position
from cairn.units import format_duration

_START = f"import sys; from {__name__} import main; main(sys.argv[1:])"
_UNNAMED = "-"
"""In a report: the attempt has no name yet."""
_TICK_S = 0.2
_ANSWER_S = 1.0
"""How long to wait for the stack traces, which take milliseconds."""


class Sentinel:
    """The side of the training process.

    Args:
        directory: Directory of the checkpoints, which notes the hang; None: the run has none.
        log_file: Log of the run, for the stack traces; None: only the standard error output.
        record_file: Record of the run, see `AtHang`; None: it has none.
        requeues: Whether Lightning would requeue the job.
    """

    def __init__(self, directory: Path | None, log_file: Path | None, record_file: Path | None, requeues: bool) -> None:
        self._arguments = [str(path or "") for path in (directory, log_file, record_file)] + [str(int(requeues))]
        self._process: HelperProcess | None = None
        self._pipe, self._is_closed = -1, False
        self._lock = threading.Lock()

    def tell(self, limit_s: float, where: Position, attempt: str = "") -> None:
        """Report that a thread of this process runs; the first report starts the sentinel.

        Args:
            limit_s: How long the next report may take.
            where: The last boundary.
            attempt: Name of this attempt; empty: it has none yet.
        """
        with self._lock, suppress(OSError):
            if self._is_closed:  # the fit has ended meanwhile: a sentinel would wait for reports in vain
                return
            if self._process is None:
                self._start()
            counts = (where.epoch, where.batch, where.total_batches, where.step, where.samples)
            os.write(self._pipe, " ".join(map(str, (limit_s, *counts, attempt or _UNNAMED))).encode() + b"\n")

    def close(self) -> None:
        """End the sentinel."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                os.close(self._pipe)
                self._process = None

    def _start(self) -> None:
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        arguments = ["-SP", "-c", _START, str(os.getpid()), str(reading), *self._arguments]
        try:
            self._process = HelperProcess(arguments, [reading], {**os.environ, "PYTHONPATH": path})
        finally:
            os.close(reading)


def main(arguments: list[str]) -> None:
    """Watch the training process until it ends, or does not report any more.

    Args:
        arguments: Its process id, the descriptor of the pipe, and the arguments of `Sentinel`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the training
    pid, pipe = map(int, arguments[:2])
    silence, report, before = Silence(), "", time.monotonic()
    while os.getppid() == pid:
        if select.select([pipe], [], [], _TICK_S)[0]:
            if not (read := os.read(pipe, 65536)):
                return
            report = read.decode().splitlines()[-1]
            silence = Silence()
            silence.tick(report, 0.0)
        now = time.monotonic()
        passed_s, before = min(now - before, 2 * _TICK_S), now
        # As in the watchdog: what passes while the process is stopped says nothing about it.
        silence.tick(report, 0.0 if _is_stopped(pid) else passed_s)
        if report and silence.now_s >= float(report.split()[0]):
            _end(pid, report, silence.now_s, *arguments[2:])
            return


def _end(
    pid: int, report: str, silent_s: float, directory: str, log_file: str, record_file: str, by_lightning: str
) -> None:
    limit_s, *counts, attempt = report.split()
    where = Position(*map(int, counts))

    def write(text: str) -> None:
        targets = [2]
        with suppress(OSError):
            targets += [opening.for_writing(Path(log_file), os.O_WRONLY | os.O_APPEND)] if log_file else []
        for target in targets:
            with suppress(OSError):
                os.write(target, text.encode())

    write(
        f"[{datetime.now():%Y-%m-%d %H:%M:%S}] The run hangs inside of C code that holds Python's lock: no thread of "
        f"it has run for {format_duration(silent_s)}. Before, it had reached at least epoch {where.epoch}, batch "
        f"{where.batch}. The process is killed without a save, so that the run can be resumed. Stack traces of process "
        f"{pid}:\n"
    )
    stacks.ask(pid)
    time.sleep(_ANSWER_S)
    below = stacks.others(pid)
    stacks.ask_others(write, below)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    hang = Hang("training", where, silent_s, float(limit_s), now, socket.gethostname())
    if directory and attempt != _UNNAMED and not hang_reports.claim(Path(directory), attempt):
        stacks.kill_others([*below, pid])  # another rank notes the hang, and ends the run
        return
    requeues = False
    if directory:
        found = [hang]
        with suppress(OSError):
            found = hangs.note(Path(directory), hang)
        requeues = hangs.num_in_place(found) < hangs.MOST_IN_PLACE
    if record_file:  # before the kill: the next attempt writes it, too
        _record(Path(record_file), str(hang) if requeues else f"{hang}; not requeued")
    if requeues:
        _requeue(by_lightning == "1")
    stacks.kill_others([*below, pid])


def _record(file: Path, why: str) -> None:
    """Record the hang as the run itself would have done."""
    with suppress(OSError, TypeError, ValueError):
        fields = {**records.parse(opening.read_bytes(file)), "status": "hung", "why": why}
        disk.put(file, (json.dumps(fields, indent=2) + "\n").encode())


def _requeue(by_lightning: bool) -> None:
    job = allocation.current()
    if job.scheduler == "slurm" and (job.requeued_by or by_lightning):
        with suppress(slurm.SlurmError):
            slurm.requeue(job.job_id)


def _is_stopped(pid: int) -> bool:
    return stacks.state(pid) in ("T", "t")
