"""A resumed run writes into its own directory, and elsewhere only where the project or the command says so."""

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from tests.support.values import commit

from cairn.errors import ConfigError
from cairn.hydra.compose import merge, outside, trusted


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a stored configuration against a project with these files."""
    configs, run = tmp_path / "configs", tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    hydra = OmegaConf.create({"job": {"config_name": "train"}})
    monkeypatch.setattr(trusted.HydraConfig, "get", lambda: hydra)

    def run_check(stored, overrides=(), repeated=(), **files):
        for name, text in {"train": "a: 1", **files}.items():
            path = configs / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with initialize_config_dir(str(configs), version_base="1.3"):
            outside.check(OmegaConf.create(stored), run, "toy", tuple(overrides), repeated)

    return run_check


def refused(key, value):
    """Context in which the only directory that is named is this one."""
    return pytest.raises(ConfigError, match=rf"^This run would write outside of .*/run: .* \+\+{key}={value}$")


ELSEWHERE = {
    "checkpoints": ({"checkpoint": {"dirpath": "/else"}}, "checkpoint.dirpath", "/else"),
    "a logger": ({"logger": {"tb": {"save_dir": "/else"}}}, "logger.tb.save_dir", "/else"),
    "a logger by a relative path": ({"logger": {"tb": {"save_dir": "else"}}}, "logger.tb.save_dir", "else"),
    "a path with dots": ({"logger": {"tb": {"save_dir": "run/../else"}}}, "logger.tb.save_dir", "run/../else"),
    "a home directory": ({"checkpoint": {"dirpath": "~/else"}}, "checkpoint.dirpath", "'~/else'"),
    "a name that no file can have": ({"checkpoint": {"dirpath": "a\0b"}}, "checkpoint.dirpath", r"'a\\x00b'"),
    "a directory that cannot be read": ({"checkpoint": {"dirpath": "x" * 999}}, "checkpoint.dirpath", "x" * 999),
    "an address": ({"logger": {"tb": {"save_dir": "s3://else"}}}, "logger.tb.save_dir", "s3://else"),
    "a server": ({"logger": {"w": {"settings": {"base_url": "http://x"}}}}, "logger.w.settings.base_url", "http://x"),
    "the server of a tracker": ({"logger": {"t": {"server_url": "http://x"}}}, "logger.t.server_url", "http://x"),
    "a space": ({"logger": {"t": {"space_id": "them/space"}}}, "logger.t.space_id", "them/space"),
    "a store": ({"logger": {"m": {"store_dir": "/else/mlflow"}}}, "logger.m.store_dir", "/else/mlflow"),
    "a store of another name": ({"logger": {"m": {"store_dir": "else"}}}, "logger.m.store_dir", "else"),
    "a store with dots": ({"logger": {"m": {"store_dir": "mlflow/../else"}}}, "logger.m.store_dir", "mlflow/../else"),
    "the trainer": ({"trainer": {"default_root_dir": "/else"}}, "trainer.default_root_dir", "/else"),
    "a profiler": ({"trainer": {"profiler": {"dirpath": "/else"}}}, "trainer.profiler.dirpath", "/else"),
    "a file": ({"trainer": {"profiler": {"filename": "../else"}}}, "trainer.profiler.filename", "../else"),
    "a callback in a list": ({"model": {"parts": [{"log_dir": "/else"}]}}, "model.parts.0.log_dir", "/else"),
    "data that is not there": ({"data": {"cache_dir": "/else"}}, "data.cache_dir", "/else"),
    "a name that begins like that of the run": ({"logger": {"tb": {"save_dir": "run2"}}}, "logger.tb.save_dir", "run2"),
    "control characters": ({"callbacks": {"a": {"dirpath": "/\x1b[2J"}}}, "callbacks.a.dirpath", r"'/\\x1b\[2J'"),
}


@pytest.mark.parametrize(("stored", "key", "value"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_only_the_run_directory_names_is_refused(check, stored, key, value):
    with refused(key, value):
        check(stored)


def test_the_command_or_the_files_of_the_project_name_it(check):
    stored = {"logger": {"tb": {"save_dir": "/else"}}}
    check(stored, ["++logger.tb.save_dir=/else"])
    check(stored, train="logger: {tb: {save_dir: /else}}")
    with refused("logger.tb.save_dir", "/else"):
        check(stored, train="logger: {tb: {save_dir: /other}}")
    with refused("logger.tb.save_dir", "/else"):  # what `resume=` repeats is not typed
        check(stored, ["++logger.tb.save_dir=/else"], ["++logger.tb.save_dir=/else"])


def test_an_option_of_the_project_that_the_run_has_chosen_names_it(check):
    stored, files = {"logger": {"save_dir": "/else"}}, {"train": "defaults: [{logger: csv}]", "logger/csv": "a: 1"}
    check(stored, ["logger=tb"], ["logger=tb"], **files, **{"logger/tb": "save_dir: /else"})
    with refused("logger.save_dir", "/else"):
        check(stored, ["logger=csv", "++logger.save_dir=/else"], ["logger=csv", "++logger.save_dir=/else"])


def test_what_lies_in_the_run_directory_or_is_not_written_is_not_asked_about(check, tmp_path):
    inside, there = str(tmp_path / "run" / "deep" / "folder"), str(tmp_path)
    check({"checkpoint": {"dirpath": inside}, "logger": {"csv": {"save_dir": inside, "name": "/else"}}})
    check({"data": {"data_dir": there}, "paths": {"log_dir": "/else"}, "trainer": {"profiler": {"filename": "p"}}})
    with refused("logger.save_dir", there):
        check({"logger": {"save_dir": there}})


def test_the_store_that_all_runs_of_a_directory_of_logs_share_is_not_asked_about(check, tmp_path):
    check({"logger": {"m": {"store_dir": str(tmp_path / "mlflow")}, "t": {"store_dir": "trackio"}}})
    check({"logger": {"m": {"store_dir": str(tmp_path.parent / "mlflow")}}})
    with pytest.raises(ConfigError, match="This run would write outside"):
        check({"logger": {"m": {"save_dir": str(tmp_path / "mlflow")}}})


def test_a_name_like_an_interpolation_is_a_name(check, tmp_path):
    check(merge.as_config({"logger": {"save_dir": str(tmp_path / "run" / "${x}")}}))
    with refused("logger.save_dir", r"'/else/.*\$\{x\}'"):
        check(merge.as_config({"logger": {"save_dir": "/else/${x}"}}))


def test_a_home_directory_is_not_inside_a_run_that_is_the_working_directory(check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "run")
    for value in ("~/else", "$HOME/else"):
        with pytest.raises(ConfigError, match="would write outside"):
            check({"checkpoint": {"dirpath": value}})
    check({"checkpoint": {"dirpath": "inside"}})


def test_a_link_in_the_run_directory_leads_out_of_it(check, tmp_path):
    (tmp_path / "else").mkdir()
    folder = tmp_path / "run" / "csv"
    folder.symlink_to(tmp_path / "else")
    with refused("logger.save_dir", folder):
        check({"logger": {"save_dir": str(folder)}}, train=f"logger: {{save_dir: {folder}}}")
    check({"logger": {"save_dir": str(folder)}}, [f"++logger.save_dir={folder}"])


@pytest.mark.parametrize("run", ["toy", "other"])
def test_a_directory_with_checkpoints_of_this_run_is_its_own(check, tmp_path, run):
    commit(tmp_path / "else", run=run)
    stored = {"checkpoint": {"dirpath": str(tmp_path / "else")}}
    if run == "toy":
        check(stored)
    else:
        with refused("checkpoint.dirpath", tmp_path / "else"):
            check(stored)


def test_files_that_do_not_compose_any_more_name_nothing(check):
    stored = {"logger": {"save_dir": "/else"}}
    with refused("logger.save_dir", "/else"):
        check(stored, train="defaults: [gone]\nlogger: {save_dir: /else}")
    check(stored, ["++logger.save_dir=/else"], train="defaults: [gone]")
