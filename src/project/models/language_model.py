"""Training and evaluation of a network as a language model."""

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .optimization import OptimizerFactory, SchedulerFactory, optimization

Batch = tuple[Tensor, Tensor]


class LanguageModel(LightningModule):
    """Minimizes the cross-entropy of the next token; logs loss and bits per byte (if a token is a byte).

    A batch is (x, y), both int64 (batch, length): y holds the token that follows each position of x.

    Args:
        net: Maps tokens (batch, length) to logits (batch, length, vocab_size).
        optimizer: Takes the parameters, returns the optimizer.
        scheduler: Takes the optimizer, returns the learning-rate scheduler; or a mapping with `interval` and
            `monitor`, see `optimization`. None keeps the rate constant.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer, self.scheduler = optimizer, scheduler

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, length, vocab_size)."""
        logits: Tensor = self.net(tokens)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the batch's tokens, in nats."""
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log val/loss and val/bpb."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log test/loss and test/bpb."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return logits (batch, length, vocab_size)."""
        logits: Tensor = self(batch[0])
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler."""
        return optimization(self, self.optimizer, self.scheduler)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        loss = self._loss(batch)
        values = {f"{stage}/loss": loss, f"{stage}/bpb": loss / math.log(2)}
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True, batch_size=len(batch[0]))

    def _loss(self, batch: Batch) -> Tensor:
        tokens, next_tokens = batch
        return cross_entropy(self(tokens).flatten(0, 1), next_tokens.flatten())
