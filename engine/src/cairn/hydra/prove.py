"""`python train.py prove=true`: kill and resume a short version of the run that the other overrides describe.

It needs neither torch nor the project: other processes train, see `run.proving`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from cairn.errors import CairnError, ConfigError
from cairn.hydra.command import arguments, overrides
from cairn.jobs.signals import STOP_SIGNALS, exit_code, ignore_signals
from cairn.testing import proof, proof_run
from cairn.testing.fresh import FreshProcesses, RunError, temporary_files_in
from cairn.testing.proof import Proof
from cairn.testing.proof_run import ProofRun

EXACT, NOT_EXACT, NOT_TRIED = 0, 1, 2
_CONFIG_FLAGS = ("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd")
"""Flags of Hydra that a training may have; each has a value. With others, nothing is trained, or more than one run."""
_JOB = re.compile(
    r"(SLURM|SUBMITIT|TORCHELASTIC|PMI|OMPI)_|(LOCAL_|NODE_|GROUP_)?RANK$|WORLD_SIZE$|MASTER_(ADDR|PORT)$"
)
"""Environment variables of a job, whose other processes do not take part."""

_REMOVALS, _REMOVALS_EVERY_S = 50, 0.1
"""How often to try to remove the runs, and how many seconds to wait between two tries."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a proof, which `cairn prove` has, too."""
    parser.add_argument("--stops", type=_number, default=6, metavar="N", help="boundaries to kill at (default 6)")
    parser.add_argument("--epochs", type=_number, default=2, metavar="N", help="limit for the epochs (default 2)")
    parser.add_argument(
        "--batches", type=_number, default=6, metavar="N", help="limit for the batches of an epoch (default 6)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed for the choice of boundaries")
    parser.add_argument("--keep", metavar="DIR", help="keep the runs in this new directory")


def main(script: Path, argv: Sequence[str]) -> int:
    """Prove that a run resumes exactly, or print what differs.

    Args:
        script: The train.py of the project.
        argv: Its command-line arguments.

    Returns:
        Exit code: 0 exact, 1 not exact, 2 it could not be tried; 130 after Ctrl-C, 143 after SIGTERM.
    """
    flags, rest = _parsed(script, argv)
    with _interruptible() as received:
        try:
            return _verdict(script, flags, rest)
        except KeyboardInterrupt:
            # The terminal may be gone, or the program that reads the JSON.
            with suppress(OSError):
                name = signal.Signals(received[0]).name if received else "SIGINT"
                _print_why(f"Stopped by {name}: the runs were ended without a verdict.", flags.json)
            return exit_code(name)


def _parsed(script: Path, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags of a proof, and the other arguments."""
    parser = argparse.ArgumentParser(
        prog=f"{script.name} prove=true",
        usage="%(prog)s [OVERRIDES] [FLAGS]",
        description="Kill and resume a short version of the run that the overrides describe, and compare.",
        allow_abbrev=False,
    )
    add_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_known_args(list(argv))


def _verdict(script: Path, flags: argparse.Namespace, rest: Sequence[str]) -> int:
    """Prove, print the result, and return the exit code."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)

    def show(line: str) -> None:
        console.print(escape(line), style="dim", highlight=False, soft_wrap=True)

    try:
        found = _prove(script, flags, _checked(rest, show), show)
    except Exception as error:
        return _not_tried(error, flags.json)
    from cairn.testing import table

    if flags.json:
        print(json.dumps(table.as_json(found), indent=2))
    else:
        table.show(found, Console())
    return EXACT if found.is_exact else NOT_EXACT


def _not_tried(error: Exception, as_json: bool) -> int:
    """Print why the proof has no verdict, and return the exit code."""
    is_of_run = isinstance(error, RunError)
    reason = error.reason if isinstance(error, RunError) else str(error) or type(error).__name__
    if isinstance(error, RunError) and not error.is_expected:
        print(error.output, file=sys.stderr)
    if not is_of_run and not isinstance(error, CairnError | ValueError | OSError):
        traceback.print_exception(error)
        reason = f"{type(error).__name__}: {reason}"
    _print_why(reason, as_json, "Error: ")
    return NOT_TRIED


def _print_why(reason: str, as_json: bool, prefix: str = "") -> None:
    """Print why the proof has no verdict."""
    if as_json:
        print(json.dumps({"exact": None, "error": reason}, indent=2))
    print(f"{prefix}{reason}", file=sys.stderr)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Context in which the first signal raises KeyboardInterrupt; those after it must not disturb the end of the runs.

    Yields the received signals: none, or one, after which the process is expected to exit.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # by nohup
        del before[signal.SIGHUP]

    def receive(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        received.append(number)
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items() if not received else ():
            signal.signal(number, handler)


def _checked(argv: Sequence[str], show: Callable[[str], None]) -> list[str]:
    """Return the arguments for the runs; show which of them is left out.

    Raises:
        ConfigError: With one of them, nothing would be trained.
    """
    rest = [arg for arg in argv if not overrides.is_prove(arg)]
    for arg in rest:
        if arg.startswith("-") and arg.partition("=")[0] not in _CONFIG_FLAGS:
            raise ConfigError(f"prove=true tests one training: leave out {arg}.")
    for key in ("resume", "eval"):
        named = [arg.partition("=")[2].strip("'\"") for arg in rest if overrides.key(arg) == key]
        if named and named[-1] not in ("", "null", "auto"):
            raise ConfigError(f"prove=true starts a run of its own: leave out {key}={named[-1]}.")
    for arg in rest:
        if overrides.key(arg) == "hydra.run.dir":
            show(f"{arg} is left out: the runs of a proof have directories of their own (--keep DIR keeps them).")
    return [arg for arg in rest if overrides.key(arg) not in ("resume", "hydra.run.dir", "hydra.mode")]


def _prove(script: Path, flags: argparse.Namespace, argv: Sequence[str], show: Callable[[str], None]) -> Proof:
    limits = {"epochs": flags.epochs, "batches": flags.batches, "val_batches": 2}
    job = {name: None for name in os.environ if _JOB.match(name)}
    job |= dict.fromkeys(("PROJECT_ROOT", "CAIRN_CHILD", proof_run.VARIABLE))
    with (
        _directories(flags.keep) as (root, temporary),
        _processes(script, job | temporary_files_in(temporary)) as (whole_in, resumed_in),
    ):
        return proof.prove(
            root,
            _Commands(whole_in, argv),
            _Commands(resumed_in, argv),
            limits,
            flags.stops,
            flags.seed,
            bool(flags.keep),
            show,
        )


@contextmanager
def _processes(script: Path, job: Mapping[str, str | None]) -> Iterator[tuple[FreshProcesses, FreshProcesses]]:
    """Start the process that forks undisturbed runs, and the one that forks resumed runs.

    The order of a set of texts depends on a seed that each Python process draws. Runs that are resumed have another one
    than those before, as in reality.
    """
    runner, source = "cairn.hydra.run.proving", {"script": str(script)}
    seeds = ("1", "2") if "PYTHONHASHSEED" not in os.environ else (os.environ["PYTHONHASHSEED"],) * 2
    first, second = (FreshProcesses(runner, source, {**job, "PYTHONHASHSEED": seed}) for seed in seeds)
    with first, second:
        yield first, second


class _Commands:
    """Runs of `python train.py` in fresh processes."""

    def __init__(self, processes: FreshProcesses, argv: Sequence[str]) -> None:
        self._processes, self._argv = processes, argv

    def __call__(self, given: ProofRun, is_resumed: bool) -> Any:
        """Start a run in its directory, or resume the run in it, and return the report."""
        resumed = [*_config_flags(self._argv), f"resume={given.directory}"]
        started = [*self._argv, "hydra.mode=RUN", arguments.run_dir(given.directory)]
        return self._processes.run(given, argv=resumed if is_resumed else started)


@contextmanager
def _directories(keep: str | None) -> Iterator[tuple[Path, Path]]:
    """Yield the directory for the runs, which is removed unless the user wants to keep it, and one for temporary files.

    Raises:
        ConfigError: It exists already.
    """
    if keep is not None:
        path = Path(keep).absolute()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"--keep {keep}: it exists already. Name a new directory.")
        path.mkdir(parents=True, exist_ok=True)
    # The name is known before the directory exists, so that a signal at any moment finds what to remove.
    temporary = Path(tempfile.gettempdir()).resolve() / f"cairn-prove-{secrets.token_hex(6)}"
    try:
        temporary.mkdir(mode=0o700)
        yield (path.resolve() if keep is not None else temporary), temporary
    finally:
        with ignore_signals():
            _remove(temporary)


def _remove(directory: Path) -> None:
    """Remove a directory; a process that was just killed may still have created a file in it."""
    for _ in range(_REMOVALS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(_REMOVALS_EVERY_S)
    print(f"Could not remove {directory}.", file=sys.stderr)


def _config_flags(argv: Sequence[str]) -> list[str]:
    """Return the flags that choose the configuration, with their values: `resume=` needs them again."""
    found: list[str] = []
    for arg, before in zip(argv, ["", *argv], strict=False):
        if arg.startswith("-") or before in _CONFIG_FLAGS:
            found.append(arg)
    return found


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value
