"""The screen of `--help`."""

import pytest
import yaml
from tests.support.paths import ROOT

from cairn.hydra.command import help_screen
from cairn.hydra.sweep import plugins
from cairn.hydra.sweep.job_name import register

CONFIGS = ROOT / "configs"


@pytest.fixture(autouse=True)
def _registered():
    register()
    plugins.register()


def screen(*overrides, configs=CONFIGS):
    return help_screen.of(configs, list(overrides))


def test_it_shows_groups_with_the_chosen_option():
    text = screen()
    assert "[combined]" in text
    assert "best-val" in text
    assert "[digits]  text" in text


def test_it_shows_keys_with_their_values_and_meanings():
    assert '  checkpoint.save_interval=50          batches, or "100st"' in screen()
    assert "  trainer.max_epochs=15                -1: no limit" in screen()
    assert "  checkpoint.mode=min                  min: lower is better" in screen()
    assert "  checkpoint.mode=min                  min: lower is better" in screen("checkpoint=best-val")


@pytest.mark.parametrize(("model", "rate"), [("mlp", "0.001"), ("cnn", "0.01"), ("gpt", "0.001")])
def test_it_shows_the_learning_rate_of_every_model(model, rate):
    text = screen(f"model={model}")
    assert f"  model.optimizer.lr={rate} " in text
    assert "  model.optimizer.weight_decay=" in text


@pytest.mark.parametrize("plumbing", ["_target_", "default_root_dir", "job_logging", "triggers", "searchpath", "${"])
def test_it_shows_no_plumbing(plumbing):
    assert plumbing not in screen()


@pytest.mark.parametrize(
    "overrides", [[], ["checkpoint=interval"], ["experiment=gpt"], ["hydra/launcher=slurm"], ["model=mlp"]]
)
def test_it_fits_a_terminal(overrides):
    lines = screen(*overrides).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 92


def test_it_shows_the_keys_of_the_options_that_are_given():
    assert "save_top_k" not in screen("checkpoint=interval")
    assert "trainer.max_epochs=7 " in screen("trainer.max_epochs=7")
    assert "data.seq_len=256" in screen("experiment=gpt")


def test_a_key_of_the_user_is_shown_once_it_has_a_comment(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "train.yaml").write_text(
        "defaults: [_self_, data: own]\nsilent: 1\nflag: false # a switch\nnone: null # nothing\n"
        "names: [a, b] # some names\nother: ${flag} # follows\nnode: # a mapping\n  inner: 2 # inside\n"
    )
    (tmp_path / "data" / "own.yaml").write_text("# Mine.\nfolder: '#1' # a place\n")
    text = screen(configs=tmp_path)
    for row in ("flag=false  ", "none=null  ", "names=[a,b]  ", "node.inner=2  ", "data.folder=#1  "):
        assert f"  {row}" in text
    for name in ("silent", "other=", "node="):
        assert name not in text


def test_wrong_overrides_are_left_to_hydra():
    assert screen("no_such_group=x") is None


def test_every_preset_names_what_it_is_for():
    """The first comment of a file says what the option does."""
    for file in CONFIGS.rglob("*.yaml"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
        assert lines[0].startswith("# "), file
        assert yaml.safe_load("\n".join(lines)) is not None
