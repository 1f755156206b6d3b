"""A start looks into its mirror before it decides where to begin."""

import json
import threading
from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from tests.support.mirrors import mirror_checkpoint, objects_at
from tests.support.values import commit

from cairn.errors import ConfigError, RemoteError, ResumeError
from cairn.hydra import command_line
from cairn.hydra.command import mirrored_run
from cairn.hydra.compose.merge import Merged
from cairn.hydra.parse import mirror_address, mirror_settings
from cairn.hydra.run import allowed, mirrored
from cairn.hydra.run import start as starting
from cairn.hydra.run.start import JobContext, NothingToDo, begin
from cairn.jobs.rendezvous import Rank
from cairn.remote import owner
from cairn.run.directory import RunDirectory, RunRecord
from cairn.store.catalog import Catalog


class Notice:
    rank = Rank()

    def announce(self, facts):
        self.facts = facts


@pytest.fixture
def place(tmp_path):
    """The run directory, its mirror, and a configuration that names it."""
    run = RunDirectory(tmp_path / "logs" / "toy" / "runs" / "one")
    store = objects_at("memory", tmp_path, "toy/runs/one")
    group = {"dirpath": str(run.path / "checkpoints"), "mode": "min", "triggers": {}, "keep": {}}
    group["mirror"] = str(store.address).removesuffix("/toy/runs/one")
    config = {"task_name": "toy", "seed": 0, "train": True, "data": {}, "model": {}, "trainer": {}, "checkpoint": group}
    config["paths"] = {"log_dir": str(tmp_path / "logs"), "output_dir": str(run.path)}
    yield run, store, config
    if hasattr(run, "_lock"):
        run.unlock()


def files_of(config, status="running", **more):
    """The run files that a run with this configuration has mirrored."""
    record = {"id": "r1", "task_name": "toy", "overrides": [], "status": status, "result": 0.5}
    return {"run.json": json.dumps(record).encode(), "config.yaml": OmegaConf.to_yaml(config).encode(), **more}


def begun(place, monkeypatch, **changes):
    run, _, config = place
    config = OmegaConf.create({**config, **changes})
    merged = Merged(config, {}, {}, {})
    monkeypatch.setattr(starting, "_configuration", lambda *_: (merged, run.record()))
    monkeypatch.setattr(allowed.trusted, "check", lambda *_: None)
    monkeypatch.setattr(allowed.outside, "check", lambda *_: None)
    monkeypatch.setattr(starting.MappedCheckpointIO, "peek", lambda self, _: {"epoch": 0})
    return begin(config, run, (), Notice(), JobContext())


@pytest.mark.parametrize(
    ("mirror", "run", "expected"),
    [
        (None, "/logs/t/runs/a", None),
        ("s3://b/x/", "/logs/t/runs/a", "s3://b/x/t/runs/a"),
        ("s3://b/x", "/elsewhere/a", "s3://b/x/a"),
        ("file:///disk", "/logs/m/lr=0.1,x=2", "file:///disk/m/lr=0.1,x=2"),
    ],
)
def test_the_address_of_a_run_follows_from_its_directory(mirror, run, expected):
    config = OmegaConf.create({"checkpoint": {"mirror": mirror}, "paths": {"log_dir": "/logs"}})
    found = mirror_address.of_run(config, RunDirectory(mirrored.Path(run)).path)
    assert (str(found) if found else None) == expected


def test_a_mirror_of_a_run_without_checkpoints_is_a_sentence(place, monkeypatch, caplog):
    begun(place, monkeypatch, ckpt_path=None)
    said = f"checkpoint.mirror: this run saves no checkpoints, so that none is uploaded to {place[1].address}."
    assert caplog.messages.count(said) == 1


def test_the_address_stays_when_the_run_directory_is_moved(tmp_path):
    config = OmegaConf.create({"checkpoint": {"mirror": "s3://b/x"}, "paths": {"log_dir": str(tmp_path / "logs")}})
    run = tmp_path / "logs" / "t" / "runs" / "a"
    run.mkdir(parents=True)
    mirror_address.keep(config, run, None)
    moved = run.rename(tmp_path / "b")
    assert str(mirror_address.of_run(config, moved)) == "s3://b/x/t/runs/a"
    config.checkpoint.mirror = "s3://c/x"
    assert str(mirror_address.of_run(config, moved)) == "s3://c/x/b"
    resumed = mirrored.Address("s3", "c", "x/old/place")
    assert mirror_address.of_start(config, moved, resumed) == resumed
    assert str(mirror_address.of_start(config, moved, mirrored.Address("s3", "d", "x/old"))) == "s3://c/x/b"
    mirror_address.keep(config, moved, resumed)
    assert str(mirror_address.of_run(config, moved)) == "s3://c/x/old/place"
    (moved / "mirror.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"mirror\.json cannot be read"):
        mirror_address.of_run(config, moved)


@pytest.mark.parametrize(("mirror", "words"), [(3, "checkpoint.mirror=3 must be"), ("x", "checkpoint.mirror: This is")])
def test_another_value_is_refused(mirror, words):
    config = OmegaConf.create({"checkpoint": {"mirror": mirror}, "paths": {"log_dir": "/logs"}})
    with pytest.raises(ConfigError, match=words):
        mirror_address.of_run(config, mirrored.Path("/logs/a"))


def test_an_empty_disk_continues_the_run_of_the_mirror(place, tmp_path, monkeypatch):
    run, store, config = place
    made = mirror_checkpoint(store, tmp_path, 0, files_of(config, **{"csv/metrics.csv": b"step\n1\n"}), run="r1")
    start = begun(place, monkeypatch)
    assert start.run_id == "r1"
    assert start.plan.saved == made
    assert start.plan.path == run.path / "checkpoints" / made.name
    assert (run.path / "csv" / "metrics.csv").read_bytes() == b"step\n1\n"
    assert run.record().status == "running"


def test_a_finished_run_has_nothing_to_do(place, tmp_path, monkeypatch):
    _, store, config = place
    mirror_checkpoint(store, tmp_path, 0, files_of(config, status="finished"), run="r1")
    assert begun(place, monkeypatch) == NothingToDo(0.5)


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_id(place, monkeypatch):
    _, store, _ = place
    owner.claim(store, "r7")
    assert begun(place, monkeypatch).run_id == "r7"


def test_a_local_checkpoint_that_is_newer_counts(place, tmp_path, monkeypatch):
    run, store, config = place
    mirror_checkpoint(store, tmp_path, 0, files_of(config), run="r1")
    mirrored.Mirrors(run).join(OmegaConf.create(config))
    local = commit(run.path / "checkpoints", 3, run="r1")
    assert begun(place, monkeypatch).plan.saved == local


def test_the_mirror_of_another_run_is_refused(place, tmp_path, monkeypatch):
    run, store, config = place
    run.start("toy", (), OmegaConf.to_yaml(config), "r2")
    mirror_checkpoint(store, tmp_path, 0, files_of(config), run="r1")
    with pytest.raises(ConfigError, match="holds the run r1, and this is the run r2"):
        begun(place, monkeypatch)
    assert Catalog(run.path / "checkpoints").committed() == []


@pytest.mark.parametrize(("kind", "error"), [("no_bucket", ConfigError), ("unavailable", ResumeError)])
def test_a_new_run_whose_mirror_fails_does_not_start(place, monkeypatch, kind, error):
    run, _, _ = place

    def fail(self):
        raise RemoteError("It fails.", kind=kind)

    monkeypatch.setattr(mirrored.start.Objects, "check", fail)
    with pytest.raises(error, match=r"It fails\.") as caught:
        begun(place, monkeypatch)
    assert not run.record_file.exists()
    assert kind == "no_bucket" or "set checkpoint.mirror=null" in str(caught.value)


def test_a_store_that_hangs_is_waited_for_once(place, tmp_path, monkeypatch, caplog):
    run, store, config = place
    run.start("toy", (), OmegaConf.to_yaml(config), "r1")
    local = commit(run.path / "checkpoints", 0, run="r1")
    release, asked = threading.Event(), []

    def hang(self):
        asked.append(self.address)
        release.wait(60)

    monkeypatch.setattr(mirrored.start.bounded, "START_S", 0.05)
    monkeypatch.setattr("cairn.remote.start.Objects.check", hang)
    config["checkpoint"]["triggers"] = {"end": {"_target_": "cairn.AtEnd"}}
    start = begun(place, monkeypatch)
    (mirror,) = mirror_settings.listeners(start.settings.config, run.path, start.mirrors.trouble)
    mirror.begin(run.path / "checkpoints", "r1", True)
    start.claim.release()
    release.set()
    assert start.plan.saved == local
    assert asked == [store.address]
    assert "does not answer within 0.05 s" in caplog.text


def test_a_key_that_may_only_read_is_refused_before_anything_is_written(place, tmp_path, monkeypatch):
    run, _, config = place
    config["checkpoint"]["triggers"] = {"end": {"_target_": "cairn.AtEnd"}}

    def refuse(self, *_):
        raise RemoteError("It refuses access.", kind="refused")

    for method in ("put", "create"):
        monkeypatch.setattr(mirrored.start.Objects, method, refuse)
    with pytest.raises(ConfigError, match=r"^checkpoint\.mirror: It refuses access\. Its objects can be read"):
        begun(place, monkeypatch)
    assert written(run) == [".lock"]


def test_a_key_that_may_only_read_is_refused_before_a_run_is_brought(place, tmp_path, monkeypatch):
    run, store, config = place
    config["checkpoint"]["triggers"] = {"end": {"_target_": "cairn.AtEnd"}}
    mirror_checkpoint(store, tmp_path, 0, files_of(config), run="r1")
    owner.claim(store, "r1")

    def refuse(self, *_):
        raise RemoteError("It refuses access.", kind="refused")

    monkeypatch.setattr(mirrored.start.Objects, "put", refuse)
    with pytest.raises(ConfigError, match="none can be written"):
        begun(place, monkeypatch)
    assert written(run) == []


def test_what_saves_nothing_needs_no_right_to_write(place, tmp_path, monkeypatch):
    _, store, config = place
    made = mirror_checkpoint(store, tmp_path, 0, files_of(config), run="r1")
    monkeypatch.setattr(mirrored.start.owner, "check_writable", None)
    assert begun(place, monkeypatch).plan.saved == made
    assert owner.read(store) is None


def test_a_run_that_has_gone_on_elsewhere_has_the_configuration_from_there(place, tmp_path, monkeypatch):
    run, store, config = place
    run.start("toy", (), OmegaConf.to_yaml(config), "r1")
    commit(run.path / "checkpoints", 0, run="r1")
    there = {**config, "seed": 7}
    newer = mirror_checkpoint(store, tmp_path, 3, files_of(there), run="r1")
    owner.claim(store, "r1")
    mirrored.Mirrors(run).join(OmegaConf.create(config))
    assert run.config()["seed"] == 7
    assert begun(place, monkeypatch).plan.saved == newer
    run.unlock()

    # As far as the mirror, or in use: what is here stays.
    run.start("toy", (), OmegaConf.to_yaml({**config, "seed": 9}), "r1")
    mirrored.Mirrors(run).join(OmegaConf.create(config))
    assert run.config()["seed"] == 9
    mirror_checkpoint(store, tmp_path, 5, files_of(there), run="r1")
    other = {**config["checkpoint"], "mirror": "s3://bucket-that-is-not-asked"}
    mirrored.Mirrors(run).join(OmegaConf.create({**config, "checkpoint": other}))
    assert run.config()["seed"] == 9

    def refuse(self):
        raise ResumeError("Another process trains here.")

    monkeypatch.setattr(RunDirectory, "lock", refuse)
    mirrored.Mirrors(run).join(OmegaConf.create(config))
    assert run.config()["seed"] == 9


def written(run):
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*")) if run.path.exists() else []


def test_resume_from_an_address_brings_the_run_to_its_place(place, tmp_path, monkeypatch):
    """The run has lain elsewhere, and its own configuration names no mirror."""
    monkeypatch.setattr(mirrored_run, "_address", None)
    run, store, config = place
    there = "/other/machine/logs"
    old = {**config, "paths": {"log_dir": there, "output_dir": f"{there}/toy/runs/one"}}
    old["checkpoint"] = {**config["checkpoint"], "mirror": None, "dirpath": f"{there}/toy/runs/one/checkpoints"}
    made = mirror_checkpoint(store, tmp_path, 0, files_of(old), run="r1")
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "train.yaml").write_text(f"task_name: toy\nseed: 1\npaths: {{log_dir: {tmp_path / 'logs'}}}\n")
    argv = command_line.expand_resume([f"resume={store.address}", "seed=0"], configs)
    assert argv == ["seed=0", "hydra.mode=RUN", f"hydra.run.dir='{run.path}'"]
    assert run.record() == RunRecord("r1", "toy", result=0.5)
    assert not (run.path / "checkpoints").exists()
    start = begun(place, monkeypatch, checkpoint={**config["checkpoint"], "mirror": None})
    assert (start.plan.saved, start.plan.path) == (made, run.path / "checkpoints" / made.name)


def test_a_run_that_was_moved_comes_to_the_place_that_its_address_names(place, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrored_run, "_address", None)
    run, store, config = place
    old = {**config, "paths": {"log_dir": "/first/logs", "output_dir": "/second/logs/toy/runs/one"}}
    known = {"prefix": config["checkpoint"]["mirror"], "path": "toy/runs/one"}
    files = files_of(old, **{"mirror.json": json.dumps(known).encode()})
    mirror_checkpoint(store, tmp_path, 0, files, run="r1")
    assert mirrored_run.brought(str(store.address), tmp_path / "logs").path == run.path
    assert mirror_address.of_run(OmegaConf.create(config), run.path) == store.address


def test_resume_from_an_address_is_refused_in_one_sentence(place, tmp_path, monkeypatch):
    run, store, config = place
    monkeypatch.setattr(mirrored_run, "_address", None)
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "train.yaml").write_text(f"task_name: toy\nseed: 1\npaths: {{log_dir: {tmp_path / 'logs'}}}\n")

    def refused(text, error, words):
        with pytest.raises(error, match=words):
            command_line.expand_resume([f"resume={text}"], configs)

    refused(store.address, ResumeError, "There is no checkpoint of a run at memory")
    refused("s3://user:word@bucket/run", ConfigError, "must not hold a user")
    refused(f"{store.address}/checkpoints/best.ckpt", ResumeError, "is a checkpoint: .* ckpt_path=memory://")
    mirror_checkpoint(store, tmp_path, 0, {"config.yaml": b"a: 1"}, run="r1")
    refused(store.address, ResumeError, "holds checkpoints, but no run of this project")
    mirror_checkpoint(store, tmp_path, 1, files_of(config), run="r1")
    run.start("toy", (), "{}", "r2")
    refused(store.address, ConfigError, r"holds another run \(r2\): move it away")


@pytest.mark.parametrize("key", ["checkpoint.mirror", "+ckpt_path", "init_weights", "resume"])
def test_credentials_in_an_address_are_refused_before_hydra_writes_them(key, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line.os, "environ", {})
    with pytest.raises(SystemExit):
        command_line.prepare([f"{key}='s3://user:hunter2@bucket/x'", "-m"], tmp_path)
    printed = capsys.readouterr().err
    assert printed.startswith(f"Error: {key.lstrip('+')}: An address of an object store must not hold a user")
    assert "hunter2" not in printed


def test_credentials_in_a_file_are_refused_before_hydra_copies_it(tmp_path, capsys):
    config = OmegaConf.create({"checkpoint": {"mirror": "s3://bucket?token=hunter2"}, "ckpt_path": "${gone}"})
    with pytest.raises(SystemExit):
        command_line.CheckRunDirectory().on_run_start(config)
    assert "hunter2" not in (printed := capsys.readouterr().err)
    assert printed.startswith("Error: checkpoint.mirror: An address")


def test_a_relative_log_dir_is_where_the_command_was_typed(tmp_path, monkeypatch):
    config = OmegaConf.create({"checkpoint": {"mirror": "s3://b/x"}, "paths": {"log_dir": "other/../logs"}})
    monkeypatch.chdir(tmp_path)
    assert str(mirror_address.of_run(config, tmp_path / "logs" / "t" / "runs" / "a")) == "s3://b/x/t/runs/a"


def test_jobs_of_two_sweeps_outside_of_log_dir_have_two_addresses(tmp_path, monkeypatch):
    config = OmegaConf.create({"checkpoint": {"mirror": "s3://b/x"}, "paths": {"log_dir": "/logs"}})
    found = []
    for name in ("one", "two"):
        sweep = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir=str(tmp_path / name)))
        monkeypatch.setattr(mirror_address.HydraConfig, "initialized", lambda: True)
        monkeypatch.setattr(mirror_address.HydraConfig, "get", lambda sweep=sweep: sweep)
        found.append(str(mirror_address.of_run(config, tmp_path / name / "seed=1")))
    assert found == ["s3://b/x/one/seed=1", "s3://b/x/two/seed=1"]
    assert str(mirror_address.of_run(config, tmp_path / "logs")) == "s3://b/x/logs"
