"""Runs one child process at a time and reports its cost, the memory of its tree, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.contenders import ENGINE, ROOT

SAMPLE_S = 0.05


@dataclass(frozen=True)
class Ended:
    """A child process that has ended.

    Attributes:
        wall_s: Seconds from its start to its end.
        began: Wall clock time of its start.
        cpu_s: Processor time of the child and of the descendants that it has waited for.
        peak_bytes: Most memory that its tree had; 0 if memory was not watched.
        output: Its standard output.
        error: Empty if it succeeded, else its last line.
    """

    wall_s: float
    began: float
    cpu_s: float
    peak_bytes: int
    output: str
    error: str


def run(
    command: Sequence[str],
    threads: int,
    timeout_s: float,
    log: Path,
    watch_memory: bool = False,
    env: Mapping[str, str] = {},
) -> Ended:
    """Run a command in `engine/`.

    Args:
        command: The command.
        threads: Threads of torch.
        timeout_s: Kill it after this many seconds.
        log: File for its standard error; its standard output goes to a file of the same name that ends in `.out`.
        watch_memory: Measure memory, which takes time from the training on a machine with few cores.
        env: Additional environment variables.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began, started = time.time(), time.monotonic()
    with log.open("wb") as errors, log.with_suffix(".out").open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=ENGINE,
            env=_environment(threads) | dict(env),
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        status: int | str | None = None
        peak, usage = 0, None
        while status is None:
            pid, code, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() - started > timeout_s:
                os.killpg(child.pid, signal.SIGKILL)  # in its own session, it has the group for itself
                _, _, usage = os.wait4(child.pid, 0)
                status = "timeout"
            else:
                peak = max(peak, processes.pss_bytes(processes.tree(child.pid))) if watch_memory else 0
                time.sleep(SAMPLE_S)
        child.returncode = 0  # waited for above, to get its resource usage
    said = log.with_suffix(".out").read_text(errors="replace")
    error = "" if status == 0 else _why(status, timeout_s, log.read_text(errors="replace") or said)
    cpu_s = usage.ru_utime + usage.ru_stime if usage else 0.0
    return Ended(time.monotonic() - started, began, cpu_s, peak, said, error)


def _why(status: int | str, timeout_s: float, said: str) -> str:
    if status == "timeout":
        return f"stopped after {timeout_s:.0f} s"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {status}")[:300]


def _environment(threads: int) -> dict[str, str]:
    paths = [str(ENGINE / "src"), str(ROOT / "src"), str(ENGINE), os.environ.get("PYTHONPATH")]
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
