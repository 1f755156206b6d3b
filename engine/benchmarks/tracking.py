"""Cost of reporting a checkpoint to W&B: for the commit thread, offline and while a server does not answer, and for the
training thread, which stores the history."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import children

OFFLINE, HUNG = "offline", "server hangs"
NUM_SAVES = 100
_NUM_BYTES = 2**29
_PAUSE_S = 0.02  # between two saves, so that the listener's thread has begun with the one before


def run(directory: Path, timeout_s: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return `mode` and `seconds` (one value per checkpoint); each mode runs in its own process."""
    found = []
    for mode in (OFFLINE, HUNG):
        folder = directory / "tracking"
        command = [sys.executable, "-m", "benchmarks.tracking", mode, str(folder)]
        ended = children.run(command, 1, timeout_s, directory / "log" / "tracking.log")
        shutil.rmtree(folder, ignore_errors=True)
        if ended.error:
            say(f"  tracking, {mode}: {ended.error}")
        else:
            found.append({"mode": mode, "seconds": json.loads(ended.output.splitlines()[-1])})
    return found


def line(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the results."""
    parts = (
        f"{item['mode']}: {1e3 * statistics.median(item['seconds']):.2f} ms, at worst {1e3 * max(item['seconds']):.2f}"
        for item in results
    )
    return f"Time of the commit thread to report a checkpoint to W&B ({NUM_SAVES} checkpoints): {'; '.join(parts)}"


def main(mode: str, directory: Path) -> None:
    """Measure one mode, print the seconds as JSON, and leave at once."""
    from tests.support.wandb_server import WandbServer

    from cairn.wandb.environment import prepare

    (directory / "checkpoints").mkdir(parents=True)
    with WandbServer() as server:
        os.environ |= server.environment if mode == HUNG else {"WANDB_MODE": "offline"}
        prepare(directory, offline=mode == OFFLINE)
        seconds = _measure(directory, server.hang if mode == HUNG else lambda: None)
        print(json.dumps(seconds), flush=True)
        os._exit(0)  # the client would wait for the server


def _measure(directory: Path, begin: Callable[[], None]) -> list[float]:
    import wandb

    from cairn.store import names
    from cairn.types import Position, Saved
    from cairn.wandb.artifacts import Artifacts
    from cairn.wandb.logger import WandbLogger

    folder = directory / "checkpoints"
    logger = WandbLogger(directory, project="benchmark", id="benchmark")
    logger._experiment = wandb.init(project="benchmark", id="benchmark", dir=str(directory))
    listener = Artifacts(logger.experiment, run_directory=directory)
    listener.opened(folder, [], {}, [])
    time.sleep(1)
    begin()
    seconds, before = [], ""
    for number in range(NUM_SAVES):
        position = Position(0, number, number, number)
        saved = Saved(names.checkpoint_name(position), position, number, (), None, num_bytes=_NUM_BYTES, digest="0")
        with open(folder / saved.name, "wb") as file:
            file.truncate(_NUM_BYTES)
        logger.log_metrics({"loss": 1.0 / (1 + number)}, number)
        started = time.perf_counter()
        logger.state_dict()
        listener.deleting([before] if before else [])
        listener.committed(saved, {names.LAST: saved.name, names.BEST: saved.name})
        spent_s = time.perf_counter() - started
        if before:
            (folder / before).unlink()
            started = time.perf_counter()
            listener.deleted([before])
            spent_s += time.perf_counter() - started
        seconds.append(spent_s)
        logger.sync()  # by the thread that commits
        before = saved.name
        time.sleep(_PAUSE_S)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
