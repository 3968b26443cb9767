"""What a network does to raw inputs before its body sees them: every network owns its own, so teachers may differ.

    uint8 or float -> [0, 1] -> square of `resize` -> centre square of `crop` -> channels repeated -> (x - mean) / std

Shapes: B batch, C channels, H height, W width; a raw input may also be a vector [B, D], which is only normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """From raw inputs to what the body sees; without arguments only uint8 -> float32.

    Raises `ValueError` for sides below 1, a crop larger than the resized image, and unequal or non-positive statistics.
    """

    resize: int | None = None
    """Side in pixels of the square that images become (bilinear, antialiased)."""
    crop: int | None = None
    """Side in pixels of the centre square that is kept, after resizing."""
    mean: tuple[float, ...] = ()
    """One per channel, of inputs in [0, 1]; empty: no normalisation."""
    std: tuple[float, ...] = ()
    """One per channel, like `mean`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        for name, side in (("resize", self.resize), ("crop", self.crop)):
            if side is not None and side < 1:
                raise ValueError(f"Preprocess {name}={side}: a side is at least 1 pixel, or None")
        if self.resize and self.crop and self.crop > self.resize:
            raise ValueError(f"Preprocess crop={self.crop} is larger than resize={self.resize}: crop at most that")
        if len(self.mean) != len(self.std):
            raise ValueError(f"Preprocess mean={self.mean} and std={self.std}: give one of each per channel")
        if any(std <= 0 for std in self.std):
            raise ValueError(f"Preprocess std={self.std}: standard deviations are positive")

    def __call__(self, inputs_B: Tensor, channels: int) -> Tensor:
        """Raw inputs [B, C, H, W] or [B, D], uint8 or float, as float32; one channel is repeated to `channels`."""
        inputs_B = unit(inputs_B)
        if inputs_B.dim() == 4:
            inputs_B = _cropped(_resized(inputs_B, self.resize), self.crop)
            if inputs_B.shape[1] == 1:
                inputs_B = inputs_B.expand(-1, channels, -1, -1)
        if not self.mean:
            return inputs_B
        per_channel = (-1, *(1,) * (inputs_B.dim() - 2))
        mean = torch.tensor(self.mean, device=inputs_B.device).view(per_channel)
        std = torch.tensor(self.std, device=inputs_B.device).view(per_channel)
        return (inputs_B - mean) / std

    def shape_of(self, shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
        """The shape of one preprocessed sample, from the raw one.

        Raises `ValueError` where `shape` cannot become one of `channels` channels, or has no pixels to resize or crop.
        """
        image = len(shape) == 3
        if shape[0] != channels and not (image and shape[0] == 1):
            raise ValueError(
                f"shape={shape} has {shape[0]} channels, the network reads {channels}: give {channels} or 1"
            )
        if self.mean and len(self.mean) != channels:
            raise ValueError(
                f"preprocess.mean={self.mean} has {len(self.mean)} values, the network reads {channels} channels"
            )
        if not image:
            if self.resize or self.crop:
                raise ValueError(f"preprocess resizes or crops, and shape={shape} is no image: images are (C, H, W)")
            return shape
        height, width = (self.resize, self.resize) if self.resize else shape[1:]
        if self.crop and self.crop > min(height, width):
            raise ValueError(
                f"preprocess.crop={self.crop} is larger than the image {(height, width)}: crop at most that"
            )
        return (channels, self.crop or height, self.crop or width)


IMAGENET = Preprocess(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What most public ImageNet weights were trained with."""


def unit(inputs_B: Tensor) -> Tensor:
    """Raw inputs as float32: uint8 in [0, 255] becomes [0, 1], floats stay what they are.

    Raises `ValueError` for any other dtype.
    """
    if inputs_B.dtype == torch.uint8:
        return inputs_B.to(torch.float32) / 255
    if not inputs_B.is_floating_point():
        raise ValueError(f"inputs are {str(inputs_B.dtype).removeprefix('torch.')}: a network reads uint8 or float")
    return inputs_B.to(torch.float32)


def _resized(images_BCHW: Tensor, side: int | None) -> Tensor:
    if side is None or tuple(images_BCHW.shape[2:]) == (side, side):
        return images_BCHW
    return F.interpolate(images_BCHW, size=(side, side), mode="bilinear", antialias=True)


def _cropped(images_BCHW: Tensor, side: int | None) -> Tensor:
    if side is None:
        return images_BCHW
    top, left = (images_BCHW.shape[2] - side) // 2, (images_BCHW.shape[3] - side) // 2
    return images_BCHW[:, :, top : top + side, left : left + side]
