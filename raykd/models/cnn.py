"""A small convolutional network, for laptops and tests: three blocks, halving the image between them.

    stage1 (w) -> pool -> stage2 (2w) -> pool -> stage3 (4w) -> global average -> fc

A stage is a 3x3 convolution, batch norm and ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, global_average, initialised


@dataclass(frozen=True)
class CNN(Architecture):
    """Three convolutions of `width`, `2 * width` and `4 * width` channels; images from 4x4. Taps: stage1..3, pooled, logits.

    Raises `ValueError` for a width below 1, or inputs that are no images of at least 4x4.
    """

    width: int = 16
    """Channels of the first block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        if self.width < 1:
            raise ValueError(f"CNN width={self.width}: at least 1")
        if min(self.input_shape[1:]) < 4:
            raise ValueError(f"CNN reads images of {self.input_shape[1:]} pixels: at least (4, 4), or resize")

    def __str__(self) -> str:
        return f"cnn{self.width}"

    def body(self) -> nn.Module:
        """Three blocks, global average and `fc`."""
        widths = (self.channels, self.width, 2 * self.width, 4 * self.width)
        stages = [
            nn.Sequential(conv(widths[i], widths[i + 1]), nn.BatchNorm2d(widths[i + 1]), nn.ReLU()) for i in range(3)
        ]
        layers = OrderedDict[str, nn.Module](
            stage1=stages[0],
            pool1=nn.MaxPool2d(2),
            stage2=stages[1],
            pool2=nn.MaxPool2d(2),
            stage3=stages[2],
            pool3=global_average(),
            fc=nn.Linear(widths[-1], self.classes),
        )
        return initialised(nn.Sequential(layers))

    def stages(self) -> dict[str, str]:
        """The blocks before pooling."""
        return {f"stage{i}": f"stage{i}" for i in (1, 2, 3)}
