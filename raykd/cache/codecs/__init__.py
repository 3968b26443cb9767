"""Codecs: what a teacher said, in columns of fixed width, each with a stated error.

dense_f16  dense_u8        dense.py      every value             any shape
topk_f16   topk_u8         topk.py       the largest, and what is left at declared temperatures      logits
sampled                    sampled.py    draws from the distribution, unbiased                       logits
positions                  positions.py  any of these, at each position of a sequence

codec.encode(values_R, ids_R, replica) -> {column: [R, width]}        codec.decode(columns, shape) -> Tensor | Sparse
"""

from raykd.cache.codecs.choice import CODECS, DENSE_F16, auto, codec_of, named
from raykd.cache.codecs.codec import Codec, Column
from raykd.cache.codecs.dense import DenseF16, DenseU8
from raykd.cache.codecs.positions import Positions
from raykd.cache.codecs.sampled import Sampled
from raykd.cache.codecs.topk import TopKF16, TopKU8

__all__ = [
    "CODECS",
    "DENSE_F16",
    "Codec",
    "Column",
    "DenseF16",
    "DenseU8",
    "Positions",
    "Sampled",
    "TopKF16",
    "TopKU8",
    "auto",
    "codec_of",
    "named",
]
