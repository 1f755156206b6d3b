"""What others learn of a run before it trains: loggers its facts, and trackers and the mirror its checkpoints."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch.nn.parameter import is_lazy

from cairn.hydra.parse import mirror_settings, tracker_settings, wandb_settings
from cairn.hydra.run import provenance
from cairn.hydra.run.build import Built
from cairn.hydra.run.init_weights import InitWeights
from cairn.hydra.run.start import Start
from cairn.wandb import run as wandb_run
from cairn.wandb import start as wandb_start


def run(start: Start, built: Built, model: LightningModule, weights: InitWeights) -> None:
    """Describe the run to the loggers, and connect the engine to what checkpoints are uploaded to.

    Args:
        start: Decisions of this start.
        built: The trainer of the run.
        model: The model.
        weights: Weights of a file that a new run begins with.
    """
    trainer, settings, directory = built.trainer, start.settings, start.directory
    trouble = start.mirrors.trouble if start.mirrors is not None else ""
    # On each rank: it uploads its shards.
    built.checkpoints.listeners += mirror_settings.listeners(settings.config, directory.path, trouble)
    built.checkpoints.closes_listeners = False  # after the test, see ending.close_uploads
    if not trainer.is_global_zero:
        return
    named, metadata = settings.ckpt_path or settings.init_weights, built.checkpoints.metadata
    source = None
    if start.plan.saved is None and named:
        contents = start.loader.peek(start.plan.path) if start.plan.path else weights.contents()
        version, known_as = wandb_start.fetched_version(named, directory.path), wandb_settings.known_as(contents)
        source = provenance.started_from(settings.ckpt_path, settings.init_weights, contents, version, known_as)
    num_parameters = sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))
    record = directory.record()
    overrides = record.overrides if record else ()
    facts = provenance.facts(directory.path, metadata["git"], num_parameters, source, overrides)
    wandb_run.log_run(directory.path, trainer.loggers, metadata["config"], facts)
    built.checkpoints.listeners += wandb_settings.listeners(settings.config, trainer.loggers, directory.path, facts)
    built.checkpoints.listeners += tracker_settings.listeners(settings.config, trainer.loggers, directory.path, facts)
