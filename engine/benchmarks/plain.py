"""A minimal plain Lightning training, for the peers and as the baseline of the start-up."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from benchmarks import contenders, workload
from benchmarks.commits import Ledger
from benchmarks.job import Job, read
from benchmarks.probe import Probe


class Noting(Probe):
    """A probe that also notes in the ledger which saves are due."""

    def __init__(self, job: str, ledger: Ledger) -> None:
        super().__init__(job, ledger)
        self._ledger = ledger

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        if self._saves and self.job.is_due(len(self._ended)):
            self._ledger.begin(len(self._ended))


def main(job_path: str, text: str) -> None:
    """Train according to the job, with the contender's callbacks and plugins."""
    job, ledger = read(job_path), Ledger()
    trainer = _trainer(job, Noting(job_path, ledger), ledger)
    size = workload.SIZES[job.size]
    path = job.resume_from or None
    trainer.fit(workload.model(size), datamodule=workload.data(size, Path(text)), ckpt_path=path, weights_only=True)


def _trainer(job: Job, probe: Probe, ledger: Ledger) -> Trainer:
    contender = contenders.CONTENDERS[job.contender]
    assert isinstance(contender, contenders.Plain)
    options = contender.trainer_options(job, ledger)
    options["callbacks"] = [probe, *options["callbacks"]]
    return Trainer(
        default_root_dir=job.run_dir,
        accelerator="gpu" if job.device == "cuda" else "cpu",
        devices=1,
        max_epochs=-1,
        max_steps=job.max_batches,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"logger": False, **options},
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # warnings of libraries about this machine; errors still end the process
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(*sys.argv[1:])
