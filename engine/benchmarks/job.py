"""What one child process is told to do, and where it leaves what it saw."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One training by one contender.

    The window is what is timed: from batch `first_batch` to `last_batch`. It is made of pairs of blocks of the same
    length: one with saves, each followed by the same number of batches, so that what a writer in the background takes
    from them is counted; and one without, while nothing is being written. What saving costs is the difference of the
    two: a machine that is slower in one minute than in the next changes both, and since the two take turns in coming
    first, one that becomes slower and slower does as well. After each block is a batch that counts nowhere, behind the
    wait for the writer. The first save of a training comes before the window, and one that is timed while training
    waits for it, idle, after it.
    """

    contender: str
    size: str
    interval: int
    """Batches between two saves; 0 lets the contender choose."""
    saves: int
    """In a block; 0: there are no blocks."""
    first_batch: int
    last_batch: int
    threads: int
    """Of torch, in the training process."""
    device: str
    work_dir: str
    """Empty at the start, on the disk that is measured."""
    quiet_s: float
    """So long without a change in the checkpoint directory means that nothing is being written any more."""
    resume_from: str = ""
    """A checkpoint or run to start from, for the measurement of start-up."""

    @property
    def max_batches(self) -> int:
        """One more than the window: the save after it is timed while training waits for it, idle."""
        return self.last_batch + 1

    @property
    def block(self) -> int:
        """Batches in a block."""
        return self.interval * self.saves

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """After how many batches the block with saves and the one without begin, for each pair."""
        if not self.block:
            return []
        halves = [(start, start + self.block + 1) for start in range(self.first_batch, self.last_batch, self._pair)]
        return [half if number % 2 == 0 else half[::-1] for number, half in enumerate(halves)]

    @property
    def _pair(self) -> int:
        return 2 * (self.block + 1)

    def is_due(self, batch: int) -> bool:
        """Does the contender save after so many batches?"""
        if self.interval == 0:
            return False
        if not self.first_batch <= batch < self.last_batch:
            return batch in (self.interval, self.last_batch)
        number, into = divmod(batch - self.first_batch, self._pair)
        into -= self.block + 1 if number % 2 else 0
        return 0 <= into < self.block and into % self.interval == 0

    @property
    def checkpoint_dir(self) -> Path:
        """Where the files of every contender go."""
        return self.run_dir / "checkpoints"

    @property
    def run_dir(self) -> Path:
        """Hydra's run directory, where there is one."""
        return Path(self.work_dir) / "run"

    @property
    def path(self) -> Path:
        """Of this job, as JSON."""
        return Path(self.work_dir) / "job.json"

    @property
    def seen_path(self) -> Path:
        """Of what the probe saw, as JSON."""
        return Path(self.work_dir) / "seen.json"

    @staticmethod
    def end(first_batch: int, interval: int, saves: int, pairs: int) -> int:
        """The last batch of a window of so many pairs of blocks."""
        return first_batch + pairs * 2 * (interval * saves + 1)

    def write(self) -> None:
        """Leave the job where the child looks for it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(asdict(self)))

    def seen(self) -> dict[str, Any] | None:
        """What the probe left; None if the child did not come so far."""
        return json.loads(self.seen_path.read_text()) if self.seen_path.exists() else None


def read(path: str | Path) -> Job:
    """The job in a file."""
    return Job(**json.loads(Path(path).read_text()))
