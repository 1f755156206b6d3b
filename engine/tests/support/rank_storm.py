"""Many kills (-9) of a run whose number of processes changes at each restart: `python -m tests.support.rank_storm`.

Each attempt trains on 1 to 4 forked processes that write shards, each through a writer process, or in every second run
through a thread. Writers are slowed down, so that most kills fall into a save. A kill hits all ranks, or all ranks and
their writers, or one rank, or one writer. After each of them: no torn checkpoint, no lost progress. At the end of each
run: each global batch once and in order, and nothing left over. With `--processes 2` the number is fixed, and the
weights are equal to the last bit. `--strategies ddp fsdp2` draws a strategy at each start, `--elastic bits` keeps the
bits at any number of processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from tests.support.elastic_fit import BATCH, GLOBAL_BATCH, NUM_SAMPLES, NUM_VAL, Net, Points

import cairn
from cairn.store import names
from cairn.store.catalog import Catalog, verify
from cairn.store.disk import is_locked
from cairn.writing import writer
from cairn.writing.load import load

EPOCHS = 12
MOST_PROCESSES = 4
VICTIMS = {"all ranks": 3, "all ranks and writers": 2, "one rank": 3, "one rank and its writer": 1, "a writer": 3}
"""What is killed, and how often in relation to the others."""
LAUNCHER_S = 5.0
"""Maximum time until Lightning's launcher kills the ranks that a dead one has left."""
PATIENT_S = 120.0
_SLOW = """
import os, random, time
def slow(function):
    def call(*given, **more):
        time.sleep(random.uniform(0, 0.01))
        return function(*given, **more)
    return call
for name in ("mkdir", "fsync", "replace", "symlink", "unlink", "rmdir"):
    setattr(os, name, slow(getattr(os, name)))
from cairn.store import sharded_commit
sharded_commit.SILENCE_AFTER_END_S = 0.5
"""
"""Runs where shards are written: slow system calls, and little patience with ranks that are dead."""


class Steps(Callback):
    """Appends the step and the samples of each batch to a file, before the batch is trained on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([trainer.global_step, batch[2].tolist()]) + "\n")


def train(run: Path, attempt: int, rank: int, processes: int, port: int, options: dict[str, Any]) -> None:
    """Be one rank of one attempt.

    Args:
        run: Directory of the run.
        attempt: Number of the attempt.
        rank: This rank.
        processes: Number of ranks.
        port: Where they meet.
        options: Further arguments of the checkpointer; `writer` is one of `cairn.Writing`, `strategy` of the trainer.
    """
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # of another number of processes
    if options["writer"] == "thread":
        exec(_SLOW, {})  # in this process only, which was forked for it
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    with (run / f"{attempt}_{rank}.log").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    code = 1
    try:
        trainer, net = _fit(run, attempt, rank, processes, options)
        saved = trainer.checkpoint_callback.saved  # type: ignore[union-attr]
        (run / f"end_{rank}.json").write_text(
            json.dumps(
                {
                    "weights": [value for item in net.parameters() for value in whole(item).flatten().tolist()],
                    "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
                    "checkpoints": [(item.name, astuple(item.position)) for item in saved],
                    "scores": [item.score for item in saved],
                }
            )
        )
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(code)


def _fit(run: Path, attempt: int, rank: int, processes: int, options: dict[str, Any]) -> tuple[Trainer, Net]:
    seed_everything(0, verbose=False)
    more = dict(options)
    strategy = cairn.FSDP2Strategy() if more.pop("strategy") == "fsdp2" else "ddp"
    saving = cairn.Checkpointer(
        run / "checkpoints",
        every=1,
        keep_last=3,
        monitor="val",
        watchdog="off",
        writing=cairn.Writing(more.pop("writer"), when_busy="wait", sharded=True),
        **more,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="auto" if processes == 1 else strategy,
        callbacks=[Steps(run / f"steps_{attempt}_{rank}.jsonl"), saving],
        max_epochs=EPOCHS,
        val_check_interval=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    net, shared = Net(), {"global_batch_size": GLOBAL_BATCH}
    size, num_samples, num_val = sizes(options)
    train_loader = cairn.DataLoader(Points(num_samples), size, shuffle=True, **shared)
    trainer.fit(net, train_loader, cairn.DataLoader(Points(num_val), size, **shared), ckpt_path=saving.resume())
    return trainer, net


def whole(tensor: Any) -> torch.Tensor:
    """Return a tensor as a single process has it; of one that is divided, all ranks ask for it."""
    found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def sizes(options: dict[str, Any]) -> tuple[int, int, int]:
    """Return the size of a batch, and the numbers of samples to train on and to validate."""
    if options.get("elastic") == "bits":  # a virtual rank for each sample of a global batch, so that 4 can share them
        return 1, 4 * GLOBAL_BATCH, GLOBAL_BATCH
    return BATCH, NUM_SAMPLES, NUM_VAL


@dataclass
class Attempt:
    """The processes of one start."""

    ranks: Sequence[BaseProcess]
    writers: set[int] = field(default_factory=set)

    def see_writers(self) -> list[int]:
        """Return the writers that each rank has now, and remember them."""
        found = [pid for rank in self.ranks if rank.pid for pid in _writers(rank.pid)]
        self.writers |= set(found)
        return found

    @property
    def runs(self) -> bool:
        """Whether any rank runs."""
        return any(rank.is_alive() for rank in self.ranks)

    def wait(self, checkpoints: Path) -> int:
        """Wait until all ranks have ended, and their writers have finished what they had begun.

        A rank whose peers are dead ends by itself once they have been connected. Before that, its launcher kills it.

        Returns:
            How many ranks had to be killed as a launcher does it.
        """
        limit = time.monotonic() + LAUNCHER_S
        while self.runs and time.monotonic() < limit:
            self.see_writers()
            time.sleep(0.01)
        left = [rank for rank in self.ranks if rank.is_alive()]
        for rank in left:
            rank.kill()
        until(lambda: not any(map(_lives, self.writers)) and not is_locked(checkpoints), "the writers do not end")
        for rank in self.ranks:
            rank.join()
        return len(left)


@dataclass
class Storm:
    """Start a run again and again, kill it, and check what it has left."""

    folder: Path
    rng: random.Random
    processes: int | None
    """Number of processes; None: another one at each start."""
    strategies: Sequence[str] = ("ddp",)
    options: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    num_attempts: int = 0
    last: int = 0

    def run(self, name: str, kills: int) -> Path:
        """Train one run to its end, with a limit for the kills, and return its directory."""
        self.options["writer"] = ("process", "thread")[self.counts["runs"] % 2]
        run, limit = self.folder / name, self.counts["kills"] + kills
        (run / "checkpoints").mkdir(parents=True)
        while not self._is_finished(run, self.counts["kills"] < limit):
            pass
        self.counts["runs"] += 1
        return run

    def _is_finished(self, run: Path, kill: bool) -> bool:
        """Start once, and kill unless it ends before that or `kill` is false; return whether the run has finished."""
        checkpoints = run / "checkpoints"
        before, traces = newest_step(checkpoints), left_over(checkpoints)
        attempt = self._start(run)
        victim, is_saving = self._kill(attempt, checkpoints) if kill else ("", False)
        attempt.see_writers()
        if not victim:
            while attempt.runs:  # writers start late
                attempt.see_writers()
                time.sleep(0.01)
        self.counts["ranks killed by the launcher"] += attempt.wait(checkpoints)
        number = self.num_attempts
        first = min(_steps(run, number), default=before)
        assert first == before, f"attempt {number} went on from step {first}, although {before} was committed"
        codes = [rank.exitcode for rank in attempt.ranks]
        after = newest_step(checkpoints)
        assert after >= before, f"progress was undone: step {after} after step {before}"
        self.counts["intact checkpoints"] += check(checkpoints)
        if not any(codes):
            return True
        assert victim, f"attempt {number} of {run} has failed: {codes}"
        self.counts["kills"] += 1
        self.counts[f"kills with a {self.options['writer']}"] += 1
        self.counts[f"kill of {victim}"] += 1
        self.counts["while a save was written"] += is_saving
        self.counts["left something"] += bool(left_over(checkpoints) - traces)
        return False

    def _start(self, run: Path) -> Attempt:
        number = self.processes or self.rng.randint(1, MOST_PROCESSES)
        self.counts["moves"] += self.last not in (0, number)
        self.counts[f"starts on {number}"] += 1
        self.last, self.num_attempts = number, self.num_attempts + 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        fork = multiprocessing.get_context("fork")
        options = self.options | {"strategy": self.rng.choice(self.strategies)}
        self.counts[f"starts with {options['strategy']}"] += number > 1
        given = [(run, self.num_attempts, rank, number, port, options) for rank in range(number)]
        ranks = [fork.Process(target=train, args=one) for one in given]
        for rank in ranks:
            rank.start()
        return Attempt(ranks)

    def _kill(self, attempt: Attempt, checkpoints: Path) -> tuple[str, bool]:
        """Kill at a random moment; return what was killed, empty if the run ended before, and whether it was saving."""
        before = newest_manifest(checkpoints)
        if self.rng.random() < 0.15:
            time.sleep(self.rng.uniform(0, 1))  # most likely before its first save
        else:
            while newest_manifest(checkpoints) == before and attempt.runs:
                time.sleep(0.002)
            time.sleep(self.rng.uniform(0, 0.5))
        kinds = list(VICTIMS)
        victim = self.rng.choices(kinds, [VICTIMS[kind] for kind in kinds])[0]
        if victim == "a writer":
            if not self._kill_a_writer(attempt.see_writers(), attempt, checkpoints):
                return "", False
            victim = "all ranks"
        chosen = [self.rng.choice(attempt.ranks)] if victim.startswith("one") else list(attempt.ranks)
        if not all(rank.is_alive() for rank in chosen):
            return "", False
        attempt.see_writers()
        pids = [rank.pid for rank in chosen if rank.pid]
        if victim.endswith(("writers", "writer")):  # as when a machine fails
            pids = [item for pid in pids for item in (*_writers(pid), pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        is_saving = any(checkpoints.glob(".epoch*"))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return victim, is_saving

    def _kill_a_writer(self, writers: Sequence[int], attempt: Attempt, checkpoints: Path) -> bool:
        """Kill a writer: training goes on with another one, to a checkpoint after the next at least."""
        before = newest_manifest(checkpoints)
        if writers:
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(writers), signal.SIGKILL)
            self.counts["kill of a writer alone"] += 1
        until(lambda: newest_manifest(checkpoints) > before or not attempt.runs, "training does not go on")
        return attempt.runs


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: It did not come true; with `what`.
    """
    limit = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.005)


def newest_manifest(checkpoints: Path) -> str:
    """Return the name of the newest manifest."""
    return max((path.name for path in checkpoints.glob("epoch*.json")), default="")


def newest_step(checkpoints: Path) -> int:
    """Return the optimizer step of the newest intact checkpoint."""
    saved, _ = Catalog(checkpoints).newest_intact()
    return saved.position.step if saved else 0


def check(checkpoints: Path) -> int:
    """Check that each committed checkpoint is intact, and that `last` leads to one; return their number."""
    committed = Catalog(checkpoints).committed()
    for item in committed:
        verify(checkpoints / item.name, item)
    if committed:
        contents = load(checkpoints / committed[-1].name)
        assert contents["global_step"] == committed[-1].position.step
    for link in (names.LAST, names.BEST):
        path = checkpoints / link
        assert not path.is_symlink() or path.resolve().name in {item.name for item in committed}, f"{link} dangles"
    return len(committed)


def left_over(checkpoints: Path) -> set[str]:
    """Return the names of what a directory has besides whole checkpoints."""
    kept = [item.name for item in Catalog(checkpoints).committed()]
    expected = {name for item in kept for name in (item, names.manifest_name(item))}
    return {path.name for path in checkpoints.iterdir()} - expected - {names.LAST, names.BEST, names.CLAIM, names.LOCK}


def windows(run: Path, num_attempts: range) -> list[list[int]]:
    """Return the samples of each global batch of a run: those of a later attempt replace those of an earlier one."""
    history: dict[int, list[int]] = {}
    for number in num_attempts:
        found = _steps(run, number)
        if found:
            history = {step: samples for step, samples in history.items() if step < min(found)} | found
    assert sorted(history) == list(range(len(history))), "a global batch is missing"
    return [sorted(history[step]) for step in sorted(history)]


def _steps(run: Path, number: int) -> dict[int, list[int]]:
    """Return the samples that an attempt has trained on, by step. The last line of a killed rank may be cut."""
    found: dict[int, list[int]] = {}
    for path in run.glob(f"steps_{number}_*.jsonl"):
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                step, samples = json.loads(line)
                found.setdefault(step, []).extend(samples)
    return found


def _writers(pid: int) -> Iterator[int]:
    """Writer processes of a rank."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if "writer_process" in Path(f"/proc/{child}/cmdline").read_text():
                    yield int(child)


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_text())
    return False


def slowed(start: str) -> str:
    """Return the program of a writer process with slow system calls."""
    return start.replace("from ", _SLOW + "from ", 1)


def storm(
    folder: Path,
    kills: int,
    processes: int | None,
    seed: int,
    options: dict[str, Any],
    strategies: Sequence[str] = ("ddp",),
) -> Counter[str]:
    """Let runs finish in spite of at least this many kills; return what has happened.

    Args:
        folder: For the runs.
        kills: Least number of kills.
        processes: Number of processes; None: another one, from 1 to 4, at each start.
        seed: Of the moments, the victims and the numbers of processes.
        options: Further arguments of the checkpointer.
        strategies: Of which each start with several processes has one.

    Raises:
        AssertionError: A checkpoint is torn, progress is lost, or a run does not end as an undisturbed one.
    """
    quiet = Storm(folder, random.Random(seed), processes or 1, strategies[:1], dict(options))
    whole = quiet.run("undisturbed", 0)
    expected, end = windows(whole, range(1, 2)), _end(whole)
    assert sorted(itertools.chain(*expected)) == sorted(list(range(sizes(options)[1])) * EPOCHS), (
        "each sample of each epoch once"
    )
    found = Storm(folder, random.Random(seed), processes, strategies, dict(options))
    is_exact = (processes is not None and len(strategies) == 1) or options.get("elastic") == "bits"
    while found.counts["kills"] < kills:
        first = found.num_attempts + 1
        run = found.run(f"run_{found.counts['runs']}", kills - found.counts["kills"])
        assert windows(run, range(first, found.num_attempts + 1)) == expected, "other global batches"
        assert left_over(run / "checkpoints") == set()
        mine = _end(run)
        assert mine["checkpoints"] == end["checkpoints"]
        if is_exact:
            assert mine == end, "the same bits"
        torch.testing.assert_close(mine["weights"], end["weights"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine["metrics"], end["metrics"], rtol=1e-4, atol=1e-5)
        print(dict(sorted(found.counts.items())), flush=True)
    return found.counts


def _end(run: Path) -> Any:
    return json.loads((run / "end_0.json").read_text())


def main(argv: Sequence[str]) -> int:
    """Run a storm, and print what has happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.rank_storm", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--processes", type=int, help="a fixed number (default: another one at each start)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--strategies", nargs="+", default=["ddp"], choices=["ddp", "fsdp2"], help="drawn at each start"
    )
    parser.add_argument("--elastic", help="argument of the checkpointer, such as bits")
    parser.add_argument("--dir", help="where the runs are made, and left if one is wrong")
    given = parser.parse_args(argv)
    writer._START = slowed(writer._START)
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=given.dir))
    options = {"elastic": given.elastic} if given.elastic else {}
    counts = storm(folder, given.kills, given.processes, given.seed, options, given.strategies)
    print(f"{counts['kills']} kills: no torn checkpoint, no lost progress, each global batch once and in order.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
