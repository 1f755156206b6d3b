"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class CNN(nn.Module):
    """Image classifier: stages of 3x3 convolution, BatchNorm, ReLU and 2x2 max pooling, then an average.

    Args:
        channels: Output channels of each stage; the image needs at least 2 ** len(channels) pixels per side.
        num_classes: Size of the output.
        dropout: Probability that a feature before the last layer is zeroed in training.
        in_channels: Channels of the image.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, dropout: float = 0.0, in_channels: int = 1) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        stages = [_stage(before, after) for before, after in pairwise(widths)]
        head = [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(widths[-1], num_classes),
        ]
        self.layers = nn.Sequential(*stages, *head)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to logits (batch, num_classes)."""
        logits: Tensor = self.layers(x)
        return logits


def _stage(before: int, after: int) -> nn.Module:
    # Without a bias: BatchNorm subtracts the mean, and a bias with it.
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
