"""What every piece of a family must obey is tested over these lists: a new method joins one, and inherits the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from raykd.batch import Batch, Mix, Progress
from raykd.features import Features
from raykd.methods.attention import AttentionTransfer
from raykd.methods.camkd import CAMKD, CAMKDFeatures
from raykd.methods.correlation import CC
from raykd.methods.crd import CRD
from raykd.methods.ctkd import CTKD
from raykd.methods.dgkd import DropOne
from raykd.methods.dist import DIST
from raykd.methods.dkd import DKD
from raykd.methods.ebkd import EBKD
from raykd.methods.extraction import Extraction
from raykd.methods.fitnet import FitNet
from raykd.methods.hypergradient import Hypergradient
from raykd.methods.kl import KL, JensenShannon, ReverseKL
from raykd.methods.mixture import Probabilities
from raykd.methods.mlkd import MLKD
from raykd.methods.nst import NST
from raykd.methods.pkt import PKT
from raykd.methods.review import ReviewKD
from raykd.methods.rkd import RKD
from raykd.methods.schedules import CosineDecay, Linear
from raykd.methods.similarity import SP
from raykd.methods.simkd import FeatureMSE
from raykd.methods.single import Best, RandomOne, Worst
from raykd.methods.standardised import Standardised
from raykd.methods.tvd import TVD
from raykd.methods.vid import VID
from raykd.objective import STUDENT, Context
from raykd.signals import LOGITS
from raykd.sparse import Sparse
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble, Uniform

DIVERGENCES = [
    KL(),
    ReverseKL(),
    JensenShannon(),
    TVD(),
    DKD(),
    DIST(),
    MLKD(),
    Standardised(KL()),
    Standardised(DIST()),
]
WEIGHTINGS = [Uniform(), EBKD(), CAMKD(), Best(), Worst(), RandomOne(), DropOne()]
TEMPERATURES = [Constant(1.0), Constant(4.0), Linear(8.0, 1.0), CosineDecay(), CTKD(), CTKD(per="row"), Hypergradient()]
TERMS = [
    CrossEntropy(),
    *[Distill(divergence, temperature=Constant(3.0)) for divergence in DIVERGENCES],
    DistillEnsemble(KL(), temperature=Constant(2.0)),
    DistillEnsemble(KL(), CAMKD(), Constant(2.0), mixture=Probabilities()),
    Distill(KL(), EBKD(), CTKD(per="row")),
    CAMKDFeatures("logits"),
    CRD(dim=4, negatives=20, tap="logits"),
    ReviewKD(("logits",)),
]
NAMES = ("a", "b", "c")


@dataclass(frozen=True)
class Pair:
    """A divergence between activations, and the shapes of one row of those of a student and of a teacher."""

    divergence: Features
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    by_order: bool = False
    """Whether it says that the order of the rows matters."""
    turned: bool = False
    """Whether the teacher is seen through a random matrix, so that nobody is right who is equal to it."""

    def context(self) -> Context:
        """The shapes of what is observed."""
        ours, theirs = self.divergence.student, self.divergence.teacher
        shapes = {
            STUDENT: {ours: ours.shape(lambda _: self.student)},
            "a": {theirs: theirs.shape(lambda _: self.teacher)},
        }
        return Context(shapes, ("a",), classes=5, rows=100)

    def __str__(self) -> str:
        return str(self.divergence)


FEATURES = [
    Pair(FitNet(), (3, 8, 4), (5, 4, 8)),
    Pair(FitNet("pooled"), (6,), (9,)),
    Pair(FeatureMSE(), (5, 4, 4), (5, 8, 8)),
    Pair(AttentionTransfer(), (3, 4, 4), (5, 4, 4)),
    Pair(AttentionTransfer(size=2), (3, 4, 4), (5, 8, 8)),
    Pair(NST(), (3, 4, 4), (5, 8, 8)),
    Pair(SP(), (3, 4, 4), (5, 8, 8)),
    Pair(SP(size=2), (3, 4, 4), (5, 8, 8)),
    Pair(CC(), (6,), (9,), by_order=True),
    Pair(CC("stage3"), (3, 4, 4), (5, 2, 2), by_order=True),
    Pair(RKD(), (6,), (9,)),
    Pair(PKT(), (6,), (9,)),
    Pair(Extraction("layer1", dim=6), (6,), (9,), turned=True),
    Pair(Extraction("layer1", "layer2", dim=4, seed=1), (6,), (5, 4, 4), turned=True),
    Pair(Extraction("stage1", dim=12, size=2, teacher_size=2), (3, 4, 4), (5, 8, 8), turned=True),
    Pair(Extraction("stage1", dim=12, size=2, teacher_size=2, matrix="identity"), (3, 4, 4), (3, 8, 8)),
    Pair(VID(), (3, 8, 8), (5, 4, 4)),
    Pair(VID("pooled"), (6,), (9,)),
]


def topk_of(logits_BC: torch.Tensor, k: int = 3, taus: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)) -> Sparse:
    """The k largest of a teacher and its tails, exactly: what a codec stores but for rounding."""
    sorted_BC, ids_BC = logits_BC.float().sort(-1, descending=True)
    tails = [(sorted_BC[:, k:] / tau).logsumexp(-1) for tau in taus]
    return Sparse(ids_BC[:, :k], sorted_BC[:, :k], torch.stack(tails, 1), taus, logits_BC.shape[1])


def draws_of(logits_BC: torch.Tensor, draws: int = 4) -> Sparse:
    """Independent draws from a teacher, class by class with their counts; what is not drawn is padding."""
    p_BC = logits_BC.float().softmax(-1)
    ids_BK = p_BC.multinomial(draws, replacement=True, generator=torch.Generator().manual_seed(7)).sort(1).values
    counts_BK = (ids_BK[:, :, None] == ids_BK[:, None, :]).sum(2)
    again_BK = torch.cat([torch.zeros_like(ids_BK[:, :1]).bool(), ids_BK[:, 1:] == ids_BK[:, :-1]], 1)
    values_BK = (counts_BK / draws).log().masked_fill(again_BK, -torch.inf)
    return Sparse(ids_BK, values_BK, torch.full((len(p_BC), 1), -torch.inf), (1.0,), p_BC.shape[1])


@dataclass(frozen=True)
class Form:
    """How a teacher may come to a divergence: a kind of stored logits, made from dense ones."""

    kind: str
    temperatures: tuple[float, ...] | None
    of: Callable[[torch.Tensor], torch.Tensor | Sparse]

    def __str__(self) -> str:
        return self.kind


FORMS = [
    Form("dense", None, lambda logits_BC: logits_BC),
    Form("topk", (1.0, 2.0, 3.0, 4.0), topk_of),
    Form("sampled", (1.0,), draws_of),
]


def reading(pieces: list) -> list:
    """Each divergence with each form of a teacher that it says it reads."""
    return [(piece, form) for piece in pieces for form in FORMS if form.kind in piece.reads]


def class_by_class(read: torch.Tensor | Sparse, tau: float) -> torch.Tensor:
    """What a reader makes of a teacher for each class: log p [B, C] in float64, the tail shared evenly. For small C only."""
    if isinstance(read, torch.Tensor):
        return (read.double().flatten(1) / tau).log_softmax(-1)
    exact = replace(read, values_BK=read.values_BK.double(), tails_BS=read.tails_BS.double())
    log_p = exact.log_probabilities(torch.full((len(read),), tau, dtype=torch.float64))
    present_BK = read.values_BK > -torch.inf
    left_B1 = (read.classes - present_BK.sum(1, keepdim=True)).clamp(min=1).double()
    even_BC = (log_p[:, -1:] - left_B1.log()).repeat(1, read.classes)
    # padding repeats a class of its row, so the larger of the two is the class's own
    return even_BC.scatter(1, read.ids_BK, -1e300).scatter_reduce(1, read.ids_BK, log_p[:, :-1], "amax")


def random_batch(
    rows: int = 6, classes: int = 5, seed: int = 0, scale: float = 2.0, mix: bool = False, form: Form = FORMS[0]
) -> Batch:
    """A batch of three teachers a, b, c with random logits, in that form; the student's carry gradients."""
    generator = torch.Generator().manual_seed(seed)

    def logits_BC() -> torch.Tensor:
        return scale * torch.randn(rows, classes, generator=generator)

    def labels_B() -> torch.Tensor:
        return torch.randint(classes, (rows,), generator=generator)

    return Batch(
        ids_B=torch.arange(rows) + 1000,
        positions_B=torch.arange(rows),
        labels_B=labels_B(),
        student={LOGITS: logits_BC().requires_grad_()},
        teachers={name: {LOGITS: form.of(logits_BC())} for name in NAMES},
        progress=Progress(epoch=1, epochs=10, step=2, steps=4),
        mix=Mix(labels_B(), torch.rand(rows, generator=generator)) if mix else None,
    )


def rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    """Those rows of the batch, in that order."""
    mix = batch.mix and Mix(batch.mix.labels_B[rows], batch.mix.share_B[rows])
    return Batch(
        batch.ids_B[rows],
        batch.positions_B[rows],
        batch.labels_B[rows],
        {signal: value[rows] for signal, value in batch.student.items()},
        {name: {s: v[rows] for s, v in signals.items()} for name, signals in batch.teachers.items()},
        batch.progress,
        mix,
    )
