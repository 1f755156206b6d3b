"""Training and evaluation of a network as a classifier."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from .optimization import OptimizerFactory, SchedulerFactory, optimization

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Minimizes cross-entropy; logs loss and accuracy under train/, val/ and test/.

    A batch is (x, labels): the input of the network, and int64 (batch,).

    Args:
        net: Returns logits (batch, num_classes).
        optimizer: Takes the parameters, returns the optimizer.
        scheduler: Takes the optimizer, returns the learning-rate scheduler; or a mapping with `interval` and
            `monitor`, see `optimization`. None keeps the rate constant.
        num_classes: Number of classes, for the accuracy.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | Mapping[str, Any] | None = None,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        # A checkpoint holds plain values, not these objects: cairn.load_model builds them from the configuration.
        self.save_hyperparameters(ignore=["net", "optimizer", "scheduler"], logger=False)
        self.net = net
        self.optimizer, self.scheduler = optimizer, scheduler
        self.train_acc, self.val_acc, self.test_acc = (
            MulticlassAccuracy(num_classes, average="micro") for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the batch, in nats."""
        loss = self._evaluate("train", self.train_acc, batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log val/loss and val/acc."""
        loss = self._evaluate("val", self.val_acc, batch)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch[1]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log test/loss and test/acc."""
        loss = self._evaluate("test", self.test_acc, batch)
        self.log("test/loss", loss, sync_dist=True, batch_size=len(batch[1]))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return logits (batch, num_classes)."""
        logits: Tensor = self(batch[0])
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler."""
        return optimization(self, self.optimizer, self.scheduler)

    def _evaluate(self, stage: str, accuracy: MulticlassAccuracy, batch: Batch) -> Tensor:
        x, labels = batch
        logits = self(x)
        accuracy(logits, labels)
        self.log(f"{stage}/acc", accuracy, on_step=False, on_epoch=True, batch_size=len(labels))
        return cross_entropy(logits, labels)
