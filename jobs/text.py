"""Language models of plain text, a token is a byte: the sources of Python's standard library, or files of one's own.

    raykd run jobs/text.py:kd --tau 1          raykd run jobs/text.py:kd --files "books/*.txt" --no-baseline

A transformer of four blocks teaches one of two narrow ones. Rows are 64 bytes; those of six files are to train and to choose
by, those of three others to test on. Of one's own files a fifth of the rows is to test on. A minute or two on two cores. The
teacher's answers fill the cache: `benchmarks/text.py` measures how many bytes a token takes, and what that costs. They share:

    files: a file, a folder of .txt files or a pattern; empty: Python's own sources
    rows: to train on; all by default
    epochs: passes over the student's rows
    lr: peak learning rate of AdamW
    seed: of the student's initial weights and order
"""

import sysconfig
from dataclasses import replace
from pathlib import Path

from raykd import AdamW, Budget, Cosine, CrossEntropy, Dataset, Objective, Stage, View
from raykd.cache.codecs import Codec, TopKF16, TopKU8, named
from raykd.cli import job
from raykd.data import Text
from raykd.methods import published
from raykd.methods.extraction import extracted
from raykd.models import GPT

LENGTH = 64
TRAIN = ("argparse", "datetime", "difflib", "inspect", "subprocess", "tarfile")
TEST = ("ipaddress", "pathlib", "zipfile")
VALIDATION = 0.05


def teacher(files: str = "", rows: int | None = None, epochs: int = 4, lr: float = 3e-3, seed: int = 0) -> Stage:
    """A transformer of four blocks and four heads of 16, with the labels alone.

    seed: of its initial weights and order
    """
    return _stage(GPT(depth=4, shape=(2, LENGTH)), 1.0 * CrossEntropy(), "teacher", files, rows, epochs, lr, seed)


def student(files: str = "", rows: int | None = None, epochs: int = 4, lr: float = 3e-3, seed: int = 0) -> Stage:
    """The student of `kd`, two blocks and four heads of 8, with the labels alone."""
    return kd(files=files, rows=rows, epochs=epochs, lr=lr, seed=seed).alone()


def kd(
    tau: float = 1.0, alpha: float = 0.9, cache: str = "topk_u8", k: int = 64, files: str = "", rows: int | None = None,
    epochs: int = 4, lr: float = 3e-3, seed: int = 0,
) -> Stage:  # fmt: skip
    """Distillation of next-token distributions (Hinton et al., 2015).

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    cache: how its answers are kept: topk_u8, topk_f16, dense_f16, dense_u8, sampled, features, auto, or off
    k: how many of the 256 a top-k cache keeps of each
    """
    return _distilled(published.kd(alpha, tau), "kd", _kept(cache, k, tau), files, rows, epochs, lr, seed)


def curriculum(
    layers: int = 2, dim: int = 32, tau: float = 1.0, alpha: float = 0.9, cache: str = "topk_u8", k: int = 64,
    files: str = "", rows: int | None = None, epochs: int = 4, lr: float = 3e-3, seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum Extraction (Gupta and Karmalkar, 2025): blocks one after the other, then the answers; epochs are shared.

    layers: how many of the student's two blocks, from the input on
    dim: numbers of a block's width that are matched, at most 32
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    cache: how the teacher's answers are kept: topk_u8, topk_f16, dense_f16, dense_u8, sampled, features or auto
    k: how many of the 256 a top-k cache keeps of each
    """
    last = _distilled(published.kd(alpha, tau), "curriculum", _kept(cache, k, tau), files, rows, epochs, lr, seed)
    return extracted(last, [f"block{i + 1}" for i in range(layers)], dim=dim, seed=seed)


def _distilled(
    objective: Objective,
    label: str,
    cache: str | Codec,
    files: str,
    rows: int | None,
    epochs: int,
    lr: float,
    seed: int,
) -> Stage:
    """The student under an objective, taught by `teacher`."""
    stage = _stage(GPT(head_width=8, shape=(2, LENGTH)), 1.0 * CrossEntropy(), label, files, rows, epochs, lr, seed)
    return replace(stage, objective=objective, teachers={"teacher": teacher(files, rows)}, cache=cache)


def _stage(
    network: GPT, objective: Objective, label: str, files: str, rows: int | None, epochs: int, lr: float, seed: int
) -> Stage:
    schedule = Cosine(warmup=min(0.2, epochs / 2))
    budget = Budget(epochs, batch_size=32, optimiser=AdamW(lr), schedule=schedule, clip=1.0)
    return Stage(network, objective, View(_dataset(files, rows)), budget=budget, seed=seed, label=label)


def _dataset(files: str, rows: int | None) -> Dataset:
    if files:
        return Dataset(Text(files, LENGTH), validation=VALIDATION, limit=rows)
    train, test = (Text(_sources(names), LENGTH) for names in (TRAIN, TEST))
    return Dataset(train, test, validation=VALIDATION, limit=rows)


def _sources(names: tuple[str, ...]) -> tuple[str, ...]:
    """Files of the standard library, next to the interpreter."""
    return tuple(str(Path(sysconfig.get_paths()["stdlib"], f"{name}.py")) for name in names)


def _kept(cache: str, k: int, tau: float) -> str | Codec:
    """A top-k codec keeps the rest at the temperature that is asked for."""
    codec = named(cache) if cache not in ("auto", "features", "off") else None
    return replace(codec, k=k, temperatures=(1.0, tau)) if isinstance(codec, TopKF16 | TopKU8) else cache


if __name__ == "__main__":
    job(__file__)
