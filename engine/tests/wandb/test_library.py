"""A project without the Hydra template uploads its checkpoints by `cairn.wandb.Artifacts`."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger
from tests.support import wandb_log
from tests.support.values import commit
from tests.support.wandb_worker import wait_until_idle

from cairn.errors import ConfigError
from cairn.store import names
from cairn.store.commit import delete_checkpoint
from cairn.store.listener import Listeners
from cairn.uploads.thread import WakingThread
from cairn.wandb import Artifacts


@pytest.fixture
def folder(tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


def test_the_listener_is_there_without_torch_and_wandb():
    code = "import sys; from cairn.wandb import Artifacts; sys.exit(bool({'torch', 'wandb'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=True)


@pytest.mark.parametrize("client", [None, SimpleNamespace(run=None)])
def test_without_an_active_run_there_is_one_sentence(folder, monkeypatch, caplog, client):
    if client is None:
        monkeypatch.delitem(sys.modules, "wandb", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "wandb", client)
    with pytest.raises(ConfigError, match=r"give the trainer a WandbLogger, or call wandb.init\(\) before"):
        Artifacts().opened(folder, [], {}, [])
    listeners = Listeners([Artifacts()])
    listeners.opened(folder, [], {}, [])
    listeners.committed(commit(folder), {})
    listeners.deleting([])
    listeners.deleted([])
    listeners.close(True, 60.0)
    assert caplog.text.count("there is no active W&B run") == 1


def test_a_disabled_run_gets_nothing(folder):
    listener = Artifacts(SimpleNamespace(disabled=True))
    listener.opened(folder, [], {}, [])
    listener.committed(commit(folder), {})
    listener.close(True, 60.0)
    assert listener._parts is None


def test_the_end_waits_no_longer_than_the_user_says(folder, monkeypatch):
    waits = []
    monkeypatch.setattr(
        WakingThread, "join_with_progress", lambda self, limit_s, *_: waits.append(limit_s) or self.join(60)
    )
    for limit_s in (5.0, 900.0):
        listener = Artifacts(SimpleNamespace(offline=True, id="r"), wait_s=60.0)
        listener.opened(folder, [], {}, [])
        listener.close(True, limit_s)
    assert waits == [5.0, 60.0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["logger", "init", "run"])
def test_the_active_run_gets_the_checkpoints(folder, tmp_path, how):
    """By Lightning's logger, by `wandb.init()`, or by a run that is given."""
    import wandb

    wandb.teardown()
    os.environ["WANDB_DATA_DIR"] = str(tmp_path)  # until the test ends
    if how == "logger":
        _ = WandbLogger(project="p", save_dir=str(tmp_path), offline=True).experiment  # as Lightning does before setup
    run = wandb.run if how == "logger" else wandb.init(project="p", dir=str(tmp_path), mode="offline")
    listeners = Listeners([Artifacts(run if how == "run" else None)])
    try:
        listeners.opened(folder, [], {names.LAST: None, names.BEST: None}, [])
        items = [commit(folder, number) for number in range(3)]
        for item in items:
            listeners.committed(item, {names.LAST: item.name, names.BEST: items[0].name})
        wait_until_idle(listeners._listeners[0]._parts.worker)
        listeners.deleting([items[1].name])
        delete_checkpoint(folder, items[1].name)
        listeners.deleted([items[1].name])
        listeners.close(True, 60.0)
    finally:
        wandb.finish()
        wandb.teardown()
    last = {item["metadata"]["name"]: item for item in wandb_log.artifacts(tmp_path)}
    assert set(last) == {item.name for item in items}
    assert {item["name"] for item in last.values()} == {f"model-{run.id}"}
    assert last[items[2].name]["files"][items[2].name] == (folder / items[2].name).as_uri()
    assert {"latest", "final"} <= last[items[2].name]["aliases"]
    assert "best" in last[items[0].name]["aliases"]
    assert last[items[0].name]["metadata"]["path"] == str(folder / items[0].name)
    assert (folder / ".wandb" / "pruned.txt").read_text().split() == [items[1].digest]
