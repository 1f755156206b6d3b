"""The process that `FreshProcesses` starts: it imports the project once, and forks for each run.

It ends as soon as its standard input does, so that nothing is left when the process that started it ends, or is killed:

    prove, a test     requests on stdin -->   this process    fork -->   a run, in a process group of its own
                      <-- answers on stdout                   <-- its exit code and the reason of a failure
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cairn.testing.proof_run import ProofRun

_STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a scheduler sends to all processes of a job. This process has to outlive its run, which it ends."""
_POLL_S = 0.002
_DEAD_S = 1.0
"""Maximum time to wait for killed processes: where process 1 does not reap them, they seem to live for ever."""


class _Unwanted(Exception):
    """The process that asked for a run has ended, or wants to end."""


def serve() -> None:
    """Serve `FreshProcesses`: import the project, then fork for each requested run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a run prints goes to the log
    requests = os.fdopen(os.dup(0), "r")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def answer(code: int, reason: str = "", is_expected: bool = False) -> None:
        answers.write(json.dumps([code, reason, is_expected]) + "\n")
        answers.flush()

    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    if not (line := requests.readline()):
        return
    first = json.loads(line)
    try:
        runner = import_module(first["runner"])
        loaded = runner.load(**first["source"])
    except BaseException as error:
        answer(1, *_described(error))
        return
    gc.freeze()  # otherwise the first garbage collection of each run would copy all of the memory
    answer(0)
    try:
        for line in requests:
            answer(*_run(runner, loaded, json.loads(line), requests.fileno(), handlers))
    except _Unwanted:
        return


def _run(
    runner: Any, loaded: Any, line: dict[str, Any], requests: int, handlers: Mapping[signal.Signals, Any]
) -> tuple[int, str, bool]:
    """Fork a run and wait for its end.

    Args:
        runner: See `FreshProcesses`.
        loaded: What its `load` has returned.
        line: The request.
        requests: Descriptor that ends when the run is not wanted any more.
        handlers: Handlers of signals, for the run.

    Raises:
        _Unwanted: `requests` has ended: the run and what it has started are dead.
    """
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _be_a_run(runner, loaded, line, writes)
    _lead_a_group(pid)
    os.close(writes)
    with os.fdopen(reads) as reported:
        try:
            code = _wait(pid, line["limit_s"], requests)
        finally:
            _kill_group(pid)  # also data workers that a killed run has left, which hold the pipe open
        text = reported.read()
    if code is None:
        return 1, f"it has not ended within {line['limit_s']:.0f} s", False
    reason, is_expected = json.loads(text) if text else ("", False)
    return code, reason, is_expected


def _wait(pid: int, limit_s: float, requests: int) -> int | None:
    """Return the exit code of a run; if it takes too long, kill it and return None.

    Raises:
        _Unwanted: `requests` has ended: the run and what it has started are dead.
    """
    limit = time.monotonic() + limit_s
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        # The next request comes only after this one is answered, so anything readable now is the end of the stream.
        is_unwanted = bool(select.select([requests], [], [], _POLL_S)[0])
        if not is_unwanted and time.monotonic() <= limit:
            continue
        _kill_group(pid)
        os.waitpid(pid, 0)
        if is_unwanted:
            _wait_for_group(pid)
            raise _Unwanted
        return None
    return os.waitstatus_to_exitcode(ended[1])


def _lead_a_group(pid: int) -> None:
    """Give a run a process group of its own, in the run and in this process: one of them comes first."""
    try:
        os.setpgid(pid, pid)
    except (PermissionError, ProcessLookupError):  # it has ended, or started another program
        pass


def _kill_group(pid: int) -> bool:
    """Kill a run and what it has started; return whether anything was left."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _wait_for_group(pid: int) -> None:
    """Wait until the processes of a killed group are dead: until then they may still create a file."""
    limit = time.monotonic() + _DEAD_S
    while _kill_group(pid) and time.monotonic() < limit:
        time.sleep(_POLL_S)


def _be_a_run(runner: Any, loaded: Any, line: dict[str, Any], reports: int) -> None:
    _lead_a_group(os.getpid())
    fields = line["proof_run"]
    try:
        runner.run(loaded, given=ProofRun.from_json(fields), **line["options"])
        code = 0
    except BaseException as error:
        os.write(reports, json.dumps(_described(error)).encode())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _described(error: BaseException) -> tuple[str, bool]:
    import traceback

    from cairn.errors import CairnError, first_line

    traceback.print_exception(error)
    described: tuple[str, bool] | None = getattr(error, "described", None)
    if described is not None:
        return described
    if isinstance(error, CairnError):
        return str(error), True
    return f"{type(error).__name__}: {first_line(error)}", False
