"""What a fit does when its watchdog raises an alarm: the note, the exit code, and who is informed."""

import copy
import json
import os
import pickle
import threading
from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from tests.lightning.test_library import fit, made
from tests.lightning.test_requeue import job  # noqa: F401 - a fixture

import cairn
from cairn.account.watchdog import Alarm
from cairn.errors import ConfigError
from cairn.lightning import hangs as ends
from cairn.policy.patience import Patience
from cairn.store import hangs

ALARM = Alarm("training", 612.0, 600.0)


class Hanging(Callback):
    """Raises the alarm of a watchdog before a batch, as its thread does."""

    def __init__(self, checkpoints, at=5):
        self.checkpoints, self.at, self.thread = checkpoints, at, None

    def on_train_batch_start(self, trainer, *_):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            self.thread = watching(self.checkpoints)
            thread = threading.Thread(target=self.checkpoints.watch._alarm, args=(ALARM,))
            thread.start()
            thread.join()


class AtHang:
    setting, log_file, record_file = "checkpoint.watchdog", None, None

    def __init__(self, code=None):
        self.code, self.called = code, []

    def end(self, hang, requeues):
        self.called.append((hang.position.total_batches, requeues))
        if self.code is not None:
            raise SystemExit(self.code)


class Logger(CSVLogger):
    preempted = 0

    def preempt(self):
        self.preempted += 1


def watching(checkpoints):
    """The thread of a watchdog, while a fit is watched; a test before may have left one."""
    watchdog = checkpoints.watch._watchdog
    return None if watchdog is None else watchdog._thread


def assert_unwatched(checkpoints, thread):
    assert watching(checkpoints) is None
    thread.join(600)
    assert not thread.is_alive(), "it ends with the fit"


@pytest.fixture
def exits(monkeypatch):
    """Exit codes of the processes that would have ended."""
    codes = []
    # Only there: a trial of the data runs in a forked process, which has to end.
    monkeypatch.setattr(ends, "os", SimpleNamespace(**{**vars(os), "_exit": codes.append}))
    monkeypatch.setattr(ends.stacks, "others", dict)  # the tests have children of their own
    return codes


def hang(tmp_path, at_hang=None, **options):
    """Let a run hang at batch 5, and return its Checkpointer, its callback and its logger."""
    checkpoints = made(tmp_path, **options)
    checkpoints.at_hang = at_hang
    callback, logger = Hanging(checkpoints), Logger(tmp_path)
    fit(checkpoints, tmp_path, callbacks=[callback, checkpoints], logger=logger, log_every_n_steps=1)
    return checkpoints, callback, logger


def test_a_hang_is_noted_and_the_process_exits_with_a_code_that_launchers_requeue(tmp_path, exits, capfd):
    at_hang = AtHang()
    checkpoints, callback, logger = hang(tmp_path, at_hang)
    assert exits == [os.EX_TEMPFAIL]
    assert at_hang.called == [(5, True)]
    assert logger.preempted == 1
    (noted,) = hangs.read(tmp_path / "checkpoints")
    assert (noted.what, noted.position.total_batches, noted.silent_s, noted.resumed_at) == ("training", 5, 612, 0)
    said = capfd.readouterr().err
    assert (
        "Rank 0 hangs: no batch, validation or save has ended for 10.2 min (limit 10 min, checkpoint.watchdog)" in said
    )
    assert "the last boundary was epoch 0, batch 5" in said
    assert "Thread MainThread" in said
    assert "on_train_batch_start" in said
    assert_unwatched(checkpoints, callback.thread)


def test_the_stacks_go_to_the_log_of_the_run_too(tmp_path, exits):
    at_hang = AtHang()
    at_hang.log_file = tmp_path / "train.log"
    hang(tmp_path, at_hang)
    assert "Rank 0 hangs" in at_hang.log_file.read_text()
    assert "on_train_batch_start" in at_hang.log_file.read_text()


def test_a_rank_that_another_one_has_called_answers_and_ends_before_its_own_limit(tmp_path, exits, capfd):
    class Called(Hanging):
        def on_train_batch_start(self, trainer, *_):
            if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
                watch = self.checkpoints.watch
                watch._ranks.is_called = lambda: True
                thread = threading.Thread(target=watch._look, args=(600.0,))
                thread.start()
                thread.join()

    checkpoints, at_hang = made(tmp_path), AtHang()
    checkpoints.at_hang = at_hang
    fit(checkpoints, tmp_path, callbacks=[Called(checkpoints), checkpoints])
    assert (exits, at_hang.called) == ([os.EX_TEMPFAIL], [(5, True)])
    assert "Rank 0 is asked where it is, because another rank hangs: no batch" in capfd.readouterr().err


def test_a_launcher_that_requeues_sets_the_exit_code(tmp_path, exits):
    hang(tmp_path, AtHang(144))
    assert exits == [144]


@pytest.mark.parametrize("trouble", [OSError("the disk is gone"), RuntimeError("W&B")])
def test_no_trouble_on_the_way_keeps_the_process(tmp_path, exits, trouble, monkeypatch):
    def fails(*_):
        raise trouble

    for place in ("hangs.note", "_append", "stacks.ask_others", "stacks.own_stacks"):
        monkeypatch.setattr(f"cairn.lightning.hangs.{place}", fails)
    at_hang = AtHang()
    at_hang.end = fails
    hang(tmp_path, at_hang)
    assert exits == [os.EX_TEMPFAIL]


def test_the_third_hang_without_progress_is_the_last(tmp_path, exits):
    at_hang = AtHang()
    (tmp_path / "checkpoints").mkdir()
    for _ in range(3):
        hangs.note(tmp_path / "checkpoints", hangs.Hang("training", cairn.types.Position(0, 5, 5), 1, 1, ""))
    hang(tmp_path, at_hang)
    assert (exits, at_hang.called) == ([1], [(5, False)])


def test_a_run_without_checkpoints_is_not_requeued(tmp_path, exits):
    at_hang = AtHang()
    nothing = dict.fromkeys(("interval", "end", "stop"))
    hang(tmp_path, at_hang, every=None, triggers=nothing)
    assert (exits, at_hang.called) == ([1], [(5, False)])
    assert not (tmp_path / "checkpoints" / hangs.NAME).exists()


def test_a_job_that_lightning_would_requeue_is_requeued(tmp_path, exits, job, monkeypatch):  # noqa: F811
    hang(tmp_path)
    assert exits == [os.EX_TEMPFAIL]
    assert job()[-1] == "requeue 7"


@pytest.mark.parametrize(("value", "watched"), [("auto", True), ("off", False), (None, False)])
def test_a_watchdog_that_is_off_starts_no_thread(tmp_path, exits, value, watched):
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, *_):
            thread = watching(checkpoints)
            seen.append(thread is not None and thread.is_alive())

    checkpoints = made(tmp_path, watchdog=value)
    fit(checkpoints, tmp_path, callbacks=[Look(), checkpoints])
    assert set(seen) == {watched}


class Fails(Callback):
    """Fails in a batch, and perhaps again in its hook for errors."""

    def __init__(self, again):
        self.again = again

    def on_train_batch_start(self, trainer, *_):
        self.checkpoints = trainer.checkpoint_callback
        self.thread = watching(self.checkpoints)
        raise OSError("no disk")

    def on_exception(self, *_):
        if self.again:
            raise ValueError("no end")


def test_a_fit_that_an_error_ends_is_not_watched_any_more(tmp_path, exits):
    checkpoints, fails = made(tmp_path / "a"), Fails(again=False)
    with pytest.raises(OSError, match="no disk"):
        fit(checkpoints, tmp_path, callbacks=[fails, checkpoints])
    assert_unwatched(checkpoints, fails.thread)


@pytest.mark.parametrize("look", [lambda watch: watch._alarm(ALARM), lambda watch: watch._look(600.0)])
def test_a_process_that_has_left_a_fit_in_any_way_is_not_ended(tmp_path, exits, look):
    """An error in the on_exception of another callback keeps Lightning from calling ours."""
    checkpoints, fails = made(tmp_path / "a"), Fails(again=True)
    with pytest.raises(ValueError, match="no end"):
        fit(checkpoints, tmp_path, callbacks=[fails, checkpoints])
    assert fails.thread.is_alive()
    look(checkpoints.watch)
    assert exits == []
    assert_unwatched(checkpoints, fails.thread)


def test_a_process_that_lightning_has_forked_is_watched_although_it_is_not_in_fit(tmp_path):
    """The launcher calls another method of the trainer there."""
    trainer, namespace = Trainer(logger=False, default_root_dir=tmp_path), {"__name__": Trainer.__module__}
    exec("def run(self, look):\n    return look(self)", namespace)
    assert namespace["run"](trainer, ends._is_fitting)
    assert not namespace["run"](object(), lambda _: ends._is_fitting(trainer))
    assert not ends._is_fitting(trainer)


def test_each_batch_validation_batch_and_boundary_is_a_sign_of_life(tmp_path):
    signs = []

    class Look(Callback):
        def on_train_batch_start(self, *_):
            signs.append(checkpoints.watch.signs)

        on_validation_batch_start = on_train_batch_start

    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path, callbacks=[Look(), checkpoints])
    assert len(set(signs)) == len(signs) > 16


def test_a_silent_save_is_seen_and_one_that_writes_is_not(tmp_path):
    checkpoints = made(tmp_path)
    fit(checkpoints, tmp_path)
    saves = checkpoints.engine.saves
    assert saves.sign is None
    saves.open(1000, False, [], lambda: None)
    saves.pipeline._num_open = 1  # as while a save is being written
    before = saves.sign
    assert before == saves.sign
    saves.pipeline.writer.progress_bytes += 1
    assert saves.sign != before
    saves.pipeline.pool.buffers[0].num_bytes = 10**9
    assert saves.num_bytes_under_way == 10**9
    saves.pipeline._num_open = 0
    assert saves.sign is None
    assert saves.num_bytes_under_way == 0
    saves.close()


@pytest.mark.parametrize("value", ["soon", 0, -5, True, "0s"])
def test_a_limit_that_is_none_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=r"^watchdog=.* must be auto, off, or a duration") as caught:
        made(tmp_path, watchdog=value)
    assert caught.value.parameter == "watchdog"


def test_a_copy_has_the_limit_and_its_own_watch(tmp_path):
    checkpoints = made(tmp_path, watchdog="30min")
    fit(checkpoints, tmp_path)
    for other in (copy.deepcopy(checkpoints), pickle.loads(pickle.dumps(checkpoints))):
        assert other.policy.watchdog == Patience(1800.0, 0.0)
        assert other.watch is not checkpoints.watch


def test_the_journal_is_json(tmp_path, exits):
    hang(tmp_path, AtHang())
    (line,) = (tmp_path / "checkpoints" / hangs.NAME).read_text().splitlines()
    assert json.loads(line)["position"]["total_batches"] == 5
