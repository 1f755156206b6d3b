"""Fresh processes that import the project and train a short run: nothing is left in memory for a resume."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from cairn.testing.compare import Report


class FreshProcesses:
    """A context with a process that has imported torch and the project, and forks one for each run.

    The process is a separate interpreter, because a fork of a test process would copy it without its threads. There is
    only one, because importing torch takes seconds.

    Args:
        make: A function at the top level of a module.

    Raises:
        ValueError: `make` is not at the top level of a module.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        name = getattr(make, "__qualname__", repr(make))
        file = inspect.getsourcefile(make) if inspect.isfunction(make) else None
        if file is None or "." in name or "<" in name or not Path(file).is_file():
            raise ValueError(
                f"{name} must be a function at the top level of a module, so that fresh processes can import it."
            )
        self._place = {"module": make.__module__, "file": str(Path(file).resolve()), "name": make.__qualname__}

    def __enter__(self) -> FreshProcesses:
        self._log = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from cairn.testing import fresh; fresh.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._ask(self._place)
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in (self._server.stdin, self._server.stdout):
            assert pipe is not None
            pipe.close()
        self._server.wait()
        self._log.close()

    def run(self, directory: Path, **options: int | None) -> Report:
        """Train in `directory`, in a separate process; for the options see `record`.

        Raises:
            AssertionError: The run failed; the message has the end of its output.
        """
        self._ask({"directory": str(directory), **options})
        report: Report = json.loads((directory / "report.json").read_text())
        return report

    def _ask(self, order: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        try:
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer.strip() != "0":
            self._log.seek(0)
            raise AssertionError(f"A run failed in a fresh process:\n{self._log.read()[-4000:]}")


def serve() -> None:
    """Serve `FreshProcesses`: import the project, then fork for each requested run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a run prints goes to the log
    make = None
    for line in sys.stdin:
        order = json.loads(line)
        if make is None:
            make = _import(**order)
            code = 0
        else:
            code = _run(make, order)
        answers.write(f"{code}\n")
        answers.flush()
        if code:
            return


def _import(module: str, file: str, name: str) -> Callable[[], Any]:
    import cairn.testing.record  # noqa: F401 - torch and Lightning, once for all runs

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
    make: Callable[[], Any] = getattr(found, name)
    return make


def _run(make: Callable[[], Any], order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        from cairn.testing.record import record

        record(make, Path(order.pop("directory")), **order)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
