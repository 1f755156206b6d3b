"""The journal of hangs, and the count of hangs without progress."""

import json
from dataclasses import asdict, replace

import pytest

from cairn.store import hangs
from cairn.store.hangs import Hang
from cairn.types import Position


def hang(total_batches, **fields):
    where = Position(1, total_batches % 10, total_batches)
    return replace(Hang("training", where, 612.0, 600.0, "2026-11-29T10:00:00+00:00", "node1", 5), **fields)


def test_what_was_noted_is_read(tmp_path):
    assert hangs.note(tmp_path, hang(17)) == [hang(17)]
    assert hangs.note(tmp_path, hang(19, what="save")) == [hang(17), hang(19, what="save")] == hangs.read(tmp_path)


def test_damaged_lines_are_skipped(tmp_path):
    hangs.note(tmp_path, hang(17))
    with open(tmp_path / hangs.NAME, "a") as file:
        file.write('{"what": "training"}\n[]\n{"what": 1, "position": 3}\n')
        for wrong in ({"position": {"epoch": 1, "batch": 2, "total_batches": "9"}}, {"silent_s": "x"}, {"host": []}):
            file.write(json.dumps(asdict(hang(17)) | wrong) + "\n")
        file.write('{"cut')
    hangs.note(tmp_path, hang(18))
    assert hangs.read(tmp_path) == [hang(17), hang(18)]


@pytest.mark.parametrize(
    ("batches", "count"),
    [([7], 1), ([7, 7], 2), ([7, 7, 7], 3), ([7, 7, 8], 1), ([7, 9, 7], 3), ([3, 7, 7], 2), ([9, 2, 8, 8], 2)],
)
def test_hangs_without_progress_are_counted_from_the_last_one(batches, count):
    assert hangs.num_in_place([hang(number) for number in batches]) == count


def test_a_hang_is_described_for_people():
    assert str(hang(17)) == "training after epoch 1, batch 7 showed no sign of life for 612 s"
    assert str(hang(17, what="save")).startswith("a save after epoch 1")
