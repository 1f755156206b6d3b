"""W&B, offline without a network and online against a server that misbehaves: what it is sent, and at what cost."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import wandb_log
from tests.support.command import QUICK, Process, newest, start, train, wait_for
from tests.support.forks import RANKS
from tests.support.paths import PYTHONPATH, ROOT
from tests.support.values import flip_byte
from tests.support.wandb_server import WandbServer

from cairn.store import file_format
from cairn.store.catalog import Catalog
from cairn.types import Saved

pytestmark = pytest.mark.slow

SHORT = [
    *QUICK[1:],
    "logger=many",
    "model=mlp",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "data.batch_size=128",
    "checkpoint.save_interval=4",
    "checkpoint.when_busy=wait",
    "test=false",
]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


def kept(run: Path) -> list[Saved]:
    return Catalog(run / "checkpoints").committed()


def facts_of(saved: Saved) -> dict[str, Any]:
    return {
        "name": saved.name,
        "epoch": saved.position.epoch,
        "batch": saved.position.batch,
        "global_step": saved.position.step,
        "samples": saved.position.samples,
        "metrics": dict(saved.metrics),
        "reasons": list(saved.reasons),
        "bytes": saved.num_bytes,
        "digest": saved.digest,
        "path": f"checkpoints/{saved.name}",
    }


def online(server: WandbServer, run: Path, *overrides: str, **env: str) -> Process:
    return start(run, *SHORT, *overrides, **(server.environment | env))


def sent(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Step, names and values of each row; without the costs of saves, which differ between runs."""
    own = {"_timestamp", "_step", "_runtime", "trainer/global_step"}
    found = [
        (row["trainer/global_step"], *sorted((name, float(row[name])) for name in set(row) - own))
        for row in rows
        if "_step" in row
    ]
    return sorted(item for item in found if not any(name.startswith("checkpoint/") for name, _ in item[1:]))


def logged(run: Path) -> list[tuple[Any, ...]]:
    """The same from metrics.csv, which is exact."""
    with open(run / "csv" / "metrics.csv", newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return sorted((int(row.pop("step")), *sorted((name, float(value)) for name, value in row.items())) for row in rows)


def there(server: WandbServer) -> dict[str, Any]:
    """The versions that a user sees, by the name of their checkpoint."""
    return {v.metadata["name"]: v for v in server.artifacts if v.state == "COMMITTED"}


def holds_its_bytes(version: Any) -> bool:
    content = version.files.get(version.metadata["name"])
    if content is None or file_format.digest(memoryview(content)) != version.metadata["digest"]:
        return False
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.testzip() is None


# Offline


def train_without_a_network(run: Path, *overrides: str) -> None:
    """Train in a namespace without a network, not even loopback, where one can be made."""
    can = shutil.which("unshare") and subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0
    command = [*(["unshare", "-n"] if can else []), sys.executable, str(ROOT / "train.py"), *overrides]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, f"hydra.run.dir='{run}'"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_offline_every_checkpoint_is_in_the_log_and_no_copy_is_on_the_disk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_without_a_network(run, *SHORT, "checkpoint.keep_last=-1")
    saved, logged = kept(run), wandb_log.artifacts(run)
    last = {item["metadata"]["name"]: item for item in logged}
    assert list(last) == [item.name for item in saved]
    record = json.loads((run / "run.json").read_text())
    for item in saved:
        found = last[item.name]
        assert (found["name"], found["type"]) == (f"model-{record['id']}", "model")
        assert f"step-{item.position.step}" in found["aliases"]
        assert facts_of(item).items() <= found["metadata"].items()
        assert found["files"][item.name] == (run / "checkpoints" / item.name).as_uri()
        assert set(found["files"]) == {item.name, "checkpoint.json"}
    assert {"latest", "final"} <= last[saved[-1].name]["aliases"]
    best = [item["metadata"]["name"] for item in logged if "best" in item["aliases"]][-1]
    assert best == (run / "checkpoints" / "best.ckpt").readlink().name
    size = saved[-1].num_bytes
    copies = [path for path in (run / "wandb").rglob("*") if path.is_file() and path.stat().st_size >= size]
    assert copies == [], "no second copy of the bytes"
    assert not (run / "checkpoints" / ".outbox").exists()


def test_offline_the_configuration_and_the_facts_of_the_run_are_logged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *SHORT, "trainer.max_epochs=1", "task_name=digits/cnn")  # not a project name that W&B accepts
    config = wandb_log.config(run)
    assert config["data"]["batch_size"] == 128
    assert config["run"]["directory"] == str(run)
    assert "data.batch_size=128" in config["run"]["command"]
    assert config["run"]["num_parameters"] > 1000
    assert re.fullmatch(r"[0-9a-f]{40}|", config["run"]["git_commit"])
    assert isinstance(config["run"]["git_dirty"], bool)


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="W&B's process is found in /proc")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (Debian: apt-get install strace)")
def test_offline_no_network_is_used(tmp_path: Path) -> None:
    trace = ["strace", "-f", "-o", str(tmp_path / "log"), "-e", "trace=connect,sendto"]
    command = [*trace, sys.executable, str(ROOT / "train.py"), *SHORT, "trainer.max_epochs=1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, f"hydra.run.dir='{tmp_path / 'run'}'"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    asked = [line for line in (tmp_path / "log").read_text().splitlines() if "AF_INET" in line]
    own = ('inet_addr("127.0.0.1")', 'inet_pton(AF_INET6, "::1",')  # and not 127.0.0.11, which resolves names
    assert [line for line in asked if not any(address in line for address in own)] == []


def test_offline_the_checkpoint_that_a_run_started_from_is_logged(tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(first, *SHORT, "trainer.max_steps=2")
    (saved,), file = kept(first), first / "checkpoints" / "last.ckpt"
    for how, num_steps in (("ckpt_path", 4), ("init_weights", 2)):
        run, id = tmp_path / how, id_of(first)
        train(run, *SHORT, f"trainer.max_steps={num_steps}", f"{how}={file}")
        expected = {"how": how, "named": str(file), "run": id, "step": saved.position.step}
        expected |= {"version": "", "known_as": f"train/{id}"}
        assert wandb_log.config(run)["run"]["started_from"] == expected
        assert [item["metadata"]["started_from"] for item in wandb_log.artifacts(run)] == [expected] * 2, "and final"


def test_offline_each_job_of_a_sweep_is_a_run_of_its_own_that_ends_as_it_did(tmp_path: Path) -> None:
    sweep, values = tmp_path / "sweep", {100: 0, 7: 1, 200: 0}
    fails = [
        "+callbacks.fail._target_=tests.support.callbacks.FailAt",
        "+callbacks.fail.at=${checkpoint.save_interval}",
    ]
    folders = [f"hydra.sweep.dir={sweep}", "hydra.sweep.subdir=${hydra.job.num}"]
    interval = f"checkpoint.save_interval={','.join(map(str, values))}"
    train(None, "-m", *SHORT, *fails, "trainer.max_epochs=1", interval, *folders, expect=1)
    seen = [wandb_log.run(sweep / str(number)) for number in range(3)]
    assert [run["id"] for run in seen] == [id_of(sweep / str(number)) for number in range(3)]
    assert len({run["id"] for run in seen}) == 3
    assert {run["group"] for run in seen} == {f"{tmp_path.name}-sweep"}
    assert [run["exit_code"] for run in seen] == list(values.values())
    for number, (value, run) in enumerate(zip(values, seen, strict=True)):
        config = wandb_log.config(sweep / str(number))
        assert run["name"] == f"checkpoint.save_interval={value}", "what is special about it"
        assert f"checkpoint.save_interval={value}" in config["run"]["overrides"]
        assert config["checkpoint"]["save_interval"] == value
        assert sent(wandb_log.history(sweep / str(number))) == logged(sweep / str(number)), "only its own rows"


def test_offline_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    longer = ["trainer.max_epochs=8", "checkpoint.keep_last=-1"]  # a checkpoint that a start deletes need not be logged
    process = start(run, *SHORT, *longer)
    assert wait_for(lambda: newest(run) >= "epoch_002", process)
    process.kill()
    before = {item.name for item in kept(run)}
    train(run, *SHORT, *longer)
    assert sent(wandb_log.history(run)) == logged(run)
    names = {item["metadata"]["name"] for item in wandb_log.artifacts(run)}
    assert before <= names, "what was committed right before the kill is logged by the resumed run"
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2


@needs_proc
def test_offline_a_kill_loses_no_more_than_the_last_second(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stands = [*SHORT, "checkpoint.keep_last=-1", "+callbacks.stand={_target_:tests.support.callbacks.StandStill,at:12}"]
    process = start(run, *stands)
    assert wait_for((run / "stands").exists, process)
    assert wait_for(lambda: newest(run) == "epoch_001_batch_000002.ckpt", process)  # saved right before
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    stay_the_same(lambda: log.stat().st_size, seconds=3)  # by itself it would be written every 15 s
    kill_all(process)
    rows = [json.loads(line) for line in (run / "wandb" / "history.jsonl").read_text().splitlines()]
    assert [row["trainer/global_step"] for row in rows if "train/loss_step" in row] == list(range(12))
    own = ("_step", "_runtime")
    assert [{n: v for n, v in row.items() if n not in own} for row in wandb_log.history(run)] == rows
    assert [item["metadata"]["name"] for item in wandb_log.artifacts(run)] == [item.name for item in kept(run)]
    train(run, *stands)
    assert sent(wandb_log.history(run)) == logged(run)


def kill_all(process: Process) -> None:
    """Also W&B's own process: it has its own session, and would still send what it has when ours has ended."""
    os.kill(next(_clients_of(process.pid)), signal.SIGKILL)
    process.kill()


def _clients_of(pid: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if words[0].endswith("wandb-core") and ["--pid", str(pid)] == words[words.index("--pid") :][:2]:
                yield int(path.parent.name)


def stay_the_same(value: Callable[[], Any], seconds: float) -> None:
    """Wait until something has not changed for this long, on a clock that stops when this process is paused."""
    before, still, pause_s = value(), 0, 0.05
    while still < seconds / pause_s:
        time.sleep(pause_s)
        now = value()
        before, still = now, still + 1 if now == before else 0


# Online


def test_uploads_are_complete_although_retention_deletes_the_files(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    server.slow_uploads(1000)  # almost nothing arrives before training is over
    process = online(server, run, "checkpoint.keep_last=1", "checkpoint.artifacts.pruned=keep")
    assert wait_for(lambda: "left to upload" in process.output, process), "the end waits, and logs it"
    waiting = {path.name for path in (run / "checkpoints" / ".outbox").glob("*.ckpt")}
    assert waiting - {item.name for item in kept(run)}, "what waits outlives its checkpoint"
    server.slow_uploads(None)
    process.end()
    versions = there(server)
    assert len(versions) > len(kept(run))
    assert all(holds_its_bytes(version) for version in versions.values())
    assert {item.name for item in kept(run)} <= set(versions)
    assert not (run / "checkpoints" / ".outbox").exists()
    last = kept(run)[-1]
    assert {"latest", "final", f"step-{last.position.step}"} <= versions[last.name].aliases
    best = (run / "checkpoints" / "best.ckpt").readlink().name
    assert [name for name, version in versions.items() if "best" in version.aliases] == [best]
    (seen,) = server.runs.values()
    assert (seen.exit_code, seen.state) == (0, "finished")
    assert sent(seen.history) == logged(run)


@pytest.mark.parametrize("deleted", ["delete", "untag"])
def test_what_retention_deletes_is_deleted_or_untagged(server: WandbServer, tmp_path: Path, deleted: str) -> None:
    run = tmp_path / "run"
    online(server, run, "checkpoint.keep_last=1", f"checkpoint.artifacts.pruned={deleted}").end()
    versions, here = there(server), {item.name for item in kept(run)}
    if deleted == "delete":
        assert set(versions) == here
    else:
        assert here < set(versions)
        assert all(not version.aliases for name, version in versions.items() if name not in here)
    assert all(holds_its_bytes(version) for version in versions.values())


@pytest.mark.parametrize(
    ("which", "expected"), [("best", {"best"}), ("final", {"last"}), ("none", set()), ("all", {"best", "last"})]
)
def test_only_what_the_settings_ask_for_is_uploaded(
    server: WandbServer, tmp_path: Path, which: str, expected: set[str]
) -> None:
    run = tmp_path / "run"
    worst = ["checkpoint.mode=max", "checkpoint.keep_last=1"]  # the first one is the best one
    online(server, run, f"checkpoint.artifacts.which={which}", *worst).end()
    links = {name: (run / "checkpoints" / f"{name}.ckpt").readlink().name for name in ("best", "last")}
    assert links["best"] != links["last"]
    assert set(there(server)) == {links[name] for name in expected}
    assert not (run / "checkpoints" / ".outbox").exists()


@pytest.mark.parametrize("trouble", ["refused", "hung", "dies", "500"])
def test_a_server_that_fails_costs_one_message(server: WandbServer, tmp_path: Path, trouble: str) -> None:
    run = tmp_path / "run"
    bounds = {"WANDB_INIT_TIMEOUT": "3", "WANDB_FINISH_TIMEOUT": "3", "WANDB_HTTP_TIMEOUT": "1"}
    if trouble != "hung":  # W&B's own limits must not end the run
        bounds |= {f"WANDB__{kind}_RETRY_MAX": "1" for kind in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")}
    if trouble == "refused":
        server.die()
    if trouble == "500":
        server.fail(500, 1000, "upload")
    limit = "checkpoint.artifacts.wait=5s"
    process = online(server, run, "trainer.max_epochs=4", "checkpoint.keep_last=2", limit, **bounds)
    if trouble in ("hung", "dies"):
        # Once W&B knows the run: before, a failed start is one more kind of error, with a message of its own.
        assert wait_for(lambda: bool(newest(run)) and server.operations["UpsertBucket"] > 0, process)
        {"hung": server.hang, "dies": server.die}[trouble]()
    answers, before = server.num_answers, newest(run)
    output = process.end()
    if trouble == "hung":
        assert server.num_answers == answers, "training and its saves wait for no answer"
        assert newest(run) > before
    assert "finished" in output
    assert "Traceback" not in output
    if trouble == "refused":
        assert output.count("W&B cannot be reached") == 1
        assert f"python -m cairn sync {run}" in output.replace("\n", "")
    else:
        # The part before the parenthesis says what could not be done: once each, however the server failed.
        failed = re.findall(r"W&B: ([^(]*) \(.*this message is logged once", (run / "train.log").read_text())
        assert failed or trouble == "hung", "W&B waits longer for an answer than this run takes"
        assert len(set(failed)) == len(failed)
        assert "W&B does not have all checkpoints of this run" in output
    {"refused": server.restart, "dies": server.restart, "hung": server.resume, "500": server.heal}[trouble]()
    code, output = sync(server, run)
    assert code == 0, output
    assert set(there(server)) == {item.name for item in kept(run)}
    (seen,) = server.runs.values()
    assert sent(seen.history) == logged(run)


@pytest.mark.parametrize("kill", [Process.kill, pytest.param(kill_all, marks=needs_proc)])
def test_a_killed_run_uploads_what_wandb_lacks_when_it_resumes(server: WandbServer, tmp_path: Path, kill: Any) -> None:
    run = tmp_path / "run"
    longer = ["trainer.max_epochs=8", "checkpoint.keep_last=2"]
    process = online(server, run, *longer)
    assert wait_for(lambda: newest(run) >= "epoch_003", process)
    kill(process)
    online(server, run, *longer).end()
    (seen,) = server.runs.values()
    assert sent(seen.history) == logged(run)
    assert set(there(server)) == {item.name for item in kept(run)}
    assert all(holds_its_bytes(version) for version in there(server).values())
    assert seen.exit_code == 0


def test_a_finished_run_that_is_extended(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    online(server, run, "trainer.max_epochs=1", "test=true", "checkpoint.keep_last=-1").end()
    first = kept(run)[-1].name
    assert "final" in there(server)[first].aliases
    online(server, run, "trainer.max_epochs=2", "test=true", "checkpoint.keep_last=-1").end()
    (seen,) = server.runs.values()
    tests = [row for row in seen.history if "test/loss" in row]
    assert len(tests) == 2, "one at each end"
    assert sent([row for row in seen.history if "test/loss" not in row]) == [
        row for row in logged(run) if "test/loss" not in dict(row[1:])
    ]
    assert {"latest", "final"} <= there(server)[kept(run)[-1].name].aliases
    assert "final" not in there(server)[first].aliases
    assert (seen.exit_code, seen.state) == (0, "finished")


def test_a_stop_at_the_end_of_an_epoch_loses_no_row(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    longer = ["trainer.max_epochs=40", "checkpoint.keep_last=2"]
    for _ in range(3):
        before, process = newest(run), online(server, run, *longer)
        assert wait_for(lambda before=before: newest(run) > before, process)
        process.send_signal(signal.SIGTERM)
        process.end(143)
    online(server, run, *longer, "trainer.max_epochs=41").end()
    (seen,) = server.runs.values()
    assert sent(seen.history) == logged(run)


def test_from_offline_to_online_and_back(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *SHORT, "trainer.max_epochs=1")
    online(server, run, "trainer.max_epochs=2").end()
    (seen,) = server.runs.values()
    assert sent(seen.history) == logged(run)
    assert set(there(server)) == {item.name for item in kept(run)}
    train(run, *SHORT, "trainer.max_epochs=3")
    assert sent(wandb_log.history(run)) == logged(run)
    assert sync(server, run)[0] == 0
    assert sent(seen.history) == logged(run)
    assert set(there(server)) >= {item.name for item in kept(run)}


def test_of_two_processes_one_logs(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    online(server, run, "trainer=ddp_sim", "trainer.max_epochs=1", **{RANKS: "1"}).end()
    (seen,) = server.runs.values()
    assert sent(seen.history) == logged(run)
    assert set(there(server)) == {item.name for item in kept(run)}


def test_testing_alone_leaves_the_history_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *SHORT, "trainer.max_epochs=1")
    before = {path: path.read_bytes() for path in (run / "wandb" / "history.jsonl", run / "csv" / "metrics.csv")}
    assert "tested" in train(None, f"resume={run}", "train=false", "test=true")
    assert {path: path.read_bytes() for path in before} == before


def test_how_a_run_ended_is_shown(server: WandbServer, tmp_path: Path) -> None:
    fail = "+callbacks.fail._target_=tests.support.callbacks.FailAt"
    online(server, tmp_path / "failed", "trainer.max_epochs=100", fail).end(1)
    (seen,) = server.runs.values()
    assert seen.exit_code == 1
    process = online(server, tmp_path / "stopped", "trainer.max_epochs=1000")
    assert wait_for(lambda: bool(newest(tmp_path / "stopped")), process)
    process.send_signal(signal.SIGTERM)
    process.end(143)
    assert [(other.exit_code, other.state) for other in server.runs.values()] == [(1, "failed"), (143, "preempted")]
    assert not seen.preempting
    online(server, tmp_path / "stopped", "trainer.max_steps=1").end()  # the rest of it
    assert [other.state for other in server.runs.values()] == ["failed", "finished"]


def test_a_run_that_its_user_stops_is_not_preempted(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = online(server, run, "trainer.max_epochs=1000")
    assert wait_for(lambda: bool(newest(run)), process)
    process.send_signal(signal.SIGINT)
    process.end(130)
    (seen,) = server.runs.values()
    assert (seen.exit_code, seen.state) == (130, "failed")


# Later, and from elsewhere


def sync(server: WandbServer, run: Path, fresh: bool = False, **more: str) -> tuple[int, str]:
    command = ["-m", "cairn", "sync", str(run), "--limit", "60s"]
    ours = {"PYTHONPATH": PYTHONPATH, "WANDB_MODE": "offline"}
    process = Process(command, fresh, cwd=run.parent, **(server.environment | ours | more))
    code = process.wait()
    assert "Traceback" not in process.output
    return code, process.output


def test_an_offline_run_that_was_resumed_is_sent_once(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    longer = ["trainer.max_epochs=8", "checkpoint.keep_last=2"]
    process = start(run, *SHORT, *longer)
    assert wait_for(lambda: newest(run) >= "epoch_003", process)
    process.kill()
    train(run, *SHORT, *longer)
    code, output = sync(server, run, fresh=True)
    assert code == 0, output
    assert output.count("committed") == len(kept(run))
    (seen,) = server.runs.values()
    assert seen.id == json.loads((run / "run.json").read_text())["id"]
    assert sent(seen.history) == logged(run)
    assert seen.config["data"]["batch_size"] == 128
    assert set(there(server)) == {item.name for item in kept(run)}
    assert all(holds_its_bytes(version) for version in there(server).values())
    assert {"latest", "final"} <= there(server)[kept(run)[-1].name].aliases
    uploaded, rows = server.upload_bytes, len(seen.history)
    assert sync(server, run)[0] == 0
    assert (server.upload_bytes, len(seen.history)) == (uploaded, rows), "nothing twice"


def test_checkpoints_that_were_moved_away_stay_in_wandb(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    online(server, run, "trainer.max_epochs=1").end()
    before = set(there(server))
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    code, output = sync(server, run)
    assert "Traceback" not in output
    assert set(there(server)) == before
    assert code == 0, "nothing is kept here, and so nothing is missing"


def test_a_server_that_does_not_answer_is_one_sentence(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *SHORT, "trainer.max_epochs=1")
    server.die()
    code, output = sync(server, run, WANDB_INIT_TIMEOUT="3")
    assert code == 1
    assert "Error: W&B cannot be reached: " in output


def test_a_version_that_does_not_arrive_is_reported(server: WandbServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *SHORT, "trainer.max_epochs=1")
    server.fail(403, 1000, "upload")
    code, output = sync(server, run)
    assert code == 1
    assert output.count("missing") == len(kept(run))
    assert "committed" not in output
    server.heal()
    broken, *others = kept(run)
    flip_byte(run / "checkpoints", broken.name)
    code, output = sync(server, run)
    assert code == 1
    assert re.search(rf"missing +{broken.name}", output)
    assert output.count("committed") == len(others) > 0
    assert set(there(server)) == {item.name for item in others}


def test_a_run_may_start_from_a_checkpoint_in_wandb(server: WandbServer, tmp_path: Path) -> None:
    first = tmp_path / "first"
    online(server, first).end()
    id = json.loads((first / "run.json").read_text())["id"]
    source = f"wandb:tester/train/model-{id}:latest"
    online(server, tmp_path / "second", "trainer.max_epochs=3", f"ckpt_path={source}").end()
    fetched = next((tmp_path / "second" / "start").glob("*/whole/*.ckpt"))
    assert fetched.read_bytes() == (first / "checkpoints" / "last.ckpt").read_bytes()
    second = server.runs[json.loads((tmp_path / "second" / "run.json").read_text())["id"]]
    assert second.config["run"]["started_from"]["run"] == id
    assert second.config["run"]["started_from"]["how"] == "ckpt_path"
    assert second.id in there(server)[kept(first)[-1].name].used_by
    version = there(server)[kept(first)[-1].name].version
    assert second.config["run"]["started_from"]["version"] == f"tester/train/model-{id}:{version}"


def test_a_run_may_take_its_weights_from_a_checkpoint_in_wandb(server: WandbServer, tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    online(server, first, "trainer.max_epochs=1").end()
    id, (version,) = id_of(first), [v for v in server.artifacts if "best" in v.aliases]
    stays = ["trainer.max_steps=1", "model.optimizer.lr=0"]
    online(server, second, *stays, f"init_weights=wandb:tester/train/model-{id}:best").end()
    best = torch.load(first / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    taken = torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(taken[name], value) for name, value in best.items())
    found = server.runs[id_of(second)].config["run"]["started_from"]
    assert (found["how"], found["run"], found["version"]) == (
        "init_weights",
        id,
        f"tester/train/model-{id}:v{version.index}",
    )
    # The file itself names its run in W&B, also for a run of another project.
    online(server, third, *stays, "task_name=other", f"init_weights={first}/checkpoints/best.ckpt").end()
    assert server.runs[id_of(third)].project == "other"
    assert set(version.used_by) == {id_of(second), id_of(third)}


def id_of(run: Path) -> str:
    """Id of a run in W&B."""
    return str(json.loads((run / "run.json").read_text())["id"])


def test_other_bytes_than_were_saved_are_refused(server: WandbServer, tmp_path: Path) -> None:
    first = tmp_path / "first"
    online(server, first, "trainer.max_epochs=1").end()
    id, last = json.loads((first / "run.json").read_text())["id"], kept(first)[-1]
    there(server)[last.name].metadata["digest"] = "crc32-sha256:" + "0" * 64
    output = online(server, tmp_path / "second", f"ckpt_path=wandb:tester/train/model-{id}:latest").end(1)
    assert "is not what was saved: its checksum is not" in output
    output = online(server, tmp_path / "third", f"ckpt_path=wandb:tester/train/model-{id}:nothing").end(1)
    assert f"Could not fetch tester/train/model-{id}:nothing from W&B" in output.replace("\n", " ")
    assert "Traceback" not in output


def test_each_job_of_a_sweep_is_a_run_of_its_own(server: WandbServer, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    train(
        None,
        "-m",
        *SHORT,
        "checkpoint=interval",
        "trainer.max_epochs=1",
        "checkpoint.save_interval=3,5,7",
        f"hydra.sweep.dir={sweep}",
        **server.environment,
    )
    assert len(server.runs) == 3
    assert len({seen.group for seen in server.runs.values()}) == 1
    assert "sweep" in next(iter(server.runs.values())).group
    for number, seen in zip((3, 5, 7), server.runs.values(), strict=True):
        assert seen.config["checkpoint"]["save_interval"] == number
        assert seen.name == f"checkpoint.save_interval={number}", "what is special about it"
        assert {f"checkpoint.save_interval={number}", "checkpoint=interval"} <= set(seen.config["run"]["overrides"])
        assert seen.exit_code == 0
        assert len(sent(seen.history)) == len(set(sent(seen.history))) > 3


def test_a_job_that_fails_in_a_sweep_does_not_affect_the_others(server: WandbServer, tmp_path: Path) -> None:
    fails = ["+callbacks.fail._target_=tests.support.callbacks.FailAt", "+callbacks.fail.at=100,7,200"]
    folders = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.sweep.subdir=${hydra.job.num}"]
    train(None, "-m", *SHORT, "trainer.max_epochs=1", *fails, *folders, expect=1, **server.environment)
    seen = {run.config["callbacks"]["fail"]["at"]: run for run in server.runs.values()}
    assert {at: (run.exit_code, run.state) for at, run in seen.items()} == {
        100: (0, "finished"),
        7: (1, "failed"),
        200: (0, "finished"),
    }
    steps = {at: max(row["trainer/global_step"] for row in run.history) for at, run in seen.items()}
    assert steps[7] < steps[100] == steps[200], "each has its own rows"
    assert all(run.name == f"+callbacks.fail.at={at}" for at, run in seen.items())
