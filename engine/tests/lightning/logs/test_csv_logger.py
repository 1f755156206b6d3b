"""metrics.csv holds each row once, however the run that wrote it was stopped."""

import csv
import errno
import os
import pickle
import shutil
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.disk import Disk

from cairn import opening
from cairn.lightning.logs import metrics_file
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.logs.metrics_file import MetricsFile, _moved
from cairn.store.disk import CHUNK_BYTES


@pytest.fixture
def logger(tmp_path):
    return CSVLogger(tmp_path / "csv")


def write(logger, *rows):
    """Log and save each row: its step and its metrics."""
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
        logger.save()


def lines(logger):
    return logger.path.read_text().splitlines()


def resumed(logger, state):
    """Return the logger of a process that resumes the run."""
    other = CSVLogger(logger.save_dir)
    other.load_state_dict(state)
    other.training_begins()
    return other


def test_a_row_per_call_and_a_column_per_metric(logger):
    write(logger, (0, {"loss": 1.5, "epoch": 0}), (1, {"loss": torch.tensor(0.5), "epoch": 0}))
    assert lines(logger) == ["epoch,loss,step", "0,1.5,0", "0,0.5,1"]


def test_rows_are_written_together(logger):
    logger.log_metrics({"loss": 1.0}, 0)
    logger.log_metrics({"acc": 2.0}, 1)
    assert not logger.path.exists()
    logger.finalize("success")
    assert lines(logger) == ["acc,loss,step", ",1.0,0", "2.0,,1"]


def test_without_log_calls_nothing_is_written(logger):
    logger.save()
    logger.finalize("success")
    assert not logger.path.parent.exists()
    assert logger.state_dict() == {"rows": 0, "columns": []}


def test_a_new_metric_gets_a_column_and_the_rows_stay(logger):
    write(logger, (0, {"b": 1.0}), (1, {"b": 2.0, "a": 3.0}), (2, {"c": 4.0}))
    assert lines(logger) == ["a,b,c,step", ",1.0,,0", "3.0,2.0,,1", ",,4.0,2"]


def test_a_new_column_never_leaves_a_file_without_its_rows(logger, monkeypatch):
    write(logger, (0, {"a": 1.0}))
    disk = Disk(logger.path.parent, monkeypatch)
    write(logger, (1, {"b": 2.0}))
    assert disk.steps == ["fsync .metrics.csv.tmp", "replace .metrics.csv.tmp metrics.csv", "fsync ."]


def test_a_missing_step_nan_and_infinity_are_written(logger):
    write(logger, (None, {"a": float("nan"), "b": float("inf")}))
    assert lines(logger) == ["a,b,step", "nan,inf,"]


def test_names_with_commas_stay_one_column(logger):
    write(logger, (0, {'f(a,"b")': 1.0}))
    with open(logger.path, newline="") as file:
        assert list(csv.DictReader(file)) == [{'f(a,"b")': "1.0", "step": "0"}]


def test_a_name_outside_ascii_survives_a_new_column_and_a_resume(logger):
    write(logger, (0, {"größe": 1.0}), (1, {"größe": 2.0, "z": 3.0}))
    other = resumed(logger, logger.state_dict())
    write(other, (2, {"größe": 4.0}))
    assert other.path.read_text(encoding="utf-8") == "größe,step,z\n1.0,0,\n2.0,1,3.0\n4.0,2,\n"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\r", '"\n"', "a\r\n"])
def test_a_name_with_a_line_break_survives_a_new_column_and_a_resume(logger, name):
    write(logger, (0, {name: 1.0}), (1, {name: 2.0, "z": 3.0}))
    state = logger.state_dict()
    write(logger, (2, {"y": 1.0}))
    other = resumed(logger, state)
    write(other, (2, {"z": 4.0}))
    with open(other.path, newline="") as file:
        first, second, third = csv.DictReader(file)
    assert first == {name: "1.0", "z": "", "step": "0"}
    assert (second[name], second["z"], third) == ("2.0", "3.0", {name: "", "z": "4.0", "step": "2"})


def test_a_file_of_several_megabytes_keeps_its_rows(logger):
    rows = [{"a": str(step / 7), "step": str(step)} for step in range(2**18)]
    for row in rows:
        logger.log_metrics({"a": float(row["a"])}, int(row["step"]))
    logger.save()
    write(logger, (2**18, {"z": 1.0}))
    logger.finalize("success")
    assert logger.path.stat().st_size > CHUNK_BYTES
    with open(logger.path, newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{**row, "z": ""} for row in rows] + [{"a": "", "step": str(2**18), "z": "1.0"}]


def test_numbers_keep_all_their_digits(logger):
    write(logger, (0, {"a": 0.1 + 0.2}))
    assert float(lines(logger)[1].split(",")[0]) == 0.1 + 0.2


def test_a_new_run_replaces_an_existing_file(logger):
    write(logger, (0, {"old": 1.0}), (1, {"old": 2.0}))
    other = CSVLogger(logger.save_dir)
    assert lines(logger)[0] == "old,step", "the file is replaced by the first row, not before"
    write(other, (0, {"new": 1.0}))
    assert lines(other) == ["new,step", "1.0,0"]


def test_a_resume_continues_after_the_rows_of_the_checkpoint(logger):
    write(logger, (0, {"a": 1.0}), (1, {"a": 2.0}))
    state = logger.state_dict()
    write(logger, (2, {"a": 3.0}), (3, {"a": 4.0}))
    other = resumed(logger, state)
    write(other, (2, {"a": 5.0}))
    assert lines(other) == ["a,step", "1.0,0", "2.0,1", "5.0,2"]
    assert other.state_dict() == {"rows": 3, "columns": ["a", "step"], "bytes": 25, "last": "5.0,2\n"}


def test_a_start_that_is_refused_leaves_the_file_as_it_was(logger):
    write(logger, (0, {"a": 1.0}))
    state = logger.state_dict()
    write(logger, (1, {"b": 2.0}))
    before = logger.path.read_bytes(), logger.path.stat().st_mtime_ns
    other = CSVLogger(logger.save_dir)
    other.load_state_dict(state)
    other.save()
    other.finalize("failed")
    assert (logger.path.read_bytes(), logger.path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("begin", [lambda own: own.log_metrics({"a": 2.0}, 1), lambda own: own.state_dict()])
def test_a_row_or_a_save_before_training_begins_cuts_the_file(logger, begin):
    write(logger, (0, {"a": 1.0}))
    state = logger.state_dict()
    write(logger, (1, {"b": 2.0}))
    other = CSVLogger(logger.save_dir)
    other.load_state_dict(state)
    begin(other)
    other.save()
    assert lines(other) in (["a,step", "1.0,0"], ["a,step", "1.0,0", "2.0,1"])
    assert other.state_dict()["rows"] == len(lines(other)) - 1


def test_a_resume_removes_a_column_that_is_newer_than_the_checkpoint(logger):
    write(logger, (0, {"b": 1.0}))
    state = logger.state_dict()
    write(logger, (1, {"a": 2.0}))
    other = resumed(logger, state)
    assert lines(other) == ["b,step", "1.0,0"]


def test_the_state_includes_buffered_rows(logger):
    logger.log_metrics({"a": 1.0}, 0)
    assert logger.state_dict() == {"rows": 1, "columns": ["a", "step"], "bytes": 13, "last": "1.0,0\n"}
    assert lines(logger) == ["a,step", "1.0,0"]


def test_the_rows_of_a_state_are_on_the_disk_before_it_is_committed(logger, monkeypatch):
    write(logger, (0, {"a": 1.0}))
    disk = Disk(logger.path.parent, monkeypatch)
    logger.log_metrics({"a": 2.0}, 1)
    logger.state_dict()
    assert lines(logger) == ["a,step", "1.0,0", "2.0,1"]
    assert disk.steps == [], "training does not wait for the disk"
    logger.sync()
    assert disk.steps == ["fsync metrics.csv"]


def test_without_rows_there_is_nothing_to_sync(logger):
    logger.sync()
    assert not logger.path.exists()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_kill_in_the_middle_of_a_row_leaves_no_trace(logger, cut):
    write(logger, (0, {"a": 1.0, "b": 2.0}), (1, {"a": 3.0, "b": 4.0}))
    state = logger.state_dict()
    write(logger, (2, {"a": 5.0, "b": 6.0}))
    data = logger.path.read_bytes()
    logger.path.write_bytes(data[:-cut])
    other = resumed(logger, state)
    write(other, (2, {"a": 5.0, "b": 6.0}))
    assert other.path.read_bytes() == data


def test_a_kill_before_the_rename_leaves_the_old_file(logger, monkeypatch):
    write(logger, (0, {"a": 1.0}))
    state = logger.state_dict()

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write(logger, (1, {"b": 1.0}))
    monkeypatch.undo()
    other = resumed(logger, state)
    write(other, (1, {"b": 2.0}))
    assert lines(other) == ["a,b,step", "1.0,,0", ",2.0,1"]
    assert [path.name for path in other.path.parent.iterdir()] == ["metrics.csv"]


def test_a_resume_drops_buffered_rows(logger):
    write(logger, (0, {"a": 1.0}))
    state = logger.state_dict()
    logger.log_metrics({"a": 2.0}, 1)
    logger.load_state_dict(state)
    logger.save()
    assert lines(logger) == ["a,step", "1.0,0"]


def test_a_resume_from_before_the_first_row_starts_a_new_file(logger):
    state = logger.state_dict()
    write(logger, (0, {"a": 1.0}))
    other = resumed(logger, state)
    write(other, (0, {"b": 2.0}))
    assert lines(other) == ["b,step", "2.0,0"]


def test_lost_rows_are_reported_and_do_not_stop_the_run(logger):
    write(logger, (0, {"a": 1.0}))
    state = logger.state_dict()
    logger.path.unlink()
    with pytest.warns(UserWarning, match="has only 0 of the 1 rows that the checkpoint knows: the others are lost"):
        other = resumed(logger, state)
    write(other, (1, {"a": 2.0}))
    assert lines(other) == ["a,step", "2.0,1"]


ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(width=32), min_size=1, max_size=3), max_size=8)


@settings(max_examples=40)
@given(ROWS, st.data())
def test_a_run_that_was_killed_anywhere_writes_the_same_file(tmp_path_factory, rows, data):
    whole = CSVLogger(tmp_path_factory.mktemp("whole"))
    write(whole, *enumerate(rows))
    kept = data.draw(st.integers(min_value=0, max_value=len(rows)))
    written = data.draw(st.integers(min_value=kept, max_value=len(rows)))

    killed = CSVLogger(tmp_path_factory.mktemp("killed"))
    write(killed, *enumerate(rows[:kept]))
    state = killed.state_dict()
    write(killed, *enumerate(rows[kept:written], start=kept))
    other = resumed(killed, state)
    write(other, *enumerate(rows[kept:], start=kept))
    if rows:
        assert sorted(lines(other)[0].split(",")) == sorted(lines(whole)[0].split(","))
        assert other.path.read_bytes() == whole.path.read_bytes()


# When the file cannot be written


def test_rows_that_cannot_be_written_are_kept_and_logged_once(logger, monkeypatch, caplog):
    write(logger, (0, {"loss": 1.0}))

    def full(path, *options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(opening, "for_writing", full)
    write(logger, (1, {"loss": 2.0}), (2, {"loss": 3.0}))
    with pytest.raises(OSError, match="No space left"):
        logger.state_dict()
    monkeypatch.undo()
    assert [record.getMessage() for record in caplog.records] == [
        f"{logger.path} cannot be written (No space left on device): training continues, and its rows are kept for the "
        "next try."
    ]
    write(logger, (3, {"loss": 4.0}))
    assert lines(logger) == ["loss,step", "1.0,0", "2.0,1", "3.0,2", "4.0,3"]
    assert logger.state_dict()["rows"] == 4


def test_a_partly_written_row_is_removed(logger, monkeypatch):
    write(logger, (0, {"loss": 1.0}))

    def half(writer, rows):
        writer.writer.writerow(["2."])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", half)
        write(logger, (1, {"loss": 2.0}))
    logger.save()
    assert lines(logger) == ["loss,step", "1.0,0", "2.0,1"]


def test_a_removed_file_is_reported_and_started_again(logger, caplog):
    write(logger, (0, {"loss": 1.0}), (1, {"loss": 2.0}))
    shutil.rmtree(logger.path.parent)
    write(logger, (2, {"loss": 3.0}))
    assert "was removed by another program: its first 2 rows are lost, and a new file is started." in caplog.text
    assert lines(logger) == ["loss,step", "3.0,2"]
    assert logger.state_dict() == {"rows": 1, "columns": ["loss", "step"], "bytes": 16, "last": "3.0,2\n"}


# A file of many rows


@pytest.fixture
def small_blocks(monkeypatch):
    """A file of some hundred rows is large."""
    monkeypatch.setattr(metrics_file, "_BLOCK_BYTES", 1000)


def long(logger, num_rows=300):
    for step in range(num_rows):
        logger.log_metrics({"loss": step / 7}, step)
    logger.save()
    assert logger._rows.file.is_large


@pytest.fixture
def held(monkeypatch):
    """Rewriting a large file waits until this is set."""
    event, rearrange = threading.Event(), MetricsFile.rearrange

    def waiting(self, *args):
        if threading.current_thread() is not threading.main_thread():
            assert event.wait(60)
        rearrange(self, *args)

    monkeypatch.setattr(MetricsFile, "rearrange", waiting)
    yield event
    event.set()


def test_a_resume_does_not_read_a_long_file(logger, monkeypatch, small_blocks):
    long(logger)
    state, before = logger.state_dict(), logger.path.read_bytes()
    write(logger, (1, {"loss": 1.0}))
    monkeypatch.setattr(metrics_file, "_blocks", lambda *args: pytest.fail("rows are read"))
    other = resumed(logger, state)
    assert other.path.read_bytes() == before


@pytest.mark.parametrize("lost", [("bytes", "last"), ("last",)])
def test_a_checkpoint_without_the_position_is_cut_by_its_rows(logger, lost, small_blocks):
    long(logger)
    state, before = logger.state_dict(), logger.path.read_bytes()
    write(logger, (1, {"loss": 1.0}))
    other = resumed(logger, {key: value for key, value in state.items() if key not in lost})
    assert other.path.read_bytes() == before
    assert other.state_dict() == state


def test_a_file_whose_rows_were_moved_is_cut_by_its_rows(logger):
    write(logger, *((step, {"loss": float(step)}) for step in range(9)))
    state = logger.state_dict()
    write(logger, (9, {"loss": 9.0}))
    data = logger.path.read_bytes()
    logger.path.write_bytes(data.replace(b"3.0,3\n", b""))
    other = resumed(logger, state)
    assert len(lines(other)) == 1 + 9


def test_training_does_not_wait_for_a_new_column_of_a_long_file(logger, held, small_blocks):
    long(logger)
    before = logger.path.read_bytes()
    write(logger, (1, {"a": 1.0}), (2, {"loss": 2.0}))
    state = logger.state_dict()
    assert state == {"rows": 302, "columns": ["a", "loss", "step"]}
    assert logger.path.read_bytes() == before, "a reader sees a complete file"
    held.set()
    logger.sync()
    assert lines(logger)[:2] == ["a,loss,step", ",0.0,0"]
    assert lines(logger)[-2:] == ["1.0,,1", ",2.0,2"]
    write(logger, (3, {"z": 3.0}))
    logger.finalize("success")
    other = resumed(logger, state)
    assert (lines(other)[0], lines(other)[-1], len(lines(other))) == ("a,loss,step", ",2.0,2", 303)


def test_a_long_file_gets_the_same_bytes_as_one_that_had_the_columns_before(logger, tmp_path, held, small_blocks):
    held.set()
    whole = CSVLogger(tmp_path / "whole")
    write(whole, (0, {"a": 0.5, "loss": 1.0, "z": 2.0}))
    for own in (logger, whole):
        long(own)
        write(own, (1, {"a": 0.5, "z": 1.0}))
        own.finalize("success")
    head, _, *rest = whole.path.read_bytes().splitlines()
    assert logger.path.read_bytes().splitlines() == [head, *rest]


def test_a_new_column_that_cannot_be_written_fails_the_save(logger, monkeypatch, caplog, small_blocks):
    long(logger)
    before = logger.path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "rearrange", full)
        write(logger, (1, {"a": 1.0}))
        logger._rows.wait()
        logger.state_dict()
        with pytest.raises(OSError, match="No space left"):
            logger.sync()
    assert caplog.text.count("cannot be written (No space left on device)") == 1
    assert logger.path.read_bytes() == before
    write(logger, (2, {"a": 2.0}))
    logger.sync()
    assert lines(logger)[-2:] == ["1.0,,1", "2.0,,2"]


@pytest.mark.parametrize("header", [b"\xff,step\n", b"a\rb,step\n"])
def test_a_damaged_file_fails_the_save_that_adds_a_column(logger, caplog, small_blocks, header):
    long(logger)
    rows = logger.path.read_bytes().partition(b"\n")[2]
    logger.path.write_bytes(header + rows)
    write(logger, (1, {"a": 1.0}))
    with pytest.raises(OSError, match="it is not a table that can be read"):
        logger.sync()
    assert caplog.text.count("it is not a table that can be read") == 1
    assert logger.path.read_bytes() == header + rows


def test_a_thread_that_fails_does_not_hold_up_the_end(logger, monkeypatch, small_blocks):
    long(logger)
    monkeypatch.setattr(MetricsFile, "rearrange", lambda *_: [][0])
    write(logger, (1, {"a": 1.0}))
    with pytest.raises(OSError, match="IndexError"):
        logger.sync()


def test_a_logger_can_be_copied_while_a_column_is_added(logger, small_blocks):
    long(logger)
    write(logger, (1, {"a": 1.0}))
    other = pickle.loads(pickle.dumps(logger))
    assert other.state_dict() == logger.state_dict()
    write(other, (2, {"a": 2.0}))
    assert lines(other)[-1] == "2.0,,2"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["", "1.5", "-2e-7", "nan"]), min_size=3, max_size=3), min_size=1), st.data())
def test_cells_are_moved_as_the_csv_module_would(rows, data):
    places = data.draw(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=5))
    text = "".join(",".join(row) + "\n" for row in rows)
    expected = "".join(",".join(row[at] if at >= 0 else "" for at in places) + "\n" for row in rows)
    assert _moved(text.encode(), 3, places).decode() == expected


def test_cells_that_were_not_written_by_us_are_moved_too():
    assert _moved(b'1,"2"\n3,4\n5\n', 2, [1, -1, 0]) == b"2,,1\n4,,3\n,,5\n"
