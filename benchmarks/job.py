"""What one child process is told to do, and where it leaves what it saw."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One training by one contender.

    The window is what is timed: it opens after batch `first_batch`, right before the save that is due there, and
    closes after `last_batch`, right before the next one. So each save in it is followed by the same number of batches,
    and what a writer in the background takes from them is counted. The first save of a training comes before it.
    """

    contender: str
    size: str
    interval: int
    """Batches between two saves; 0 lets the contender choose."""
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
