"""What a run continues with when `configs/` cannot be composed any more, and what is shown of it."""

import json
import shutil
from dataclasses import asdict

import pytest
from hydra import version
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from cairn.hydra.command.arguments import run_dir
from cairn.hydra.compose import loader
from cairn.hydra.compose.loader import Loader, fallback
from cairn.hydra.compose.stored import StoredRun
from cairn.hydra.sweep import job_name
from cairn.run.directory import RunDirectory, RunRecord

FILES = {
    "train": """
        hydra: {searchpath: [pkg://cairn.hydra.configs]}
        defaults: [cairn, _self_, trainer: default, logger: csv, checkpoint: some, experiment: null]
        task_name: train
        seed: 0
        note: null""",
    "trainer/default": "{max_epochs: 15, devices: auto}",
    "trainer/long": "{max_epochs: 99, devices: auto, strategy: ddp}",
    "logger/csv": "{csv: {dir: '${paths.output_dir}/csv'}}",
    "logger/none": "{}",
    "logger/many": "{csv: {dir: '${paths.output_dir}/csv'}, other: {name: '${task_name}'}}",
    "checkpoint/some": "{dirpath: '${paths.output_dir}/checkpoints', every: 50, triggers: {at: '${checkpoint.every}'}}",
    "experiment/mine": "# @package _global_\n{task_name: mine, trainer: {max_epochs: 7}, logger: {own: {key: 1}}}",
}
MINE = ("experiment=mine", "seed=3")


@pytest.fixture(autouse=True)
def _hydra(tmp_path, monkeypatch):
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loader, "_fallbacks", {})


@pytest.fixture(scope="module", autouse=True)
def _resolvers():
    version.setbase("1.3")
    setup_globals()
    job_name.register()
    JobRuntime.instance().set("name", "train")


def write_files(folder):
    for name, text in FILES.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("\n        ", "\n").lstrip())
    return folder


def composed(configs, *overrides):
    found = Loader(create_config_search_path(str(configs)))
    return found.load_configuration("train", list(overrides), RunMode.RUN)


@pytest.fixture
def configs(tmp_path):
    return write_files(tmp_path / "configs")


@pytest.fixture
def load(configs):
    """Compose as Hydra would: `load("seed=1")`."""
    return lambda *overrides: composed(configs, *overrides)


@pytest.fixture(scope="module")
def made(_resolvers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return record(composed(write_files(folder / "configs"), *MINE, run_dir(folder / "run")), folder / "run", MINE)


@pytest.fixture
def run(made, tmp_path):
    """A run of the experiment that is removed later; it has been moved here."""
    return shutil.copytree(made, tmp_path / "logs" / "mine" / "runs" / "a")


def record(cfg, path, overrides):
    """Write what Hydra and a start of the run write."""
    (path / ".hydra").mkdir(parents=True)
    hydra, job = (
        OmegaConf.masked_copy(cfg, ["hydra"]),
        OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]),
    )
    for name, node in (("hydra", hydra), ("config", job), ("overrides", cfg.hydra.overrides.task)):
        OmegaConf.save(node, path / ".hydra" / f"{name}.yaml")
    fields = asdict(RunRecord("r1", str(cfg.task_name), tuple(overrides)))
    (path / "run.json").write_text(json.dumps(fields))
    cfg.hydra.runtime.output_dir = str(path)
    HydraConfig.instance().set_config(cfg)
    (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, list(job)), resolve=True))
    HydraConfig.instance().cfg = None
    return path


def resumed(load, run, *overrides):
    """Compose what `resume=RUN` makes of the overrides."""
    given = [item for item in MINE if item.partition("=")[0] not in {new.partition("=")[0] for new in overrides}]
    return load(*given, *overrides, run_dir(run))


def delete(configs, *names):
    for name in names:
        (configs / f"{name}.yaml").unlink()


BREAKS = {
    "an experiment is renamed": lambda configs: delete(configs, "experiment/mine"),
    "a file of the defaults is deleted": lambda configs: delete(configs, "checkpoint/some"),
    "a file is not YAML": lambda configs: (configs / "trainer/default.yaml").write_text("a: [b"),
    "the primary file is not YAML": lambda configs: (configs / "train.yaml").write_text("a: [b"),
    "the primary file is renamed": lambda configs: delete(configs, "train"),
    "a group is renamed": lambda configs: (configs / "trainer").rename(configs / "trainers"),
    "all files are deleted": shutil.rmtree,
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_run_continues_by_its_own_configuration(load, run, configs, name):
    BREAKS[name](configs)
    cfg = resumed(load, run, "trainer.max_epochs=8", "checkpoint.every=9", "+note2={a: 1}", "~logger.own")
    assert cfg.trainer == {"max_epochs": 8, "devices": "auto"}
    assert cfg.checkpoint.triggers.at == 9, "what follows a new value by interpolation follows it"
    assert (cfg.task_name, cfg.seed, cfg.note2.a, set(cfg.logger)) == ("mine", 3, 1, {"csv"})
    new = ["trainer.max_epochs=8", "checkpoint.every=9", "+note2={a: 1}", "~logger.own"]
    assert cfg.hydra.overrides.task == [*MINE, *new]
    assert fallback(cfg.hydra.overrides.task).without == ()
    assert cfg.hydra.run.dir == str(run)


@pytest.mark.parametrize("name", ["an experiment is renamed"])
def test_the_same_command_again_continues_as_well(load, run, configs, name):
    BREAKS[name](configs)
    for where in (f"hydra.run.dir={run}", "hydra.run.dir=${paths.log_dir}/${task_name}/runs/a"):
        cfg = load(*MINE, where)
        assert (cfg.trainer.max_epochs, cfg.task_name, cfg.hydra.run.dir) == (7, "mine", str(run))


def test_a_misspelt_primary_file_is_the_error_of_hydra(run, configs, monkeypatch):
    found = Loader(create_config_search_path(str(configs)))
    for where in ([*MINE, run_dir(run)], [run_dir(run)]):
        with pytest.raises(HydraException, match="Cannot find primary config 'tran'"):
            found.load_configuration("tran", list(where), RunMode.RUN)
    monkeypatch.setattr(loader, "_shows", True)
    with pytest.raises(HydraException, match="'tran' does not exist"):
        found.load_configuration("tran", [*MINE, run_dir(run)], RunMode.RUN)


def test_a_primary_file_that_the_run_was_started_with_may_be_renamed(run, configs):
    hydra = run / ".hydra" / "hydra.yaml"
    cfg = OmegaConf.load(hydra)
    cfg.hydra.job.config_name = "mine"
    OmegaConf.save(cfg, hydra)
    found = Loader(create_config_search_path(str(configs)))
    assert found.load_configuration("mine", [*MINE, run_dir(run)], RunMode.RUN).trainer.max_epochs == 7


def test_a_run_whose_files_compose_is_composed_from_them(load, run):
    cfg = resumed(load, run, "trainer.max_epochs=8")
    assert cfg.trainer.max_epochs == 8
    assert fallback(cfg.hydra.overrides.task) is None


def test_an_override_of_a_key_that_only_the_run_still_has(load, run, configs):
    (configs / "checkpoint/some.yaml").write_text("{dirpath: x}")
    assert resumed(load, run, "checkpoint.every=9").checkpoint.triggers.at == 9


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("logger=many", {"csv", "other", "own"}),
        ("logger=none", {"own"}),
        ("~logger", {"own"}),
    ],
)
def test_a_group_of_the_new_command_is_read_from_the_files(load, run, configs, override, expected):
    delete(configs, "experiment/mine")
    assert set(resumed(load, run, override).logger) == expected, "what the experiment had set in the group stays"


def test_a_group_whose_old_option_is_gone_is_replaced(load, run, configs):
    delete(configs, "experiment/mine", "trainer/default")
    assert resumed(load, run, "trainer=long").trainer == {"max_epochs": 99, "devices": "auto", "strategy": "ddp"}
    (configs / "trainer/default.yaml").write_text(FILES["trainer/default"])
    assert resumed(load, run, "trainer=long").trainer.max_epochs == 99
    assert resumed(load, run, "trainer=long", "trainer.max_epochs=5").trainer.max_epochs == 5


def test_an_option_is_not_taken_for_a_value(load, run, configs):
    delete(configs, "experiment/mine")
    (configs / "trainer").rename(configs / "trainers")
    with pytest.raises(HydraException, match="Could not find 'trainer/long'"):
        resumed(load, run, "trainer=long")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "Could not override 'trainer.max_epoch'.*Did you mean trainer.max_epochs=3?"),
        ("logger=mny", "In config.yaml: Could not find 'logger/mny'.*Did you mean logger=many?"),
        ("+seed=4", "Could not append"),
        ("seed=1,2", "Ambiguous value"),
    ],
)
def test_what_cannot_be_applied_is_refused(load, run, configs, override, message):
    delete(configs, "experiment/mine")
    if override == "+seed=4":
        fields = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**fields, "overrides": ["experiment=mine"]}))
    with pytest.raises(HydraException, match=f"(?s)resumes from its own config.yaml.*experiment/mine.*{message}"):
        load("experiment=mine", override, run_dir(run))


def test_a_wrong_override_of_a_run_that_composes_is_the_error_of_hydra(load, run):
    with pytest.raises(
        HydraException, match=r"^Could not override 'trainer.max_epoch'(?s:.*)Did you mean trainer.max_ep"
    ):
        resumed(load, run, "trainer.max_epoch=3")


def test_a_new_run_with_a_missing_option_is_the_error_of_hydra(load, configs):
    with pytest.raises(HydraException, match=r"^In 'train': Could not find 'experiment/gone'"):
        load("experiment=gone")


def test_a_recorded_addition_can_be_changed(load, configs, tmp_path):
    given = ("experiment=mine", "+extra.key=1")
    run = record(load(*given, run_dir(tmp_path / "b")), tmp_path / "b", given)
    delete(configs, "experiment/mine")
    assert load("experiment=mine", "+extra.key=2", run_dir(run)).extra.key == 2


def test_an_override_that_the_command_leaves_out_stays_and_is_remembered(load, run, configs):
    delete(configs, "experiment/mine")
    cfg = load("experiment=mine", run_dir(run))
    assert cfg.seed == 3
    assert fallback(cfg.hydra.overrides.task).without == ("seed=3",)


def test_the_working_directory_of_a_run_stays(load, run, configs):
    delete(configs, "experiment/mine")
    file = run / ".hydra" / "hydra.yaml"
    assert resumed(load, run).hydra.job.chdir is False
    file.write_text(file.read_text().replace("chdir: false", "chdir: true"))
    assert resumed(load, run).hydra.job.chdir is True
    assert resumed(load, run, "hydra.job.chdir=false").hydra.job.chdir is False


def test_hydra_builds_nothing_that_a_run_directory_names(load, run, configs):
    delete(configs, "experiment/mine")
    file = run / ".hydra" / "hydra.yaml"
    file.write_text(file.read_text().replace("cairn.hydra.command_line.CheckRunDirectory", "evil.Callback"))
    assert "evil" in file.read_text()
    assert resumed(load, run).hydra.callbacks.check._target_ == "cairn.hydra.command_line.CheckRunDirectory"


def test_a_run_directory_without_hydras_files_is_enough(load, run, configs):
    delete(configs, "experiment/mine")
    shutil.rmtree(run / ".hydra")
    cfg = resumed(load, run, "trainer.max_epochs=8")
    assert (cfg.trainer.max_epochs, cfg.task_name) == (8, "mine")


@pytest.mark.parametrize("name", ["${x}", "a b'"])
def test_the_run_directory_may_have_any_name(load, run, configs, name):
    delete(configs, "experiment/mine")
    moved = run.rename(run.parent / name)
    assert resumed(load, moved, "trainer.max_epochs=8").trainer.max_epochs == 8


def test_what_is_shown_of_a_run_is_what_it_continues_with(load, run, configs, monkeypatch):
    (configs / "trainer/default.yaml").write_text("{max_epochs: 15, devices: 44}")
    assert resumed(load, run, "trainer.max_epochs=8").trainer.devices == 44, "an edit, which the start ignores"
    monkeypatch.setattr(loader, "_shows", True)
    assert resumed(load, run, "trainer.max_epochs=8").trainer == {"max_epochs": 8, "devices": "auto"}
    assert load("seed=4").seed == 4, "not a run"
    with pytest.raises(HydraException, match=r"Did you mean trainer\.max_epochs=3"):
        resumed(load, run, "trainer.max_epoch=3")


@pytest.fixture
def sweep(configs, tmp_path):
    """Compose the master of a sweep, and one of its jobs."""

    def compose(*overrides):
        found = Loader(create_config_search_path(str(configs)))
        master = found.load_configuration("train", list(overrides), RunMode.MULTIRUN)
        return master, lambda *own: found.load_sweep_config(master, list(own))

    return compose


def test_a_repeated_sweep_finds_its_jobs(sweep, configs, tmp_path):
    command = ("experiment=mine", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    master, job = sweep(*command)
    own = ("experiment=mine", "seed=1")
    path = record(job(*own), tmp_path / "sweep" / "experiment=mine,seed=1", own)
    OmegaConf.save(master, tmp_path / "sweep" / "multirun.yaml")
    delete(configs, "experiment/mine")
    again, job = sweep(*command)
    assert (again.task_name, again.hydra.sweep.dir) == ("mine", str(tmp_path / "sweep"))
    assert again.hydra.overrides.task == ["experiment=mine", "seed=1,2"]
    cfg = job(*own)
    assert (cfg.seed, cfg.trainer.max_epochs) == (1, 7)
    assert f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}" == str(path)
    with pytest.raises(HydraException, match="Could not find 'experiment/mine'"):
        job("experiment=mine", "seed=2")  # it has not started


def test_a_new_sweep_with_a_missing_option_is_the_error_of_hydra(sweep):
    with pytest.raises(HydraException, match="Could not find 'experiment/gone'"):
        sweep("experiment=gone", "seed=1,2")


def test_a_key_that_calls_a_resolver_keeps_its_value_and_is_named(load, run, configs):
    called = []
    OmegaConf.register_new_resolver("test_call", lambda text: called.append(text) or 7, replace=True)
    delete(configs, "experiment/mine")
    file = run / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("max_epochs: 7", "max_epochs: ${test_call:x}"))
    assert resumed(load, run, "checkpoint.every=9").trainer.max_epochs == 7
    assert called == []
    directory, hydra = RunDirectory(run), Loader(create_config_search_path(str(configs)))
    found = StoredRun(hydra, directory, directory.record(), "train")
    assert found.unlinked() == ["trainer.max_epochs"]


def test_a_record_of_other_people_sets_no_key_of_hydra(load, run, configs):
    fields = json.loads((run / "run.json").read_text())
    evil = ["+hydra.callbacks.x._target_=joblib.load", "+hydra.callbacks.x.filename=evil.pkl"]
    (run / "run.json").write_text(json.dumps({**fields, "overrides": [*MINE, *evil]}))
    delete(configs, "experiment/mine")
    cfg = load("experiment=mine", run_dir(run))
    assert "x" not in cfg.hydra.callbacks
    assert sorted(cfg.hydra.overrides.task) == sorted(MINE)
    assert fallback(cfg.hydra.overrides.task).without == ("seed=3",)


@pytest.mark.parametrize("override", ["checkpoint.audit=off", "init_weights_strict=false", "prove=false"])
def test_a_key_that_a_run_of_an_earlier_version_has_not_stored_can_be_set(load, run, configs, override):
    delete(configs, "experiment/mine")
    key, _, value = override.partition("=")
    assert OmegaConf.select(resumed(load, run), key) is None
    assert OmegaConf.select(resumed(load, run, override), key) == {"off": "off", "false": False}[value]


def test_a_run_of_another_recipe_is_not_taken(load, run, configs):
    other = shutil.copytree(run, run.parents[2] / "alpha" / "runs" / "a")
    fields = json.loads((run / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**fields, "overrides": ["experiment=alpha", "seed=3"]}))
    delete(configs, "experiment/mine")
    cfg = load(*MINE, "hydra.run.dir=${paths.log_dir}/${task_name}/runs/a")
    assert cfg.hydra.run.dir == str(run)


def test_a_shown_change_that_a_resume_refuses_is_named(load, run, monkeypatch, capsys):
    monkeypatch.setattr(loader, "_shows", True)
    resumed(load, run, "trainer.max_epochs=8")
    assert capsys.readouterr().err == ""
    assert resumed(load, run, "trainer.devices=2").trainer.devices == 2
    assert "A resume refuses to change trainer.devices" in capsys.readouterr().err
