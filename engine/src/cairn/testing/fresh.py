"""Fresh processes that import the project and train a short run: nothing is left in memory for a resume."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from cairn.testing.compare import Report, add_rank
from cairn.testing.proof_run import ProofRun

KILLED = -int(signal.SIGKILL)
_LIMIT_S, _PATIENCE = 3600.0, 10
"""A run is killed after this time, or this many times the longest run, whichever is longer: a hang must not last."""
_END_S = 10.0
"""Maximum time for the process to kill a run and to end, before it is killed itself."""
_LONGEST = 70
"""Maximum length of a temporary directory: sockets of data workers in it have names of up to 103 bytes."""


class RunError(AssertionError):
    """A run failed in its process.

    Attributes:
        reason: The error of the run, in one line.
        is_expected: Whether the run refused to train, with a message for its user.
        output: End of its output.
        report: What it has recorded before it failed.
    """

    def __init__(self, reason: str, is_expected: bool, output: str) -> None:
        super().__init__(f"A run failed in a fresh process: {reason}\n{output}".rstrip())
        self.reason, self.is_expected, self.output = reason, is_expected, output
        self.report: Report = {"batches": {}}


class FreshProcesses:
    """A context with a process that has imported torch and the project, and forks one for each run.

    The process is a separate interpreter, because a fork of a test process would copy it without its threads. There is
    only one, because importing torch takes seconds.

    Args:
        runner: Module whose functions `load` and `run` the process calls: `load(**source)` once, and then
            `run(loaded, given=proof_run, **options)` in a fork for each run.
        source: Arguments of `load`.
        environment: Changes to the environment variables; None removes one.
    """

    def __init__(
        self, runner: str, source: Mapping[str, Any], environment: Mapping[str, str | None] | None = None
    ) -> None:
        self._limit_s = _LIMIT_S
        self._first = {"runner": runner, "source": dict(source)}
        # `is_available` must not initialize CUDA, because a fork could not use it then.
        changed = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **(environment or {})}
        merged = {**os.environ, **changed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._environment = {name: value for name, value in merged.items() if value is not None}

    def __enter__(self) -> FreshProcesses:
        self._log = tempfile.TemporaryFile("w+")
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from cairn.testing import server; server.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self._environment,
            start_new_session=True,  # Ctrl-C reaches this process, which then ends the others
        )
        self._is_loaded = False
        try:
            self._send(self._first)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, and the run that it has started: when this returns, nothing writes any more."""
        for pipe in (self._server.stdin, self._server.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        try:
            # Its input has ended. A process without a run may import for a while.
            self._server.wait(_END_S if self._is_loaded else 0)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(self._server.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            self._server.wait()
            self._log.close()

    def run(self, given: ProofRun, **options: Any) -> Report:
        """Train in a separate process.

        Args:
            given: The run.
            options: Further arguments of the runner.

        Returns:
            The report; of a run that was killed, the part that it has written.

        Raises:
            RunError: The run failed.
        """
        if not self._is_loaded:
            self._answer(0)
            self._is_loaded = True
        for left in (given.report_file, *_of_other_ranks(given).values()):
            left.unlink(missing_ok=True)
        begun = time.monotonic()
        self._send({"proof_run": given.as_json(), "options": options, "limit_s": self._limit_s})
        try:
            self._answer(0 if given.kill_after is None else KILLED)
        except RunError as error:
            error.report = _read(given) or error.report
            raise
        self._limit_s = max(self._limit_s, _PATIENCE * (time.monotonic() - begun))
        report = _read(given)
        if report is None or (given.kill_after is not None and str(given.kill_after) not in report["batches"]):
            # The kernel also kills with -9.
            when = f"before batch {given.kill_after}" if given.kill_after is not None else "without a report"
            raise RunError(f"its process ended {when}: perhaps memory ran out", False, self._output())
        return report

    def _send(self, line: Mapping[str, Any]) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(line) + "\n")
            self._server.stdin.flush()
        except BrokenPipeError:
            pass  # the answer has the reason

    def _answer(self, expected: int) -> None:
        assert self._server.stdout is not None
        answer = self._server.stdout.readline()
        code, reason, is_expected = json.loads(answer) if answer.strip() else (1, "its process ended", False)
        if code != expected:
            if code == 0:
                reason = "it ended before it could be killed"
            raise RunError(reason or f"it ended with code {code}", is_expected, self._output())

    def _output(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:]


def _read(given: ProofRun) -> Report | None:
    """Return the report of a run, with the facts of all ranks; None if it has written none, or not all of it."""
    try:
        report: Report = json.loads(given.report_file.read_text())
        for rank, path in _of_other_ranks(given).items():
            add_rank(report, rank, json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
    return report


def _of_other_ranks(given: ProofRun) -> dict[int, Path]:
    """Return the reports of the ranks from 1 on, as far as there are some."""
    ranks = itertools.takewhile(lambda rank: given.report_of(rank).exists(), itertools.count(1))
    return {rank: given.report_of(rank) for rank in ranks}


def temporary_files_in(directory: str | Path) -> dict[str, str | None]:
    """Return an environment in which runs have their temporary files in this directory, if its name is short enough.

    Data workers of a killed run, for example, leave directories behind.
    """
    return {"TMPDIR": str(directory)} if len(os.fsencode(directory)) <= _LONGEST else {}


def source_of(make: Callable[[], Any]) -> dict[str, str]:
    """Return where a function can be imported from.

    Raises:
        ValueError: It is not at the top level of a module.
    """
    name = getattr(make, "__qualname__", repr(make))
    file = inspect.getsourcefile(make) if inspect.isfunction(make) else None
    if file is None or "." in name or "<" in name or not Path(file).is_file():
        raise ValueError(
            f"{name} must be a function at the top level of a module, so that fresh processes can import it."
        )
    return {"module": make.__module__, "file": str(Path(file).resolve()), "name": make.__qualname__}


def import_function(module: str, file: str, name: str) -> Callable[[], Any]:
    """Import what `source_of` has described."""
    try:
        if module == "__main__":  # the script that is run; in this process, another module has that name
            module = "_main"
        found = import_module(module)
    except ImportError:  # a script, or a test's module, which pytest has loaded from its file
        spec = spec_from_file_location(module, file)
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules[module] = module_from_spec(spec)
        spec.loader.exec_module(found)
    function: Callable[[], Any] = getattr(found, name)
    return function
