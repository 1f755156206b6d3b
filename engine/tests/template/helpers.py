"""Configurations and data that are small enough for a real training in a moment."""

import torch
from lightning.pytorch import LightningModule, Trainer
from tests.support.project import NAME
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from cairn.targets import build

PLATEAU = {
    "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "_partial_": True,
    "factor": 0.5,
    "patience": 0,
    "threshold": 1e9,  # no value is an improvement: the rate falls each time
    "threshold_mode": "abs",
}
CLASSIFIER = {
    "_target_": f"{NAME}.models.classifier.Classifier",
    "num_classes": 3,
    "net": {"_target_": f"{NAME}.models.mlp.MLP", "input_size": 4, "hidden_sizes": [5], "num_classes": 3},
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
    "scheduler": None,
}
LANGUAGE_MODEL = {
    "_target_": f"{NAME}.models.language_model.LanguageModel",
    "net": {"_target_": f"{NAME}.models.gpt.GPT", "seq_len": 6, "num_layers": 1, "embed_dim": 8},
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01, "betas": [0.9, 0.95]},
    "scheduler": {
        "scheduler": {
            "_target_": f"{NAME}.models.schedulers.WarmupCosine",
            "_partial_": True,
            "warmup_steps": 1,
            "total_steps": None,
        },
        "interval": "step",
    },
}
OLD_CLASSIFIER = {
    "_target_": "cairn.models.classifier.Classifier",
    "_recursive_": False,
    "_convert_": "all",
    "num_classes": 3,
    "net": {**CLASSIFIER["net"], "_target_": "cairn.models.mlp.MLP"},
    "optimizer": CLASSIFIER["optimizer"],
    "scheduler": {"interval": "epoch", "frequency": 1, "monitor": "val/loss", "scheduler": PLATEAU},
}
"""As version 0.1 stored it in checkpoints and run directories."""


class TemplateModule(LightningModule):
    """A model written as lightning-hydra-template does: all arguments are saved as hyperparameters."""

    def __init__(self, net, optimizer, scheduler, compile):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = net

    def training_step(self, batch, batch_idx):
        x, labels = batch
        return cross_entropy(self.net(x), labels)

    def configure_optimizers(self):
        optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}


TEMPLATE_MODEL = {
    "_target_": "tests.template.helpers.TemplateModule",
    "net": CLASSIFIER["net"],
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1, "betas": [0.8, 0.9]},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 1},
    "compile": False,
}


def model(spec, **changes):
    """Build the model of a configuration."""
    return build({**spec, **changes})


def images():
    """Two batches for a classifier."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def tokens():
    """Two batches for a language model."""
    text = torch.randint(256, (8, 7), generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(text[:, :-1], text[:, 1:]), batch_size=4)


def trainer(tmp_path, **options):
    """Make a quiet trainer for one epoch on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, **quiet}
    return Trainer(default_root_dir=tmp_path, **{**settings, **options})
