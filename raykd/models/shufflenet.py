"""ShuffleNetV2 for small images: half of the channels pass by, half are convolved, then they are shuffled.

    conv1 (24) -> stage2 -> stage3 -> stage4, each at half the size -> conv5 -> global average -> fc

Source: Ma, Zhang, Zheng, Sun, "ShuffleNet V2: practical guidelines for efficient CNN architecture design", 2018, table 5
and figure 3. A deviation for 32x32 images, as in public CIFAR forms: the stem keeps the size (stride 1, no max pool).
Modules are named as in torchvision.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raykd.models.architecture import Architecture
from raykd.models.layers import conv, global_average, initialised

WIDTHS = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
BLOCKS = (4, 8, 4)


@dataclass(frozen=True)
class ShuffleNetV2(Architecture):
    """ShuffleNetV2 in one of its four published widths. Taps: stem, stage1..3, pooled, logits.

    Raises `ValueError` for another width, or inputs that are no images.
    """

    width: float = 1.0
    """0.5, 1.0, 1.5 or 2.0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_images()
        if self.width not in WIDTHS:
            raise ValueError(f"ShuffleNetV2 width={self.width}: one of {', '.join(map(str, WIDTHS))}")

    def __str__(self) -> str:
        return f"shufflenetv2-{self.width:g}"

    def body(self) -> nn.Module:
        """The stem, three stages, the last convolution, global average and `fc`."""
        *stages, last = WIDTHS[self.width]
        inputs = 24
        layers = OrderedDict[str, nn.Module](conv1=_convolved(self.channels, inputs, kernel=3))
        for i, (outputs, blocks) in enumerate(zip(stages, BLOCKS, strict=True), start=2):
            layers[f"stage{i}"] = nn.Sequential(
                _Halving(inputs, outputs), *(_Block(outputs) for _ in range(blocks - 1))
            )
            inputs = outputs
        layers["conv5"] = _convolved(inputs, last)
        layers["avgpool"] = global_average()
        layers["fc"] = nn.Linear(last, self.classes)
        return initialised(nn.Sequential(layers))

    def stages(self) -> dict[str, str]:
        """The stem, and the stages, which the paper counts from 2."""
        return {"stem": "conv1", "stage1": "stage2", "stage2": "stage3", "stage3": "stage4"}


class _Block(nn.Module):
    """Half of the channels as they are, half convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch2 = _branch(channels // 2, channels // 2, stride=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept_BCHW, changed_BCHW = x_BCHW.chunk(2, dim=1)
        return _shuffled(kept_BCHW, self.branch2(changed_BCHW))


class _Halving(nn.Module):
    """Half the size, other channels: both branches are convolved, and see all channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        each = conv(inputs, inputs, stride=2, groups=inputs)
        self.branch1 = nn.Sequential(each, nn.BatchNorm2d(inputs), *_convolved(inputs, outputs // 2))
        self.branch2 = _branch(inputs, outputs // 2, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return _shuffled(self.branch1(x_BCHW), self.branch2(x_BCHW))


def _branch(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    each = conv(outputs, outputs, stride=stride, groups=outputs)
    return nn.Sequential(*_convolved(inputs, outputs), each, nn.BatchNorm2d(outputs), *_convolved(outputs, outputs))


def _convolved(inputs: int, outputs: int, *, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel=kernel), nn.BatchNorm2d(outputs), nn.ReLU())


def _shuffled(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """The channels of both, taking turns."""
    return torch.stack((first_BCHW, second_BCHW), dim=2).flatten(1, 2)
