"""Operations: what an image goes through before networks see it, the same bits on any machine, in any batch, in any order.

    images_BCHW uint8, draws -> images_BCHW uint8          draws = f(seed, id, replica, place of the operation)

All arithmetic on pixels is on integers: positions are rounded to 1/256 pixel, weights and factors to 1/256. Floats would
depend on vector width and thread count in their last bit. Per-row parameters use float64 +, -, *, / and rounding alone, each
of which IEEE 754 defines to the bit; a library's sine is not, so `rotation` has its own.

Shapes: B batch, C channels, H height, W width, K draws of a row
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raykd import rng

ONE = 256
"""1 in fixed point: pixel positions, weights and factors count 256ths."""


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of one operation on one batch: each a pure function of seed, row id, replica and place."""

    seed: int
    ids_B: NDArray[np.int64]
    replicas_B: NDArray[np.int64]
    place: int
    """Which operation of the view draws, so that two of a kind draw apart."""

    def uniform(self, k: int) -> Tensor:
        """K numbers in [0, 1) for each row; the same on every call. float64 [B, K]"""
        ids_B1, replicas_B1 = self.ids_B[:, None], self.replicas_B[:, None]
        return torch.from_numpy(rng.uniform(self.seed, ids_B1, replicas_B1, self.place, np.arange(k)))


class Operation(ABC):
    """Changes each input by itself. Concrete operations are frozen dataclasses; raise `version` with a change in pixels."""

    @abstractmethod
    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """The changed images, a new uint8 tensor of the same shape; a row's result must depend on that row alone."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `ValueError` if it cannot take inputs of this shape. An operation that takes vectors overrides it."""
        if len(shape) != 3:
            raise ValueError(f"{self} needs images (C, H, W), but the inputs have shape {shape}: leave it out")


class Mixing(ABC):
    """Changes each input by another row's, the partner: the one kind of operation that needs the rows.

    The view looks the partner up and takes it through the operations before this one, with the partner's own draws.
    """

    @abstractmethod
    def partners(self, draws: Draws, rows: int) -> Tensor:
        """Positions of the partners among so many rows. int64 [B]"""

    @abstractmethod
    def shares(self, draws: Draws) -> Tensor:
        """How much of each row stays, in 256ths; the rest is the partner's. int64 [B]"""

    @abstractmethod
    def __call__(self, inputs_B: Tensor, partners_B: Tensor, shares_B: Tensor) -> Tensor:
        """The mixed inputs, of the same type and shape."""


class Asking(ABC):
    """Changes which positions of a sequence are asked about, and the tokens with them. See `raykd.tokens`."""

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027  most take any
        """Raise `ValueError` if it cannot take inputs of this shape (2, L)."""

    @abstractmethod
    def __call__(self, inputs_B2L: Tensor, labels_BL: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The changed inputs, and labels for the positions that they ask about; a row's depend on that row alone."""


@dataclass(frozen=True)
class Crop(Operation):
    """A window of the image's own size from the image with a border around it."""

    padding: int = 4
    """The border's width in pixels."""
    border: Literal["zero", "reflect"] = "zero"
    """Black, or the image mirrored at its outermost pixels."""

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"Crop has padding={self.padding}: 0 pixels or more")
        if self.border not in ("zero", "reflect"):
            raise ValueError(f"Crop has border={self.border!r}: 'zero' or 'reflect'")

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse vectors, and images too small to mirror so much of."""
        super().check(shape)
        if self.border == "reflect" and self.padding >= min(shape[1:]):
            raise ValueError(
                f"{self} mirrors {self.padding} pixels of inputs of shape {shape}: fewer than height and width"
            )

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """Each row's own window, copied."""
        height, width = images_BCHW.shape[2:]
        top_B, left_B = (draws.uniform(2) * (2 * self.padding + 1)).long().unbind(1)
        windows_BCTLHW = self._padded(images_BCHW).unfold(2, height, 1).unfold(3, width, 1)
        return windows_BCTLHW[torch.arange(len(images_BCHW)), :, top_B, left_B]

    def _padded(self, images_BCHW: Tensor) -> Tensor:
        if self.border == "zero":
            return F.pad(images_BCHW, [self.padding] * 4)
        rows, columns = (self._mirrored(size) for size in images_BCHW.shape[2:])
        return images_BCHW[:, :, rows][:, :, :, columns]

    def _mirrored(self, size: int) -> Tensor:
        return (size - 1) - ((size - 1) - torch.arange(-self.padding, size + self.padding).abs()).abs()


@dataclass(frozen=True)
class Flip(Operation):
    """The image mirrored left to right."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("Flip", "probability", self.probability)

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """Each row mirrored or not."""
        flipped_B111 = (draws.uniform(1) < self.probability)[:, :, None, None]
        return torch.where(flipped_B111, images_BCHW.flip(3), images_BCHW)


@dataclass(frozen=True)
class Affine(Operation):
    """The image turned and scaled about its centre, then shifted; bilinear, black outside.

    Source pixel (x', y') of pixel (x, y), with the centre c, the shift t, the angle a and the scale s:

        x' = c_x + ( cos a (x - c_x - t_x) + sin a (y - c_y - t_y)) / s
        y' = c_y + (-sin a (x - c_x - t_x) + cos a (y - c_y - t_y)) / s
    """

    degrees: float = 0.0
    """Angles are uniform in [-degrees, degrees]; a positive one turns clockwise."""
    translate: float = 0.0
    """Shifts are uniform in [-translate, translate], as a share of width and of height."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Scales are uniform between these; above 1 enlarges."""

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"Affine has degrees={self.degrees}: an angle in [0, 180]")
        _check_share("Affine", "translate", self.translate)
        if not 0.01 <= self.scale[0] <= self.scale[1]:
            raise ValueError(f"Affine has scale={self.scale}: (lowest, highest), at least 0.01")

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """Each row at its own angle, scale and shift."""
        turn_B1, right_B1, down_B1, size_B1 = draws.uniform(4).chunk(4, dim=1)
        cos_B1, sin_B1 = rotation(_between(-self.degrees, self.degrees, turn_B1) * (math.pi / 180))
        scale_B1 = _between(*self.scale, size_B1)
        cos_B1, sin_B1 = cos_B1 / scale_B1, sin_B1 / scale_B1
        (y_BH, middle_y), (x_BW, middle_x) = map(self._offsets, images_BCHW.shape[2:], (down_B1, right_B1))
        rows_BHW = _sum(cos_B1 * y_BH + middle_y, -sin_B1 * x_BW)
        columns_BHW = _sum(sin_B1 * y_BH, cos_B1 * x_BW + middle_x)
        return bilinear(images_BCHW, rows_BHW, columns_BHW)

    def _offsets(self, pixels: int, shift_B1: Tensor) -> tuple[Tensor, float]:
        """How far each pixel along an axis lies from the shifted centre, float64 [B, pixels], and the centre."""
        centre = (pixels - 1) / 2
        offsets = torch.arange(pixels, dtype=torch.float64) - centre
        return offsets - _between(-self.translate, self.translate, shift_B1) * pixels, centre


@dataclass(frozen=True)
class Cutout(Operation):
    """A black square whose centre is anywhere in the image, so that part of it may lie outside.

    Source: DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.
    """

    size: int
    """The side of the square in pixels."""
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Cutout has size={self.size}: at least 1 pixel")
        _check_share("Cutout", "probability", self.probability)

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """Each row with its own square, or none."""
        down_B1, right_B1, chance_B1 = draws.uniform(3).chunk(3, dim=1)
        rows_BH, columns_BW = (
            self._inside(at, n) for at, n in zip((down_B1, right_B1), images_BCHW.shape[2:], strict=True)
        )
        rows_BH &= chance_B1 < self.probability
        return images_BCHW.masked_fill((rows_BH[:, :, None] & columns_BW[:, None, :])[:, None], 0)

    def _inside(self, centre_B1: Tensor, pixels: int) -> Tensor:
        start_B1 = (centre_B1 * pixels).long() - self.size // 2
        places = torch.arange(pixels)
        return (places >= start_B1) & (places < start_B1 + self.size)


@dataclass(frozen=True)
class ColourJitter(Operation):
    """Brightness, then contrast, then saturation, each scaled by a factor uniform in [1 - amount, 1 + amount].

    Contrast moves pixels from or to the image's mean grey, saturation from or to each pixel's own grey. The order is fixed.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check_share("ColourJitter", name, getattr(self, name))

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse vectors, and images that are neither grey nor RGB."""
        super().check(shape)
        if shape[0] not in (1, 3):
            raise ValueError(f"{self} needs grey or RGB images, but the inputs have shape {shape}: leave it out")

    def __call__(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """Each row by its own three factors."""
        amounts = torch.tensor([self.brightness, self.contrast, self.saturation], dtype=torch.float64)
        factors_B3 = _between(-amounts, amounts, draws.uniform(3)).mul(ONE).round().to(torch.int32) + ONE
        brightness_B111, contrast_B111, saturation_B111 = factors_B3[:, :, None, None, None].unbind(1)
        pixels_BCHW = images_BCHW.to(torch.int32)
        pixels_BCHW = _blend(pixels_BCHW, torch.zeros((), dtype=torch.int32), brightness_B111)
        pixels_BCHW = _blend(pixels_BCHW, _mean(_grey(pixels_BCHW)), contrast_B111)
        return _blend(pixels_BCHW, _grey(pixels_BCHW), saturation_B111).to(torch.uint8)


def bilinear(images_BCHW: Tensor, rows_BHW: Tensor, columns_BHW: Tensor) -> Tensor:
    """Pixels of uint8 images at positions in 256ths of a pixel (int32), black outside. uint8 [B, C, H, W]"""
    height, width = images_BCHW.shape[2:]
    rows_BHW, columns_BHW = rows_BHW.clamp(-ONE, height * ONE), columns_BHW.clamp(-ONE, width * ONE)
    down_B1Q, right_B1Q = ((at & (ONE - 1)).flatten(1)[:, None] for at in (rows_BHW, columns_BHW))
    corners_BCP = _corners(images_BCHW).flatten(2)
    places_BHW = ((rows_BHW >> 8) + 1) * (width + 2) + (columns_BHW >> 8) + 1
    found_BCQ = corners_BCP.gather(2, places_BHW.flatten(1).long()[:, None].expand(-1, images_BCHW.shape[1], -1))
    a, b, c, d = ((found_BCQ >> shift) & 255 for shift in (0, 8, 16, 24))
    upper_BCQ, lower_BCQ = a * ONE + (b - a) * right_B1Q, c * ONE + (d - c) * right_B1Q
    mixed_BCQ = upper_BCQ * ONE + (lower_BCQ - upper_BCQ) * down_B1Q
    return ((mixed_BCQ + ONE * ONE // 2) >> 16).to(torch.uint8).view_as(images_BCHW)


def _corners(images_BCHW: Tensor) -> Tensor:
    """Each pixel with its right, lower and lower right neighbour in one int32, with a black border. [B, C, H + 2, W + 2]

    One gather then finds all four: three times as fast as four gathers on 128 images of 32x32.
    """
    pixels = F.pad(images_BCHW, [1, 2, 1, 2]).to(torch.int32)
    upper, lower = pixels[:, :, :-1], pixels[:, :, 1:]
    return upper[..., :-1] | upper[..., 1:] << 8 | lower[..., :-1] << 16 | lower[..., 1:] << 24


def rotation(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of angles in [-pi, pi], float64, to 1e-14: their Taylor series, the same bits on any machine."""
    square = angle * angle
    cos, sin = torch.zeros_like(angle), torch.zeros_like(angle)
    for n in range(15, -1, -1):
        sign = -1 if n % 2 else 1
        cos = cos * square + sign / math.factorial(2 * n)
        sin = sin * square + sign / math.factorial(2 * n + 1)
    return cos, sin * angle


def _sum(along_rows_BH: Tensor, along_columns_BW: Tensor) -> Tensor:
    """Positions as the sum of a part per row and a part per column of pixels, in 256ths. int32 [B, H, W]

    The parts are rounded to 2**-16 pixel, so the sum is exact.
    """
    rows_BH, columns_BW = (
        (part * 65536).round().clamp(-(2**29), 2**29).to(torch.int32) for part in (along_rows_BH, along_columns_BW)
    )
    return (rows_BH[:, :, None] + columns_BW[:, None, :] + 128) >> 8


def _blend(pixels_BCHW: Tensor, towards: Tensor, factor_B111: Tensor) -> Tensor:
    """Pixels moved from (factor above 1) or to (below 1) others; int32, kept in 0..255."""
    return ((pixels_BCHW * factor_B111 + towards * (ONE - factor_B111) + ONE // 2) >> 8).clamp(0, 255)


def _grey(pixels_BCHW: Tensor) -> Tensor:
    """Luma of RGB in 256ths (BT.601: .299, .587, .114); grey images are their own. int32 [B, 1, H, W]"""
    if pixels_BCHW.shape[1] == 1:
        return pixels_BCHW
    red, green, blue = pixels_BCHW.chunk(3, dim=1)
    return (red * 77 + green * 150 + blue * 29 + 128) >> 8


def _mean(grey_B1HW: Tensor) -> Tensor:
    """Each image's mean, rounded. int32 [B, 1, 1, 1]"""
    count = grey_B1HW.shape[2] * grey_B1HW.shape[3]
    return ((grey_B1HW.sum((1, 2, 3), keepdim=True) + count // 2) // count).to(torch.int32)


def _between(low: Tensor | float, high: Tensor | float, uniform: Tensor) -> Tensor:
    return low + (high - low) * uniform


def _check_share(name: str, field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} has {field}={value}: a share in [0, 1]")
