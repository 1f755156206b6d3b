"""Orders for one child process, and where it leaves its results."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One training by one contender.

    The window from batch `first_batch` to `last_batch` is timed. It consists of pairs of blocks of equal length:
    one with saves, each followed by the same number of batches, so that the cost of a background writer is counted;
    and one without, while nothing is being written. The cost of saving is the difference of the two: a machine that
    is slower in one minute than in the next changes both, and since the two alternate in coming first, a steady
    drift cancels too. After each block follows the wait for the writer, and a batch that is not counted. The first
    save of a training comes before the window. After the window, one save is timed while training waits, idle.
    """

    contender: str
    size: str
    interval: int
    """Batches between two saves; 0 lets the contender choose."""
    saves: int
    """Saves in a block; 0 without blocks."""
    first_batch: int
    last_batch: int
    threads: int
    """Threads of torch in the training process."""
    device: str
    work_dir: str
    """A folder on the measured disk, empty at the start."""
    quiet_s: float
    """After this long without a change in the checkpoint directory, nothing is being written any more."""
    resume_from: str = ""
    """Checkpoint or run to resume, to measure the start-up."""

    @property
    def max_batches(self) -> int:
        """One more than in the window: the save after it is timed while training waits, idle."""
        return self.last_batch + 1

    @property
    def block(self) -> int:
        """Batches in a block."""
        return self.interval * self.saves

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """For each pair, the number of batches before the block with saves, and before the one without."""
        if not self.block:
            return []
        halves = [(start, start + self.block + 1) for start in range(self.first_batch, self.last_batch, self._pair)]
        return [half if number % 2 == 0 else half[::-1] for number, half in enumerate(halves)]

    @property
    def _pair(self) -> int:
        return 2 * (self.block + 1)

    def is_due(self, batch: int) -> bool:
        """Return True if the contender saves after this number of batches."""
        if self.interval == 0:
            return False
        if not self.first_batch <= batch < self.last_batch:
            return batch in (self.interval, self.last_batch)
        number, into = divmod(batch - self.first_batch, self._pair)
        into -= self.block + 1 if number % 2 else 0
        return 0 <= into < self.block and into % self.interval == 0

    @property
    def checkpoint_dir(self) -> Path:
        """Folder for the files of every contender."""
        return self.run_dir / "checkpoints"

    @property
    def run_dir(self) -> Path:
        """Hydra's run directory, if there is one."""
        return Path(self.work_dir) / "run"

    @property
    def path(self) -> Path:
        """File of this job, as JSON."""
        return Path(self.work_dir) / "job.json"

    @property
    def seen_path(self) -> Path:
        """File of the results of the probe, as JSON."""
        return Path(self.work_dir) / "seen.json"

    @staticmethod
    def end(first_batch: int, interval: int, saves: int, pairs: int) -> int:
        """Return the last batch of a window of `pairs` pairs of blocks."""
        return first_batch + pairs * 2 * (interval * saves + 1)

    def write(self) -> None:
        """Write the job to its file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(asdict(self)))

    def seen(self) -> dict[str, Any] | None:
        """Return the results of the probe; None if the child ended before it wrote them."""
        return json.loads(self.seen_path.read_text()) if self.seen_path.exists() else None


def read(path: str | Path) -> Job:
    """Read a job from a file."""
    return Job(**json.loads(Path(path).read_text()))
