"""VGG for small images: plain 3x3 convolutions with batch norm, and a single linear layer at the end.

    block0 -> pool -> block1 -> pool -> block2 -> pool -> block3 -> pool -> block4 -> global average -> classifier

Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, table 1 (A, B,
D, E for 11, 13, 16, 19). 8 has one convolution a block, as in Tian, Krishnan, Isola, "Contrastive representation
distillation", 2020, whose CIFAR form (batch norm, one linear layer, no pool after the last block) all of them take.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, global_average, initialised

CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True)
class VGG(Architecture):
    """VGG 8, 11, 13, 16 or 19 with batch norm. Taps: stage1..5 before pooling, pooled, logits.

    Pools round up, so images below 16x16 pass; at 32x32 this changes nothing.

    Raises `ValueError` for another depth, or inputs that are no images.
    """

    depth: int = 8
    """8, 11, 13, 16 or 19."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        if self.depth not in CONVOLUTIONS:
            raise ValueError(f"VGG depth={self.depth}: one of {', '.join(map(str, CONVOLUTIONS))}")

    def __str__(self) -> str:
        return f"vgg{self.depth}"

    def body(self) -> nn.Module:
        """Five blocks, four pools between them, global average and `classifier`."""
        layers, inputs = OrderedDict[str, nn.Module](), self.channels
        for i, (convolutions, width) in enumerate(zip(CONVOLUTIONS[self.depth], WIDTHS, strict=True)):
            layers[f"block{i}"] = _block(inputs, width, convolutions)
            layers[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True) if i < 4 else global_average()
            inputs = width
        layers["classifier"] = nn.Linear(inputs, self.classes)
        return initialised(nn.Sequential(layers))

    def stages(self) -> dict[str, str]:
        """The blocks, before pooling."""
        return {f"stage{i + 1}": f"block{i}" for i in range(5)}


def _block(inputs: int, width: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(convolutions):
        # a bias before batch norm changes nothing, but published counts and checkpoints have it
        layers += [conv(width if i else inputs, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
