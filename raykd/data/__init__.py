"""Rows {id, input, label}, and how networks see them.

    source ─► dataset ─► view ─► batch
    rows.py      Rows: ids and labels in memory, inputs gathered by position        digest.py   what a file holds
    source.py    Source: where rows come from; its identity is its content, never its place
                   digits.py   Digits                  folder.py    ImageFolder      decode.py   encoded images to pixels
                   idx.py      IDX, FashionMNIST       parquet.py   Parquet
                   cifar.py    CIFAR10, CIFAR100       vision.py    TorchVisionData
                   arrays.py   Arrays                      tasks/      Parity, PCFG, drawn; Masked
                   text.py     Text                        tokenizers.py   bytes, characters, a vocabulary
    dataset.py   Dataset: train, validation and test, cut by a hash of the ids
    ops.py       Operation: Crop, Flip, Affine, Cutout, ColourJitter, on whole numbers  mixup.py  Mixup
    view.py      View: a dataset through operations, in replicas; batch -> Sample

All of it is a pure function of seeds and ids: a row is the same bits in any batch, in any order, on any machine.
"""

from raykd.data.arrays import Arrays
from raykd.data.cifar import CIFAR10, CIFAR100
from raykd.data.dataset import Dataset, Split
from raykd.data.digits import Digits
from raykd.data.folder import ImageFolder
from raykd.data.idx import IDX, FashionMNIST
from raykd.data.mixup import Mixup
from raykd.data.ops import Affine, Asking, ColourJitter, Crop, Cutout, Draws, Flip, Mixing, Operation
from raykd.data.parquet import Parquet
from raykd.data.rows import Rows, held
from raykd.data.source import PLACE, Source, check_rows
from raykd.data.tasks import (
    CFG3B,
    PCFG,
    Grammar,
    Masked,
    Parity,
    ParityTokens,
    Redrawn,
    RedrawnTokens,
    Remasked,
    Rule,
)
from raykd.data.text import Text
from raykd.data.view import Sample, View
from raykd.data.vision import TorchVisionData

__all__ = [
    "CFG3B", "CIFAR10", "CIFAR100", "IDX", "PCFG", "PLACE", "Affine", "Arrays", "Asking", "ColourJitter", "Crop", "Cutout",
    "Dataset", "Digits", "Draws", "FashionMNIST", "Flip", "Grammar", "ImageFolder", "Masked", "Mixing", "Mixup",
    "Operation", "Parity", "ParityTokens", "Parquet", "Redrawn", "RedrawnTokens", "Remasked", "Rows", "Rule", "Sample",
    "Source", "Split", "Text", "TorchVisionData", "View", "check_rows", "held",
]  # fmt: skip
