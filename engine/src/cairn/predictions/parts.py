"""The files of predictions. A part is there once its record is.

DIRECTORY/
    predictions.json           the plan
    part_000000.safetensors    tensors: 000003/logits is the output "logits" of batch 3
    part_000000.jsonl          other values: a line per sample
    part_000000.json           the record: batches, indices of samples, structure, digests      <== THERE
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cairn import opening, records
from cairn.errors import CheckpointError, ConfigError, SaveError
from cairn.predictions import plan as plans
from cairn.predictions.plan import Plan
from cairn.predictions.values import Columns
from cairn.store import disk
from cairn.writing import exported

PLAN = "predictions.json"
_RECORD = re.compile(r"part_([0-9]{6,})\.json")


@dataclass(frozen=True)
class FileRecord:
    """A file of a part."""

    num_bytes: int
    digest: str


@dataclass(frozen=True)
class PartRecord:
    """What a part holds."""

    format: int
    first_batch: int
    num_rows: tuple[int, ...]
    """Samples in each of its batches."""
    structure: Mapping[str, Any]
    """Form of the outputs, see `values`."""
    indices: tuple[Any, ...] | None
    """Index of each sample in the data set; None: the data have none."""
    files: Mapping[str, FileRecord]


class Parts:
    """Parts in a directory.

    Args:
        directory: It may not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def plan(self) -> Plan | None:
        """Return the plan; None: there are no predictions.

        Raises:
            CheckpointError: It cannot be read.
        """
        path = self.directory / PLAN
        found: Plan | None = _read(Plan, path) if os.path.lexists(path) else None
        return found

    def begin(self, plan: Plan) -> Plan:
        """Record the plan of new predictions, or return that of those that are there.

        Raises:
            ConfigError: Those that are there are of something else, or it is not known of what.
            SaveError: The disk refuses it.
        """
        old = self.plan()
        if old is not None:
            if different := plans.differences(old, plan):
                raise ConfigError(
                    f"{self.directory} holds predictions of something else: {', '.join(different)} differed. Delete "
                    f"this directory to predict again, or name another one."
                )
            return old
        with self._writable():
            disk.make_directory(self.directory)
            names = os.listdir(self.directory)
            if any(map(_RECORD.fullmatch, names)):
                raise ConfigError(
                    f"{self.directory} holds parts of predictions without {PLAN}, which says what they are of: delete "
                    f"this directory, or name another one."
                )
            for name in names:
                if name.startswith(".part_") and name.endswith(".tmp"):  # of a run that was killed
                    disk.remove(self.directory / name)
            self._put(PLAN, plan)
        return plan

    def end(self, plan: Plan, num_parts: int) -> None:
        """Record how many parts there are, if that was not known before."""
        if plan.num_parts is None:
            with self._writable():
                self._put(PLAN, dataclasses.replace(plan, num_parts=num_parts))

    def there(self) -> list[int]:
        """Return the numbers of the parts that are complete."""
        try:
            found = sorted(int(match[1]) for name in os.listdir(self.directory) if (match := _RECORD.fullmatch(name)))
        except FileNotFoundError:
            return []
        return [number for number in found if self._is_complete(number)]

    def record(self, number: int) -> PartRecord:
        """Return the record of a part.

        Raises:
            CheckpointError: It cannot be read.
        """
        found: PartRecord = _read(PartRecord, self.directory / f"{_stem(number)}.json")
        return found

    def write(self, number: int, first_batch: int, batches: Sequence[Columns], indices: Sequence[Any] | None) -> None:
        """Write a part.

        Args:
            number: Number of the part.
            first_batch: Number of its first batch.
            batches: Outputs for its batches.
            indices: Index of each of its samples in the data set; None: the data have none.

        Raises:
            SaveError: The disk refuses it.
        """
        stem, files = _stem(number), {}
        tensors = {
            f"{first_batch + at:06d}{path}": value
            for at, item in enumerate(batches)
            for path, value in {**item.tensors, **item.parts}.items()
        }
        with self._writable():
            if tensors:
                files[f"{stem}.safetensors"] = self._put_tensors(f"{stem}.safetensors", tensors)
            if any(item.values for item in batches):
                path = self.directory / f"{stem}.jsonl"
                disk.put(path, "".join(_lines(batches, indices)).encode())
                files[path.name] = _file_record(path)
            sizes = tuple(item.num_rows for item in batches)
            kept = None if indices is None else tuple(indices)
            self._put(f"{stem}.json", PartRecord(plans.FORMAT, first_batch, sizes, batches[0].structure, kept, files))

    def tensors(self, number: int, record: PartRecord) -> dict[str, Tensor]:
        """Return the tensors of a part, once they fit their digest."""
        name = f"{_stem(number)}.safetensors"
        return exported.read_weights(self._verified(name, record)) if name in record.files else {}

    def rows(self, number: int, record: PartRecord) -> list[Mapping[str, Any]]:
        """Return the other values of a part by path, for each sample, once they fit their digest."""
        name = f"{_stem(number)}.jsonl"
        if name not in record.files:
            return []
        path = self._verified(name, record)
        try:
            return [records.parse(line)["output"] for line in opening.lines(path)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error

    def _verified(self, name: str, record: PartRecord) -> Path:
        path = self.directory / name
        try:
            if disk.sha256(path) == record.files[name].digest:
                return path
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
        raise CheckpointError(f"{path} is damaged: delete it, and repeat the command that writes the predictions.")

    def _is_complete(self, number: int) -> bool:
        try:
            files = self.record(number).files
            return all(opening.check(self.directory / name) == item.num_bytes for name, item in files.items())
        except (CheckpointError, OSError):
            return False

    def _put_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> FileRecord:
        path = self.directory / name
        with disk.renamed_at_end(path) as temp:
            exported.write_tensors(temp, tensors)
        return _file_record(path)

    def _put(self, name: str, record: Any) -> None:
        disk.put(self.directory / name, (json.dumps(dataclasses.asdict(record)) + "\n").encode())

    def _writable(self) -> Any:
        return _writable(self.directory)


class _writable:
    """Context that turns an error of the disk into a SaveError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, SaveError):
            raise SaveError(f"{self.directory} cannot be written: {error.strerror or error}.") from error


def _stem(number: int) -> str:
    return f"part_{number:06d}"


def _file_record(path: Path) -> FileRecord:
    return FileRecord(disk.size_bytes(path), disk.sha256(path))


def _lines(batches: Sequence[Columns], indices: Sequence[Any] | None) -> Iterator[str]:
    number = 0
    for item in batches:
        for row in range(item.num_rows):
            index = {} if indices is None else {"index": indices[number]}
            output = {path: values[row] for path, values in item.values.items()}
            yield json.dumps({**index, "output": output}) + "\n"
            number += 1


def _read(kind: type, path: Path) -> Any:
    try:
        return records.read(kind, records.parse(opening.read_bytes(path)))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except records.RecordError as error:
        raise CheckpointError(f"{path} is not a record of predictions ({error}).") from error
