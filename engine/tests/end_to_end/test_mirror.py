"""A run whose disk is lost goes on from its mirror on a real server, and ends like an undisturbed one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.support.callbacks import recorded
from tests.support.cli import cairn
from tests.support.command import QUICK, RECORD, start, train, wait_for
from tests.support.equality import differences, outcome
from tests.support.mirrors import damage

from cairn.lightning.load_model import load_model
from cairn.remote import address, layout, listed
from cairn.remote.objects import Objects
from cairn.remote.record import Record
from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

COMMAND = [
    *QUICK,
    RECORD,
    "data.augment=true",
    "trainer.max_epochs=8",
    "trainer.val_check_interval=0.5",
    "checkpoint.save_interval=5",
    "checkpoint.when_busy=wait",
]
LOGS = "paths.log_dir"


def mirrored(objects: Objects) -> list[Record]:
    """The records of a mirror, oldest first."""
    found = listed.look(objects)
    return sorted(listed.read_records(objects, found)[0], key=lambda item: item.saved.position)


def killed_at(run: Path, objects: Objects, batch: int, *command: str) -> None:
    """Train until the mirror holds a checkpoint after this many batches, and kill the run (-9)."""
    process = start(run, *command)

    def is_there() -> bool:
        return any(item.saved.position.total_batches >= batch for item in mirrored(objects))

    assert wait_for(is_there, process), process.output[-4000:]
    process.kill()


def test_a_run_whose_disk_is_lost_ends_like_an_undisturbed_one(bucket: str, tmp_path: Path, capsys) -> None:
    logs, elsewhere = tmp_path / "logs", tmp_path / "elsewhere"
    whole, run, moved = tmp_path / "whole", logs / "t" / "a", elsewhere / "t" / "a"
    train(whole, *COMMAND)
    where = address.parse(f"s3://{bucket}/prefix/t/a")
    objects, mirror = Objects(where), f"checkpoint.mirror=s3://{bucket}/prefix"
    killed_at(run, objects, 25, *COMMAND, mirror, f"{LOGS}={logs}")
    shutil.rmtree(run)
    # The same command again, on a machine that has never seen the run.
    killed_at(run, objects, 60, *COMMAND, mirror, f"{LOGS}={logs}")
    shutil.rmtree(run)
    *_, good, bad = mirrored(objects)
    damage(objects, bad.stem.data)
    output = train(None, f"resume={where}", f"{LOGS}={elsewhere}")
    assert f"Skipped in {where}: {bad.saved.name}" in output
    assert f"Resuming from {moved}/checkpoints/{good.saved.name}" in output
    assert differences(outcome(whole, recorded(whole)), outcome(moved, recorded(moved))) == []

    # What the mirror holds in the end is the run, and the checkpoint that it was resumed from.
    final = mirrored(objects)
    assert [item.saved for item in final] == [good.saved, *Catalog(moved / "checkpoints").committed()]
    assert listed.look(objects).unreferenced(final) == []
    cairn("verify", where)
    cairn("ls", where, "--json")
    found = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert (found["run"], found["status"]) == (str(where), "finished")
    shutil.rmtree(moved)
    assert "This run is finished" in train(None, f"resume={where}", f"{LOGS}={elsewhere}")

    # A new run from the mirrored one, and its model.
    best = f"{where}/checkpoints/best.ckpt"
    weights = load_model(best).state_dict()
    stem = layout.Stem(**{key: json.loads(objects.get(layout.BEST))[key] for key in ("name", "digest")})
    plain_file = tmp_path / "best.ckpt"
    plain_file.write_bytes(objects.get(stem.data))
    plain = torch.load(plain_file, weights_only=True)["state_dict"]  # an ordinary Lightning checkpoint
    assert all(torch.equal(weights[name], value) for name, value in plain.items())
    new = ["trainer.max_epochs=9", "test=false", f"{LOGS}={tmp_path}"]
    assert "Loaded weights from" in train(tmp_path / "b", *COMMAND, *new, f"init_weights={best}")
    output = train(tmp_path / "c", *COMMAND, *new, f"ckpt_path={where}")
    assert f"Starting from {tmp_path}/c/start/" in output
    assert Catalog(tmp_path / "c" / "checkpoints").committed()[-1].position.epoch == 8
