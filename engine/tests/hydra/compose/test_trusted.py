"""A stored configuration names what is on the whitelist, or what the project's files or the command name as well."""

import pytest
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from cairn import targets, whitelist
from cairn.errors import ConfigError, SpecError
from cairn.hydra.compose import trusted

ODD = "sklearn.linear_model.LogisticRegression"
STORED = OmegaConf.create({"model": {"_target_": "torch.nn.Linear", "parts": [{"_target_": ODD}]}})


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a stored configuration against a project with these files."""
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    monkeypatch.delenv(whitelist.ENVIRONMENT, raising=False)
    monkeypatch.setattr(targets, "_own", frozenset())
    configs = tmp_path / "configs"

    def run_check(config=STORED, overrides=(), repeated=(), **files):
        for name, text in {"train": "a: 1", **files}.items():
            path = configs / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with initialize_config_dir(str(configs), version_base="1.3"):
            trusted.check(config, "config.yaml in /runs/one", tuple(overrides), repeated)

    return run_check


def test_a_name_that_only_the_run_directory_has_is_refused(check):
    with pytest.raises(ConfigError, match=f"^config.yaml in /runs/one names '{ODD}' as _target_, .*=({ODD})$"):
        check()


def test_the_command_trusts_it(check):
    whitelist.trust(ODD)
    check()


@pytest.mark.parametrize(
    "text", [f"m: {{_target_: {ODD}}}", f"m:\n  _target_: '{ODD}'", f'm:\n  "_target_" : "{ODD}"  # a model']
)
def test_the_files_of_the_project_name_it(check, text):
    check(**{"model/other": text})


def test_the_command_names_it(check):
    check(overrides=[f"+model.parts=[{{_target_: {ODD}}}]"])


def test_what_the_command_repeats_from_the_run_directory_does_not_count(check):
    override = f"+model._target_={ODD}"
    with pytest.raises(ConfigError, match="which could run any code"):
        check(overrides=[override], repeated=[override])


def test_a_registered_configuration_of_the_project_names_it(check, monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "repo", {})
    ConfigStore.instance().store(group="model", name="registered", node={"_target_": ODD})
    check()


def test_the_stored_configuration_does_not_vouch_for_itself(check, monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "repo", {})
    ConfigStore.instance().store(name="cairn_stored", node={"model": {"_target_": ODD}})
    with pytest.raises(ConfigError, match=ODD):
        check()


def test_an_interpolation_in_the_files_of_the_project_gives_it(check, monkeypatch):
    package, name = ODD.rsplit(".", 1)
    hydra = OmegaConf.create({"job": {"config_name": "train"}})
    monkeypatch.setattr(trusted.HydraConfig, "get", lambda: hydra)
    check(train=f"kind: {name}\nmodel: {{_target_: '{package}.${{kind}}'}}")
    with pytest.raises(ConfigError, match=ODD):
        check(train=f"kind: Other\nmodel: {{_target_: '{package}.${{kind}}'}}")


def test_run_directories_below_the_files_of_the_project_do_not_count(check, tmp_path):
    run = tmp_path / "configs" / "kept" / "one"
    (run / ".hydra").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for name in ("config.yaml", ".hydra/config.yaml"):
        (run / name).write_text(f"m: {{_target_: {ODD}}}")
    with pytest.raises(ConfigError, match=ODD):
        check()


def test_all_names_are_listed_at_once(check):
    config = OmegaConf.create({"a": {"_target_": ODD}, "b": {"_target_": "submitit.core.utils.pickle_load"}})
    with pytest.raises(ConfigError, match=f"trust_targets={ODD},submitit.core.utils.pickle_load$"):
        check(config)


def test_a_new_run_calls_the_functions_that_its_files_name(monkeypatch):
    monkeypatch.setattr(targets, "_own", frozenset())
    trusted.new_run(OmegaConf.create({"data": {"_target_": "sklearn.datasets.load_digits"}}))
    assert targets.resolve("sklearn.datasets.load_digits").__name__ == "load_digits"
    with pytest.raises(SpecError, match="is refused"):
        targets.resolve("sklearn.datasets.load_iris")


def test_trust_is_about_this_command_only(monkeypatch, tmp_path):
    from cairn.hydra import command_line

    monkeypatch.delenv(whitelist.ENVIRONMENT, raising=False)
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "")
    found = command_line.prepare(["a=1", "trust_targets=[x.Y,z.Z]", "+trust_targets=q.Q", "--multirun"], tmp_path)
    assert found == ["--multirun", "a=1"]
    assert targets.is_allowed("x.Y")
    assert targets.is_allowed("q.Q")
    assert not targets.is_allowed("x.Z")
