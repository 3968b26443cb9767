"""The residual networks for small images, and their wide forms of the distillation literature.

    conv1 -> layer1 (16) -> layer2 (32, half size) -> layer3 (64, half size) -> global average -> fc

n = (depth - 2) / 6 blocks of two 3x3 convolutions a layer.
Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2016, section 4.2; x4 as in Tian, Krishnan,
Isola, "Contrastive representation distillation", 2020. A deviation of that line from He et al., kept here so that
parameter counts and public checkpoints agree: where the shape changes, the shortcut is a 1x1 convolution with batch norm
instead of padding.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, global_average, initialised


@dataclass(frozen=True)
class ResNet(Architecture):
    """A residual network of depth 6n + 2. Taps: stem, stage1..3, pooled, logits.

    `ResNet(8, width=4)` is "resnet8x4": stages of 64, 128, 256 channels after a stem of 32.

    Raises `ValueError` for another depth, a width below 1, or inputs that are no images.
    """

    depth: int = 20
    """Layers with weights: 8, 14, 20, 32, 44, 56, 110 ..."""
    width: int = 1
    """A factor on the stages' 16, 32, 64 channels; the stem has 16, and 32 in wide networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"ResNet depth={self.depth}: it is 6n + 2, such as 8, 14, 20, 32, 44, 56, 110")
        if self.width < 1:
            raise ValueError(f"ResNet width={self.width}: at least 1, such as 1 or 4")

    def __str__(self) -> str:
        return f"resnet{self.depth}" + (f"x{self.width}" if self.width > 1 else "")

    def body(self) -> nn.Module:
        """The stem, three stages of n blocks, global average and `fc`."""
        blocks, stem = (self.depth - 2) // 6, min(16 * self.width, 32)
        widths = (stem, 16 * self.width, 32 * self.width, 64 * self.width)
        layers = OrderedDict[str, nn.Module](
            conv1=conv(self.channels, stem),
            bn1=nn.BatchNorm2d(stem),
            relu=nn.ReLU(),
            layer1=_stage(widths[0], widths[1], blocks, stride=1),
            layer2=_stage(widths[1], widths[2], blocks, stride=2),
            layer3=_stage(widths[2], widths[3], blocks, stride=2),
            avgpool=global_average(),
            fc=nn.Linear(widths[3], self.classes),
        )
        return initialised(nn.Sequential(layers))

    def stages(self) -> dict[str, str]:
        """After the last ReLU of each stage."""
        return {"stem": "relu", "stage1": "layer1", "stage2": "layer2", "stage3": "layer3"}


class _Block(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))"""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        change_BCHW = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x_BCHW)))))
        out: Tensor = self.relu2(self.downsample(x_BCHW) + change_BCHW)
        return out


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs, stride), *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))
