"""The stand-in answers the real client as a W&B server does, and fails tests that ask for something unknown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support import wandb_server
from tests.support.wandb_server import WandbServer

Fault = Callable[[WandbServer], None]


@contextmanager
def complaining(about: str) -> Iterator[WandbServer]:
    """A server that complains about what happens."""
    with pytest.raises(AssertionError) as left, WandbServer() as server:
        yield server
    assert about in str(left.value)


# --- without the client: what it would notice late ---


def send(server: WandbServer, path: str, body: bytes = b"", method: str = "POST", timeout: float = 5) -> Any:
    request = urllib.request.Request(server.url + path, body, method=method)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.loads(answer.read())


def status_of(server: WandbServer, path: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        send(server, path, b"{}")
    refused.value.close()
    return refused.value.code


def ask(server: WandbServer, operation: str, timeout: float = 5, **variables: Any) -> Any:
    query = f"query {operation} {{ anything }}"
    return send(server, "/graphql", json.dumps({"query": query, "variables": variables}).encode(), timeout=timeout)


def start_artifact(server: WandbServer, content: bytes, digest: str) -> str:
    """Ask for a version with one file, send it, and return the id; only the commit is left."""
    ask(server, "UpsertBucket", name="run", project="p")
    wanted = {
        "artifactCollectionName": "c",
        "artifactTypeName": "model",
        "clientID": digest,
        "digest": digest,
        "enableDigestDeduplication": True,
        "entityName": wandb_server.ENTITY,
        "projectName": "p",
        "runName": "run",
    }
    made = ask(server, "CreateArtifact", input=wanted)["data"]["createArtifact"]["artifact"]["id"]
    manifest = json.dumps({"contents": {"f": {"digest": digest, "size": len(content)}}}).encode()
    ask(server, "CreateArtifactManifest", artifactID=made, digest=wandb_server._md5(manifest))
    send(server, f"/artifact/{made}/manifest", manifest, "PUT")
    send(server, f"/artifact/{made}/file/f", content, "PUT")
    return made


def test_an_unknown_request_fails_the_test() -> None:
    with complaining("NeverHeardOf") as server:
        assert "NeverHeardOf" in ask(server, "NeverHeardOf")["errors"][0]["message"]
    with complaining("/no/such") as server:
        assert status_of(server, "/no/such") == 404


def test_an_error_of_the_test_comes_before_that_of_the_server() -> None:
    with pytest.raises(ZeroDivisionError, match="NeverHeardOf"), WandbServer() as server:  # it is a note of the error
        print(1 / len(ask(server, "NeverHeardOf").get("nothing", ())))


def test_an_upload_that_differs_from_its_manifest_is_not_committed() -> None:
    with complaining("another md5") as server:
        made = start_artifact(server, b"torn", wandb_server._md5(b"whole"))
        assert "another md5" in ask(server, "CommitArtifact", artifactID=made)["errors"][0]["message"]
        assert server.artifacts[0].state == "PENDING"


def test_a_version_is_numbered_when_it_is_committed_and_no_number_is_used_twice() -> None:
    with WandbServer() as server:
        for content in (b"0", b"1"):
            made = start_artifact(server, content, wandb_server._md5(content))
            ask(server, "CommitArtifact", artifactID=made)
        ask(server, "DeleteArtifact", input={"artifactID": made, "deleteAliases": True})
        again = start_artifact(server, b"1", wandb_server._md5(b"1"))
        ask(server, "CommitArtifact", artifactID=again)
        assert [(version.version, version.state) for version in server.artifacts] == [
            ("v0", "COMMITTED"),
            ("v1", "DELETED"),
            ("v2", "COMMITTED"),
        ]
        assert [version.aliases for version in server.artifacts] == [set(), set(), {"latest"}]


def test_it_fails_as_often_as_asked_and_only_for_that_kind_of_request() -> None:
    with WandbServer() as server:
        server.fail(status=503, count=2, only="graphql")
        assert status_of(server, "/files/tester/p/run/file_stream") == 404
        assert [status_of(server, "/graphql") for _ in range(2)] == [503, 503]
        assert ask(server, "Viewer")["data"]["viewer"]["entity"] == wandb_server.ENTITY
        assert server.operations == {"Viewer": 1}


def test_it_hangs_until_it_resumes() -> None:
    with WandbServer() as server:
        server.hang()
        with pytest.raises(TimeoutError):
            ask(server, "Viewer", timeout=0.1)
        threading.Timer(0.2, server.resume).start()
        assert ask(server, "ServerFeaturesQuery")
        server.wait_until(lambda server: server.operations["Viewer"], seconds=5)  # no request waits for it now


def test_it_dies_while_it_hangs_and_restarts_with_what_it_had() -> None:
    with WandbServer() as server:
        url = server.url
        ask(server, "UpsertBucket", name="run", project="p")
        server.hang()
        threading.Timer(0.1, server.die).start()
        with pytest.raises(OSError):
            ask(server, "Viewer")
        with pytest.raises(urllib.error.URLError, match="refused"):
            ask(server, "Viewer")
        server.resume()
        server.restart()
        assert ask(server, "Viewer")
        assert (server.url, list(server.runs)) == (url, ["run"])


def test_slow_uploads_take_their_time_and_can_be_watched() -> None:
    with WandbServer() as server:
        server.slow_uploads(100_000)
        began = time.monotonic()
        thread = threading.Thread(target=start_artifact, args=(server, bytes(50_000), "digest"))
        thread.start()
        server.wait_until(lambda server: server.upload_bytes > 20_000, seconds=5)
        assert server.artifacts[0].files == {"f": None}
        thread.join()
        assert time.monotonic() - began > 0.4
        assert server.artifacts[0].files == {"f": bytes(50_000)}


# --- with the client ---


def environment(server: WandbServer, folder: Path, **changes: str) -> dict[str, str]:
    ours = {f"WANDB_{name}_DIR": str(folder) for name in ("CACHE", "CONFIG", "DATA")}
    return {**os.environ, **server.environment, "WANDB_DIR": str(folder), "HOME": str(folder), **ours, **changes}


def client(server: WandbServer, folder: Path, *command: str, **changes: str) -> list[Any]:
    """Run a command with the client pointed at the server; returns what it printed, one JSON value a line."""
    ran = subprocess.run(
        [sys.executable, *command],
        env=environment(server, folder, **changes),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith(("[", "{", '"'))]


RUN = """
import datetime, json, os, pathlib, sys, wandb

def say(*values):
    print(json.dumps(values), flush=True)

def checkpoint(step, path, *aliases):
    pathlib.Path(path).write_bytes(b"big" * step)
    made = wandb.Artifact("ckpt", "model", metadata={"step": step})
    made.add_reference(pathlib.Path(path).resolve().as_uri(), name="state", checksum=False)
    with made.new_file("checkpoint.json") as file:
        json.dump({"step": step}, file)
    made.ttl = datetime.timedelta(days=2)
    return run.log_artifact(made, aliases=list(aliases))
"""

TRAIN = """
run = wandb.init(project="p", id="a", resume="allow", group="g", name="nice", tags=["t"], config={"lr": 1})
for step in range(3):
    run.log({"x": step}, step=10 * step)
run.config.update({"model": {"width": 8}})
for step in (1, 2):
    made = checkpoint(step, f"{step}.pt", "best", f"step-{step}").wait()
    say(made.version, made.state, sorted(made.aliases))
same = checkpoint(2, "2.pt", "same").wait()
say(same.version, sorted(same.aliases))
plain = wandb.Artifact("plain", "dataset")
plain.add_file("1.pt")
run.log_artifact(plain)
run.finish(exit_code=3)
"""

USE = """
run = wandb.init(project="p", id="b")
used = run.use_artifact("tester/p/ckpt:step-1")
say(used.version, used.state, used.metadata, sorted(used.aliases), used.ttl.days)
say(sorted(used.manifest.entries), pathlib.Path(used.get_entry("checkpoint.json").download()).read_text())
run.finish()
api = wandb.Api()
best = api.artifact("p/ckpt:best")
try:
    best.download()
except ValueError as error:
    say(best.version, str(error))
plain = api.artifact("p/plain:latest")
say(plain.type, pathlib.Path(plain.download(), "1.pt").read_text())
best.aliases.remove("same")
best.aliases.append("gold")
best.save()
say(*[(version.version, sorted(version.aliases)) for version in api.artifacts("model", "tester/p/ckpt")])
used.delete(delete_aliases=True)
say(*[version.version for version in api.artifacts("model", "tester/p/ckpt")], api.artifact_exists("p/ckpt:step-1"))
"""


@pytest.mark.slow
def test_a_run_uploads_checkpoints_that_another_run_uses(tmp_path: Path) -> None:
    with WandbServer() as server:
        first, second, same = client(server, tmp_path, "-c", RUN + TRAIN)
        assert first == ["v0", "COMMITTED", ["best", "latest", "step-1"]]
        assert second == ["v1", "COMMITTED", ["best", "latest", "step-2"]]
        assert same == ["v1", ["best", "latest", "same", "step-2"]]  # the same contents: no new version
        run = server.runs["a"]
        assert (run.entity, run.project, run.name, run.group, run.tags) == ("tester", "p", "nice", "g", ["t"])
        assert run.config == {"lr": 1, "model": {"width": 8}}
        assert [(row["_step"], row["x"]) for row in run.history] == [(0, 0), (10, 1), (20, 2)]
        assert (run.summary["x"], run.state, run.exit_code) == (2, "failed", 3)

        v0, v1, _plain = server.artifacts
        assert (v0.collection, v0.type, v0.version, v0.metadata, v0.run) == ("ckpt", "model", "v0", {"step": 1}, "a")
        assert (v0.aliases, v1.aliases) == ({"step-1"}, {"best", "latest", "same", "step-2"})
        assert (v0.files, v0.ttl) == ({"checkpoint.json": b'{"step": 1}'}, 2 * 24 * 3600)
        assert v0.references == {"state": (tmp_path / "1.pt").as_uri()}

        elsewhere = {"WANDB_CACHE_DIR": str(tmp_path / "empty")}  # nothing is read from the cache of the first run
        used, entry, best, plain, renamed, left = client(server, tmp_path, "-c", RUN + USE, **elsewhere)
        assert used == ["v0", "COMMITTED", {"step": 1}, ["step-1"], 2]
        assert entry == [["checkpoint.json", "state"], '{"step": 1}']
        assert best[0] == "v1"
        assert "Digest mismatch" in best[1]  # what checksum=False gives up: the digest is of the path
        assert plain == ["dataset", "big"]
        assert renamed == [["v1", ["best", "gold", "latest", "step-2"]], ["v0", ["step-1"]]]
        assert left == ["v1", False]
        assert (v0.used_by, v0.state, v0.aliases) == (["b"], "DELETED", set())


STEPS = """
import json, wandb
run = wandb.init(project="p", id="a", resume="{resume}", config={{"{key}": 1}})
for step in range({first}, {end}):
    run.log({{"x": step, "try": "{key}"}}, {step})
print(json.dumps([run.resumed, run.starting_step, dict(run.config)]))
run.finish()
"""


@pytest.mark.slow
def test_a_resumed_run_continues_at_the_step_of_the_server(tmp_path: Path) -> None:
    with WandbServer() as server:

        def steps(resume: str, key: str, first: int, end: int, step: str) -> list[Any]:
            script = STEPS.format(resume=resume, key=key, first=first, end=end, step=step)
            return client(server, tmp_path, "-c", script)[0]

        assert steps("allow", "one", 0, 6, "step=step") == [False, 0, {"one": 1}]
        assert steps("allow", "two", 4, 8, "step=step") == [True, 6, {"one": 1, "two": 1}]
        assert steps("must", "three", 7, 9, "") == [True, 8, {"one": 1, "two": 1, "three": 1}]
        rows = [(row["_step"], row["x"], row["try"]) for row in server.runs["a"].history]
        assert rows == [
            *((step, step, "one") for step in range(6)),
            *((step, step, "two") for step in (6, 7)),  # the steps that were logged again are dropped
            *((step, step - 1, "three") for step in (8, 9)),  # without explicit steps they are counted on
        ]
        assert server.operations["RunResumeStatus"] == 3


OFFLINE = """
run = wandb.init(project="p", id="a", mode="offline", name="nice", config={"lr": 1})
for step in range(3):
    run.log({"x": step}, step=step)
for step in (1, 2):
    checkpoint(step, f"{step}.pt", "best", f"step-{step}")
run.finish()
"""


@pytest.mark.slow
def test_an_offline_run_arrives_by_sync_and_a_second_sync_adds_no_version(tmp_path: Path) -> None:
    with WandbServer() as server:
        client(server, tmp_path, "-c", RUN + OFFLINE, WANDB_MODE="offline")
        assert not server.operations
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        sync = ["-m", "wandb", "sync", str(folder)]
        client(server, tmp_path, *sync)
        run, (v0, v1) = server.runs["a"], server.artifacts
        assert (run.name, run.config, [row["x"] for row in run.history]) == ("nice", {"lr": 1}, [0, 1, 2])
        assert (v0.state, v0.aliases, v0.metadata) == ("COMMITTED", {"step-1"}, {"step": 1})
        assert (v1.state, v1.aliases, v1.metadata) == ("COMMITTED", {"best", "latest", "step-2"}, {"step": 2})
        assert v1.files == {"checkpoint.json": b'{"step": 2}'}
        assert v1.references == {"state": (tmp_path / "2.pt").as_uri()}

        asked = server.operations.total()
        client(server, tmp_path, *sync)
        assert server.operations.total() == asked  # it is marked as synced
        client(server, tmp_path, *sync, "--no-skip-synced")
        assert [(version.version, len(version.aliases)) for version in server.artifacts] == [("v0", 1), ("v1", 3)]


UPLOAD = """
import json, wandb
run = wandb.init(project="p", id="a")
run.log({"x": 1})
with open("big", "wb") as file:
    file.write(bytes(200_000))
made = wandb.Artifact("c", "model")
made.add_file("big", policy="immutable", skip_cache=True)
run.log_artifact(made)
try:
    made.wait(timeout=20)
    print(json.dumps(made.state))
except Exception as error:
    print(json.dumps(str(error)))
run.finish()
"""


@pytest.mark.slow
def test_the_client_survives_the_end_of_a_server_during_an_upload(tmp_path: Path) -> None:
    def die_and_return(server: WandbServer) -> None:
        server.wait_until(lambda server: server.upload_bytes > 50_000)
        server.die()
        server.slow_uploads(None)
        server.restart()

    with WandbServer() as server:
        server.slow_uploads(100_000)
        thread = threading.Thread(target=die_and_return, args=(server,))
        thread.start()
        assert client(server, tmp_path, "-c", UPLOAD) == ["COMMITTED"]
        thread.join()
        assert server.artifacts[0].files == {"big": bytes(200_000)}
        assert server.runs["a"].exit_code == 0


END = """
import json, sys, time, wandb
run = wandb.init(project="p", id="a")
print(json.dumps("ready"), flush=True)
sys.stdin.readline()
began = time.monotonic()
run.finish(exit_code=0)
print(json.dumps(time.monotonic() - began))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", [WandbServer.hang, WandbServer.die])
def test_the_end_of_a_run_waits_for_a_lost_server_as_long_as_the_client_allows(tmp_path: Path, fault: Fault) -> None:
    with WandbServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-c", END],
            cwd=tmp_path,
            env=environment(server, tmp_path, WANDB_FINISH_TIMEOUT="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == '"ready"\n'
        fault(server)
        output, _ = process.communicate("go\n", timeout=30)
        assert 1 <= float(output) < 10
        assert server.runs["a"].exit_code is None


@pytest.mark.slow
def test_the_client_reports_what_the_stand_in_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(wandb_server.OPERATIONS, "CommitArtifact")
    with complaining("mutation CommitArtifact") as server:
        (reported,) = client(server, tmp_path, "-c", UPLOAD)
        assert "unknown operation CommitArtifact" in reported
