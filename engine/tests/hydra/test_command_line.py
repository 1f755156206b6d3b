"""What happens to the command line before Hydra reads it."""

import os
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from tests.support.paths import ROOT

from cairn.errors import ConfigError, ResumeError
from cairn.hydra import command_line
from cairn.hydra.command.arguments import literal
from cairn.hydra.command_line import expand_resume, is_child, key
from cairn.run.directory import RunDirectory


@pytest.fixture
def configs(tmp_path):
    """Configuration of a project with the two keys that `resume=latest` needs."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "train.yaml").write_text(f"task_name: train\nlr: 0.1\npaths: {{log_dir: {tmp_path / 'logs'}}}\n")
    return folder


@pytest.fixture
def environment(monkeypatch):
    """An environment that is restored after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in (command_line.ROOT, "LOCAL_RANK", "CAIRN_CHILD", "FROM_DOTENV"):
        os.environ.pop(name, None)
    return os.environ


def run_in(path, *overrides, task="train", mtime=None):
    run = RunDirectory(path)
    run.start(task, overrides, "{}")
    if mtime is not None:
        os.utime(run.record_file, (mtime, mtime))
    return path


def value(override):
    """Return the value that Hydra reads."""
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["a=1"],
        ["-m", "a=1,2"],
        ["resume=null"],
        ["resume="],
        ["checkpoint=interval", "--cfg", "job"],
        ["model.resume=3"],
    ],
)
def test_without_resume_nothing_changes(argv, configs):
    assert expand_resume(argv, configs) == argv


def test_resume_is_the_runs_own_command_in_its_own_directory(tmp_path, configs):
    run = run_in(tmp_path / "run", "checkpoint=interval", "trainer.max_epochs=3")
    assert expand_resume([f"resume={run}"], configs) == [
        "checkpoint=interval",
        "trainer.max_epochs=3",
        "hydra.mode=RUN",
        f"hydra.run.dir='{run}'",
    ]


def test_new_overrides_are_added_and_win(tmp_path, configs):
    run = run_in(tmp_path / "run", "checkpoint=interval", "trainer.max_epochs=3")
    argv = expand_resume(["trainer.max_epochs=5", f"resume={run}", "tags=[a]", "--cfg"], configs)
    assert argv[:-2] == ["checkpoint=interval", "trainer.max_epochs=5", "tags=[a]", "--cfg"]
    assert argv[-2:] == ["hydra.mode=RUN", f"hydra.run.dir='{run}'"]


@pytest.mark.parametrize("name", ["plain", "a b", "seed=1,lr=0.1", "sizes=[a,b]", "x{y}", "a'b", 'a"b', "a\\b", "ä"])
def test_any_directory_reaches_hydra_as_it_is(tmp_path, configs, name):
    run = run_in(tmp_path / name)
    mode, where = expand_resume([f"resume={run}"], configs)
    assert mode == "hydra.mode=RUN", "even if its experiment is a sweep"
    assert key(where) == "hydra.run.dir"
    assert value(where) == str(run)


@pytest.mark.parametrize("name", ["a'", "'a'", '"a"', "a\\", "a\\'", "~a", "-a", "latest", "null", "#a", "ünï"])
def test_a_relative_directory_of_any_name_is_found(tmp_path, configs, monkeypatch, name):
    run = run_in(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    typed = f"./{name}" if name in ("latest", "null") else name
    for given in (f"resume={typed}", f"resume={typed}/", f"+resume={typed}"):
        assert value(expand_resume([given], configs)[-1]) == str(run)


def test_dollars_in_a_name_survive_both_times_that_hydra_resolves_it(tmp_path, configs):
    run = run_in(tmp_path / "${x}")
    once = OmegaConf.create({"dir": value(expand_resume([f"resume={run}"], configs)[-1])}).dir
    assert OmegaConf.create({"dir": once}).dir == str(run)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quoted_directory_is_accepted(tmp_path, configs, quote):
    run = run_in(tmp_path / "a,b")
    assert value(expand_resume([f"resume={quote}{run}{quote}"], configs)[-1]) == str(run)


def test_a_relative_directory_starts_at_the_working_directory(tmp_path, configs, monkeypatch):
    run_in(tmp_path / "logs" / "run")
    monkeypatch.chdir(tmp_path / "logs")
    assert expand_resume(["resume=run"], configs)[-1] == f"hydra.run.dir='{tmp_path / 'logs' / 'run'}'"


def test_the_last_resume_counts(tmp_path, configs):
    run = run_in(tmp_path / "run", "a=1")
    assert expand_resume(["resume=gone", f"resume={run}"], configs)[0] == "a=1"
    assert expand_resume([f"resume={run}", "resume=null"], configs) == [f"resume={run}", "resume=null"]


def test_latest_is_the_newest_run_of_the_task(tmp_path, configs):
    logs = tmp_path / "logs"
    run_in(logs / "train" / "runs" / "old", "lr=0.2", mtime=100)
    newest = run_in(logs / "train" / "multiruns" / "day" / "lr=0.3,seed=1", "lr=0.3", mtime=300)
    run_in(logs / "train" / "runs" / "middle", mtime=200)
    other = run_in(logs / "other" / "runs" / "newer", mtime=400)
    assert expand_resume(["resume=latest"], configs) == ["lr=0.3", "hydra.mode=RUN", f"hydra.run.dir='{newest}'"]
    argv = expand_resume(["resume=latest", "task_name=other", "lr=0.4"], configs)
    assert argv == ["task_name=other", "lr=0.4", "hydra.mode=RUN", f"hydra.run.dir='{other}'"]


@pytest.mark.parametrize("name", ["latest", "last", "'latest'"])
def test_last_is_another_name_for_latest(tmp_path, configs, name):
    run = run_in(tmp_path / "logs" / "train" / "runs" / "a", "lr=0.2")
    assert expand_resume([f"resume={name}"], configs)[-1] == f"hydra.run.dir='{run}'"


@pytest.mark.parametrize("name", ["latest", "auto"])
def test_the_task_of_an_option_that_is_gone_is_that_of_the_runs_that_recorded_it(
    tmp_path, configs, monkeypatch, capsys, name
):
    monkeypatch.setattr(command_line, "_can_continue", lambda run: True)
    folder = tmp_path / "logs"
    run = run_in(folder / "mine" / "runs" / "a", "experiment=mine", "lr=0.2", task="mine")
    run_in(folder / "train" / "runs" / "newer")
    argv = expand_resume([f"resume={name}", "experiment=mine", "lr=0.3"], configs)
    assert argv == ["experiment=mine", "lr=0.3", "hydra.mode=RUN", f"hydra.run.dir='{run}'"]


def test_a_task_that_nothing_names_is_refused(tmp_path, configs):
    run_in(tmp_path / "logs" / "mine" / "runs" / "a", task="mine")
    run_in(tmp_path / "logs" / "other" / "runs" / "a", task="other")
    (tmp_path / "logs" / "other" / "runs" / "damaged").mkdir()
    (tmp_path / "logs" / "other" / "runs" / "damaged" / "run.json").write_text("{")
    (configs / "experiment").mkdir()
    with pytest.raises(ResumeError, match=r"experiment.* has no such run\. Name the run directory, or set task_name="):
        expand_resume(["resume=latest", "experiment=gone"], configs)
    (configs / "experiment").rmdir()
    (configs / "train.yaml").write_text("a: [b")
    with pytest.raises(ResumeError, match=r"have the tasks mine, other\. Name the run directory, or set task_name="):
        expand_resume(["resume=latest", f"paths.log_dir={tmp_path}/logs"], configs)
    argv = expand_resume(["resume=latest", f"paths.log_dir={tmp_path}/logs", "task_name=mine"], configs)
    assert argv[-1] == f"hydra.run.dir='{tmp_path}/logs/mine/runs/a'"


def test_a_run_that_works_in_its_own_directory_does_so_again(tmp_path, configs):
    run = run_in(tmp_path / "run")
    (run / ".hydra").mkdir()
    (run / ".hydra" / "hydra.yaml").write_text("hydra: {job: {chdir: true}}")
    assert "hydra.job.chdir=true" in expand_resume([f"resume={run}"], configs)
    argv = expand_resume([f"resume={run}", "hydra.job.chdir=false"], configs)
    assert [item for item in argv if "chdir" in item] == ["hydra.job.chdir=false"]


def test_latest_is_found_with_the_files_that_the_flags_name(tmp_path, configs):
    run = run_in(tmp_path / "logs" / "mine" / "runs" / "a", task="mine")
    (configs / "other.yaml").write_text((configs / "train.yaml").read_text().replace("name: train", "name: mine"))
    more = tmp_path / "more"
    more.mkdir()
    (configs / "other.yaml").rename(more / "other.yaml")
    for where in (["--config-dir", str(more)], ["--config-path", str(more)]):
        argv = expand_resume([*where, "--config-name", "other", "resume=latest"], configs)
        assert argv[-1] == f"hydra.run.dir='{run}'"


def test_a_misspelt_directory_of_files_is_refused(tmp_path, configs):
    run = run_in(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--config-path config: .* does not exist. Leave it out, or correct it"):
        expand_resume(["--config-path", "config", f"resume={run}"], configs)


def test_a_flag_with_a_value_is_not_an_override(tmp_path, configs):
    run = run_in(tmp_path / "logs" / "train" / "runs" / "a")
    assert expand_resume(["resume=latest", "--cfg", "job"], configs)[-1] == f"hydra.run.dir='{run}'"


def test_auto_continues_the_newest_run_if_it_is_unfinished_and_has_a_checkpoint(tmp_path, configs, monkeypatch, capsys):
    folder = tmp_path / "logs" / "train" / "runs"
    assert expand_resume(["resume=auto", "lr=0.4"], configs) == ["lr=0.4"], "there is no run"
    run = RunDirectory(run_in(folder / "a", "lr=0.2"))
    checkpoints = []
    catalog = SimpleNamespace(newest=lambda: next(iter(checkpoints), None), rejected=list)
    monkeypatch.setattr(command_line, "Catalog", lambda path: catalog)
    monkeypatch.setattr(RunDirectory, "checkpoints", lambda run: run.path / "checkpoints")
    assert expand_resume(["resume=auto"], configs) == [], "the run has no checkpoint"
    checkpoints.append("epoch_000_batch_000050")
    assert expand_resume(["resume=auto"], configs) == ["lr=0.2", "hydra.mode=RUN", f"hydra.run.dir='{run.path}'"]
    run.start("train", ("lr=0.2",), "{}")
    run.end("finished")
    assert expand_resume(["resume=auto"], configs) == [], "the run is finished"
    said = capsys.readouterr().err.splitlines()
    assert said[2] == f"resume=auto: resuming {run.path}"
    assert said[3] == "resume=auto: no run of task 'train' to resume, starting a new one"


def test_latest_without_a_run_is_refused(configs):
    with pytest.raises(ResumeError, match=r"resume=latest: there is no run of the task 'train' in .*logs/train"):
        expand_resume(["resume=latest"], configs)


def test_a_missing_run_is_refused(tmp_path, configs):
    with pytest.raises(ResumeError, match="gone: there is no such directory"):
        expand_resume([f"resume={tmp_path / 'gone'}"], configs)


@pytest.mark.parametrize("flag", ["-m", "--multirun", "--multi"])
def test_a_sweep_cannot_be_resumed_by_name(tmp_path, configs, flag):
    run = run_in(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"resumes one run\. To resume a sweep, repeat the command of the sweep"):
        expand_resume([flag, f"resume={run}", "seed=1,2"], configs)


# The process


def test_prepare_reads_dotenv_and_names_the_root(tmp_path, environment):
    (tmp_path / ".env").write_text("FROM_DOTENV=yes\n")
    assert command_line.prepare(["a=1"], tmp_path) == ["a=1"]
    assert environment["FROM_DOTENV"] == "yes"
    assert environment[command_line.ROOT] == str(tmp_path)


@pytest.mark.parametrize("name", ["plain.ckpt", "a b.ckpt", "seed=1,lr=0.1/x.ckpt", "it's.ckpt", "[a]{b}.ckpt"])
@pytest.mark.parametrize("what", ["ckpt_path", "init_weights"])
def test_a_file_reaches_hydra_as_it_was_typed(tmp_path, environment, what, name):
    (argument,) = command_line.prepare([f"{what}={name}"], tmp_path)
    assert key(argument) == what
    assert value(argument) == name


@pytest.mark.parametrize(
    "argument", ["ckpt_path=null", "ckpt_path=", "init_weights='a b'", 'ckpt_path="a"', "a.ckpt_path=b c"]
)
def test_other_values_stay_as_they_were_typed(tmp_path, environment, argument):
    assert command_line.prepare([argument], tmp_path) == [argument]


@pytest.mark.parametrize(
    "argv",
    [
        ["--cfg", "job", "--resolve", "resume={run}", "b=1"],
        ["b=1", "resume={run}", "--cfg", "job", "--resolve"],
        ["b=1", "--cfg", "job", "resume={run}", "--resolve"],
    ],
)
def test_flags_may_stand_before_and_behind_resume(tmp_path, environment, argv):
    run = run_in(tmp_path / "run", "a=1")
    found = command_line.prepare([item.format(run=run) for item in argv], tmp_path)
    assert found[:3] == ["--cfg", "job", "--resolve"]
    assert found[3:] == ["a=1", "b=1", "hydra.mode=RUN", f"hydra.run.dir='{run}'"]


def test_the_shell_wins_over_dotenv(tmp_path, environment):
    (tmp_path / ".env").write_text("FROM_DOTENV=file\n")
    environment.update({"FROM_DOTENV": "shell", command_line.ROOT: "/elsewhere"})
    command_line.prepare([], tmp_path)
    assert (environment["FROM_DOTENV"], environment[command_line.ROOT]) == ("shell", "/elsewhere")


def test_a_wrong_argument_is_one_sentence(tmp_path, environment, capsys):
    with pytest.raises(SystemExit) as leave:
        command_line.prepare([f"resume={tmp_path / 'gone'}"], tmp_path)
    assert leave.value.code == 1
    assert (
        capsys.readouterr().err
        == f"Error: resume={tmp_path / 'gone'}: there is no such directory. (resume=latest is the newest run.)\n"
    )


def test_a_key_of_another_framework_is_one_sentence(environment, capsys):
    with pytest.raises(SystemExit) as leave:
        command_line.prepare(["checkpoint=interval", "checkpoint.save_total_limit=3"], ROOT)
    assert leave.value.code == 1
    assert "checkpoint.keep_last=N keeps the newest N checkpoints" in capsys.readouterr().err


def test_keys_of_the_project_pass(environment):
    given = ["checkpoint=interval", "seed=1", "trainer.max_epochs=3", "+own=1", "model/optimizer=sgd", "paths=default"]
    assert command_line.prepare(given, ROOT) == given


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_ends_the_process(environment, capsys, flag):
    with pytest.raises(SystemExit) as leave:
        command_line.prepare([flag, "checkpoint=interval"], ROOT)
    assert leave.value.code == 0
    assert "[interval]" in capsys.readouterr().out


def test_help_for_another_configuration_is_left_to_hydra(environment):
    assert command_line.prepare(["--help", "--config-name=other"], ROOT) == ["--help", "--config-name=other"]


def test_a_directory_that_only_the_name_of_a_run_has_caused_is_removed(tmp_path):
    run, made = tmp_path / "a/${x}/run", tmp_path / "a/\\${x}/run"
    made.mkdir(parents=True)
    run.mkdir(parents=True)

    def started(directory, resolved):
        text = literal(str(directory))
        node = {"run": {"dir": text}, "mode": None, "job": {"chdir": False}}
        node["runtime"] = {"output_dir": literal(str(resolved))}
        command_line.CheckRunDirectory().on_job_start(OmegaConf.create({"hydra": node}))

    started(run, run)
    assert made.is_dir()
    started(made, run)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["${x}"]


def test_a_launcher_that_is_not_installed_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(command_line.plugins, "is_installed", lambda: False)
    config = OmegaConf.create({"hydra": {"launcher": {"_target_": f"{command_line.plugins.LAUNCHERS}.SlurmLauncher"}}})
    with pytest.raises(SystemExit):
        command_line.CheckRunDirectory().on_multirun_start(config)
    assert "needs more packages: pip install 'hydra-core" in capsys.readouterr().err


def test_a_child_recognizes_itself_by_what_its_parent_announced(environment):
    assert not is_child()
    environment["LOCAL_RANK"] = "1"
    assert not is_child(), "torchrun sets this as well"
    command_line.announce_children(config="/run/config.yaml", run="abc", start=None)
    assert is_child()
    environment["LOCAL_RANK"] = "0"
    assert not is_child(), "the parent itself"


def test_a_child_reads_what_was_announced(environment):
    command_line.announce_children(config="/run/config.yaml", run="abc", start=None)
    assert command_line.announced() == (os.getpid(), {"config": "/run/config.yaml", "run": "abc", "start": None})


def test_config_path_starts_at_the_directory_of_train_py(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "train.yaml").write_text(f"task_name: mine\npaths: {{log_dir: {tmp_path / 'logs'}}}\n")
    run = run_in(tmp_path / "logs" / "mine" / "runs" / "a", task="mine")
    argv = ["--config-path", "other", "resume=latest"]
    assert expand_resume(argv, tmp_path / "a" / "configs", root=tmp_path)[-1] == f"hydra.run.dir='{run}'"


def test_a_primary_file_of_another_name_is_read(tmp_path, environment, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("save_steps: 3 # Mine.\n")
    assert command_line.prepare(["save_steps=4"], tmp_path, config_name="mine") == ["save_steps=4"]
    with pytest.raises(SystemExit):
        command_line.prepare(["--help"], tmp_path, config_name="mine")
    assert "save_steps=3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line.prepare(["save_freq=4"], tmp_path, config_name="mine")
    assert "save_freq is a key of another framework" in capsys.readouterr().err


EVIL = [
    "+hydra.callbacks.x._target_=joblib.load",
    "+hydra.callbacks.x.filename=evil.pkl",
    "++hydra/callbacks=evil",
    "+callbacks@hydra.callbacks.x=mine",
    "--experimental-rerun=evil.pickle",
    "--config-dir=/evil",
    "experiment=../../evil/files",
]


def test_a_run_directory_of_other_people_sets_no_key_of_hydra(tmp_path, configs):
    run = run_in(tmp_path / "run", *EVIL, "data.dir=../data", "ckpt_path=../a.ckpt")
    found = expand_resume([f"resume={run}"], configs)
    assert found == ["data.dir=../data", "ckpt_path=../a.ckpt", "hydra.mode=RUN", f"hydra.run.dir='{run}'"]
