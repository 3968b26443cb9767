"""A multilayer perceptron: linear layers with ReLU between them, for vectors and for small images taken as vectors.

    flatten -> layer1 -> ... -> layerN -> fc

A layer is linear, then ReLU.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from raykd.models.architecture import Architecture


@dataclass(frozen=True)
class MLP(Architecture):
    """Hidden layers of the given widths; none gives a linear classifier. Taps: layer1.., pooled, logits.

    Raises `ValueError` for a width below 1.
    """

    hidden: tuple[int, ...] = (64, 64)
    """The widths of the hidden layers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        super().__post_init__()
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"MLP hidden={self.hidden}: every width is at least 1")

    def __str__(self) -> str:
        return f"mlp{'-'.join(map(str, self.hidden))}" if self.hidden else "linear"

    def body(self) -> nn.Module:
        """Flatten, the hidden layers, and `fc`."""
        widths = (math.prod(self.input_shape), *self.hidden)
        layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layers[f"layer{i}"] = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
        return nn.Sequential(OrderedDict(**layers, fc=nn.Linear(widths[-1], self.classes)))

    def stages(self) -> dict[str, str]:
        """The hidden layers after ReLU."""
        return {f"layer{i}": f"layer{i}" for i in range(1, len(self.hidden) + 1)}
