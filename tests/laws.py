"""What every piece of a family must obey is tested over these lists: a new method joins one, and inherits the tests."""

from __future__ import annotations

import torch

from raykd.batch import Batch, Mix, Progress
from raykd.methods.kl import KL, JensenShannon, ReverseKL
from raykd.signals import LOGITS
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble, Uniform

DIVERGENCES = [KL(), ReverseKL(), JensenShannon()]
WEIGHTINGS = [Uniform()]
TEMPERATURES = [Constant(1.0), Constant(4.0)]
TERMS = [
    CrossEntropy(),
    *[Distill(divergence, temperature=Constant(3.0)) for divergence in DIVERGENCES],
    DistillEnsemble(KL(), temperature=Constant(2.0)),
]
NAMES = ("a", "b", "c")


def random_batch(rows: int = 6, classes: int = 5, seed: int = 0, scale: float = 2.0, mix: bool = False) -> Batch:
    """A batch of three teachers a, b, c with random logits; the student's carry gradients."""
    generator = torch.Generator().manual_seed(seed)

    def logits_BC() -> torch.Tensor:
        return scale * torch.randn(rows, classes, generator=generator)

    def labels_B() -> torch.Tensor:
        return torch.randint(classes, (rows,), generator=generator)

    return Batch(
        ids_B=torch.arange(rows),
        labels_B=labels_B(),
        student={LOGITS: logits_BC().requires_grad_()},
        teachers={name: {LOGITS: logits_BC()} for name in NAMES},
        progress=Progress(epoch=1, epochs=10, step=2, steps=4),
        mix=Mix(labels_B(), torch.rand(rows, generator=generator)) if mix else None,
    )


def rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    """Those rows of the batch, in that order."""
    mix = batch.mix and Mix(batch.mix.labels_B[rows], batch.mix.share_B[rows])
    return Batch(
        batch.ids_B[rows],
        batch.labels_B[rows],
        {signal: value[rows] for signal, value in batch.student.items()},
        {name: {s: v[rows] for s, v in signals.items()} for name, signals in batch.teachers.items()},
        batch.progress,
        mix,
    )
