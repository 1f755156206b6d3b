"""The end of a run in W&B is limited, and a hang is recorded."""

import logging
import os
import threading
from types import SimpleNamespace

import pytest

from cairn.hydra.run import hanging
from cairn.jobs.allocation import Allocation
from cairn.jobs.signals import Interrupts
from cairn.policy.patience import Patience
from cairn.run.directory import RunDirectory
from cairn.store.hangs import Hang
from cairn.types import Position

HANG = Hang("training", Position(1, 7, 17), 612.0, 600.0, "2026-11-29T10:00:00+00:00")


def start(tmp_path, patience=Patience()):  # noqa: B008 - a value
    directory = RunDirectory(tmp_path)
    directory.start("t", (), "checkpoint: {}\n")
    settings = SimpleNamespace(checkpoint=SimpleNamespace(watchdog=patience))
    context = SimpleNamespace(allocation=Allocation(), signals=Interrupts())
    return SimpleNamespace(directory=directory, settings=settings, context=context)


@pytest.mark.parametrize(("requeues", "more"), [(True, ""), (False, "; not requeued")])
def test_a_hang_is_recorded(tmp_path, requeues, more):
    begun = start(tmp_path)
    hanging.RecordAndRequeue(begun).end(HANG, requeues)
    record = begun.directory.record()
    assert (record.status, record.why) == ("hung", f"{HANG}{more}")


def test_the_log_is_that_of_the_run(tmp_path):
    begun, handler = start(tmp_path), logging.FileHandler(tmp_path / "train.log")
    assert hanging.RecordAndRequeue(begun).log_file is None
    logging.getLogger().addHandler(handler)
    try:
        assert hanging.RecordAndRequeue(begun).log_file == tmp_path / "train.log"
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def test_an_end_that_hangs_leaves_with_the_exit_code_of_the_run(tmp_path, monkeypatch, capfd):
    left, codes = threading.Event(), []

    def leave(code):
        codes.append(code)
        left.set()

    monkeypatch.setattr(hanging, "os", SimpleNamespace(**{**vars(os), "_exit": leave}))
    monkeypatch.setattr(hanging, "_FINISH_S", 0.0)
    with hanging.uploads_limited(start(tmp_path, Patience(0.05, 0.0)), 0.05, 3):
        assert left.wait(60)
    assert set(codes) == {3}
    said = capfd.readouterr().err
    assert "The end of this run hangs: no answer from a tracker or a mirror for" in said
    assert "python -m cairn sync" in said
    assert "test_an_end_that_hangs" in said


def test_an_end_that_does_not_hang_is_left_alone(tmp_path, monkeypatch):
    codes = []
    monkeypatch.setattr(hanging, "os", SimpleNamespace(**{**vars(os), "_exit": codes.append}))
    with hanging.uploads_limited(start(tmp_path, Patience(3600.0, 0.0)), 10.0, 0):
        pass
    assert codes == []
    assert "watchdog" not in [thread.name for thread in threading.enumerate() if not thread.daemon]
