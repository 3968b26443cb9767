"""From raw inputs to what a body sees."""

from __future__ import annotations

import pytest
import torch

from raykd.models import Preprocess


def test_bytes_become_fractions_and_floats_pass() -> None:
    raw = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8)
    torch.testing.assert_close(Preprocess()(raw, 1), torch.tensor([[[[0.0, 0.2], [0.4, 1.0]]]]))
    floats = torch.tensor([[-3.0, 300.0]], dtype=torch.float64)
    assert Preprocess()(floats, 2).dtype == torch.float32
    torch.testing.assert_close(Preprocess()(floats, 2), floats.float())


def test_normalisation_is_per_channel() -> None:
    images = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Preprocess(mean=mean, std=std)(images, 3), expected)
    vectors = torch.rand(2, 3)
    torch.testing.assert_close(
        Preprocess(mean=mean, std=std)(vectors, 3), (vectors - torch.tensor(mean)) / torch.tensor(std)
    )


def test_grey_is_repeated_before_it_is_normalised() -> None:
    image = torch.rand(1, 1, 2, 2)
    seen = Preprocess(mean=(0.0, 0.5, 1.0), std=(1.0, 1.0, 1.0))(image, 3)
    torch.testing.assert_close(seen, torch.cat([image, image - 0.5, image - 1.0], dim=1))


def test_the_crop_is_the_centre() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(Preprocess(crop=2)(image, 1), image[:, :, 2:4, 2:4])


def test_halving_with_antialias_keeps_a_constant_and_averages_with_the_triangle() -> None:
    assert torch.equal(Preprocess(resize=4)(torch.full((1, 1, 8, 8), 0.25), 1), torch.full((1, 1, 4, 4), 0.25))
    # one column step; the triangle of scale 2 weighs pixels at distances .5 and 1.5 with 3/8 and 1/8
    step = (torch.arange(8.0) >= 4).float().expand(1, 1, 8, 8)
    torch.testing.assert_close(Preprocess(resize=4)(step, 1)[0, 0, 1], torch.tensor([0.0, 0.125, 0.875, 1.0]))


def test_preprocessing_keeps_the_raw_input() -> None:
    raw = torch.rand(2, 1, 4, 4)
    before = raw.clone()
    Preprocess(crop=2, mean=(0.5,), std=(0.5,))(raw, 1)
    assert torch.equal(raw, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 0}, "resize=0: a side is at least 1 pixel"),
        ({"resize": 8, "crop": 9}, "crop=9 is larger than resize=8"),
        ({"mean": (0.5,)}, "give one of each per channel"),
        ({"mean": (0.5,), "std": (0.0,)}, "standard deviations are positive"),
    ],
)
def test_what_cannot_be_done_is_refused_when_it_is_written(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess(**options)  # type: ignore[arg-type]


def test_integers_other_than_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs are int64: a network reads uint8 or float"):
        Preprocess()(torch.zeros(1, 4, dtype=torch.int64), 4)
