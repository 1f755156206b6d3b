"""A run of this project that is killed and resumed ends exactly where an undisturbed run ends.

`cairn prove` tests any other command in the same way, such as `cairn prove experiment=gpt`.
"""

from pathlib import Path

from hydra import compose, initialize_config_dir
from lightning.pytorch import seed_everything

from cairn import testing
from cairn.hydra.instantiate import instantiate

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Two short epochs of what configs/train.yaml trains. Add what makes your own project short.
OVERRIDES = [
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "trainer.enable_progress_bar=false",
    "trainer.default_root_dir=null",
    "~trainer.elastic",  # not an argument of the Trainer: train.py gives it to the Checkpointer
]


def make():
    """Build trainer, model and data as `python train.py` does."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", OVERRIDES)
    seed_everything(config.seed)
    data = instantiate(config.data, _convert_="all")
    model = instantiate(config.model, _convert_="all")
    return instantiate(config.trainer, _convert_="all"), model, data


def test_the_project_resumes_exactly():
    testing.assert_exact(make)
