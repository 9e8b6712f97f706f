"""The model that the package adds."""

from torch import nn


def lenet(channels: int = 1, classes: int = 10) -> nn.Module:
    """LeNet-5's layers for images of 28 pixels (LeCun et al. 1998, section II.B), with ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
