"""The real client on a SQLite file: rows, parameters, tags, and checkpoints as artifacts."""

import json
import logging

import pytest
from tests.support.daemon import free_ports
from tests.support.shards import commit_shards
from tests.support.trackers import MLFLOW, require
from tests.support.values import commit

from cairn.mlflow.artifacts import Artifacts
from cairn.mlflow.files import FOLDER, ClientFiles, LocalFiles, local_path
from cairn.mlflow.logger import MLFlowLogger
from cairn.mlflow.remote import MLFlowRemote
from cairn.store import names
from cairn.store.commit import delete_checkpoint
from cairn.trackers.remote import NOTE, Location

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),  # of SQLAlchemy, in MLflow
]
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    require(*MLFLOW)
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"  # it takes seconds to make one


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def begin(folder, uri, position=None, **more):
    logger = MLFlowLogger(folder, uri, experiment="digits", name="a run", tags=["dev"], **more)
    logger.is_closed_by_run = True
    if position is not None:
        logger.load_state_dict(position)
    logger.training_begins()
    return logger


def log(logger, *steps):
    for step in steps:
        logger.log_metrics({"val/loss": 1 / (step + 1), "epoch": 0}, step)


def of(logger, key="val/loss"):
    return [item.step for item in logger.experiment.get_metric_history(logger.run_id, key)]


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_resumed_run_is_the_same_and_has_each_row_once(tmp_path, uri, has_folder):
    first = begin(tmp_path, uri)
    first.log_hyperparams({"model": {"width": 8}, "seed": 1})
    log(first, 0, 1)
    position = first.state_dict()
    log(first, 2, 3)
    assert first.connected(LIMIT_S)
    run_id = first.run_id
    if not has_folder:  # the id is in the checkpoint
        (tmp_path / "mlflow" / "identity.json").unlink()
    second = begin(tmp_path, uri, position)
    second.log_hyperparams({"model": {"width": 8}, "seed": 2})
    log(second, 2, 3, 4)
    second.close("finished", LIMIT_S)
    assert second.run_id == run_id
    assert of(second) == of(second, "epoch") == [0, 1, 2, 3, 4]
    run = second.experiment.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a run")
    assert run.data.params == {"model.width": "8", "seed": "1"}
    assert run.data.metrics["val/loss"] == 1 / 5
    assert (run.data.tags["changed.seed"], run.data.tags["dev"]) == ("2", "true")


def test_a_run_that_had_ended_is_running_again(tmp_path, uri):
    first = begin(tmp_path, uri)
    log(first, 0)
    position = first.state_dict()
    first.close("stopped", LIMIT_S)
    assert first.experiment.get_run(first.run_id).info.status == "KILLED"
    second = begin(tmp_path, uri, position)
    log(second, 1)
    assert second.connected(LIMIT_S)
    assert second.experiment.get_run(first.run_id).info.status == "RUNNING"
    second.close("failed", LIMIT_S)
    assert second.experiment.get_run(first.run_id).info.status == "FAILED"


def test_a_tracking_server_that_is_dead_stops_nothing_and_is_named_once(tmp_path, monkeypatch, caplog):
    require("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim@127.0.0.1:{free_ports(1)[0]}")
    logger = begin(tmp_path, None)
    folder = tmp_path / "checkpoints"
    listener = Artifacts(logger, wait_s=60)
    with caplog.at_level(logging.INFO):
        listener.opened(folder, [], {}, [])
        saved = commit(folder, 0)
        listener.committed(saved, {names.LAST: saved.name})
        log(logger, *range(3))
        listener.close(True, LIMIT_S)
        logger.close("finished", LIMIT_S)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("cairn")]
    assert sum("MLflow: could not send rows" in text for text in messages) == 1
    assert any("MLflow does not have all checkpoints" in text for text in messages)
    assert any("MLflow does not have all rows of this run" in text for text in messages)
    assert "geheim" not in caplog.text
    assert (tmp_path / "mlflow" / "history.jsonl").read_text().count("\n") == 3


def test_each_checkpoint_is_an_artifact_until_retention_deletes_it(tmp_path, uri):
    logger, folder = begin(tmp_path, uri), tmp_path / "checkpoints"
    log(logger, 0)
    listener = Artifacts(logger, run_directory=tmp_path)
    listener.opened(folder, [], {}, [])
    first, second = commit(folder, 0), commit(folder, 1)
    for saved in (first, second):
        listener.committed(saved, {names.LAST: saved.name, names.BEST: first.name})
    shards = commit_shards(folder, 2)
    listener.committed(shards, {names.LAST: shards.name, names.BEST: first.name})
    listener.deleting([second.name])
    delete_checkpoint(folder, second.name)
    listener.deleted([second.name])
    listener.close(True, LIMIT_S)
    root = local_path(logger.store.artifact_uri) / FOLDER
    assert sorted(path.name for path in root.iterdir()) == [first.name[:-5], shards.name[:-5]]
    assert (root / first.name[:-5] / first.name).samefile(folder / first.name), "a link, not a copy"
    assert {path.name for path in (root / shards.name[:-5] / shards.name).iterdir()} == {s.name for s in shards.shards}
    note = json.loads((root / first.name[:-5] / NOTE).read_text())
    assert (note["name"], note["digest"], note["bytes"]) == (first.name, first.digest, first.num_bytes)
    tags = logger.experiment.get_run(logger.run_id).data.tags
    assert tags["cairn.checkpoint.best"] == first.name
    assert tags["cairn.checkpoint.latest"] == tags["cairn.checkpoint.final"] == shards.name
    assert not (folder / names.MLFLOW_OUTBOX).exists()

    again = Artifacts(logger, run_directory=tmp_path)  # a resume uploads nothing twice, and deletes what was deleted
    (root / first.name[:-5] / NOTE).unlink()  # as if its upload had been killed
    (root / "epoch_007_batch_000001").mkdir()  # as if its deletion had been
    (root / "epoch_007_batch_000001" / "epoch_007_batch_000001.ckpt").write_bytes(b"x")
    (root / "of the user").mkdir()
    listener.deleting([shards.name])
    delete_checkpoint(folder, shards.name)
    again.opened(folder, [first], {names.LAST: first.name, names.BEST: first.name}, [])
    again.close(True, LIMIT_S)
    assert sorted(path.name for path in root.iterdir()) == [first.name[:-5], "of the user"]
    assert (root / first.name[:-5] / NOTE).is_file()
    logger.close("finished", LIMIT_S)


def test_artifacts_behind_a_client_are_the_same_as_on_this_machine(tmp_path, uri):
    logger, folder = begin(tmp_path, uri), tmp_path / "checkpoints"
    log(logger, 0)
    saved, shards = commit(folder, 0), commit_shards(folder, 1)
    store = logger.store
    remote = MLFlowRemote(store, Location(folder, tmp_path))
    store.connect()
    behind = ClientFiles(store.client, store.run_id, store.artifact_uri, tmp_path / "mlflow")
    here = LocalFiles(local_path(store.artifact_uri))
    remote._files = lambda: behind
    made = [remote.upload(item, folder / item.name, ("latest",)) for item in (saved, shards)]
    assert behind.folders() == here.folders() == [saved.name[:-5], shards.name[:-5]]
    for version, item in zip(made, (saved, shards), strict=True):
        assert dict(behind.sizes(version.id)) == dict(here.sizes(version.id))
        assert remote.holds(version, item)
    listed = remote.listed()
    assert [(version.name, version.digest) for version in listed] == [(i.name, i.digest) for i in (saved, shards)]
    assert "latest" in listed[1].aliases
    assert "latest" not in listed[0].aliases
    remote.delete(listed[1])
    assert behind.folders() == here.folders() == [saved.name[:-5]]
    assert list((tmp_path / "mlflow").glob("tmp*")) == []
    logger.close("finished", LIMIT_S)
