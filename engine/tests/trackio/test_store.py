"""What Trackio has of the rows of a run, on a stand-in for its storage: on this machine, and on a server."""

import sys

import pytest

import cairn.trackio
from cairn.errors import ConfigError
from cairn.trackio import target as targets
from cairn.trackio.logger import TrackioLogger
from cairn.trackio.store import RunName, TrackioStore
from cairn.trackio.target import Target, target


class Calls:
    """Rows by their ids: one whose id is there already is ignored."""

    def __init__(self, is_local):
        self.is_local, self.entries, self.sent = is_local, {}, []

    def rows(self, project, run_id):
        if not self.is_local:
            return None
        return {id: entry["timestamp"] for id, entry in self.entries.items() if entry["run_id"] == run_id}

    def delete(self, project, run_id, ids):
        for id in ids:
            del self.entries[id]

    def log(self, entries):
        for entry in entries:
            self.sent.append(entry)
            self.entries.setdefault(entry["log_id"], entry)

    def values(self):
        return [(entry["step"], dict(entry["metrics"])) for entry in self.entries.values()]


@pytest.fixture(params=[True, False], ids=["local", "server"])
def calls(request, monkeypatch):
    fake = Calls(request.param)
    module = type(sys)("cairn.trackio.client")
    module.Local, module.Server = (lambda folder: fake), (lambda space_id, url: fake)
    monkeypatch.setitem(sys.modules, "cairn.trackio.client", module)
    monkeypatch.setattr(cairn.trackio, "client", module, raising=False)
    for name in ("TRACKIO_DIR", "TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    return fake


def store(tmp_path, calls):
    url = "" if calls.is_local else "https://host"
    made = TrackioStore(Target(tmp_path, given_url=url), lambda: RunName("p", "x", "a run", "g"))
    made.connect()
    return made


def rows(*steps, at=0.0, **more):
    return [{"loss": step / 2, "trainer/global_step": step, "_timestamp": at + step, **more} for step in steps]


def losses(*steps):
    return [(step, {"loss": step / 2}) for step in steps]


def test_each_row_is_there_once_after_a_resume(tmp_path, calls):
    first = store(tmp_path, calls)
    assert first.match([], set()) == []
    first.send(rows(0, 1, 2, 3))
    for number in (1, 2):
        again = store(tmp_path, calls)
        again.send(again.match(rows(0, 1), {"loss"}))
        if calls.is_local:
            assert calls.values() == losses(0, 1), "the lost rows are gone before they are logged again"
        again.send(rows(2, 3, at=100.0 * number))
    again.send(rows(4, at=300.0))
    assert sorted(calls.values(), key=lambda row: row[0]) == losses(0, 1, 2, 3, 4)


def test_rows_of_one_step_with_the_same_names_are_different_rows(tmp_path, calls):
    made = store(tmp_path, calls)
    same = [*rows(1), *rows(1, at=5.0), *rows(1, epoch=0)]
    made.send(same)
    assert len(calls.values()) == 3
    made.send(made.match(same, {"loss", "epoch"}))
    assert len(calls.values()) == 3


def test_rows_of_others_stay(tmp_path, calls):
    other = TrackioStore(
        Target(tmp_path, given_url="" if calls.is_local else "https://h"), lambda: RunName("p", "y", "b")
    )
    other.connect()
    other.send(rows(0, 1))
    made = store(tmp_path, calls)
    made.send(rows(0))
    made.match([], {"loss"})
    assert {entry["run_id"] for entry in calls.entries.values()} >= {"y"}


def test_a_row_has_its_run_time_step_and_reserved_names_in_other_words(tmp_path, calls):
    made = store(tmp_path, calls)
    made.configure({"seed": 1, "_private": 2, "net": {"act": tuple, "sizes": (1, 2)}})
    made.send([{"time": 3.0, "val/loss": 1.0, "trainer/global_step": 7, "_timestamp": 0.0}, *rows(8)])
    first, second = calls.sent
    assert (first["project"], first["run"], first["run_id"], first["step"]) == ("p", "a run", "x", 7)
    assert first["metrics"] == {"__time": 3.0, "val/loss": 1.0}
    assert first["timestamp"] == "1970-01-01T00:00:00+00:00"
    assert {key: first["config"][key] for key in ("seed", "private", "_Group")} == {
        "seed": 1,
        "private": 2,
        "_Group": "g",
    }
    assert first["config"]["net"] == {"act": "<class 'tuple'>", "sizes": [1, 2]}
    assert second["config"] is None
    made.send(rows(9))
    assert calls.sent[-1]["config"] is None


def test_the_configuration_is_sent_again_if_its_row_did_not_arrive(tmp_path, calls, monkeypatch):
    made = store(tmp_path, calls)
    made.configure({"seed": 1})
    log = calls.log
    monkeypatch.setattr(calls, "log", lambda entries: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.send(rows(0))
    monkeypatch.setattr(calls, "log", log)
    made.send(rows(0))
    assert calls.sent[0]["config"]["seed"] == 1


def test_a_token_in_the_configuration_is_refused_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="server_url holds a password or a token") as caught:
        TrackioLogger(tmp_path, server_url="https://host/?write_token=geheim")
    assert "geheim" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^Trackio is not installed: pip install '"):
        TrackioLogger(tmp_path)


def test_the_configuration_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: object())
    monkeypatch.setenv("TRACKIO_SERVER_URL", "https://host/?write_token=geheim")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    found = target(None, None, tmp_path)
    assert (found.space_id, found.server_url, found.is_local) == ("me/space", "", False)
    found = target("https://other", None, tmp_path)
    assert (found.space_id, found.server_url) == ("", "https://other")
    monkeypatch.delenv("TRACKIO_SPACE_ID")
    found = target(None, None, tmp_path)
    assert found.server_url.endswith("geheim")
    assert "geheim" not in repr(found)
    monkeypatch.delenv("TRACKIO_SERVER_URL")
    assert target(None, None, tmp_path).is_local
