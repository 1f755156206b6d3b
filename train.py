"""Train a model: `python train.py`, `python train.py --help`, `python train.py resume=latest`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "engine" / "src"), str(ROOT / "src")]  # this clone's packages, whatever is installed

import cairn.hydra  # noqa: E402


@cairn.hydra.main(config_path="configs", config_name="train")
def main(run: cairn.hydra.Run) -> float | None:
    """Train, test, predict, and return what a sweep optimizes.

    This function is yours: add lines where you like. Import torch and your own modules inside it, so that --help does
    not wait for them. Every process of the run executes it. A resumed run executes it again from the first line, and
    `fit` continues at the batch of the checkpoint. The configuration is `run.config`, for example
    `run.config.data.batch_size`.
    """
    data = run.data()  # configs/data
    model = run.model()  # configs/model
    trainer = run.trainer()  # configs/trainer, callbacks, logger and checkpoint

    run.fit(trainer, model, data)
    run.test(trainer, model, data)
    run.predict(trainer, model, data)

    return run.result()


if __name__ == "__main__":
    main()
