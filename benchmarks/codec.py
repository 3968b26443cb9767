"""What codecs cost and what they lose: bytes, divergence, and rows a second, on two teachers, in one run.

    python benchmarks/codec.py [--rows 1024]

    images   1,000 classes, one of them likely, the others with a spread of 2
    tokens   16,384 classes: Zipf's law, and a few hundred that their place makes likely

KL(teacher || what a reader makes of it) in nats, mean and worst row, next to the mean of what the codec states. For draws,
which promise no bias instead, the standard deviation of the loss around the dense one. Rates are the best of three.

Shapes: R rows, C classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.cache.codecs import CODECS, Codec
from raykd.sparse import Sparse

Logits = NDArray[np.float32]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    rows = parser.parse_args().rows
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads, {rows} rows")
    heads = (
        "teacher",
        "codec",
        "bytes",
        "KL T=1",
        "worst",
        "stated",
        "KL T=4",
        "worst",
        "stated",
        "encode/s",
        "decode/s",
    )
    print("".join(f"{head:>10}" for head in heads))
    for name, values_RC in (("images", images(rows)), ("tokens", tokens(rows))):
        for codec in CODECS:
            print(f"{name:>10}{codec!s:>10}{measured(codec, values_RC)}")


def images(rows: int) -> Logits:
    """Logits of a classifier that is right most of the time."""
    generator = np.random.default_rng(0)
    logits_RC = generator.normal(0, 2, (rows, 1000))
    logits_RC[np.arange(rows), generator.integers(1000, size=rows)] += generator.normal(9, 3, rows)
    return logits_RC.astype(np.float32)


def tokens(rows: int, classes: int = 16_384) -> Logits:
    """Logits like a language model's: an entropy of 3 nats, and an eighth of the mass outside the 64 likeliest."""
    generator = np.random.default_rng(1)
    logits_RC = generator.normal(0, 1.5, (rows, classes)) - np.log(np.arange(classes) + 10)
    logits_RC[:, :300] += generator.gumbel(0, 1.25, (rows, 300))
    return generator.permuted(logits_RC, axis=1).astype(np.float32)


def measured(codec: Codec, values_RC: Logits) -> str:
    """One line of the table."""
    shape, ids_R = values_RC.shape[1:], np.arange(len(values_RC))
    columns = {name: torch.from_numpy(array) for name, array in codec.encode(values_RC, ids_R, 0).items()}
    encoding = rate(lambda: codec.encode(values_RC, ids_R, 0), len(ids_R))
    decoding = rate(lambda: in_batches(codec, columns, shape), len(ids_R))
    losses = "".join(loss(codec, codec.decode(columns, shape), values_RC, tau) for tau in (1.0, 4.0))
    return f"{codec.bytes_per_row(shape):10,}{losses}{encoding:10,.0f}{decoding:10,.0f}"


def in_batches(codec: Codec, columns: Mapping[str, Tensor], shape: tuple[int, ...], batch: int = 256) -> None:
    """Decode as training does: a batch is used before the next one comes."""
    for start in range(0, len(next(iter(columns.values()))), batch):
        codec.decode({name: column[start : start + batch] for name, column in columns.items()}, shape)


def rate(work: Callable[[], object], rows: int) -> float:
    """Rows a second, the best of three."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return rows / min(seconds)


def loss(codec: Codec, read: Tensor | Sparse, values_RC: Logits, tau: float) -> str:
    """Mean, worst and stated divergence at a temperature; the deviation of the loss for draws."""
    log_p_RC = (torch.from_numpy(values_RC).double() / tau).log_softmax(-1)
    if codec.temperatures is not None and tau not in codec.temperatures:
        return f"{'-':>10}" * 3
    if codec.kind == "sampled" and isinstance(read, Sparse):
        return f"{deviation(read, log_p_RC):>9.3f}*{'-':>10}{'-':>10}"
    log_read_RC = class_by_class(read, tau) if isinstance(read, Sparse) else (read.double() / tau).log_softmax(-1)
    kl_R = (log_p_RC.exp() * (log_p_RC - log_read_RC)).sum(-1)
    stated = codec.kl_bound(values_RC, tau).mean()
    return f"{float(kl_R.mean()):10.1e}{float(kl_R.max()):10.1e}{stated:10.1e}"


def class_by_class(read: Sparse, tau: float) -> Tensor:
    """A sparse teacher over all classes, the tail shared evenly: to measure it, as no training does. log p [R, C]"""
    log_p = read.log_probabilities(torch.full((len(read),), tau)).double()
    left = read.classes - read.ids_BK.shape[1]
    even_RC: Tensor = (log_p[:, -1:] - np.log(left)).repeat(1, read.classes)
    return even_RC.scatter(1, read.ids_BK, log_p[:, :-1])


def deviation(read: Sparse, log_p_RC: Tensor) -> float:
    """How far the cross-entropy of the draws is from the teacher's own, root mean square over rows, in nats."""
    share_RK = read.values_BK.double().exp()
    drawn_R = -(share_RK * log_p_RC.gather(1, read.ids_BK)).sum(1)
    entropy_R = -(log_p_RC.exp() * log_p_RC).sum(1)
    return float((drawn_R - entropy_R).square().mean().sqrt())


if __name__ == "__main__":
    main()
