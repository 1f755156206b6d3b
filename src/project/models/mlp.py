"""A multilayer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Classifier of flattened inputs, with ReLU and dropout after each hidden layer.

    Args:
        input_size: Numbers per sample, all axes multiplied.
        hidden_sizes: Width of each hidden layer.
        num_classes: Size of the output.
        dropout: Probability that a hidden unit is zeroed in training.
    """

    def __init__(self, input_size: int, hidden_sizes: Sequence[int], num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = input_size
        for hidden_size in hidden_sizes:
            layers += [nn.Linear(width, hidden_size), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden_size
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to logits (batch, num_classes)."""
        logits: Tensor = self.layers(x)
        return logits
