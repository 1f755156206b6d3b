"""The listener with W&B's own client, offline and against the stand-in server."""

import os
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
from cairn.trackers.remote import NOTE
from cairn.wandb import client
from cairn.wandb.artifacts import Artifacts
from cairn.wandb.environment import prepare

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
def listening(run: Path, server: WandbServer | None = None, kept=(), links=None, hang=False, **settings):
    """A listener with a W&B run, online if there is a server."""
    wandb.teardown()  # what another test in this process has set up
    os.environ |= server.environment if server else {"WANDB_MODE": "offline"}  # until the test ends
    prepare(run, offline=server is None)
    with wandb.init(project="p", id="r", dir=str(run), resume="allow") as active:
        if hang:
            server.hang()
        listener = Artifacts(active, run_directory=run, **settings)
        listener.opened(run / "checkpoints", kept, links or {}, [])
        yield listener
    wandb.teardown()


def write_large(run: Path, number: int):
    """A checkpoint of random bytes whose upload takes time."""
    item, content = saved(number, position=at(number + 1, step=number)), os.urandom(60_000)
    (run / "checkpoints" / item.name).write_bytes(content)
    return replace(item, num_bytes=len(content), digest=str(number) * 64), content


def links_to(item):
    return {names.LAST: item.name, names.BEST: item.name}


def test_a_checkpoint_is_uploaded_although_it_is_deleted_meanwhile(server, run):
    (first, its_bytes), (second, other_bytes) = write_large(run, 0), write_large(run, 1)
    server.slow_uploads(60_000)
    with listening(run, server, deleted="keep") as listener:
        listener.committed(first, links_to(first))
        server.wait_until(lambda server: server.upload_bytes > 20_000)
        listener.deleting([first.name])
        (run / "checkpoints" / first.name).unlink()
        listener.deleted([first.name])
        assert server.artifacts[0].state == "PENDING"
        server.slow_uploads(None)
        listener.committed(second, links_to(second))
        listener.close(True, 60)
    v0, v1 = server.artifacts
    assert [(version.state, version.metadata["digest"]) for version in (v0, v1)] == [
        ("COMMITTED", first.digest),
        ("COMMITTED", second.digest),
    ]
    assert (v0.files[first.name], v1.files[second.name]) == (its_bytes, other_bytes)
    assert (v0.aliases, v1.aliases) == ({"step-0"}, {"latest", "best", "final", "step-1"})
    assert not (run / "checkpoints" / names.OUTBOX).exists()


def test_a_checkpoint_is_a_reference_offline_and_is_uploaded_later_once(server, run):
    item, content = write_large(run, 0)
    with listening(run) as listener:
        listener.committed(item, links_to(item))
        listener.close(True, 60)
    (*_, logged) = wandb_log.artifacts(run)
    path = run / "checkpoints" / item.name
    assert {name: place for name, place in logged["files"].items() if name != NOTE} == {item.name: path.as_uri()}
    assert logged["aliases"] == {"latest", "best", "final", "step-0"}
    sizes = [path.stat().st_size for path in (run / "wandb").rglob("*") if path.is_file()]
    assert max(sizes) < len(content), "no second copy of the bytes"
    assert not (run / "checkpoints" / names.OUTBOX).exists()
    for _ in range(2):
        with listening(run, server, [item], links_to(item)) as listener:
            listener.close(True, 60)
        (version,) = server.artifacts
        assert version.files[item.name] == content
        assert {"latest", "best", "final"} <= version.aliases
        assert (version.state, server.operations["CreateArtifact"]) == ("COMMITTED", 1)


def test_the_committing_thread_waits_for_no_answer(server, run):
    items = [commit(run / "checkpoints", number) for number in range(5)]
    with listening(run, server, links=links_to(items[0]), hang=True) as listener:
        answers = server.num_answers
        for item in items:
            listener.committed(item, links_to(item))
        listener.deleting([items[0].name])
        listener.deleted([items[0].name])
        assert server.num_answers == answers
        waiting = {path.name for path in (run / "checkpoints" / names.OUTBOX).glob("*.ckpt")}
        assert waiting == {item.name for item in items[1:]}, "what is deleted leaves the disk before the server answers"
        server.resume()
        listener.close(True, 60)
    there = {version.metadata["name"] for version in server.artifacts if version.state == "COMMITTED"}
    assert there == {item.name for item in items[1:]}


def test_the_clients_process_is_where_this_wandb_has_it(tmp_path):
    """Nothing public says which process it is: after an update of wandb, this shows whether `kill` still finds it."""
    wandb.teardown()
    prepare(tmp_path, offline=True)
    service = wandb.setup()._connection._proc
    assert client.kill()
    assert service.join() == -signal.SIGKILL
    with pytest.raises((SystemExit, OSError)):  # it does not answer any more
        client.forget()
