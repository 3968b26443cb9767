"""The pieces that the convolutional families share.

Shapes: B batch, C channels, H height, W width, D width of the last feature.
"""

from __future__ import annotations

from torch import nn


def conv(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def global_average() -> nn.Sequential:
    """[B, C, H, W] -> [B, D = C], at any size."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def initialised(body: nn.Module) -> nn.Module:
    """`body` with every convolution drawn from N(0, 2 / fan out), the linear layers as torch leaves them.

    Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015, equation 14.
    """
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return body
