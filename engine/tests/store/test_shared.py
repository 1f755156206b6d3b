"""Processes find out whether they see the same directory, and those that do not are named."""

from pathlib import Path

import pytest

from cairn.store import names, shared
from cairn.store.shared import Process


def test_who_sees_the_same_directory_sees_the_file(tmp_path):
    name = shared.announce(tmp_path / "a" / "b")
    assert shared.sees(tmp_path / "a" / "b", name, 0)
    assert not shared.sees(tmp_path, name, 0)
    assert names.is_temp(name), "the next start removes what an interrupted one has left"
    shared.withdraw(tmp_path / "a" / "b", name)
    assert list((tmp_path / "a" / "b").iterdir()) == []
    shared.withdraw(tmp_path / "a" / "b", name)


def test_each_start_writes_another_file(tmp_path):
    assert shared.announce(tmp_path) != shared.announce(tmp_path)


def test_a_file_that_appears_late_is_seen(tmp_path, monkeypatch):
    name = names.shared_name("0" * 16)
    monkeypatch.setattr(shared.time, "sleep", lambda _: (tmp_path / name).touch())
    assert shared.sees(tmp_path, name)


@pytest.mark.parametrize(
    ("blind", "named"),
    [
        ([(1, "b")], "rank 1 on b"),
        ([(9, "b"), (2, "b"), (3, "b"), (4, "b"), (7, "a")], "rank 7 on a, ranks 2-4, 9 on b"),
        ([(number, "c") for number in range(8, 16)], "ranks 8-15 on c"),
    ],
)
def test_the_processes_that_do_not_see_it_are_named(blind, named):
    text = shared.why_not(Path("/data/run"), Process(0, "a"), [Process(*each) for each in blind])
    assert text == (
        f"directory=/data/run is not the same for all processes: what rank 0 on a writes there is not seen by {named}."
    )
