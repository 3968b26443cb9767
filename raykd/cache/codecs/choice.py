"""Which codec: by name, by its canonical JSON, or by the number of classes."""

from __future__ import annotations

from typing import Any

from raykd.cache.codecs.codec import Codec
from raykd.cache.codecs.dense import DenseF16, DenseU8
from raykd.cache.codecs.positions import Positions
from raykd.cache.codecs.sampled import Sampled
from raykd.cache.codecs.topk import TopKF16, TopKU8
from raykd.identity import canonical

DENSE_F16 = DenseF16()
CODECS: tuple[Codec, ...] = (DENSE_F16, DenseU8(), TopKF16(), TopKU8(), Sampled())
"""One of each, with its defaults."""


def auto(classes: int) -> Codec:
    """What logits of that many classes are stored in, unless someone says otherwise.

    Below the limit top-k saves little and loses much: of 1,000 classes at T = 4 the 50 largest measure a KL of .2.
    """
    return DENSE_F16 if classes <= 4096 else TopKU8()


def named(name: str) -> Codec:
    """The codec of that name, with its defaults; raises `ValueError` that lists the names for another one."""
    for codec in CODECS:
        if codec.name == name:
            return codec
    raise ValueError(f"there is no codec {name!r}: it is one of {', '.join(codec.name for codec in CODECS)}")


def codec_of(content: object) -> Codec | None:
    """The codec that this canonical JSON stands for; None if this program does not know it or writes another version."""
    try:
        return _codec_of(content)
    except RecursionError:  # codecs of codecs of codecs
        return None


def _codec_of(content: object) -> Codec | None:
    match content:
        case {"is": "Positions", "of": {"of": of}}:
            inner = _codec_of(of)
            return None if inner is None or canonical(Positions(inner)) != content else Positions(inner)
        case {"is": str(name), "of": dict(parameters)}:
            return next(
                (c for c in (_with(type(k), name, parameters) for k in CODECS) if canonical(c) == content), None
            )
    return None


def _with(family: type[Codec], name: str, parameters: dict[str, Any]) -> Codec | None:
    if family.__name__ != name:
        return None
    try:
        return family(**parameters)
    except (TypeError, ValueError, OverflowError):  # parameters of a later version: not a codec of this program
        return None
