"""What the files of one run say. Each file is read when it is first needed, and at most once."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cairn import opening
from cairn.account import progress
from cairn.account.progress import Progress
from cairn.errors import CairnError, ResumeError
from cairn.overview.last_values import LastValues
from cairn.overview.run_config import RunConfig
from cairn.run import attempts, goodput, status
from cairn.run.attempts import Attempt
from cairn.run.directory import RunDirectory, RunRecord
from cairn.run.goodput import TimeSpent
from cairn.store import links, manifest, names
from cairn.store.catalog import Catalog, describe
from cairn.types import Saved

UNREADABLE = "unreadable"
"""Status of a directory whose run.json is not the record of a run."""


class RunFacts:
    """The facts of one run. A damaged file is as good as a missing one, except for `trouble`.

    Args:
        path: Run directory.
        keys: Keys at the top of the configuration that will be needed.
    """

    def __init__(self, path: Path, keys: Collection[str] = ()) -> None:
        self.directory = RunDirectory(path)
        self.config = RunConfig(self.directory, keys)
        self._trouble = ""

    @property
    def path(self) -> Path:
        """The run directory, absolute."""
        return self.directory.path

    @property
    def trouble(self) -> str:
        """Why run.json or config.yaml cannot be read; empty if both can."""
        if self.record is not None:
            self.config.part("checkpoint")
        return self._trouble or self.config.trouble

    @cached_property
    def record(self) -> RunRecord | None:
        """Contents of run.json; None if it is not the record of a run."""
        try:
            found = self.directory.record()
        except ResumeError as error:
            self._trouble = str(error).replace(str(self.directory.record_file), "run.json")
            return None
        if found is None:
            self._trouble = "run.json is a link to nothing."
        return found

    @cached_property
    def created_s(self) -> float:
        """When the run began, in seconds since 1970; of an unreadable one, when its record was written."""
        try:
            return datetime.fromisoformat(self.record.created if self.record else "").timestamp()
        except (ValueError, OverflowError):
            try:
                return os.lstat(self.directory.record_file).st_mtime
            except OSError:
                return 0.0

    @property
    def created(self) -> str:
        """The same as UTC, ISO 8601."""
        return datetime.fromtimestamp(self.created_s, UTC).isoformat(timespec="seconds")

    @cached_property
    def reached(self) -> Progress | None:
        """How far the run has come; None if it is not known."""
        return progress.read(self.directory.progress_file)

    @cached_property
    def tried(self) -> list[Attempt]:
        """Attempts of the run, oldest first."""
        try:
            return attempts.read(self.directory)
        except OSError:
            return []

    @cached_property
    def status(self) -> str:
        """Status of the run according to its files; `dead` if it was killed."""
        if self.record is None:
            return UNREADABLE
        return status.from_files(self.record, self.reached, self.tried)

    @cached_property
    def share(self) -> float | None:
        """Share of the training that is done; None if its length is not known."""
        return status.share(self.reached, self.config.part("trainer"))

    @cached_property
    def newest(self) -> Saved | None:
        """The newest checkpoint; None without one."""
        return self._linked(names.LAST) or Catalog(self.checkpoints).newest()

    @cached_property
    def best(self) -> Saved | None:
        """The checkpoint behind best.ckpt; None if the run ranks none."""
        return self._linked(names.BEST)

    @cached_property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        try:
            return self.directory.checkpoints(self.config.part("checkpoint", "paths"))
        except ResumeError:
            return self.path / "checkpoints"

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """What the newest checkpoint records about its code: `git`, versions, world size; empty without one."""
        if self.newest is None:
            return {}
        proof = self.checkpoints / names.manifest_name(self.newest.name)
        try:
            found = manifest.parse(opening.read_bytes(proof)).get("provenance")
        except (OSError, CairnError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> str:
        """Commit of the project at the newest attempt, with a + if files had changed since; empty if it is not known.

        Attempts of earlier versions do not record it, but each checkpoint does.
        """
        started = self.tried[-1].git if self.tried else None
        return str(self.provenance.get("git") or "") if started is None else started

    @cached_property
    def spent(self) -> TimeSpent | None:
        """What the time of the run was spent on; None if its attempts are not recorded."""
        last = status.last_of(self.directory, self.record, self.status, self.reached, self.newest)
        return goodput.spent(self.tried, last)

    @cached_property
    def metrics(self) -> LastValues:
        """Last values of its metrics, without those of a file that another logger has written."""
        return LastValues(self.path / "csv" / "metrics.csv")

    @property
    def monitor(self) -> str | None:
        """Metric that ranks the checkpoints; None if there is none."""
        found = self.config.part("checkpoint").get("checkpoint", {}).get("monitor")
        return str(found) if found else None

    @property
    def test_metric(self) -> str | None:
        """The metric of the test that corresponds to the monitored one, or else the first; None without a test."""
        tested = sorted(name for name in self.metrics.names if name.startswith("test"))
        same = f"test/{(self.monitor or '').rpartition('/')[2]}"
        return same if same in tested else next(iter(tested), None)

    def _linked(self, link: str) -> Saved | None:
        try:
            name = links.named(self.checkpoints / link)
            return describe(self.checkpoints / name) if name else None
        except (OSError, CairnError):
            return None
