"""A teacher at work: inputs in, signals out. Evaluation mode, no gradients, autocast where the precision asks for it.

Shapes: B batch, or the positions asked of its sequences; a signal has a shape of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd import tokens
from raykd.device import autocast, keep_memory
from raykd.models import Architecture
from raykd.models.weights import load_into
from raykd.signals import Observable

MICRO_BATCH = {"cpu": 128, "cuda": 512}  # on a CPU, convolutions over 2,048 rows at once are 3x slower


class Predictor:
    """One network with the weights of a file, and the signals wanted of it."""

    def __init__(
        self,
        architecture: Architecture,
        weights: str,
        signals: Sequence[Observable],
        *,
        device: torch.device,
        precision: str = "float32",
    ):
        keep_memory()
        self.signals = tuple(signals)
        self.device = device
        self.precision = precision
        self.network = architecture.build()
        load_into(self.network, weights)
        self.network.eval().to(device)
        self._taps = tuple({tap: None for signal in self.signals for tap in signal.taps()})

    @torch.inference_mode()
    def __call__(self, inputs_B: Tensor) -> dict[Observable, NDArray[np.float32]]:
        """Each signal of each row, as float32 [B, ...] in host memory."""
        size = tokens.at_once(MICRO_BATCH[self.device.type], inputs_B.shape[1:])
        parts = [self._micro_batch(part) for part in inputs_B.split(size)]
        return {signal: torch.cat([part[signal] for part in parts]).cpu().numpy() for signal in self.signals}

    def _micro_batch(self, inputs_B: Tensor) -> dict[Observable, Tensor]:
        with autocast(self.device, self.precision):
            taps = self.network(inputs_B.to(self.device, non_blocking=True), self._taps)
        return {signal: signal.observe(taps) for signal in self.signals}
