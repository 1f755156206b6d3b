"""Many kills (-9) of a run that has a mirror: `python -m tests.support.mirror_storm --rounds 60`.

Each attempt trains in a process of its own that saves after each second batch. It is killed at a random moment, often
in the middle of an upload. Most often its disk is lost with it, and the next attempt starts in another directory with
nothing but the address of the mirror. In some rounds the server of the object store is killed as well, and started
again while the run trains, or only after the run was killed.

After each kill: each checkpoint in the mirror is intact (it is read without the code under test), and the mirror has
not fallen back. The next attempt goes on from the newest checkpoint of what was left. At the end of each run: weights,
metrics and checkpoints equal those of an undisturbed run to the last bit. The store holds no object that nothing
refers to, and no upload that a kill has left open.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from tests.support.elastic_fit import Net, Points
from tests.support.object_store import ObjectStore, client_environment
from tests.support.rank_storm import newest_step, until

import cairn
from cairn.remote import layout, record
from cairn.remote.record import Record
from cairn.store.catalog import Catalog, verify

EPOCHS, NUM_SAMPLES, BATCH = 6, 48, 4
SLOW_S = 0.02
"""Of each batch: the mirror keeps up with most saves, and not with all."""
PIECE_BYTES = 5 * 2**20
"""Of a multipart upload in these runs: the least that S3 accepts, so that a checkpoint has two pieces."""
BALLAST = 3 * 2**19
"""Numbers in each checkpoint that nothing trains."""
WIPED, SERVER_KILLED = 0.7, 0.25
"""How often the disk is lost, and how often the server is killed, per round."""
FIXED = {layout.OWNER, layout.ATTEMPT, *layout.POINTERS.values()}


def _processes() -> Any:
    """What starts attempts: not forks of this process, whose client of object stores they would break."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.support.mirror_storm"])
    return found


class Slow(Callback):
    """Takes time in each batch, and notes the steps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step}\n")
        time.sleep(SLOW_S)


class Heavy(Net):
    """A network whose checkpoints are large enough for several pieces."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("ballast", torch.rand(BALLAST, generator=generator))


def train(run: Path, log: Path, address: str | None, environment: dict[str, str], epochs: int) -> None:
    """Be one attempt.

    Args:
        run: The run directory.
        log: Without a suffix: where the output, the steps and, at the end, the result go.
        address: Of the mirror; None: none.
        environment: Where the store is.
        epochs: How long the run trains.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.basicConfig(level=logging.INFO)
    with log.with_suffix(".log").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    code = 1
    try:
        _fit(run, log, address, epochs)
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(code)


def _fit(run: Path, log: Path, address: str | None, epochs: int) -> None:
    seed_everything(0, verbose=False)
    listeners = []
    if address is not None:
        from cairn.remote import Mirror, objects

        objects.CHUNK_BYTES = PIECE_BYTES
        listeners = [Mirror(address, run_directory=run, wait_s=60)]
    saving = cairn.Checkpointer(
        run / "checkpoints",
        every=2,
        keep_last=3,
        monitor="val",
        watchdog="off",
        writing=cairn.Writing(when_busy="wait"),
        listeners=listeners,
    )
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[Slow(log.with_suffix(".steps")), saving],
        max_epochs=epochs,
        val_check_interval=4,
        num_sanity_val_steps=0,
        logger=cairn.CSVLogger(run / "csv"),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    train_loader = cairn.DataLoader(Points(NUM_SAMPLES), BATCH, shuffle=True)
    trainer.fit(net := Heavy(), train_loader, cairn.DataLoader(Points(8), BATCH), ckpt_path=saving.resume())
    log.with_suffix(".json").write_text(
        json.dumps(
            {
                "weights": {name: value.tolist() for name, value in net.layer.state_dict().items()},
                "checkpoints": [(item.name, astuple(item.position), item.score) for item in saving.saved],
                "metrics": metrics(run),
            }
        )
    )


def metrics(run: Path) -> list[str]:
    """Return the rows of metrics.csv, without columns that hold times."""
    rows = [row.split(",") for row in (run / "csv" / "metrics.csv").read_text().splitlines()]
    kept = [number for number, name in enumerate(rows[0]) if not name.startswith("checkpoint/")]
    return [",".join(row[number] for number in kept) for row in rows]


@dataclass
class Storm:
    """Starts a run again and again, kills it, loses its disk, and checks what the mirror holds."""

    folder: Path
    store: ObjectStore
    rng: random.Random
    bucket: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, name: str, rounds: int, expected: dict[str, Any]) -> None:
        """Train one run to its end, with a limit for the kills."""
        mirror, limit = Mirrored(self.store, self.bucket, name), self.counts["rounds"] + rounds
        machine, newest, is_wiped = self._machine(name), 0, True
        while True:
            kills = self.counts["rounds"] < limit
            left = max(newest, 0 if is_wiped else newest_step(machine / name / "checkpoints"))
            log, ended = self._attempt(machine / name, mirror, kills)
            first = int(next(iter(_lines(log)), left))
            assert first == left, f"{log} went on from step {first}, although {left} was committed"
            found = mirror.check()
            self.counts["intact checkpoints in the mirror"] += len(found)
            now = max((item.saved.position.step for item in found), default=0)
            assert now >= newest, f"the mirror fell back from step {newest} to {now}"
            newest = now
            if ended:
                break
            is_wiped = self.rng.random() < WIPED
            if is_wiped:
                shutil.rmtree(machine)
                machine = self._machine(name)
            self.counts["disks lost"] += is_wiped
        self._compare(machine / name, log, mirror, expected, first)
        shutil.rmtree(machine)
        self.counts["runs"] += 1

    def _machine(self, name: str) -> Path:
        self.counts["machines"] += 1
        path = self.folder / f"machine_{self.counts['machines']}"
        (path / name).mkdir(parents=True)
        return path

    def _attempt(self, run: Path, mirror: Mirrored, kills: bool) -> tuple[Path, bool]:
        """Start once; return where its output is, and whether it has finished."""
        self.counts["attempts"] += 1
        log = self.folder / f"attempt_{self.counts['attempts']}"
        given = (run, log, mirror.address, client_environment(self.store.url), EPOCHS)
        child = _processes().Process(target=train, args=given)
        child.start()
        if not kills:
            child.join()
        elif self._disturb(child, mirror) and child.exitcode == 1:  # the server was away when it started
            assert "cannot be reached" in log.with_suffix(".log").read_text(), f"{log}.log: another error"
            self.counts["starts refused without the server"] += 1
            return log, False
        if child.exitcode == 0:
            return log, True
        assert child.exitcode == -signal.SIGKILL, f"{log}.log: the run has failed with {child.exitcode}"
        self.counts["rounds"] += 1
        return log, False

    def _disturb(self, child: Any, mirror: Mirrored) -> bool:
        """Kill the run, and perhaps the server before it; return whether the server was killed."""
        before = mirror.newest()
        if self.rng.random() < 0.85:
            until(lambda: mirror.newest() > before or not child.is_alive(), "nothing is mirrored")
        time.sleep(self.rng.uniform(0, 0.6))
        kills_server, returns = self.rng.random() < SERVER_KILLED, self.rng.random() < 0.5
        if kills_server:
            self.store.kill()
            self.counts["kills of the server"] += 1
            time.sleep(self.rng.uniform(0, 0.5))
            if returns:  # it comes back while the run trains
                self.store.start()
                time.sleep(self.rng.uniform(0, 1.5))
        self._kill(child)
        if kills_server and not returns:
            self.store.start()
        return kills_server

    def _kill(self, child: Any) -> None:
        """Kill a process and its writers, as when a machine is lost."""
        writers = []
        with suppress(OSError):
            writers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        for pid in (child.pid, *map(int, writers)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.join()
        until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in writers), "writers do not end")

    def _compare(self, run: Path, log: Path, mirror: Mirrored, expected: dict[str, Any], first: int) -> None:
        """Compare the end of a run with that of an undisturbed one.

        The mirror may also hold the checkpoint that the last attempt was resumed from, at step `first`.
        """
        end = json.loads(log.with_suffix(".json").read_text())
        # What was not mirrored yet is lost with a disk; only what the last attempt has saved itself must be there.
        kept, wanted = end.pop("checkpoints"), expected["checkpoints"]
        assert end == {key: value for key, value in expected.items() if key != "checkpoints"}, "other bits"
        assert kept[-1] == wanted[-1], "another final checkpoint"
        self.counts["ends with all kept checkpoints"] += kept == wanted
        found = mirror.check()
        local = [item.name for item in Catalog(run / "checkpoints").committed()]
        there = [item.saved.name for item in found if item.saved.name in local or item.saved.position.step != first]
        assert there == local, f"the mirror holds {there}, and the disk {local}"
        unreferenced = mirror.unreferenced(found)
        assert unreferenced == [], f"nothing refers to {unreferenced}"
        assert mirror.file(found[-1], "csv/metrics.csv") == (run / "csv" / "metrics.csv").read_bytes()
        assert (left := self.store.dangling(self.bucket)) == [], f"uploads are still open: {left}"


@dataclass
class Mirrored:
    """What a mirror holds, read with another client than that of the code under test."""

    store: ObjectStore
    bucket: str
    name: str

    @property
    def address(self) -> str:
        """Address of the run."""
        return f"s3://{self.bucket}/runs/{self.name}"

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all objects in bytes, by their names below the address."""
        prefix = f"runs/{self.name}/"
        return {key.removeprefix(prefix): size for key, size in self.store.objects(self.bucket, prefix).items()}

    def newest(self) -> str:
        """Return the name of the newest record; empty if there is none, or the store does not answer."""
        with suppress(Exception):
            return max((name for name in self.sizes() if _is_record(name)), default="")
        return ""

    def check(self) -> list[Record]:
        """Check that each checkpoint with a record is intact, and return the records, oldest first."""
        sizes, found = self.sizes(), []
        for name in sorted(sizes):
            if not _is_record(name):
                continue
            one = record.load(self._read(name))
            for object_name, _, num_bytes in layout.data_of(one.saved):
                assert sizes.get(object_name) == num_bytes, (
                    f"{object_name} of {name} has {sizes.get(object_name)} bytes"
                )
            self._verify(one)
            for file in one.files:
                assert len(self.file(one, file.path)) == file.num_bytes
            found.append(one)
        return sorted(found, key=lambda item: item.saved.position)

    def _verify(self, one: Record) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / one.saved.name
            path.write_bytes(self._read(layout.stem_of(one.saved).data))
            verify(path, one.saved)
            contents = torch.load(path, weights_only=True)
            assert contents["global_step"] == one.saved.position.step

    def file(self, one: Record, path: str) -> bytes:
        """Return a run file of a record."""
        (file,) = (item for item in one.files if item.path == path)
        return b"".join(self._read(part.object) for part in file.parts)

    def unreferenced(self, found: Sequence[Record]) -> list[str]:
        """Return the objects that no record refers to."""
        needed = {name for one in found for name in one.objects()}
        return sorted(set(self.sizes()) - needed - FIXED)

    def _read(self, name: str) -> bytes:
        return self.store.read(self.bucket, f"runs/{self.name}/{name}")


def _is_record(name: str) -> bool:
    parsed = layout.parse(name)
    return parsed is not None and parsed[1]


def _lines(log: Path) -> list[str]:
    path = log.with_suffix(".steps")
    return path.read_text().split() if path.exists() else []


def storm(
    folder: Path, store: ObjectStore, rounds: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> Counter[str]:
    """Let runs finish in spite of at least this many kills; return what has happened.

    Args:
        folder: For the machines of the runs.
        store: The object store; it is killed, too.
        rounds: Least number of kills.
        seed: Of the moments, and of what is lost.
        say: Called with a text after each run.

    Raises:
        AssertionError: A checkpoint in the mirror is torn, progress is lost, an object is left over, or a run does not
            end as an undisturbed one.
    """
    found = Storm(folder, store, random.Random(seed), store.bucket())
    whole, log = folder / "whole", folder / "undisturbed"
    whole.mkdir()
    child = _processes().Process(target=train, args=(whole, log, None, {}, EPOCHS))
    child.start()
    child.join()
    assert child.exitcode == 0, f"see {log}.log"
    expected = json.loads(log.with_suffix(".json").read_text())
    while found.counts["rounds"] < rounds:
        found.run(f"run_{found.counts['runs']}", rounds - found.counts["rounds"], expected)
        say(str(dict(sorted(found.counts.items()))))
    return found.counts


def main(argv: Sequence[str]) -> int:
    """Run a storm, and print what has happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mirror_storm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", help="where the runs are made, and left if one is wrong")
    given = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=given.dir))
    with ObjectStore() as store:
        counts = storm(folder, store, given.rounds, given.seed, lambda text: print(text, flush=True))
    print(f"{counts['rounds']} kills: 0 unequal ends, 0 torn checkpoints, 0 objects that nothing refers to.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
