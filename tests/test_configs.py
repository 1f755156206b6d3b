"""Every option of every group in configs/ composes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("option", ["seed=0", *OPTIONS])
def test_the_option_composes(option):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("train", [option])
