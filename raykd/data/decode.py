"""Encoded images to pixels of a fixed shape, so that rows batch.

Shapes: C channels (1 grey, 3 RGB), H height, W width
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor

from raykd.places import open_regular

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called: Pillow would hand PostScript to Ghostscript, which runs it."""


def pixels(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """uint8 [C, H, W] of the wanted shape: converted to grey or RGB, and resized (bilinear, antialiased) where sizes differ."""
    channels, height, width = shape
    image = image.convert({1: "L", 3: "RGB"}[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image).reshape(height, width, channels)).permute(2, 0, 1)


def decode(encoded: bytes | Path, shape: tuple[int, ...], *, name: str) -> Tensor:
    """Like `pixels`, from an image file or its bytes. Raises `ValueError` that names the image if it is broken."""
    try:
        file = BytesIO(encoded) if isinstance(encoded, bytes) else open_regular(encoded)
        with file, Image.open(file, formats=FORMATS) as image:
            return pixels(image, shape)
    except (
        Exception
    ) as error:  # Pillow's plug-ins raise of all kinds for a broken file: OSError, SyntaxError, struct.error
        reason = "no known image format" if "cannot identify" in str(error) else str(error)
        raise ValueError(f"{name} is no whole image: {reason}; replace or remove it") from error


def check_image_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `shape` is (1 or 3, H, W)."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"{name} decodes images to the shape {shape}: it should be (1, H, W) or (3, H, W)")


def libraries() -> dict[str, str]:
    """The versions that decide what pixels an encoded image has."""
    return {"pillow": PIL.__version__, "jpeg": str(features.version("jpg"))}
