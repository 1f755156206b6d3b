"""Decorator of the function in train.py: everything that runs before Hydra composes and torch is imported."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cairn import streams
from cairn.hydra import command_line
from cairn.hydra.command import overrides
from cairn.hydra.command.arguments import Arguments
from cairn.hydra.compose import loader
from cairn.hydra.instantiate import hydra_whitelist
from cairn.hydra.run import imports
from cairn.jobs import allocation, orphans, requeue
from cairn.jobs.allocation import Allocation
from cairn.jobs.signals import Interruption, Interrupts

if TYPE_CHECKING:
    from cairn.hydra.run.session import Body
    from cairn.hydra.run.start import JobContext


def main(config_path: str = "configs", config_name: str = "train") -> Callable[[Body], Callable[[], None]]:
    """Turn a function that takes a `Run` into the command line of a project.

    The command reads `.env`, expands `resume=`, composes the configuration, catches signals, imports torch, and then
    calls the function. Processes that DDP, srun, torchrun or submitit start call the same function.

    Args:
        config_path: Directory of the YAML files, relative to the file of the function.
        config_name: Name of the file with the defaults list, without its suffix.

    Returns:
        The decorator. The decorated function takes no arguments and reads the command line.
    """

    def decorate(body: Body) -> Callable[[], None]:
        task, script = Task(body), Path(inspect.getfile(body)).resolve()
        root = script.parent

        @functools.wraps(body)
        def command() -> None:
            streams.protect()
            export_sources(root)
            if command_line.is_child():
                task.join(*command_line.announced())
            elif "--schema" in sys.argv[1:]:
                from cairn.hydra import schemas

                raise SystemExit(schemas.main(root, config_path, sys.argv[1:]))
            elif "--check" in sys.argv[1:]:
                from cairn.hydra import check

                raise SystemExit(check.main(root, config_path, config_name, sys.argv[1:]))
            elif overrides.asks_for_proof(sys.argv[1:]):
                from cairn.hydra import prove

                raise SystemExit(prove.main(script, sys.argv[1:]))
            else:
                sys.argv[1:] = command_line.prepare(sys.argv[1:], root, config_path, config_name)
                shows = Arguments.split(sys.argv[1:]).value("--cfg") is not None
                with hydra_whitelist(), loader.installed(shows):
                    hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)(task)()

        return command

    return decorate


class Task:
    """The function in train.py, in the form that Hydra calls.

    submitit pickles it into a job: the function by value, because it is in `__main__`, and this class by reference.
    Hydra looks for the configuration next to the file of `__wrapped__`.
    """

    def __init__(self, body: Body) -> None:
        self.__wrapped__ = body

    def __call__(self, cfg: DictConfig) -> Any:
        """Train with a configuration.

        Returns:
            The return value of the function.

        Raises:
            SystemExit: Code 1 for a user-facing error; 130, 138, 140 or 143 after a signal; 75 near the time limit of
                the job. If submitit requeues the job, submitit sets the exit code.
        """

        def train(session: Any, by: JobContext) -> Any:
            with _printed_for_shell(self.__wrapped__):
                return session.run(cfg, self.__wrapped__, by)

        return _interruptible(train, allocation.current())

    def join(self, main: int, facts: Mapping[str, str | None]) -> None:
        """Join the run that the main process has announced, in a process that Lightning has started.

        Args:
            main: Id of the main process.
            facts: What it has announced.
        """
        orphans.end_with_main(main)
        _interruptible(lambda session, by: session.join(self.__wrapped__, by, **facts), Allocation())


def _printed_for_shell(body: Body) -> AbstractContextManager[Any]:
    """Context in which printed commands work in the user's shell directory; Hydra may have changed the directory."""
    from cairn.run import summary  # imports rich, which --help does not need

    if not HydraConfig.initialized():
        return nullcontext()
    return summary.typed_in(Path(HydraConfig.get().runtime.cwd), Path(inspect.getfile(body)))


def _interruptible(train: Callable[[Any, JobContext], Any], given: Allocation) -> Any:
    """Catch signals, import torch, train, and requeue the job if it was interrupted.

    Args:
        train: Function of the module `run.session` and the `JobContext` of this process.
        given: The job of this process.
    """
    streams.protect()  # also in a job that submitit has started
    with Interrupts() as signals:
        try:
            # Takes seconds. Without handlers, a signal in this time would end the process without a requeue.
            with imports.quick():
                from cairn.hydra.run import session, start
                from cairn.lightning import torchrun
            return train(session, start.JobContext(signals, given, torchrun.meet()))
        except KeyboardInterrupt as stop:  # before there was anything to save
            if signals.name is None:
                raise
            leave = Interruption(signals.name)
            leave.__cause__ = stop
        except Interruption as stop:
            leave = stop
        signals.stopping = True
        requeue.requeue_if_needed(leave.reason, given, signals)
        raise leave


def export_sources(root: Path) -> None:
    """Let child processes import the packages of this project from the same directories.

    Args:
        root: Root directory of the project. Its directories on `sys.path` are put first in `PYTHONPATH`, except the
            root itself, which Python adds, and virtual environments.
    """
    own = [path for path in sys.path if root in Path(path).parents and "site-packages" not in Path(path).parts]
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*own, *inherited]))
