"""The configuration of a run is composed once, and is what Hydra composes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from cairn.hydra.compose.once import Once

FILES = {
    "main.yaml": "defaults: [_self_, {data: a}]\nwidth: 3\n",
    "missing.yaml": 'defaults: [_self_, {data: "???"}]',
    "data/a.yaml": "size: 1\n",
    "data/b.yaml": "size: 2\n",
}


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield Once(GlobalHydra.instance().config_loader().config_search_path)


def ask_for_mode(loader: Once, name: str, overrides: list[str]):
    return loader.load_configuration(name, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)


def unresolved(config):
    """The time of day in it is resolved when it is read."""
    return OmegaConf.to_container(config, resolve=False)


def test_the_answer_is_given_again_once(loader):
    overrides = ["data=b", "width=5", "hydra.job.name=x"]
    plain = super(Once, loader).load_configuration("main", overrides, RunMode.RUN)
    first = ask_for_mode(loader, "main", overrides)
    assert unresolved(first) == unresolved(plain)
    assert loader.load_configuration("main", overrides, RunMode.RUN) is first
    again = loader.load_configuration("main", overrides, RunMode.RUN)
    assert unresolved(again) == unresolved(plain)
    assert again is not first


def test_another_command_gets_its_own_configuration(loader):
    ask_for_mode(loader, "main", ["width=5"])
    assert loader.load_configuration("main", ["width=6"], RunMode.RUN).width == 6
    ask_for_mode(loader, "main", ["width=5"])
    assert loader.load_configuration("main", ["width=5"], RunMode.MULTIRUN).width == 5


def test_what_only_a_sweep_can_be_composed_of_is_refused_for_a_run(loader):
    assert ask_for_mode(loader, "missing", []).hydra.mode is None
    with pytest.raises(ConfigCompositionException, match="data"):
        loader.load_configuration("missing", [], RunMode.RUN)
    for swept in ("width=1,2", "data=a,b"):
        ask_for_mode(loader, "main", [swept])
        with pytest.raises(ConfigCompositionException, match="multirun"):
            loader.load_configuration("main", [swept], RunMode.RUN)
