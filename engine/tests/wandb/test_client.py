"""The tracker with W&B's own client, against the stand-in server: sharded checkpoints, and a server that hangs."""

import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from tests.support import wandb_log
from tests.support.values import at, commit, saved
from tests.support.wandb_server import WandbServer

from cairn.store import names
from cairn.wandb import artifacts
from cairn.wandb.artifacts import NOTE, Place, WandbTracker, Wishes
from cairn.wandb.logger import prepare

pytestmark = pytest.mark.slow


@pytest.fixture
def server():
    with WandbServer() as server:
        yield server


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run"


@contextmanager
def tracked(run: Path, server: WandbServer | None = None, **wishes):
    """A run that W&B is told of, online if there is a server."""
    wandb.teardown()  # what another test in this process has set up
    os.environ |= server.environment if server else {"WANDB_MODE": "offline"}  # until the test ends
    prepare(run, offline=server is None)
    told = wandb.init(project="p", id="r", dir=str(run), resume="allow")
    try:
        yield WandbTracker(told, Place(run, run / "checkpoints"), Wishes(**wishes))
    finally:
        told.finish()
        wandb.teardown()


def write_sharded(run: Path, number: int):
    """A checkpoint as `torch.distributed.checkpoint` leaves it: a folder with several files."""
    item = saved(number, position=at(number + 1, step=number))
    big, other = os.urandom(60_000), os.urandom(9)
    files = {
        "__0_0.distcp": big,
        "nested/deep/__1_0.distcp": other,
        "nested/copy": big,
        ".metadata": other,
        "empty": b"",
    }
    for name, content in files.items():
        path = run / "checkpoints" / item.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    digest = str(number) * 64
    return replace(item, num_bytes=sum(map(len, files.values())), digest=digest), files


def bytes_of(version):
    """The files of a checkpoint that W&B has, by their names in it."""
    prefix = version.metadata["name"] + "/"
    assert version.references == {}
    assert all(name.startswith(prefix) for name in version.files.keys() - {NOTE})
    return {name.removeprefix(prefix): content for name, content in version.files.items() if name != NOTE}


def links_to(item):
    return {names.LAST: item.name, names.BEST: item.name}


def test_a_sharded_checkpoint_is_uploaded_whole_although_it_is_deleted_meanwhile(server, run):
    (first, its_files), (second, other_files) = write_sharded(run, 0), write_sharded(run, 1)
    server.slow_uploads(60_000)
    with tracked(run, server, pruned="keep") as tracker:
        tracker.committed(first, links_to(first))
        server.wait_until(lambda server: server.upload_bytes > 20_000)
        tracker.pruning([first.name])
        shutil.rmtree(run / "checkpoints" / first.name)
        tracker.pruned([first.name])
        assert server.artifacts[0].state == "PENDING"
        server.slow_uploads(None)
        tracker.committed(second, links_to(second))
        tracker.close(True, 60)
    v0, v1 = server.artifacts
    assert [(version.state, version.metadata["digest"]) for version in (v0, v1)] == [
        ("COMMITTED", first.digest),
        ("COMMITTED", second.digest),
    ]
    assert (bytes_of(v0), bytes_of(v1)) == (its_files, other_files)
    assert (v0.aliases, v1.aliases) == ({"step-0"}, {"latest", "best", "final", "step-1"})
    assert not (run / "checkpoints" / names.OUTBOX).exists()


def test_a_sharded_checkpoint_is_a_reference_offline_and_is_uploaded_later_once(server, run):
    item, files = write_sharded(run, 0)
    with tracked(run) as tracker:
        tracker.committed(item, links_to(item))
        tracker.close(True, 60)
    (*_, logged) = wandb_log.artifacts(run)
    folder = run / "checkpoints" / item.name
    expected = {f"{item.name}/{name}": (folder / name).as_uri() for name in files}
    assert {name: place for name, place in logged["files"].items() if name != NOTE} == expected
    sizes = [path.stat().st_size for path in (run / "wandb").rglob("*") if path.is_file()]
    assert max(sizes) < len(files["nested/copy"]), "no second copy of the bytes"
    assert not (run / "checkpoints" / names.OUTBOX).exists()
    for _ in range(2):
        with tracked(run, server) as tracker:
            tracker.opened([item], links_to(item))
            tracker.close(True, 60)
        (version,) = server.artifacts
        assert bytes_of(version) == files
        assert {"latest", "best", "final"} <= version.aliases
        assert (version.state, server.operations["CreateArtifact"]) == ("COMMITTED", 1)


def test_who_commits_waits_for_no_answer(server, run):
    items = [commit(run / "checkpoints", number) for number in range(5)]
    with tracked(run, server) as tracker:
        tracker.opened([], links_to(items[0]))
        server.wait_until(lambda server: server.operations["ProjectArtifacts"])
        server.hang()
        answers = server.num_answers
        for item in items:
            tracker.committed(item, links_to(item))
        tracker.pruning([items[0].name])
        tracker.pruned([items[0].name])
        assert server.num_answers == answers
        waiting = {path.name for path in (run / "checkpoints" / names.OUTBOX).glob("*.ckpt")}
        assert waiting == {item.name for item in items[1:]}, "what is deleted takes no room until the server answers"
        server.resume()
        tracker.close(True, 60)
    there = {version.metadata["name"] for version in server.artifacts if version.state == "COMMITTED"}
    assert there == {item.name for item in items[1:]}


def test_the_clients_process_is_where_this_wandb_has_it(tmp_path):
    """Nothing public says which process it is: after an update of wandb, this tells whether `kill` still finds it."""
    wandb.teardown()
    prepare(tmp_path, offline=True)
    service = wandb.setup()._connection._proc
    assert artifacts.kill()
    assert service.join() == -signal.SIGKILL
    with pytest.raises((SystemExit, OSError)):  # it cannot be asked to end any more
        artifacts.forget()
