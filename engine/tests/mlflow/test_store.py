"""What MLflow has of the rows of a run, on a stand-in for its client: in SQLite, and on a server."""

import posixpath
import sqlite3
import sys
from types import SimpleNamespace

import pytest

import cairn.mlflow
from cairn.mlflow.store import MLFlowStore, RunName, metric_name
from cairn.mlflow.target import Target
from cairn.store import disk

COLUMNS = "key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INTEGER, is_nan INTEGER"


class Calls:
    """What `cairn.mlflow.client` does, on tables like MLflow's."""

    def __init__(self, path):
        self.path, self.was_locked = path, False
        self.database = sqlite3.connect(path)
        self.database.execute(f"CREATE TABLE metrics ({COLUMNS})")
        self.database.execute(f"CREATE TABLE latest_metrics ({COLUMNS})")
        self.database.commit()
        self.num_requests = 0

    def connect(self, uri):
        self.was_locked = disk.is_locked(self.path.parent)
        return "client"

    def experiment(self, client, name, location):
        return "1"

    def run(self, client, experiment, id, name, tags):
        return SimpleNamespace(info=SimpleNamespace(run_id="r", artifact_uri="file:///nowhere"))

    class Point(tuple):
        def __new__(cls, *fields):
            return super().__new__(cls, fields)

        key, step = property(lambda self: self[0]), property(lambda self: self[1])
        value = property(lambda self: self[3])

    def history(self, client, run_id, key):
        query = "SELECT key, step, timestamp, value FROM metrics WHERE run_uuid = ? AND key = ?"
        return [self.Point(*row) for row in self.database.execute(query, (run_id, key))]

    def log_points(self, client, run_id, points):
        self.num_requests += 1
        for key, step, timestamp, value in points:
            self.database.execute(
                "INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", (key, value, timestamp, run_id, step)
            )
        self.database.commit()

    def rows(self):
        found = self.database.execute("SELECT step, key, value FROM metrics ORDER BY step, key, timestamp")
        return found.fetchall()


@pytest.fixture
def calls(tmp_path, monkeypatch):
    fake = Calls(tmp_path / "mlflow.db")
    monkeypatch.setitem(sys.modules, "cairn.mlflow.client", fake)
    monkeypatch.setattr(cairn.mlflow, "client", fake, raising=False)
    yield fake
    fake.database.close()


def store(tmp_path, is_local=True):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}" if is_local else "https://host"
    made = MLFlowStore(Target(uri), lambda: RunName("e", "x"))
    made.connect()
    return made


def rows(*steps, at=0.0, **more):
    return [{"loss": step / 2, "trainer/global_step": step, "_timestamp": at + step, **more} for step in steps]


NAMES = {"loss", "trainer/global_step", "_timestamp"}


def test_a_database_loses_the_rows_after_the_checkpoint(tmp_path, calls):
    first = store(tmp_path)
    assert first.match([], set()) == []
    first.send(rows(0, 1, 2, 3))
    calls.log_points("client", "r", [("of the user", 9, 0, 1.0)])
    second = store(tmp_path)
    assert second.match(rows(0, 1), NAMES) == []
    second.send(rows(2, 3, at=100.0))
    expected = [(0, "loss", 0.0), (1, "loss", 0.5), (2, "loss", 1.0), (3, "loss", 1.5), (9, "of the user", 1.0)]
    assert calls.rows() == expected


def test_the_latest_value_in_a_database_is_that_of_a_row_that_is_there(tmp_path, calls):
    first = store(tmp_path)
    first.send(rows(0, 1, 2))
    calls.database.execute("INSERT INTO latest_metrics SELECT * FROM metrics WHERE step = 2")
    calls.database.commit()
    assert store(tmp_path).match(rows(0, 1), NAMES) == []
    assert calls.database.execute("SELECT key, step, value FROM latest_metrics").fetchall() == [("loss", 1, 0.5)]
    assert store(tmp_path).match([], NAMES) == []
    assert calls.database.execute("SELECT * FROM latest_metrics").fetchall() == []


def test_what_did_not_arrive_is_sent_and_what_did_is_not(tmp_path, calls):
    first = store(tmp_path)
    first.send(rows(0, 1))
    second = store(tmp_path)
    lacking = second.match(rows(0, 1, 2, epoch=0), NAMES | {"epoch"})
    assert [sorted(set(row) - {"trainer/global_step", "_timestamp"}) for row in lacking] == [
        ["epoch"],
        ["epoch"],
        ["epoch", "loss"],
    ]
    second.send(lacking)
    assert len(calls.rows()) == 6
    assert len(set(calls.rows())) == 6


@pytest.mark.parametrize("is_local", [True, False])
def test_one_run_at_a_time_opens_a_database_which_may_be_new(tmp_path, calls, is_local):
    store(tmp_path, is_local)
    assert calls.was_locked == is_local
    assert not disk.is_locked(tmp_path)


@pytest.mark.parametrize("num_resumes", [1, 3])
def test_a_server_gets_no_row_a_second_time(tmp_path, calls, num_resumes, caplog):
    first = store(tmp_path, is_local=False)
    first.send(rows(0, 1, 2, 3))
    for number in range(1, num_resumes + 1):
        again = store(tmp_path, is_local=False)
        again.send(again.match(rows(0, 1), NAMES))
        again.send(rows(2, 3, at=100.0 * number))
    again.send(rows(4, at=100.0))
    assert calls.rows() == [(step, "loss", step / 2) for step in range(5)]
    assert caplog.text == ""


def test_a_server_whose_rows_differ_is_named_once(tmp_path, calls, caplog):
    first = store(tmp_path, is_local=False)
    first.send(rows(0, 1, 2, 3, **{"checkpoint/stall_s": 0.25}))
    again = store(tmp_path, is_local=False)
    again.send(again.match(rows(0, 1, **{"checkpoint/stall_s": 0.25}), NAMES | {"checkpoint/stall_s"}))
    changed = [{**row, "loss": 7.0, "checkpoint/stall_s": 0.5} for row in rows(2, 3, at=100.0)]
    again.send(changed)
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow: loss at step 2 was 1 before the resume and is 7 now. The server deletes no values: it keeps those of "
        "before. This message is logged once."
    ]


def test_names_become_those_that_mlflow_accepts():
    assert [metric_name(name) for name in ("val/loss", "a-b.c d_e", "lr@0", "päivä", "p[0]")] == [
        "val/loss",
        "a-b.c d_e",
        "lr_0",
        "p_iv_",
        "p_0_",
    ]
    for name in ("/a//b/", "./a/../b", "", ".", "..", "/", "x" * 300, f"{'x' * 249}/y"):
        made = metric_name(name)
        assert made == posixpath.normpath(made)
        assert not made.startswith(("/", ".."))
        assert 0 < len(made) <= 250


def test_text_is_left_out_and_a_row_without_a_step_has_step_0(tmp_path, calls):
    store(tmp_path).send([{"note": "hello", "loss": 1, "ok": True, "_timestamp": 2.5}])
    assert calls.rows() == [(0, "loss", 1.0), (0, "ok", 1.0)]


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "FINISHED"), ("paused", "SCHEDULED"), ("stopped", "KILLED"), ("failed", "FAILED")],
)
def test_each_end_of_a_run_has_a_status(tmp_path, calls, status, expected):
    made, seen = store(tmp_path), []
    made.client = SimpleNamespace(set_terminated=lambda *facts: seen.append(facts))
    made.end(status)
    assert seen == [("r", expected)]
