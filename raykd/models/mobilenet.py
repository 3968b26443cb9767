"""MobileNetV2 for small images: inverted residuals, narrow between blocks and wide inside them.

    features.0 (stem) -> 17 blocks -> 1x1 convolution (1280) -> global average -> classifier

Source: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018, table 2.
A deviation for 32x32 images, as in public CIFAR forms: the stem and the second group keep the size (strides 1 instead
of 2), so features end at 1/8 of it. The distillation tables of Tian et al. (2020) use another form, whose stem halves
the image. Modules are named as in torchvision.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, initialised

# expansion, channels, blocks, stride of the first block
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True)
class MobileNetV2(Architecture):
    """MobileNetV2 with a width multiplier. Taps: stem, stage1..4 (one per size), pooled, logits.

    A block's output is a linear bottleneck by design: its taps are not activated.

    Raises `ValueError` for a width that is not positive, or inputs that are no images.
    """

    width: float = 1.0
    """The factor on all channels, rounded to multiples of 8; the last 1280 never shrink."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        if self.width <= 0:
            raise ValueError(f"MobileNetV2 width={self.width}: positive, such as 0.5 or 1.0")

    def __str__(self) -> str:
        return f"mobilenetv2-{self.width:g}"

    def body(self) -> nn.Module:
        """`features`, global average, and `classifier.1`."""
        inputs, last = _multiple_of_8(32 * self.width), _multiple_of_8(1280 * max(1.0, self.width))
        features: list[nn.Module] = [_convolved(self.channels, inputs)]
        for expansion, channels, blocks, stride in GROUPS:
            outputs = _multiple_of_8(channels * self.width)
            for i in range(blocks):
                features.append(_Block(inputs, outputs, expansion, 1 if i else stride))
                inputs = outputs
        features.append(_convolved(inputs, last, kernel=1))
        layers = OrderedDict[str, nn.Module](
            features=nn.Sequential(*features),
            pool=nn.AdaptiveAvgPool2d(1),
            classifier=nn.Sequential(nn.Flatten(), nn.Linear(last, self.classes)),
        )
        return initialised(nn.Sequential(layers))

    def stages(self) -> dict[str, str]:
        """The stem, and the last block of each size."""
        last_block = {"stem": 0, "stage1": 3, "stage2": 6, "stage3": 13, "stage4": 17}
        return {name: f"features.{i}" for name, i in last_block.items()}


class _Block(nn.Module):
    """Expand, convolve each channel by itself, project without activation; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inside = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_convolved(inputs, inside, kernel=1)] if expansion > 1 else []),
            _convolved(inside, inside, stride=stride, groups=inside),
            conv(inside, outputs, kernel=1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.conv(x_BCHW)
        return x_BCHW + out_BCHW if self.shortcut else out_BCHW


def _convolved(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = conv(inputs, outputs, kernel=kernel, stride=stride, groups=groups)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, that loses no more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
