"""Each operation against closed forms and against slow loops over pixels; how rows draw is tested in test_view."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import betaincinv
from source_cases import noise
from torch import Tensor

from raykd.data import Affine, ColourJitter, Crop, Cutout, Draws, Flip, Mixup, Operation
from raykd.data.ops import rotation

IMAGES = torch.from_numpy(noise(40, 3, 9, 12))


def draws(rows: int = 40, replica: int = 0) -> Draws:
    return Draws(0, np.arange(rows), np.full(rows, replica), 0)


class Given(Draws):
    """Draws that are the same given numbers for every row."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0, np.arange(40), np.zeros(40, np.int64), 0)
        object.__setattr__(self, "numbers", numbers)

    def uniform(self, k: int) -> Tensor:
        assert len(self.numbers) == k
        return torch.tensor([self.numbers] * 40, dtype=torch.float64)


@pytest.mark.parametrize(
    "op",
    [Crop(0), Crop(0, "reflect"), Flip(0), Affine(), Cutout(3, probability=0), ColourJitter()],
    ids=repr,
)
def test_an_operation_of_zero_range_is_the_identity(op: Operation) -> None:
    assert torch.equal(op(IMAGES, draws()), IMAGES)


def test_flipping_always_and_twice_is_the_identity_and_once_is_the_mirror() -> None:
    assert torch.equal(Flip(1)(IMAGES, draws()), IMAGES.flip(3))
    assert torch.equal(Flip(1)(Flip(1)(IMAGES, draws()), draws()), IMAGES)


def test_a_flip_has_its_probability() -> None:
    many = IMAGES[:1].expand(4000, -1, -1, -1)
    flipped = (Flip(0.3)(many, draws(4000)) != many).flatten(1).any(1)
    assert flipped.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_crop_is_the_window_that_loops_over_pixels_find(border: str) -> None:
    padding, (height, width) = 4, IMAGES.shape[2:]
    cropped = Crop(padding, border)(IMAGES, draws())
    seen = set()
    for row, (down, right) in enumerate(draws().uniform(2).tolist()):
        top, left = (int(u * (2 * padding + 1)) - padding for u in (down, right))
        seen.add((top, left))
        for y in range(height):
            for x in range(width):
                sy, sx = y + top, x + left
                if border == "reflect":
                    sy, sx = reflected(sy, height), reflected(sx, width)
                inside = 0 <= sy < height and 0 <= sx < width
                expected = IMAGES[row, :, sy, sx] if inside else torch.zeros(3, dtype=torch.uint8)
                assert torch.equal(cropped[row, :, y, x], expected)
    assert len(seen) > 20


def reflected(place: int, size: int) -> int:
    """Walks back from a border without repeating it: -1 -> 1, size -> size - 2."""
    return -place if place < 0 else 2 * (size - 1) - place if place >= size else place


@pytest.mark.parametrize(
    "op", [Affine(25, 0.2, (0.7, 1.4)), Affine(180), Affine(scale=(0.5, 0.5)), Affine(translate=1)], ids=repr
)
def test_affine_is_the_bilinear_interpolation_that_loops_over_pixels_find(op: Affine) -> None:
    height, width = IMAGES.shape[2:]
    moved = op(IMAGES, draws()).double()
    for row in range(0, 40, 8):
        turn, right, down, size = draws().uniform(4)[row].tolist()
        angle = math.radians((2 * turn - 1) * op.degrees)
        scale = op.scale[0] + size * (op.scale[1] - op.scale[0])
        shift_x, shift_y = (2 * right - 1) * op.translate * width, (2 * down - 1) * op.translate * height
        for y in range(height):
            for x in range(width):
                dx, dy = x - (width - 1) / 2 - shift_x, y - (height - 1) / 2 - shift_y
                sx = (math.cos(angle) * dx + math.sin(angle) * dy) / scale + (width - 1) / 2
                sy = (-math.sin(angle) * dx + math.cos(angle) * dy) / scale + (height - 1) / 2
                expected = interpolated(IMAGES[row].double(), sy, sx)
                # 1/512 pixel off along either axis, between pixels that differ by up to 255; and rounding
                assert (moved[row, :, y, x] - expected).abs().max() <= 2 * 255 / 512 + 0.6


def interpolated(image_CHW: Tensor, y: float, x: float) -> Tensor:
    total = torch.zeros(len(image_CHW), dtype=torch.float64)
    for py in (math.floor(y), math.floor(y) + 1):
        for px in (math.floor(x), math.floor(x) + 1):
            if 0 <= py < image_CHW.shape[1] and 0 <= px < image_CHW.shape[2]:
                total += (1 - abs(y - py)) * (1 - abs(x - px)) * image_CHW[:, py, px]
    return total


def test_affine_turns_clockwise_by_quarters_exactly() -> None:
    square = torch.from_numpy(noise(40, 3, 7, 7))
    for end, quarters in ((1.0, -1), (0.0, 1)):
        assert torch.equal(Affine(degrees=90)(square, Given(end, 0.5, 0.5, 0.5)), torch.rot90(square, quarters, (2, 3)))
    assert torch.equal(Affine(degrees=180)(square, Given(1.0, 0.5, 0.5, 0.5)), square.flip(2, 3))


def test_affine_shifts_by_whole_pixels_exactly_and_leaves_black_behind() -> None:
    moved = Affine(translate=0.25)(IMAGES, Given(0.5, 1.0, 0.5, 0.5))  # a quarter of the width of 12
    assert torch.equal(moved[..., 3:], IMAGES[..., :-3])
    assert moved[..., :3].max() == 0


def test_affine_enlarges_about_the_centre() -> None:
    image = torch.zeros(40, 1, 9, 9, dtype=torch.uint8)
    image[:, :, 3:6, 3:6] = 255
    large = Affine(scale=(1.0, 3.0))(image, Given(0.5, 0.5, 0.5, 1.0))
    assert torch.equal(large[:, :, 1:8, 1:8], torch.full((40, 1, 7, 7), 255, dtype=torch.uint8))
    assert torch.equal(large, large.flip(2, 3))


def test_rotation_is_the_cosine_and_the_sine() -> None:
    angles = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)
    cos, sin = rotation(angles)
    torch.testing.assert_close(cos, angles.cos(), atol=1e-14, rtol=0)
    torch.testing.assert_close(sin, angles.sin(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("size", [1, 4, 5, 30])
def test_cutout_blackens_a_square_of_at_most_its_size_and_nothing_else(size: int) -> None:
    white = torch.full((40, 3, 9, 12), 255, dtype=torch.uint8)
    cut = Cutout(size)(white, draws())
    assert set(cut.unique().tolist()) <= {0, 255}
    for image in cut:
        ys, xs = (image[0] == 0).nonzero().T
        height, width = (int(at.max() - at.min()) + 1 for at in (ys, xs))
        assert len(ys) == height * width
        assert max(height, width) <= size
        assert torch.equal(image[0], image[1])
    assert torch.equal(Cutout(size)(IMAGES, draws()), torch.where(cut == 0, 0, IMAGES))


def test_colour_jitter_is_what_a_computation_in_floats_gives() -> None:
    op = ColourJitter(0.4, 0.5, 0.6)
    changed = op(IMAGES, draws()).double()
    factors = 1 + (2 * draws().uniform(3) - 1) * torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    for row in range(40):
        brightness, contrast, saturation = factors[row].tolist()
        image = (IMAGES[row].double() * brightness).clamp(0, 255)
        mean = (image * luma).sum(0).mean()
        image = (mean + (image - mean) * contrast).clamp(0, 255)
        grey = (image * luma).sum(0)
        image = (grey + (image - grey) * saturation).clamp(0, 255)
        assert (changed[row] - image).abs().max() <= 5  # three factors to 1/512 of 255, three times rounded
        assert (changed[row] - image).abs().mean() <= 1


def test_colour_jitter_of_grey_images_keeps_their_saturation() -> None:
    grey = IMAGES[:, :1]
    assert torch.equal(ColourJitter(saturation=1)(grey, draws()), grey)
    assert not torch.equal(ColourJitter(contrast=1)(grey, draws()), grey)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 2.0, 7.5, 20.0])
def test_shares_of_mixup_are_the_betas_quantiles(alpha: float) -> None:
    for chance in (0.0, 0.001, 0.2, 0.37, 0.5, 0.81, 0.9999):
        shares = Mixup(alpha).shares(Given(0.0, chance)).double() / 256
        assert shares[0].item() == pytest.approx(float(betaincinv(alpha, alpha, chance)), abs=1 / 512 + 1e-9)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_have_the_betas_mean_and_variance(alpha: float) -> None:
    shares = Mixup(alpha).shares(draws(20_000)).double() / 256
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(variance / 20_000))
    assert shares.var().item() == pytest.approx(variance, rel=0.05)


def test_partners_of_mixup_are_all_rows_alike() -> None:
    counts = torch.bincount(Mixup().partners(draws(20_000), 10), minlength=10)
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


def test_draws_differ_between_rows_replicas_places_and_seeds_and_never_between_calls() -> None:
    one = Draws(0, np.arange(100), np.zeros(100, np.int64), 0)
    others = [Draws(1, one.ids_B, one.replicas_B, 0), Draws(0, one.ids_B, one.replicas_B + 1, 0)]
    others.append(Draws(0, one.ids_B, one.replicas_B, 1))
    numbers = torch.stack([each.uniform(4) for each in (one, *others)])
    assert len(numbers.flatten().unique()) == numbers.numel()
    assert torch.equal(one.uniform(4)[:, :2], one.uniform(2))
    assert (numbers.dtype, numbers.min().item() >= 0, numbers.max().item() < 1) == (torch.float64, True, True)
