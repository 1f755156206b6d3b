"""A directory that was renamed, replaced or unmounted is noticed, and is not created again."""

import pytest
from tests.support.values import at, moment

from cairn.account import progress
from cairn.account.progress import ProgressFile
from cairn.known_directory import KnownDirectory
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.run.directory import RunDirectory
from cairn.store import names
from cairn.trackers.lines import Lines
from cairn.uploads.outbox import Outbox


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture(params=["renamed", "replaced"])
def lose(request, run):
    """Take the directory away; `replaced` is also what an unmounted disk looks like: another one has its path."""

    def lose():
        run.rename(run.with_name("moved"))
        if request.param == "replaced":
            run.mkdir()

    return lose


def files(run):
    return sorted(path for path in run.rglob("*"))


def test_the_same_directory_passes_and_may_be_renamed_back(run):
    known = KnownDirectory.at_or_above(run)
    known.check()
    run.rename(run.with_name("moved"))
    with pytest.raises(FileNotFoundError) as caught:
        known.check()
    assert caught.value.strerror == (
        f"{run} has been replaced or removed since the run started (renamed, deleted or unmounted)"
    )
    run.with_name("moved").rename(run)
    known.check()


def test_a_directory_is_created_once(run):
    known = KnownDirectory.at_or_above(run / "a" / "b")
    assert known.path == run
    known = known.make(run / "a" / "b")
    assert known.path == run / "a"
    (run / "a").rename(run / "moved")
    with pytest.raises(FileNotFoundError, match="has been replaced or removed"):
        known.make(run / "a" / "b")
    assert files(run) == [run / "moved", run / "moved" / "b"]


@pytest.mark.parametrize("num_rows", [0, 1])
def test_metrics_are_not_written_elsewhere(run, lose, num_rows, caplog):
    logger = CSVLogger(run / "csv")
    for step in range(num_rows):
        logger.log_metrics({"loss": 1.0}, step)
    logger.save()
    lose()
    logger.log_metrics({"loss": 2.0}, num_rows)
    logger.save()
    logger.log_metrics({"checkpoint/size": 2.0}, num_rows)
    assert f"metrics.csv cannot be written ({run} has been replaced or removed" in caplog.text
    assert "checkpoints.csv cannot be written" in caplog.text
    with pytest.raises(OSError, match="has been replaced or removed"):
        logger.state_dict()
    assert not run.exists() or files(run) == []


def test_metrics_are_written_when_the_directory_is_back(run):
    logger = CSVLogger(run / "csv")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    run.rename(run.with_name("moved"))
    logger.log_metrics({"loss": 2.0}, 1)
    logger.save()
    run.with_name("moved").rename(run)
    logger.save()
    assert logger.path.read_text() == "loss,step\n1.0,0\n2.0,1\n"


def test_the_record_is_not_written_elsewhere(run, lose, caplog):
    directory = RunDirectory(run)
    directory.start("train", (), "seed: 0\n")
    lose()
    directory.end("finished")
    assert f"how the run ended: {run} has been replaced or removed" in caplog.text
    assert not run.exists() or files(run) == []
    assert RunDirectory(run.with_name("moved")).record().status == "running"


def test_progress_is_not_written_elsewhere(run, lose):
    file = ProgressFile(run / "progress.json")
    lose()
    file.at_boundary(moment(at(1)))
    file.fit_ended()
    assert progress.read(run / "progress.json") is None


def test_the_history_for_wandb_is_not_written_elsewhere(run, lose):
    lines = Lines(run / "wandb" / "history.jsonl")
    lines.add({"a": 1})
    lose()
    with pytest.raises(OSError, match="has been replaced or removed"):
        lines.add({"a": 2})
    assert not run.exists() or files(run) == []


def test_the_outbox_is_not_created_elsewhere(run, lose):
    from tests.support.values import commit

    outbox, saved = Outbox(run, names.OUTBOX), commit(run)
    lose()
    with pytest.raises(OSError, match="has been replaced or removed"):
        outbox.add(saved)
    assert not run.exists() or files(run) == []
