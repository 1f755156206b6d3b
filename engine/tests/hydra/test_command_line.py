"""What the command line means before Hydra reads it."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cairn.errors import ConfigError, ResumeError
from cairn.hydra import command_line
from cairn.hydra.command_line import expand_resume, is_child, key, merge
from cairn.runs.directory import RunDirectory


@pytest.fixture
def configs(tmp_path):
    """A project with the two keys that `resume=latest` needs."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "train.yaml").write_text(f"task_name: train\nlr: 0.1\npaths: {{log_dir: {tmp_path / 'logs'}}}\n")
    return folder


@pytest.fixture
def environment(monkeypatch):
    """Whatever is set is taken back."""
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
    """What Hydra understands."""
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=1", "seed"),
        ("trainer.max_epochs=3", "trainer.max_epochs"),
        ("+trainer.max_epochs=3", "trainer.max_epochs"),
        ("++trainer.max_epochs=3", "trainer.max_epochs"),
        ("~callbacks.stopping", "callbacks.stopping"),
        ("~callbacks.stopping=null", "callbacks.stopping"),
        ("checkpoint=interval", "checkpoint"),
        ("model/optimizer=sgd", "model/optimizer"),
        ("tags=[a=b,c]", "tags"),
        ("hydra.run.dir='a=b'", "hydra.run.dir"),
        ("-m", "-m"),
    ],
)
def test_key(override, expected):
    assert key(override) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([], [], []),
        (["a=1", "b=2"], [], ["a=1", "b=2"]),
        ([], ["a=1"], ["a=1"]),
        (["a=1", "b=2"], ["a=3"], ["b=2", "a=3"]),
        (["a=1", "b=2"], ["b=2"], ["a=1", "b=2"]),
        (["+a.x=1", "b=2"], ["++a.x=3"], ["b=2", "++a.x=3"]),
        (["+a.x=1"], ["~a.x"], ["~a.x"]),
        (["a.b=1"], ["a=2"], ["a.b=1", "a=2"]),  # a group and a key in it are two things
        (["ab=1"], ["a=2"], ["ab=1", "a=2"]),
    ],
)
def test_the_new_overrides_win(old, new, expected):
    assert merge(old, new) == expected


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
def test_without_resume_nothing_is_touched(argv, configs):
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
    assert mode == "hydra.mode=RUN", "also if its experiment is a sweep"
    assert key(where) == "hydra.run.dir"
    assert value(where) == str(run)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_quotes_that_hydra_would_need_are_no_harm(tmp_path, configs, quote):
    run = run_in(tmp_path / "a,b")
    assert value(expand_resume([f"resume={quote}{run}{quote}"], configs)[-1]) == str(run)


def test_a_relative_directory_is_seen_from_here(tmp_path, configs, monkeypatch):
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


def test_latest_of_no_run_is_told(configs):
    with pytest.raises(ResumeError, match=r"resume=latest: there is no run of the task 'train' in .*logs/train"):
        expand_resume(["resume=latest"], configs)


def test_a_run_that_is_not_there_is_told(tmp_path, configs):
    with pytest.raises(ResumeError, match="gone: there is no such directory"):
        expand_resume([f"resume={tmp_path / 'gone'}"], configs)


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_is_not_resumed_by_name(tmp_path, configs, flag):
    run = run_in(tmp_path / "run")
    with pytest.raises(ConfigError, match="goes on with one run; to go on with a sweep, give the sweep's own command"):
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
def test_what_is_no_bare_file_name_is_left_as_it_was_typed(tmp_path, environment, argument):
    assert command_line.prepare([argument], tmp_path) == [argument]


def test_prepare_leaves_what_is_set(tmp_path, environment):
    (tmp_path / ".env").write_text("FROM_DOTENV=file\n")
    environment.update({"FROM_DOTENV": "shell", command_line.ROOT: "/elsewhere"})
    command_line.prepare([], tmp_path)
    assert (environment["FROM_DOTENV"], environment[command_line.ROOT]) == ("shell", "/elsewhere")


def test_prepare_tells_what_cannot_be_in_one_sentence(tmp_path, environment, capsys):
    with pytest.raises(SystemExit) as leave:
        command_line.prepare([f"resume={tmp_path / 'gone'}"], tmp_path)
    assert leave.value.code == 1
    assert (
        capsys.readouterr().err
        == f"Error: resume={tmp_path / 'gone'}: there is no such directory. (resume=latest is the newest run.)\n"
    )


def test_a_child_is_known_by_what_its_parent_announced(environment):
    assert not is_child()
    environment["LOCAL_RANK"] = "1"
    assert not is_child(), "torchrun sets this as well"
    command_line.announce_children(config="/run/config.yaml", run="abc", start=None)
    assert is_child()
    environment["LOCAL_RANK"] = "0"
    assert not is_child(), "the parent itself"


def test_a_child_reads_what_was_announced(environment):
    command_line.announce_children(config="/run/config.yaml", run="abc", start=None)
    assert command_line.announced() == {"config": "/run/config.yaml", "run": "abc", "start": None}
