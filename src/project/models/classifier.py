"""Decides how a network is trained and judged as a classifier."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from cairn.targets import build
from project.models.optimization import optimization
from project.models.specs import live_names, plain

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Cross-entropy of a network's logits; logs loss and accuracy under train/, val/ and test/.

    A batch is (x, labels): whatever the network takes, and int64 (batch,).

    Args:
        net: spec of a network that returns logits (batch, num_classes), or the network.
        optimizer: spec with `_partial_: true`, or a callable that takes the parameters.
        scheduler: see `optimization`.
        num_classes: for the accuracy.

    Specs go into the checkpoint, so that `load_from_checkpoint(path)` needs nothing else. Live objects do
    not: then it has to be given them again.
    """

    def __init__(self, net: Any, optimizer: Any, scheduler: Any = None, num_classes: int = 10) -> None:
        super().__init__()
        net, optimizer, scheduler = plain(net), plain(optimizer), plain(scheduler)
        self.save_hyperparameters(ignore=live_names(net=net, optimizer=optimizer, scheduler=scheduler), logger=False)
        self.net: nn.Module = build(net, nn.Module)
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.train_acc, self.val_acc, self.test_acc = (
            MulticlassAccuracy(num_classes, average="micro") for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the batch, in nats."""
        loss = self._judge("train", self.train_acc, batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log val/loss and val/acc."""
        loss = self._judge("val", self.val_acc, batch)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch[1]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log test/loss and test/acc."""
        loss = self._judge("test", self.test_acc, batch)
        self.log("test/loss", loss, sync_dist=True, batch_size=len(batch[1]))

    def configure_optimizers(self) -> Any:
        """Build what the specs say."""
        return optimization(self, self._optimizer, self._scheduler)

    def _judge(self, stage: str, accuracy: MulticlassAccuracy, batch: Batch) -> Tensor:
        x, labels = batch
        logits = self(x)
        accuracy(logits, labels)
        self.log(f"{stage}/acc", accuracy, on_step=False, on_epoch=True, batch_size=len(labels))
        return cross_entropy(logits, labels)
