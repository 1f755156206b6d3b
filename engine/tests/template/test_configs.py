"""Each option composes without torch, and each `_target_` in it is allowed and accepts its keys."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cairn.hydra.sweep import plugins
from cairn.hydra.sweep.job_name import register
from cairn.targets import resolve

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
LIBRARY = ROOT / "engine" / "src" / "cairn" / "hydra" / "configs"
INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}

# Composes everything in a process of its own, and reports whether that imported torch.
COMPOSE_ALL = """
import json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

composed = {}
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    for override in json.load(sys.stdin):
        try:
            cfg = compose("train", [override] if override else [], return_hydra_config=True)
            composed[override] = OmegaConf.to_container(cfg, resolve=False)
        except Exception as error:
            composed[override] = f"{type(error).__name__}: {error}"
print(json.dumps({"composed": composed, "torch": "torch" in sys.modules}, default=str))
"""


def _options():
    """Return each `group=option` of the project and the library, without those of local/."""
    files = [path.relative_to(folder) for folder in (CONFIGS, LIBRARY) for path in folder.rglob("*.yaml")]
    return sorted({f"{file.parent.as_posix()}={file.stem}" for file in files if file.parent.name not in {"", "local"}})


OPTIONS = ["", *_options()]


@pytest.fixture(scope="module")
def everything():
    command = [sys.executable, "-c", COMPOSE_ALL, str(CONFIGS)]
    result = subprocess.run(command, input=json.dumps(OPTIONS), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def targets(node, where=""):
    """Yield all mappings with a `_target_` in a configuration, with the path to each."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{where}[{index}]")


def unknown_keys(config):
    """Return the keys that the signature of the target does not have."""
    parameters = inspect.signature(resolve(config["_target_"])).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set()
    ours = {"elastic"} if config["_target_"].endswith(".Trainer") else set()  # for the Checkpointer
    return set(config) - INSTANTIATE_KEYS - set(parameters) - ours


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(everything, option):
    assert isinstance(everything["composed"][option], dict), everything["composed"][option]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_target_takes_its_keys(everything, option):
    config = everything["composed"][option]
    assert isinstance(config, dict), config
    config.pop("hydra", None)  # Hydra checks its own keys
    wrong = {where: unknown_keys(node) for where, node in targets(config)}
    assert {where: keys for where, keys in wrong.items() if keys} == {}


@pytest.mark.parametrize(
    "overrides", [[], ["hydra/launcher=submitit_local", "~local"], ["hydra/launcher=basic", "~local"]]
)
def test_the_example_of_local_settings_composes(tmp_path, overrides):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    text = (CONFIGS / "local" / "default.yaml.example").read_text()
    settings = re.sub(r"^# (?=( *- | *\w+:( |$)))", "", text, flags=re.MULTILINE)
    (tmp_path / "configs" / "local" / "default.yaml").write_text(settings)
    register()
    plugins.register()  # for submitit_local
    with initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        cfg = compose("train", overrides, return_hydra_config=True)
    assert cfg.hydra.launcher.get("partition") == (None if overrides else "gpu")
    assert cfg.trainer.accelerator == ("auto" if overrides else "gpu")


def test_composing_imports_no_torch(everything):
    assert not everything["torch"], "a command that only reads the configuration should not wait for torch"


def test_every_group_has_a_folder_and_every_file_a_group():
    groups = {option.partition("=")[0] for option in OPTIONS if option}
    assert groups >= {"checkpoint", "data", "model", "trainer", "logger", "callbacks"}
    assert groups >= {"experiment", "debug", "hydra", "paths"}
    assert [p.name for p in CONFIGS.glob("*.yaml")] == ["train.yaml"]


def test_the_project_keeps_no_plumbing():
    names = {path.name for path in CONFIGS.iterdir()}
    assert not names & {path.name for path in LIBRARY.iterdir()} - {"checkpoint", "hydra", "logger", "trainer"}


@pytest.mark.parametrize(("alias", "option"), [("checkpoint=best", "checkpoint=best-val"), ("logger=many_loggers", "")])
def test_an_alias_selects_the_option(everything, alias, option):
    group = alias.partition("=")[0]
    assert everything["composed"][alias][group] == everything["composed"][option][group]


def test_a_project_replaces_a_file_of_the_library(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "paths").mkdir(exist_ok=True)
    text = (LIBRARY / "paths" / "default.yaml").read_text().replace("${paths.root_dir}/logs", "/scratch/logs")
    (tmp_path / "configs" / "paths" / "default.yaml").write_text(text)
    with initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        assert compose("train").paths.log_dir == "/scratch/logs"


def test_the_guard_sees_an_unknown_key():
    assert unknown_keys({"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patiense": 3}) == {"patiense"}
