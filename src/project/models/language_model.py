"""Decides how a network is trained and judged as a language model."""

import math
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cairn.targets import build
from project.models.optimization import optimization
from project.models.specs import live_names, plain

Batch = tuple[Tensor, Tensor]


class LanguageModel(LightningModule):
    """Cross-entropy of the next token; logs the loss, and bits per byte if tokens are bytes.

    A batch is (x, y), both int64 (batch, length): y is the token after each place of x.

    Args:
        net: spec of a network that maps tokens (batch, length) to logits (batch, length, vocab_size), or the
        network. optimizer: spec with `_partial_: true`, or a callable that takes the parameters. scheduler:
        see `optimization`.

    Specs go into the checkpoint, so that `load_from_checkpoint(path)` needs nothing else. Live objects do
    not: then it has to be given them again.
    """

    def __init__(self, net: Any, optimizer: Any, scheduler: Any = None) -> None:
        super().__init__()
        net, optimizer, scheduler = plain(net), plain(optimizer), plain(scheduler)
        self.save_hyperparameters(ignore=live_names(net=net, optimizer=optimizer, scheduler=scheduler), logger=False)
        self.net: nn.Module = build(net, nn.Module)
        self._optimizer = optimizer
        self._scheduler = scheduler

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, vocab_size)."""
        logits: Tensor = self.net(tokens)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the batch's tokens, in nats."""
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log val/loss and val/bpb."""
        self._log_judgement("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log test/loss and test/bpb."""
        self._log_judgement("test", batch)

    def configure_optimizers(self) -> Any:
        """Build what the specs say."""
        return optimization(self, self._optimizer, self._scheduler)

    def _log_judgement(self, stage: str, batch: Batch) -> None:
        loss = self._loss(batch)
        values = {f"{stage}/loss": loss, f"{stage}/bpb": loss / math.log(2)}
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True, batch_size=len(batch[0]))

    def _loss(self, batch: Batch) -> Tensor:
        tokens, next_tokens = batch
        return cross_entropy(self(tokens).flatten(0, 1), next_tokens.flatten())
