"""Wide residual networks: few, wide, pre-activated blocks.

    conv1 (16) -> block1 (16k) -> block2 (32k, half size) -> block3 (64k, half size) -> bn, relu -> global average -> fc

n = (depth - 4) / 6 blocks of two 3x3 convolutions each; no dropout.
Source: Zagoruyko, Komodakis, "Wide residual networks", 2016, table 1.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, global_average, initialised


@dataclass(frozen=True)
class WideResNet(Architecture):
    """A wide residual network of depth 6n + 4, such as WRN-40-2. Taps: stem, stage1..3, pooled, logits.

    A stage ends before its activation here, so its tap is where the next piece has just activated it: the same size,
    after batch norm and ReLU.

    Raises `ValueError` for another depth, a width below 1, or inputs that are no images.
    """

    depth: int = 16
    """Layers with weights: 10, 16, 22, 28, 40 ..."""
    width: int = 2
    """The factor k on 16, 32, 64 channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"WideResNet depth={self.depth}: it is 6n + 4, such as 10, 16, 22, 28, 40")
        if self.width < 1:
            raise ValueError(f"WideResNet width={self.width}: at least 1")

    def __str__(self) -> str:
        return f"wrn{self.depth}-{self.width}"

    def body(self) -> nn.Module:
        """The stem, three stages of n blocks, the last activation, global average and `fc`."""
        blocks, widths = (self.depth - 4) // 6, (16, 16 * self.width, 32 * self.width, 64 * self.width)
        layers = OrderedDict[str, nn.Module](
            conv1=conv(self.channels, widths[0]),
            block1=_stage(widths[0], widths[1], blocks, stride=1),
            block2=_stage(widths[1], widths[2], blocks, stride=2),
            block3=_stage(widths[2], widths[3], blocks, stride=2),
            bn1=nn.BatchNorm2d(widths[3]),
            relu=nn.ReLU(),
            avgpool=global_average(),
            fc=nn.Linear(widths[3], self.classes),
        )
        return initialised(nn.Sequential(layers))

    def stages(self) -> dict[str, str]:
        """Where each stage's output is activated: in the next block, and at the end."""
        activated = {"stem": 1, "stage1": 2, "stage2": 3}
        return {name: f"block{i}.layer.0.relu1" for name, i in activated.items()} | {"stage3": "relu"}


class _Block(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))); where the shape changes, a 1x1 convolution of the activated x takes its place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, outputs, stride=stride)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(outputs), nn.ReLU(), conv(outputs, outputs)
        # the name that public checkpoints use
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW: Tensor = self.relu1(self.bn1(x_BCHW))
        change_BCHW: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active_BCHW))))
        return change_BCHW + (x_BCHW if self.convShortcut is None else self.convShortcut(active_BCHW))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    layer = nn.Sequential(_Block(inputs, outputs, stride), *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(layer=layer))
