"""The real storage of Trackio on this machine: rows, configuration, and checkpoints as versions of an artifact."""

import logging
import os

import pytest
from tests.support.daemon import free_ports
from tests.support.shards import commit_shards
from tests.support.trackers import require
from tests.support.values import commit

from cairn.store import names
from cairn.trackio.artifacts import Artifacts
from cairn.trackio.logger import TrackioLogger

pytestmark = pytest.mark.slow
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    require("trackio")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))  # read once, when it is imported
        from trackio.sqlite_storage import SQLiteStorage

        yield SQLiteStorage


def begin(folder, position=None, **more):
    logger = TrackioLogger(folder, project="digits/cnn", name="a run", group="g", **more)
    logger.is_closed_by_run = True
    if position is not None:
        logger.load_state_dict(position)
    logger.training_begins()
    return logger


def log(logger, *steps):
    for step in steps:
        logger.log_metrics({"val/loss": 1 / (step + 1), "epoch": 0}, step)


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_resumed_run_is_the_same_and_has_each_row_once(tmp_path, storage, has_folder):
    first = begin(tmp_path)
    first.log_hyperparams({"model": {"width": 8}, "_hidden": 1})
    log(first, 0, 1)
    position = first.state_dict()
    log(first, 2, 3)
    assert first.connected(LIMIT_S)
    if not has_folder:  # the id is in the checkpoint
        (tmp_path / "trackio" / "identity.json").unlink()
    second = begin(tmp_path, position)
    assert second.connected(LIMIT_S)
    id = second.version
    assert [row["step"] for row in storage.get_logs("digits/cnn", "a run", run_id=id)] == [0, 1]
    log(second, 2, 3, 4)
    second.close("finished", LIMIT_S)
    assert id == first.version
    rows = storage.get_logs("digits/cnn", "a run", run_id=id)
    assert [(row["step"], row["val/loss"], row["epoch"]) for row in rows] == [(n, 1 / (n + 1), 0) for n in range(5)]
    config = storage.get_run_config("digits/cnn", "a run", run_id=id)
    assert {"model": {"width": 8}, "hidden": 1, "_Group": "g"}.items() <= config.items()


def test_each_checkpoint_is_a_version_that_refers_to_its_file(tmp_path, storage):
    logger, folder = begin(tmp_path), tmp_path / "checkpoints"
    log(logger, 0)
    first, shards = commit(folder, 0), commit_shards(folder, 1)
    for _ in range(2):  # a resume makes no version twice
        listener = Artifacts(logger, run_directory=tmp_path)
        listener.opened(folder, [], {}, [])
        for saved in (first, shards):
            listener.committed(saved, {names.LAST: saved.name, names.BEST: first.name})
        listener.close(True, LIMIT_S)
    name = f"model-{logger.version}"
    version = storage.get_artifact_manifest("digits/cnn", name, "best")
    (entry,) = version["manifest"]
    assert (entry["path"], entry["ref"]) == (first.name, (folder / first.name).as_uri())
    assert (entry["size"], entry["digest"]) == (first.num_bytes, first.digest)
    assert version["metadata"]["name"] == first.name
    newest = storage.get_artifact_manifest("digits/cnn", name, "final")
    assert newest["version"] == 1
    assert {item["path"] for item in newest["manifest"]} == {f"{shards.name}/{s.name}" for s in shards.shards}
    assert "latest" in newest["aliases"]
    logger.close("finished", LIMIT_S)


def test_a_second_folder_in_one_process_is_named(tmp_path, storage, monkeypatch, caplog):
    monkeypatch.delenv("TRACKIO_DIR")
    logger = begin(tmp_path, store_dir=tmp_path / "mine")
    log(logger, 0)
    logger.close("finished", LIMIT_S)
    assert "TRACKIO_DIR" not in os.environ
    assert caplog.text.count("Trackio keeps all rows of a process in one folder") == 1
    assert len(storage.get_logs("digits/cnn", "a run", run_id=logger.version)) == 1


def test_a_server_that_is_dead_stops_nothing_and_is_named_once(tmp_path, storage, monkeypatch, caplog):
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"http://127.0.0.1:{free_ports(1)[0]}/?write_token=geheim")
    logger, folder = begin(tmp_path), tmp_path / "checkpoints"
    listener = Artifacts(logger, wait_s=60)
    with caplog.at_level(logging.INFO):
        listener.opened(folder, [], {}, [])
        saved = commit(folder, 0)
        listener.committed(saved, {names.LAST: saved.name})
        log(logger, 0, 1)
        listener.close(True, LIMIT_S)
        logger.close("finished", LIMIT_S)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("cairn")]
    assert sum("Trackio: could not send rows" in text for text in messages) == 1
    assert any("Trackio does not have all checkpoints" in text for text in messages)
    assert any("Trackio does not have all rows of this run" in text for text in messages)
    assert "geheim" not in caplog.text
