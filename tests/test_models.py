"""Every model in configs/model/ learns a batch."""

from itertools import repeat
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer, seed_everything

from cairn.hydra.instantiate import instantiate

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
# What a model needs in addition to the defaults of configs/train.yaml.
OVERRIDES = {"gpt": ["data=text", f"data.files='{CONFIGS}/**/*.yaml'", "data.batch_size=4"]}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_learns_a_batch(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))  # prepared data go there
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"model={name}", *OVERRIDES.get(name, [])])
    seed_everything(0)
    model, data = instantiate(config.model, _convert_="all"), instantiate(config.data, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=60,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    (before,) = trainer.validate(model, repeat(batch), verbose=False)
    trainer.fit(model, repeat(batch), repeat(batch))
    (after,) = trainer.validate(model, repeat(batch), verbose=False)
    assert after["val/loss"] < 0.8 * before["val/loss"]
