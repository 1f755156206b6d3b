"""Train a model: `python train.py`, `python train.py --help`, `python train.py resume=latest`."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# This clone's package comes first, here and in every process that is started from here.
sys.path.insert(0, str(ROOT / "src"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from cairn import command, job  # noqa: E402


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    return job.train(cfg)


if __name__ == "__main__":
    if command.is_child():
        command.run_child()
    else:
        sys.argv[1:] = command.prepare(sys.argv[1:], ROOT)
        main()
