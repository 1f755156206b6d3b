"""A mirror on a real server with faults: errors, resets, silence, keys that expire, and a server that is killed."""

import os
import subprocess
import sys
import time

import pytest
from tests.support.fault_proxy import Fault
from tests.support.mirrored_run import MirroredRun
from tests.support.object_store import client_environment, short_lived_key
from tests.support.paths import ENGINE

from cairn.remote import backoff
from cairn.store import names

pytestmark = pytest.mark.slow

CHILD = """
import logging, sys
from pathlib import Path
from tests.support.mirrored_run import MirroredRun

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run = MirroredRun(sys.argv[1], Path(sys.argv[2]), wait_s=1.0)
print("opened", flush=True)
sys.stdin.readline()
run.save(0, num_more_bytes=32 << 20)
run.end()
print("closed", flush=True)
"""


@pytest.fixture
def run(proxy, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 0.05)
    monkeypatch.setattr(backoff, "LONGEST_S", 0.2)
    made = MirroredRun(f"s3://{bucket}/runs/a", tmp_path / "checkpoints")
    made.idle()
    yield made
    proxy.clear()


def test_troubles_that_pass_cost_one_line_each_and_no_checkpoint(proxy, run, caplog, monkeypatch):
    key, renewed = short_lived_key(0), short_lived_key(1)
    for number, fault in enumerate(
        [
            Fault(methods=["PUT"], status=503, times=2),
            Fault(methods=["PUT"], path="ckpt", reset_after_bytes=1 << 20, times=1),
            Fault(methods=["PUT"], latency_s=0.2, times=2),
            Fault(methods=["POST", "DELETE"], status=403, times=4),
            Fault(methods=["PUT"], status=403, code="ExpiredToken", times=4),
        ]
    ):
        proxy.add(fault)
        run.save(number, num_more_bytes=12 << 20, delete=(number - 1,) if number else ())
        _wait_for(lambda number=number: run.listed() == [run.name(number)])
        proxy.clear()
    for name, value in client_environment(proxy.url, *key).items():
        monkeypatch.setenv(name, value)
    proxy.valid_keys = {renewed[0]}
    run.save(5, delete=(4,))
    _wait_for(lambda: "refuses access" in caplog.text or "have expired" in caplog.text)
    for name, value in client_environment(proxy.url, *renewed).items():
        monkeypatch.setenv(name, value)
    run.end()
    proxy.valid_keys = None
    assert run.mirrored() == [run.name(5)]
    assert run.unreferenced() == []
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == len(set(errors)) <= 8
    assert not any(secret in caplog.text for secret in (key[1], renewed[1]))


@pytest.mark.parametrize(
    "fault", [Fault(black_hole=True), Fault(methods=["PUT"], bytes_per_s=4e6)], ids=["silent", "slow"]
)
def test_a_server_that_hangs_does_not_keep_the_process(proxy, bucket, tmp_path, fault):
    """The client's threads are in the middle of requests when the interpreter ends."""
    command = [sys.executable, "-c", CHILD, f"s3://{bucket}/runs/b", str(tmp_path / "checkpoints")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ENGINE), str(ENGINE / "src")])}
    output = tmp_path / "output"
    with (
        output.open("w") as file,
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=file) as child,
    ):
        try:
            _wait_for(lambda: "opened" in output.read_text())
            proxy.add(fault)
            child.communicate(b"\n", timeout=120)
        finally:
            child.kill()
            proxy.clear()
    text = output.read_text()
    assert child.returncode == 0
    assert "does not have all checkpoints of this run" in text
    assert "closed" in text
    assert (tmp_path / "checkpoints" / names.manifest_name("epoch_000_batch_000001.ckpt")).exists()


def test_a_server_that_is_killed_and_comes_back_gets_the_newest(store, proxy, run):
    run.save(0)
    run.idle()
    store.kill()
    for number in range(1, 4):
        run.save(number, delete=(number - 1,))
    store.start()
    run.end()
    assert run.mirrored()[-1] == run.name(3)
    assert run.unreferenced() == []


def _wait_for(condition, limit_s=120.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not so after {limit_s:g} s"
        time.sleep(0.05)
