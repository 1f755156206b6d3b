"""A small network."""

from __future__ import annotations

from torch import Tensor, nn


class DenseNet(nn.Module):
    """Linear layers with BatchNorm and dropout.

    Args:
        input_size: Number of inputs.
        hidden_size: Width of both hidden layers.
        output_size: Number of classes.
        dropout: Probability that a feature is zeroed in training.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, dropout: float) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, output_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.model(x)
