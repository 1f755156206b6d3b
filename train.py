"""Train a model: `python train.py`, `python train.py --help`, `python train.py resume=latest`."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# This clone's packages come first, here and in every process that is started from here.
OWN = [str(ROOT / "engine" / "src"), str(ROOT / "src")]
sys.path[:0] = OWN
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*OWN, os.environ.get("PYTHONPATH")]))

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from cairn.hydra import command_line  # noqa: E402
from cairn.hydra import entry as job  # noqa: E402


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    return job.train(cfg)


if __name__ == "__main__":
    if command_line.is_child():
        command_line.run_child()
    else:
        sys.argv[1:] = command_line.prepare(sys.argv[1:], ROOT)
        main()
