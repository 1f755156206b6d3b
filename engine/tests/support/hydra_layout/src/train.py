"""Entry point: builds what the configuration names, trains, and tests the best checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PROJECT_ROOT"] = str(ROOT)

import hydra  # noqa: E402
import lightning as L  # noqa: E402
from lightning import Callback, LightningDataModule, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.loggers import Logger  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from src.utils import extras, instantiate_all, metric_value, pylogger  # noqa: E402

log = pylogger(__name__)


def train(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and test; return all metrics, and the objects by name."""
    if cfg.get("seed"):
        L.seed_everything(cfg.seed, workers=True)

    log.info("data: %s", cfg.data._target_)
    datamodule: LightningDataModule = hydra.utils.instantiate(cfg.data)
    log.info("model: %s", cfg.model._target_)
    model: LightningModule = hydra.utils.instantiate(cfg.model)
    callbacks: list[Callback] = instantiate_all(cfg.get("callbacks"))
    logger: list[Logger] = instantiate_all(cfg.get("logger"))
    trainer: Trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks, logger=logger)
    objects = {"cfg": cfg, "datamodule": datamodule, "model": model, "callbacks": callbacks, "trainer": trainer}

    if cfg.get("train"):
        trainer.fit(model=model, datamodule=datamodule, ckpt_path=cfg.get("ckpt_path"))
    metrics = dict(trainer.callback_metrics)

    if cfg.get("test"):
        ckpt_path = trainer.checkpoint_callback.best_model_path or None
        if ckpt_path is None:
            log.warning("There is no best checkpoint: testing the current weights.")
        trainer.test(model=model, datamodule=datamodule, ckpt_path=ckpt_path)
        log.info("tested: %s", ckpt_path)
    return {**metrics, **trainer.callback_metrics}, objects


@hydra.main(version_base="1.3", config_path="../configs", config_name="train.yaml")
def main(cfg: DictConfig) -> float | None:
    """Train once, and return what a sweeper optimizes."""
    extras(cfg)
    metrics, _ = train(cfg)
    return metric_value(metrics, cfg.get("optimized_metric"))


if __name__ == "__main__":
    main()
