"""`python train.py prove=true`: kill and resume a short version of the run that the other overrides describe.

It needs neither torch nor the project: other processes train, see `run.proving`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cairn.errors import CairnError, ConfigError
from cairn.hydra.command import arguments, overrides
from cairn.testing import proof
from cairn.testing.fresh import FreshProcesses, RunError
from cairn.testing.proof import Proof
from cairn.testing.proof_run import ProofRun

EXACT, NOT_EXACT, NOT_TRIED, INTERRUPTED = 0, 1, 2, 130
_CONFIG_FLAGS = ("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd")
"""Flags of Hydra that a training may have; each has a value. With others, nothing is trained, or more than one run."""
_JOB = re.compile(
    r"(SLURM|SUBMITIT|TORCHELASTIC|PMI|OMPI)_|(LOCAL_|NODE_|GROUP_)?RANK$|WORLD_SIZE$|MASTER_(ADDR|PORT)$"
)
"""Environment variables of a job, whose other processes do not take part."""


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
        Exit code: 0 exact, 1 not exact, 2 it could not be tried.
    """
    from rich.console import Console
    from rich.markup import escape

    parser = argparse.ArgumentParser(
        prog=f"{script.name} prove=true",
        usage="%(prog)s [OVERRIDES] [FLAGS]",
        description="Kill and resume a short version of the run that the overrides describe, and compare.",
        allow_abbrev=False,
    )
    add_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    flags, rest = parser.parse_known_args(list(argv))
    console = Console(stderr=True)

    def show(line: str) -> None:
        console.print(escape(line), style="dim", highlight=False, soft_wrap=True)

    try:
        found = _prove(script, flags, _checked(rest, show), show)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _not_tried(error, flags.json)
    from cairn.testing import table

    if flags.json:
        print(json.dumps(table.as_json(found), indent=2))
    else:
        table.show(found, Console())
    return EXACT if found.is_exact else NOT_EXACT


def _not_tried(error: Exception, as_json: bool) -> int:
    """Print why there is no verdict, and return the exit code."""
    is_of_run = isinstance(error, RunError)
    reason = error.reason if isinstance(error, RunError) else str(error) or type(error).__name__
    if as_json:
        print(json.dumps({"exact": None, "error": reason}, indent=2))
    if isinstance(error, RunError) and not error.is_expected:
        print(error.output, file=sys.stderr)
    if not is_of_run and not isinstance(error, CairnError | ValueError | OSError):
        traceback.print_exception(error)
        reason = f"{type(error).__name__}: {reason}"
    print(f"Error: {reason}", file=sys.stderr)
    return NOT_TRIED


def _checked(argv: Sequence[str], show: Callable[[str], None]) -> list[str]:
    """Return the arguments for the runs; show which of them is left out.

    Raises:
        ConfigError: With one of them, nothing would be trained.
    """
    rest = [arg for arg in argv if not overrides.is_prove(arg)]
    for arg in rest:
        if arg.startswith("-") and arg.partition("=")[0] not in _CONFIG_FLAGS:
            raise ConfigError(f"prove=true tests one training: leave out {arg}.")
    resumed = [arg.partition("=")[2].strip("'\"") for arg in rest if overrides.key(arg) == "resume"]
    if resumed and resumed[-1] not in ("", "null", "auto"):
        raise ConfigError(f"prove=true starts a run of its own: leave out resume={resumed[-1]}.")
    for arg in rest:
        if overrides.key(arg) == "hydra.run.dir":
            show(f"{arg} is left out: the runs of a proof have directories of their own (--keep DIR keeps them).")
    return [arg for arg in rest if overrides.key(arg) not in ("resume", "hydra.run.dir", "hydra.mode")]


def _prove(script: Path, flags: argparse.Namespace, argv: Sequence[str], show: Callable[[str], None]) -> Proof:
    limits = {"epochs": flags.epochs, "batches": flags.batches, "val_batches": 2}
    job = {name: None for name in os.environ if _JOB.match(name)}
    job |= dict.fromkeys(("PROJECT_ROOT", "CAIRN_CHILD"))
    with _directory(flags.keep) as root, _processes(script, job) as (whole_in, resumed_in):
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
def _directory(keep: str | None) -> Iterator[Path]:
    """Yield the directory for the runs, which is removed unless the user wants to keep it.

    Raises:
        ConfigError: It exists already.
    """
    if keep is not None:
        path = Path(keep).absolute()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"--keep {keep}: it exists already. Name a new directory.")
        path.mkdir(parents=True, exist_ok=True)
    with nullcontext(path) if keep is not None else tempfile.TemporaryDirectory(prefix="cairn-prove-") as root:
        yield Path(root).resolve()


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
