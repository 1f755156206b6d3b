"""Many kills (-9) in quick succession: no file is torn, no progress is lost, and each run ends exactly as expected."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tests.support.callbacks import recorded
from tests.support.command import PATIENT_S, QUICK, RECORD, Process, start, train, wait_for
from tests.support.equality import differences, outcome

from cairn.policy import keep
from cairn.store import names
from cairn.store.catalog import Catalog, describe, verify
from cairn.store.disk import is_locked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

DIGITS = [  # few checkpoints are kept, so that each save deletes one
    "model=mlp",
    "data.batch_size=128",
    "data.augment=true",
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=50",
    "trainer.max_epochs=8",
    "trainer.val_check_interval=0.25",
    "trainer.limit_val_batches=1",
    "checkpoint.save_interval=1",
]
GPT = [  # many checkpoints are kept, by rules that overlap
    "experiment=gpt",
    "model.net.num_layers=1",
    "data.seq_len=32",
    "data.batch_size=2",
    "data.files=configs/**/*.yaml",
    "trainer.max_steps=60",
    "trainer.val_check_interval=6",
    "trainer.limit_val_batches=1",
    "trainer.accumulate_grad_batches=2",
    "checkpoint.save_interval=1",
    "checkpoint.keep_last=3",
    "checkpoint.save_top_k=3",
    "+checkpoint.keep.budget={_target_: cairn.policy.keep.WithinBytes, num_bytes: 5000000}",
]
SLOW_DISK = "+callbacks.disk._target_=tests.support.callbacks.SlowDisk"
COMMANDS = {"digits": DIGITS, "gpt": GPT}
LAGS = {"sync": 0, "thread": 2, "process": 2, "process, overlap": 2}
"""Writers, and how many due saves a kill may cost: with two buffers, one is being written and one is queued."""
STORMS = [(name, way) for name in COMMANDS for way in LAGS]
KILLS = math.ceil(int(os.environ.get("CAIRN_STORM_KILLS", "102")) / len(STORMS))
"""Kills per command and writer."""


@pytest.fixture(scope="module", params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def command(name: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    # No save is skipped, so that all runs keep the same files.
    return [
        *QUICK,
        *COMMANDS[name],
        RECORD,
        "checkpoint.when_busy=wait",
        f"paths.data_dir={tmp_path_factory.mktemp('d')}",
    ]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, *command)
    return run


@pytest.mark.parametrize("way", LAGS)
def test_a_storm_of_kills(name: str, way: str, command: list[str], whole: Path) -> None:
    # In memory a save is very fast, so its steps are slowed down. A writer process cannot be patched: it uses a disk.
    in_memory = not way.startswith("process")
    with tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT") if in_memory else None) as folder:
        _storm(name, way, [*command, *([SLOW_DISK] if in_memory else [])], whole, Path(folder))


def _storm(name: str, way: str, command: list[str], whole_run: Path, tmp_path: Path) -> None:
    whole = outcome(whole_run, recorded(whole_run))
    writer, _, overlap = way.partition(", ")
    ours = [*command, f"checkpoint.writer={writer}", f"checkpoint.overlap={bool(overlap)}"]
    config = OmegaConf.load(whole_run / "config.yaml")
    storm = Storm(ours, config, random.Random(name + way), LAGS[way])
    while storm.goes_on:
        run = tmp_path / f"run{storm.counts['ends']}"
        while storm.goes_on and storm.kills(run):
            pass
        storm.let_finish(run)
        assert differences(whole, outcome(run, recorded(run))) == []
        assert storm.traces(run) == set()
    print(f"\n{name}, {way}: {dict(storm.counts)}; no file torn, no progress undone, all ends equal")
    assert storm.counts["kills"] >= KILLS
    assert storm.counts["inside a save"] >= KILLS // 10, "kills that miss the saves prove nothing"
    assert writer != "process" or storm.counts["writers alone"] > 0, "kills that miss the writers prove nothing"


@dataclass
class Storm:
    """Start a command repeatedly, kill it, and check what it has left."""

    command: list[str]
    config: DictConfig
    rng: random.Random
    lag: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def goes_on(self) -> bool:
        """True until there are enough kills, and enough of them inside a save, which a fast disk makes rare."""
        num, inside = self.counts["kills"], self.counts["inside a save"]
        return num < KILLS or (inside < KILLS // 10 and num < 4 * KILLS)

    def kills(self, run: Path) -> bool:
        """Start and kill once; return False if the run ended before."""
        name, committed, before = _newest_manifest(run), _num_committed(run), self.traces(run)
        process = start(run, *self.command)
        if self.rng.random() < 0.2:
            time.sleep(self.rng.uniform(0, 0.5))  # most likely before its first save
        elif wait_for(lambda: _newest_manifest(run) != name, process):
            time.sleep(self.rng.uniform(0, 0.1))  # in one of its next saves, or between them
            if self.rng.random() < 0.2 or not self.counts["writers alone"]:
                self._kill_writer_alone(run, process)
        code = self._kill(run, process)
        if code != -signal.SIGKILL:
            assert code == 0, process.output[-4000:]
            return False
        self.counts["kills"] += 1
        self.counts["intact files"] += _check_files(run / "checkpoints")
        now = _num_committed(run)
        assert now >= max(committed, self._num_promised(run)), "progress was undone"
        traces = self.traces(run) - before
        self.counts.update({kind for kind, _ in traces})
        self.counts["inside a save"] += bool(traces)
        self.counts["before the first save"] += not traces and now == committed
        return True

    def _kill_writer_alone(self, run: Path, process: Process) -> None:
        """Kill the writer: training continues with a new one, at least to its next save."""
        name = _newest_manifest(run)
        for pid in (writers := _writers(process.pid)):
            os.kill(pid, signal.SIGKILL)
        if writers and wait_for(lambda: _newest_manifest(run) != name, process):
            self.counts["writers alone"] += 1

    def _kill(self, run: Path, process: Process) -> int:
        """Kill the training, in half of the cases together with its writer; return the exit code."""
        writers = _writers(process.pid)
        if writers and self.rng.random() < 0.5:  # as when the machine fails
            os.kill(process.pid, signal.SIGSTOP)
            for pid in writers:
                os.kill(pid, signal.SIGKILL)
        code = process.kill()
        limit = time.monotonic() + PATIENT_S
        # A writer finishes its save. One that was just started, and is not listed here, begins nothing.
        while any(_runs(pid) for pid in writers) or is_locked(run / "checkpoints"):
            assert time.monotonic() < limit, "the writer does not end"
            time.sleep(0.005)
        return code

    def let_finish(self, run: Path) -> None:
        """Run to the end without a kill."""
        train(run, *self.command)
        self.counts["ends"] += 1

    def _num_promised(self, run: Path) -> int:
        """Return how many batches must have been committed, given the last batch that the run has begun."""
        batches = run / "batches-0.jsonl"
        if not batches.exists():
            return 0
        begun, _, batch, _ = json.loads(batches.read_text().splitlines()[-1])
        window = self.config.trainer.accumulate_grad_batches  # a save is not possible inside a window
        return begun - batch % window - self.lag * window

    def traces(self, run: Path) -> set[tuple[str, str]]:
        """Return what only a kill inside a save leaves: its kind, and the checkpoint."""
        checkpoints, policy = run / "checkpoints", self.config.checkpoint
        catalog = Catalog(checkpoints)
        kept = catalog.committed()
        found = {("no manifest yet", item.path.name) for item in catalog.rejected()}
        for path in checkpoints.glob(".*.tmp"):
            if path.name == names.PROBE:  # of the start, which tries whether the directory can be written to
                found.add(("probe left", path.name))
                continue
            over = bool(kept) and path.name.removeprefix(".") < kept[-1].name and path.suffixes[-2] == ".ckpt"
            found.add(("half deleted" if over else f"{path.suffixes[-2]} in part", path.name))
        if kept:
            stay = keep.survivors(map(instantiate, policy.keep.values()), kept, policy.mode)
            best = keep.best_of(kept, policy.mode)
            found |= {("to be deleted", item.name) for item in kept if item not in stay}
            for link, item in ((names.LAST, kept[-1]), (names.BEST, best)):
                path = checkpoints / link
                if item is not None and not (path.is_symlink() and str(path.readlink()) == item.name):
                    found.add((f"{link} behind", item.name))
        return found


def _check_files(checkpoints: Path) -> int:
    """Check that each manifest has an intact file and each link leads to one; return the number of manifests."""
    manifests = list(checkpoints.glob("*.json"))
    for manifest in [path for path in manifests if not path.with_suffix(".ckpt").exists()]:
        # An interrupted deletion: it renames the file first, then deletes the manifest, then the file.
        assert (checkpoints / names.temp_name(f"{manifest.stem}.ckpt")).exists(), f"{manifest} has lost its file"
        manifests.remove(manifest)
    for path in (manifest.with_suffix(".ckpt") for manifest in manifests):
        verify(path, describe(path))
        torch.load(path, weights_only=True)
    for link in (checkpoints / names.LAST, checkpoints / names.BEST):
        assert not link.is_symlink() or link.resolve().with_suffix(".json") in manifests, f"{link} dangles"
    return len(manifests)


def _runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_text())
    except OSError:
        return False


def _writers(pid: int) -> list[int]:
    """Return the writer processes of a training."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if "writer_process" in Path(f"/proc/{child}/cmdline").read_text()]
    except OSError:
        return []


def _newest_manifest(run: Path) -> str:
    """Return the name of the newest manifest without reading it: this is called every few milliseconds."""
    return max((path.name for path in (run / "checkpoints").glob("*.json")), default="")


def _num_committed(run: Path) -> int:
    """Return the number of batches before the newest intact checkpoint."""
    saved, _ = Catalog(run / "checkpoints").newest_intact()
    return saved.position.total_batches if saved else 0
