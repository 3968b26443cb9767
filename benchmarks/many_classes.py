"""Teachers of many classes, end to end: labeled, stored small, distilled from; with bytes per row and error of each way.

    python benchmarks/many_classes.py

language: the next word of a toy language of 16,384 words, in which every word has successors of Zipf-like frequency and a topic
of its own; a two-word context, one row per position.       classifier: 5,000 clusters in 32 dimensions.

Each table: the ways to keep the teacher's logits, bytes of a row as stored (without id and checksum), KL in nats from what
the teacher said to what a reader gets of it (mean over 2,000 rows; the tail of a sparse one spread evenly), and how the student
that was distilled from it does on the test split. One seed: what is compared is storage, not methods.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raykd import AdamW, Budget, Constant, CrossEntropy, Dataset, Distill, Pretrained, Stage, View
from raykd.cache.codecs import Codec, DenseF16, DenseU8, Sampled, TopKF16, TopKU8
from raykd.data import Arrays
from raykd.kept import keep
from raykd.methods.kl import KL
from raykd.models import MLP, Architecture
from raykd.runtime import Display, Local
from raykd.signals import LOGITS
from raykd.sparse import Sparse
from raykd.storage import Storage

WORDS, CLUSTERS = 16_384, 5_000


@dataclass(frozen=True, kw_only=True)
class Bigram(Architecture):
    """Two words, embedded, through one hidden layer to the next word."""

    width: int = 64
    hidden: int = 256

    def body(self) -> nn.Module:
        """Embedding, hidden layer, `fc`."""
        return nn.Sequential(
            _Embedded(self.classes, self.width), nn.Linear(2 * self.width, self.hidden), nn.ReLU(),
            nn.Linear(self.hidden, self.classes),
        )  # fmt: skip

    def stages(self) -> dict[str, str]:
        """None that matter here."""
        return {}

    def __str__(self) -> str:
        return f"bigram{self.width}-{self.hidden}"


class _Embedded(nn.Module):
    def __init__(self, words: int, width: int):
        super().__init__()
        self.table = nn.Embedding(words, width)

    def forward(self, words_B2: Tensor) -> Tensor:
        vectors_B2D: Tensor = self.table(words_B2.long())
        return vectors_B2D.flatten(1)


def language(rows: int) -> Arrays:
    """Contexts of two words, and the word that followed."""
    generator = np.random.default_rng(0)
    frequency = 1 / np.arange(1, WORDS + 1) ** 1.05
    words = generator.choice(WORDS, size=2 * rows, p=frequency / frequency.sum()).reshape(rows, 2)
    rank = np.minimum(generator.zipf(1.6, size=rows), WORDS) - 1  # which successor of the last word
    follows = (words[:, 1] * 7919 + rank * (1 + words[:, 0] % 3) * 104_729) % WORDS
    return Arrays(words.astype(np.float32), follows, classes=WORDS)


def clusters(rows: int) -> Arrays:
    """Points around 5,000 centres."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLUSTERS, 32))
    labels = np.arange(rows) % CLUSTERS
    return Arrays((centres[labels] + 0.6 * generator.normal(size=(rows, 32))).astype(np.float32), labels)


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    budget = Budget(4, batch_size=256, optimiser=AdamW(lr=3e-3))
    data = Dataset(language(40_000), validation=0.05, holdout=0.1)
    teacher = Stage(Bigram(classes=WORDS, shape=(2,)), 1.0 * CrossEntropy(), View(data), budget=budget, label="teacher")
    student = Bigram(classes=WORDS, shape=(2,), width=16, hidden=32)
    sparse = (TopKU8(k=64), TopKF16(k=64), Sampled())
    measure("language", teacher, student, ("features", *sparse, DenseF16()))

    data = Dataset(clusters(60_000), validation=0.05, holdout=0.1)
    network = MLP((128, 64), classes=CLUSTERS, shape=(32,))
    teacher = Stage(network, 1.0 * CrossEntropy(), View(data), budget=budget, label="teacher")
    measure("classifier", teacher, MLP((24,), classes=CLUSTERS, shape=(32,)), ("auto", DenseF16(), DenseU8(), TopKU8()))


def measure(name: str, teacher: Stage, student: Architecture, ways: Sequence[str | Codec]) -> None:
    """One table."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Local(Storage(Path(folder)), Display(quiet=True))
        (trained,) = runner.run(teacher)
        rows = np.arange(2000)
        view = teacher.view
        logits_BC = trained.network(view.batch(rows, np.zeros_like(rows)).inputs_B)["logits"].detach()
        print(f"\n{name}: {view.dataset.classes:,} classes, teacher {teacher.student}, student {student}")
        print(f"teacher's test top-1 {trained.metrics['test_top1']:.2%}, NLL {trained.metrics['test_nll']:.3f}")
        print(f"{'kept':12} {'as':22} {'bytes/row':>9} {'KL T=1':>9} {'KL T=4':>9} {'top-1':>7} {'NLL':>7}", flush=True)
        given = Pretrained(teacher.student, trained.weights)
        objective = 0.1 * CrossEntropy() + 0.9 * Distill(KL(), temperature=Constant(1.0))
        written = Stage(student, objective, view, {"teacher": given}, budget=teacher.budget)
        alone = runner.run(written.alone())[0].metrics
        for way in ways:
            stage = replace(written, cache=way)
            (done,) = runner.run(stage)
            kept = keep(LOGITS, teacher.student, way)
            values = runner.storage.reader("teacher", given, view, kept).gather(np.zeros_like(rows), rows)
            errors = [
                float(divergence(logits_BC, values, tau).mean()) for tau in (1.0, 4.0) if readable(kept.codec, tau)
            ]
            shown = [f"{error:9.2g}" for error in errors] + [f"{'-':>9}"] * (2 - len(errors))
            how = f"{kept.stored} in {kept.codec}"
            metrics = done.metrics
            print(
                f"{way!s:12} {how:22} {kept.bytes_per_row(teacher.student):9,} {' '.join(shown)}"
                f" {metrics['test_top1']:7.2%} {metrics['test_nll']:7.3f}",
                flush=True,
            )
        print(f"{'(alone)':12} {'':22} {'':9} {'':9} {'':9} {alone['test_top1']:7.2%} {alone['test_nll']:7.3f}")


def readable(codec: Codec, tau: float) -> bool:
    """Whether the codec knows the temperature; a few draws say nothing of single classes, so their KL is infinite."""
    return codec.kind != "sampled" and (codec.temperatures is None or tau in codec.temperatures)


def divergence(logits_BC: Tensor, values: Tensor | Sparse, tau: float) -> NDArray[np.float64]:
    """KL from the teacher's distribution to the one that was read. [B]"""
    p_BC = (logits_BC.double() / tau).log_softmax(-1)
    if isinstance(values, Sparse):
        found = values.log_probabilities(torch.full((len(values),), tau)).double()
        even_B = found[:, -1] - np.log(values.classes - values.ids_BK.shape[1])
        q_BC = even_B[:, None].expand(p_BC.shape).clone().scatter(1, values.ids_BK, found[:, :-1])
    else:
        q_BC = (values.double() / tau).log_softmax(-1)
    kl_B: NDArray[np.float64] = (p_BC.exp() * (p_BC - q_BC)).sum(-1).numpy()
    return kl_B


if __name__ == "__main__":
    main()
