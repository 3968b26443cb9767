"""How a teacher's signal is kept: what the cache stores of it, in which codec, and how a reader makes the signal of that.

    logits of few classes       dense_f16
    logits that a linear head makes of fewer features         the features, and the head's weights: logits = W f + b
    logits of more than 4,096 classes otherwise               topk_u8
    anything else               dense_f16

A stage says it with `cache`: "auto" (as above), a codec or its name, "features", or "off": nothing is stored and teachers
are asked at every step.

Of tokens each position asked is kept so, side by side with the others of its row.

Shapes: B batch, C classes, D features, M positions asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from raykd.cache import Reader
from raykd.cache.codecs import DENSE_F16, Codec, Positions, auto, named
from raykd.models import Architecture
from raykd.models.weights import load
from raykd.signals import LOGITS, Observable, Signal
from raykd.sparse import Sparse

FEATURES = Signal("pooled")
WAYS = ("auto", "off", "features")


@dataclass(frozen=True)
class Kept:
    """What the cache holds for one signal."""

    signal: Observable
    """What objectives read."""
    stored: Observable
    """What lies in the cache: the signal itself, or the features under the classifier."""
    codec: Codec
    targets: int = 0
    """Positions of a row that are stored, at most; 0: a row is one (see `raykd.tokens`)."""

    @property
    def by_head(self) -> bool:
        """Whether the reader must put the teacher's classifier on top."""
        return self.stored != self.signal

    def shape(self, architecture: Architecture) -> tuple[int, ...]:
        """Shape of one stored row."""
        # of logits without a look at the network, which would cost each actor of a pool a pass through its blueprint
        shape = (architecture.classes,) if self.stored == LOGITS else self.stored.shape(architecture.tap_shape)
        return (self.targets, *shape) if self.targets else shape

    def bytes_per_row(self, architecture: Architecture) -> int:
        """Bytes that a row takes in the cache, without its id and checksum."""
        return self.codec.bytes_per_row(self.shape(architecture))


def way(cache: str | Codec) -> str | Codec:
    """What a stage's `cache` means: a way by its name, or a codec. Raises `ValueError` for anything else."""
    if isinstance(cache, Codec) or cache in WAYS:
        return cache
    try:
        return named(cache)
    except ValueError as error:
        raise ValueError(f"cache={cache!r}: {', '.join(WAYS)} or a codec would be right; {error}") from None


def keep(signal: Observable, architecture: Architecture, cache: str | Codec, targets: int = 0) -> Kept:
    """How a signal of a teacher of this architecture is kept under a stage's `cache`, at so many positions of a row.

    Raises `ValueError` for features of an architecture without a linear head, and for rows that the codec cannot hold.
    """
    kept = _keep(signal, architecture, cache)
    if targets:
        kept = replace(kept, codec=Positions(kept.codec), targets=targets)
    kept.codec.check(kept.shape(architecture))
    return kept


def _keep(signal: Observable, architecture: Architecture, cache: str | Codec) -> Kept:
    if isinstance(cache, Codec):  # what thins out classes is for logits only
        return Kept(signal, signal, cache if signal == LOGITS or cache.kind == "dense" else DENSE_F16)
    if signal != LOGITS:
        return Kept(signal, signal, DENSE_F16)
    width = _features(architecture)
    if cache == "features" and width is None:
        raise ValueError(
            f"cache='features' of {architecture}: its logits are not those of one linear layer; use 'auto'"
        )
    if width is not None and (cache == "features" or width < architecture.classes):
        return Kept(LOGITS, FEATURES, DENSE_F16)
    return Kept(LOGITS, LOGITS, auto(architecture.classes))


def _features(architecture: Architecture) -> int | None:
    """Width of the vector that a linear layer makes the logits of; None where there is none."""
    if architecture.classifier is None:
        return None
    shape = architecture.tap_shape(FEATURES.tap)
    return shape[0] if len(shape) == 1 else None


@dataclass(frozen=True, eq=False)
class KeptReader:
    """Reads a signal as it is kept. `take` is for a thread that prepares batches, `decode` for the device that trains."""

    reader: Reader
    head: Head | None = None

    def take(self, replicas_B: ArrayLike, positions_B: ArrayLike, *, pin: bool = False) -> dict[str, Tensor]:
        """The stored columns of these rows, in pinned memory if asked for. [B, ...]"""
        return self.reader.take(replicas_B, positions_B, pin=pin)

    def decode(self, columns: Mapping[str, Tensor]) -> Tensor | Sparse:
        """The signal's values, where the columns lie; of sequences, of each position asked. [B, ...] or [M, ...]"""
        values = self.reader.codec.decode(columns, self.reader.shape)
        return values if self.head is None else self.head(values)

    def gather(self, replicas_B: ArrayLike, positions_B: ArrayLike) -> Tensor | Sparse:
        """The signal's values of these rows, on the CPU."""
        return self.decode(self.take(replicas_B, positions_B))

    def on(self, device: torch.device) -> KeptReader:
        """The same, its head on `device`."""
        return self if self.head is None else replace(self, head=self.head.to(device))


class Head(nn.Module):
    """The teacher's classifier: features [B, D] -> logits [B, C], in float32."""

    weight_CD: Tensor
    bias_C: Tensor | None

    def __init__(self, architecture: Architecture, weights: str):
        super().__init__()
        assert architecture.classifier is not None, "features are kept under a linear head only"
        tensors = load(weights, architecture)
        bias = tensors.get(f"{architecture.classifier}.bias")
        self.register_buffer("weight_CD", tensors[f"{architecture.classifier}.weight"].float())
        self.register_buffer("bias_C", None if bias is None else bias.float())

    def forward(self, features_BD: Tensor) -> Tensor:
        """[B, C]"""
        return F.linear(features_BD, self.weight_CD, self.bias_C)
