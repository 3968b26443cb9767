"""Distillation on Fashion-MNIST: 60,000 images of 28x28 pixels, some minutes on two cores.

    python jobs/fashion.py kd --tau 2          raykd run jobs/fashion.py:kd --tau 2

The defaults of `kd` were chosen on the validation split, by short runs (`RESULTS.md`). The other methods have the weights of
their papers, or smaller ones where those drown the labels of so small a network. Whole maps fill a cache: those that need them
see one copy of each row unless `replicas` says more, which is .35 GB (stage3) to 2.4 GB (`review`). What all methods share:

    epochs: passes over the student's rows
    lr: peak learning rate
    rows: labelled training rows that the student sees; all by default
    seed: of the student's initial weights and order
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from raykd import SGD, Budget, Constant, CrossEntropy, Dataset, Distill, DistillEnsemble, Objective, Stage, View
from raykd.budget import Plateau
from raykd.cli import job
from raykd.data import Crop, FashionMNIST, Flip
from raykd.methods import published
from raykd.methods.born_again import born_again as generations_of
from raykd.methods.chain import chain
from raykd.methods.classroom import classroom as classroom_objective
from raykd.methods.dgkd import densely
from raykd.methods.dgkd import dgkd as dgkd_objective
from raykd.methods.extraction import extracted
from raykd.methods.hpm import compressed
from raykd.methods.hpm import hpm as hpm_of
from raykd.methods.kl import KL, JensenShannon, ReverseKL
from raykd.methods.mixture import Probabilities
from raykd.methods.mutual import live_mutual, mutual, peer
from raykd.methods.progressive import progressive as progressively
from raykd.methods.simkd import simkd as reusing
from raykd.methods.smskd import ARMS, anchored
from raykd.methods.tvd import TVD
from raykd.models import CNN
from raykd.search import Adaptive, Range, searched
from raykd.selection import Selection

FASHION = Dataset(FashionMNIST(), FashionMNIST("test"), validation=1 / 12)
SHAPE = (1, 28, 28)
STAGES = ("stage1", "stage2", "stage3")
PLATEAU = Plateau(floor=1, patience=1)
TEACHERS = (16, 12, 8)
PEERS = (4, 6, 8, 4, 6, 8)

Quality = Literal["mixed", "trained", "weak"]
Arm = Literal["anchored", "uniform", "trust", "sequential", "joint"]


def teacher(width: int = 16, epochs: int = 10, replicas: int = 4, rows: int | None = None, seed: int = 0) -> Stage:
    """A convolutional network, trained on shifted and mirrored images.

    width: channels of its first block
    replicas: shifted and mirrored copies of each training row
    rows: labelled training rows that it sees; all by default
    seed: of initial weights and order
    """
    budget = Budget(epochs, batch_size=128, optimiser=SGD(lr=0.1))
    network = CNN(width, shape=SHAPE)
    return Stage(network, 1.0 * CrossEntropy(), _view(replicas, rows), budget=budget, seed=seed, label="teacher")


def student(
    width: int = 4, rows: int | None = None, epochs: int = 8, lr: float = 0.2, replicas: int = 4, seed: int = 0
) -> Stage:
    """The student of `kd` with the labels alone, at the same budget.

    width: channels of its first block
    replicas: shifted and mirrored copies of each training row
    """
    return kd(width=width, rows=rows, epochs=epochs, lr=lr, replicas=replicas, seed=seed).alone()


@searched(tau=Range(1, 8), alpha=Range(0, 1), lr=Range(0.02, 0.5, log=True))
def kd(
    tau: float = 2.0, alpha: float = 0.9, width: int = 4, rows: int | None = None, epochs: int = 8, lr: float = 0.2,
    replicas: int = 4, seed: int = 0,
) -> Stage:  # fmt: skip
    """Knowledge distillation (Hinton et al., 2015) of the teacher into a network with a quarter of its channels.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    width: channels of the student's first block
    replicas: shifted and mirrored copies of each training row that the teacher labels
    """
    objective = published.kd(alpha, tau)
    return _distilled(objective, "kd", epochs, lr, rows, seed, width=width, replicas=replicas)


def reverse_kl(
    tau: float = 2.0, alpha: float = 0.9, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:
    """Reverse KL (Gu et al., 2023): the student keeps to what the teacher finds likely.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    return _distilled(published.kd(alpha, tau, ReverseKL()), "reverse_kl", epochs, lr, rows, seed)


def jensen_shannon(
    tau: float = 2.0, alpha: float = 0.9, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:
    """Jensen and Shannon's divergence (Lin, 1991), symmetric and bounded.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    return _distilled(published.kd(alpha, tau, JensenShannon()), "jensen_shannon", epochs, lr, rows, seed)


def tvd(
    tau: float = 2.0, alpha: float = 0.9, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:
    """Total variation (Wen et al., 2023), symmetric and bounded.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    return _distilled(published.kd(alpha, tau, TVD()), "tvd", epochs, lr, rows, seed)


def dkd(
    beta: float = 8.0, tau: float = 2.0, warmup: float = 2.0,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Decoupled knowledge distillation (Zhao et al., 2022): what the teacher says of the other classes counts by itself.

    beta: weight of the other classes among each other; the label against them has 1
    tau: temperature that softens both distributions
    warmup: epochs in which the teacher's term grows to its weight
    """
    return _distilled(published.dkd(beta=beta, tau=tau, warmup=warmup), "dkd", epochs, lr, rows, seed)


def dist(
    beta: float = 1.0, gamma: float = 1.0, weight: float = 2.0, tau: float = 2.0,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """DIST (Huang et al., 2022): correlation with the teacher within rows, and within classes.

    beta: weight of the rows
    gamma: weight of the classes
    weight: of both against the labels' 1
    tau: temperature that softens both distributions
    """
    return _distilled(published.dist(beta, gamma, weight, tau), "dist", epochs, lr, rows, seed)


def standardised(
    weight: float = 9.0, tau: float = 2.0, labels: float = 0.1,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Logit standardisation (Sun et al., 2024): z-scores of the logits are distilled, blind to their scale.

    weight: of the teacher's term
    tau: temperature that softens both distributions
    labels: weight of the labels' term
    """
    return _distilled(published.standardised(weight, tau, labels), "standardised", epochs, lr, rows, seed)


def mlkd(weight: float = 0.02, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0) -> Stage:
    """Multi-level logit distillation (Jin et al., 2023): rows, batch and classes, at five temperatures.

    weight: of the teacher's term
    """
    return _distilled(published.mlkd(weight), "mlkd", epochs, lr, rows, seed)


def ctkd(
    alpha: float = 0.9, per: Literal["all", "row"] = "all", ramp: float = 2.0,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum temperature (Li et al., 2023), learned against the student.

    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    per: one temperature for all, or one for each row
    ramp: epochs until it is learned with full force
    """
    return _distilled(published.ctkd(alpha, per, ramp), "ctkd", epochs, lr, rows, seed)


def fitnet(
    weight: float = 1.0, tap: str = "stage2", replicas: int = 1,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """FitNets (Romero et al., 2015): activations in the middle, through an adapter.

    weight: of the teacher's term
    tap: where both networks are observed
    replicas: shifted and mirrored copies of each training row
    """
    return _distilled(published.fitnet(weight, tap), "fitnet", epochs, lr, rows, seed, replicas=replicas)


def attention(weight: float = 10.0, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0) -> Stage:
    """Attention transfer (Zagoruyko and Komodakis, 2017): where the teacher looks.

    weight: of the teacher's terms, one for each stage
    """
    return _distilled(published.attention(weight), "attention", epochs, lr, rows, seed)


def nst(
    weight: float = 0.5, replicas: int = 1, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:  # fmt: skip
    """Neuron selectivity transfer (Huang and Wang, 2017): the patterns of the channels, as a distribution.

    weight: of the teacher's term
    replicas: shifted and mirrored copies of each training row
    """
    return _distilled(published.nst(weight), "nst", epochs, lr, rows, seed, replicas=replicas)


def sp(
    weight: float = 300.0, replicas: int = 1, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:  # fmt: skip
    """Similarity preserving (Tung and Mori, 2019): which rows are alike.

    weight: of the teacher's term
    replicas: shifted and mirrored copies of each training row
    """
    return _distilled(published.sp(weight), "sp", epochs, lr, rows, seed, replicas=replicas)


def cc(weight: float = 0.02, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0) -> Stage:
    """Correlation congruence (Peng et al., 2019): differences of neighbouring rows.

    weight: of the teacher's term
    """
    return _distilled(published.cc(weight), "cc", epochs, lr, rows, seed)


def rkd(
    distance: float = 2.5, angle: float = 5.0, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:
    """Relational knowledge distillation (Park et al., 2019): distances and angles between rows.

    distance: weight of the distances
    angle: weight of the angles
    """
    return _distilled(published.rkd(distance, angle), "rkd", epochs, lr, rows, seed)


def pkt(weight: float = 300.0, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0) -> Stage:
    """Probabilistic knowledge transfer (Passalis and Tefas, 2018): how likely rows are each other's neighbours.

    weight: of the teacher's term
    """
    return _distilled(published.pkt(weight), "pkt", epochs, lr, rows, seed)


def vid(
    weight: float = 1.0, replicas: int = 1, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:  # fmt: skip
    """Variational information distillation (Ahn et al., 2019): guess the teacher's activations.

    weight: of the teacher's terms, one for each stage
    replicas: shifted and mirrored copies of each training row
    """
    return _distilled(published.vid(weight), "vid", epochs, lr, rows, seed, replicas=replicas)


def crd(
    weight: float = 0.3, negatives: int = 16_384, tau: float = 0.07,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Contrastive representation distillation (Tian et al., 2020): the same row told from others.

    weight: of the teacher's term
    negatives: rows that each is told from; drawn with replacement, so there may be more than there are rows
    tau: temperature of the contrast
    """
    return _distilled(published.crd(weight, negatives, tau), "crd", epochs, lr, rows, seed)


def review(
    weight: float = 1.0, warmup: float = 2.0, replicas: int = 1,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Knowledge review (Chen et al., 2021): each level of the teacher teaches all deeper ones of the student.

    weight: of the teacher's term
    warmup: epochs in which it grows to that
    replicas: shifted and mirrored copies of each training row
    """
    return _distilled(published.review(weight, warmup), "review", epochs, lr, rows, seed, replicas=replicas)


def simkd(
    reduction: int = 2, replicas: int = 1, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:  # fmt: skip
    """SimKD (Chen et al., 2022): the last map through a projector, judged by the teacher's own classifier.

    reduction: the teacher's channels over those inside the projector
    replicas: shifted and mirrored copies of each training row
    """
    return reusing(_distilled(published.kd(), "simkd", epochs, lr, rows, seed, replicas=replicas), reduction=reduction)


def aver(
    teachers: int = 3, mixture: Literal["separate", "logits", "probabilities"] = "separate", tau: float = 2.0,
    alpha: float = 0.9, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Several teachers that count the same (Hinton et al., 2015).

    teachers: how many, 1 to 3
    mixture: compared with each of them, or with the mean of their logits or of their probabilities
    tau: temperature that softens all distributions
    alpha: weight of the teachers' term; the labels' term has 1 - alpha
    """
    terms = {
        "separate": Distill(KL(), temperature=Constant(tau)),
        "logits": DistillEnsemble(KL(), temperature=Constant(tau)),
        "probabilities": DistillEnsemble(KL(), temperature=Constant(tau), mixture=Probabilities()),
    }
    objective = (1 - alpha) * CrossEntropy() + alpha * terms[mixture]
    return _distilled(objective, "aver", epochs, lr, rows, seed, teachers=_teachers(teachers))


def ebkd(
    teachers: int = 3, tau: float = 2.0, alpha: float = 0.9,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Entropy-based weights (Kwon et al., 2020): of several teachers those that are sure of a row count more.

    teachers: how many, 1 to 3
    tau: temperature that softens all distributions
    alpha: weight of the teachers' term; the labels' term has 1 - alpha
    """
    return _distilled(published.ebkd(alpha, tau), "ebkd", epochs, lr, rows, seed, teachers=_teachers(teachers))


def camkd(
    teachers: int = 3, tau: float = 2.0, alpha: float = 1.0, features: float = 5.0,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """CA-MKD (Zhang et al., 2022): of several teachers those that are right about a row count more.

    teachers: how many, 1 to 3
    tau: temperature that softens all distributions
    alpha: weight of their predictions
    features: weight of their features
    """
    objective = published.camkd(alpha, features, tau)
    return _distilled(objective, "camkd", epochs, lr, rows, seed, teachers=_teachers(teachers))


def takd(
    assistants: int = 1, tau: float = 2.0, alpha: float = 0.9,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Teacher assistants (Mirzadeh et al., 2020): a chain of widths between the teacher's and the student's.

    assistants: how many
    tau: temperature that softens both distributions, in each link
    alpha: weight of the term of the one above; the labels' term has 1 - alpha
    """
    last = _distilled(published.kd(alpha, tau), "takd", epochs, lr, rows, seed)
    return chain(last, _between(assistants))


def dgkd(
    assistants: int = 2, tau: float = 2.0, alpha: float = 0.9,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Densely guided distillation (Son et al., 2021): all that are larger teach, one of them dropped at each step.

    assistants: how many
    tau: temperature that softens all distributions
    alpha: weight of the teachers' term; the labels' term has 1 - alpha
    """
    last = _distilled(dgkd_objective(tau=tau, alpha=alpha), "dgkd", epochs, lr, rows, seed)
    return densely(last, _between(assistants))


def dml(peers: int = 2, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0) -> Stage:
    """Deep mutual learning (Zhang et al., 2018): students without a teacher see each other's answers at every step.

    peers: how many students, all of one kind; the first is what comes of it
    """
    first = _alone("dml", epochs, lr, rows, seed)
    return peer(live_mutual(first, [first.student] * (peers - 1)), 0)


def dml_rounds(
    peers: int = 2, rounds: int = 4, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0
) -> Stage:
    """Deep mutual learning (Zhang et al., 2018) in rounds: students learn from each other as they stood a round before.

    peers: how many students, all of one kind; the first is what comes of it
    rounds: how often they look at each other, plus 1; they share the epochs
    """
    students = {f"peer{i}": _alone(f"dml_rounds, peer {i}", epochs, lr, rows, seed + i) for i in range(peers)}
    return mutual(students, rounds)["peer0"]


def progressive(
    snapshots: int = 3, tau: float = 2.0, alpha: float = 0.9,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Progressive distillation (Panigrahi et al., 2024; Jin et al., 2019): from the teacher's training, then the teacher.

    snapshots: how many, evenly over the teacher's training; student's epochs are shared between them and the teacher
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    last = _distilled(published.kd(alpha, tau), "progressive", epochs, lr, rows, seed)
    whole = teacher().budget.epochs
    return progressively(last, [whole * (i + 1) // (snapshots + 1) for i in range(snapshots)])


def curriculum(
    layers: int = 3, share: float = 0.5, dim: int | None = None,
    schedule: Literal["equal", "plateau"] = "equal", tau: float = 2.0, alpha: float = 0.9,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum Extraction (Gupta and Karmalkar, 2025): the teacher's stages one after the other, then what it answers.

    layers: how many of the three stages are matched, the last ones; 0 is one-shot distillation
    share: of the epochs, that is for the layers; what is left is for the answers
    dim: numbers of a layer that are matched; all by default
    schedule: equal parts for the layers, or at most these, each over where its loss has stopped falling
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    last = _distilled(published.kd(alpha, tau), "curriculum", epochs, lr, rows, seed)
    plateau = PLATEAU if schedule == "plateau" else None
    return extracted(last, STAGES[3 - layers :], dim=dim, share=share, plateau=plateau)


def born_again(generations: int = 1, epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0) -> Stage:
    """Born-again networks (Furlanello et al., 2018): a network that learned from labels teaches one of its kind.

    generations: how many after the first
    """
    return generations_of(_alone("born_again", epochs, lr, rows, seed), generations)


def classroom(
    peers: int = 5, teachers: int = 1, quality: Quality = "mixed", per: Literal["sample", "batch"] = "sample",
    stretch: float = 12.0, base: float = 1.0, filtering: bool = True, mentoring: bool = True,
    epochs: int = 8, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """ClassroomKD (Sarode et al., 2024): a teacher and frozen peers, each of which teaches where it knows better.

    peers: networks of the student's kind, 0 to 6
    teachers: larger networks, 0 to 3
    quality: the peers' training: from whole to short, whole, or short
    per: certainty of each row, or of each batch
    stretch: how much softer a mentor is the further it is ahead
    base: temperature of a mentor that is not ahead
    filtering: mentors that rank below the student are silent
    mentoring: temperatures follow the gap; otherwise all are `base`
    """
    objective = classroom_objective(per=per, stretch=stretch, base=base, filtering=filtering, mentoring=mentoring)
    mentors = {**_teachers(teachers), **_peers(peers, quality, rows)}
    return _distilled(objective, "classroom", epochs, lr, rows, seed, teachers=mentors)


def smskd(
    first: str = "fitnet", then: str = "kd", arm: Arm = "anchored", reference: float = 1.0,
    tau: float = 2.0, epochs: int = 8, extra: int = 3, lr: float = 0.2, rows: int | None = None, seed: int = 0,
) -> Stage:  # fmt: skip
    """SMSKD (Tian et al., 2026): one method after the other, each stage anchored to what the student was before it.

    first: the method of the first stage, a recipe of one teacher
    then: that of the second stage, or of several with commas between them
    arm: anchored as published; to all rows the same; the other way round; not at all; or all methods at once for as long
    reference: weight of the anchor
    tau: temperature of the anchor
    epochs: of the first stage
    extra: epochs of each further stage
    """
    methods = [_method(name) for name in (first, *then.split(","))]
    one, *others = (method.objective for method in methods)
    replicas = min(method.view.replicas for method in methods)
    if arm == "joint":
        together = epochs + extra * len(others)
        joint = _distilled(sum(others, one), "smskd, joint", together, lr, rows, seed, replicas=replicas)
        return joint.credited(anchored.__module__)
    begun = _distilled(one, "smskd", epochs, lr, rows, seed, replicas=replicas)
    settings = {"reference": reference, "tau": tau, "budget": replace(begun.budget, epochs=extra), **ARMS[arm]}
    return anchored(begun, others, **settings)


@searched(
    tau=Range(2.0, 8.0),
    alpha=Range(0.1, 1.0),  # the draft begins at 0, where nothing is distilled
    lr=Range(0.02, 0.5, log=True),  # the draft's 1e-5 to 1e-2 are rates of Adam
    weight_decay=Range(1e-6, 1e-3, log=True),
    epsilon=Range(0.005, 0.05),
)
def hpm(
    target_params: int | None = None, compression: float | None = None, teachers: int = 2, width: int = 32,
    adaptive: bool = True, chain: bool = True, attention: bool = True, temperature: bool = True, memory: bool = True,
    tau: float = 2.0, alpha: float = 0.9, weight_decay: float = 5e-4, epsilon: float = 0.005,
    rows: int | None = None, epochs: int = 8, lr: float = 0.2, seed: int = 0,
) -> Stage | Selection | Adaptive:  # fmt: skip
    """HPM-KD (Haase and da Silva, 2025): attention over several teachers, a moving temperature, links in between.

    The manager tries short runs of other knobs than the defaults, and what it learns is there for the next time; knobs that
    are asked for stay as they are. Stages that wait for none of each other are made at once where there is room for it:
    `--parallel 1` turns that pipeline off.

    target_params: parameters of the student, at most: the largest of its teacher's family; by default the student of `kd`
    compression: how many times smaller than its teacher, instead
    teachers: how many, 1 to 3
    width: channels of the first block of the largest teacher; the others have three quarters and half of it
    adaptive: short runs choose tau, alpha, lr, weight_decay and epsilon
    chain: links between the largest teacher and the student, as many as the student gains by
    attention: a gate weighs the teachers for each row; without it they count the same
    temperature: moves between tau / 2 and 3 / 2 tau with the loss; without it tau is fixed
    memory: the short runs learn from earlier runs on this storage, and are remembered
    tau: temperature that softens both distributions
    alpha: weight of the teachers' term; the labels' term has 1 - alpha
    weight_decay: of the optimiser
    epsilon: share of its accuracy that the student must gain by one more link
    """
    knobs = dict(locals())
    mentors = _teachers(teachers, width)
    stage = _distilled(published.kd(alpha, tau), "hpm", epochs, lr, rows, seed, teachers=mentors)
    student = stage.student
    if target_params is not None or compression is not None:
        student = compressed(mentors["teacher"].student, target_params=target_params, compression=compression)
    optimiser = SGD(lr, weight_decay=weight_decay)
    stage = replace(stage, student=student, budget=replace(stage.budget, optimiser=optimiser))
    if adaptive:
        fixed = ("chain", "attention", "temperature", *(() if chain else ("epsilon",)))
        return Adaptive(hpm, {**knobs, "adaptive": False}, fixed=fixed, memory=memory)
    return hpm_of(stage, chain=chain, attention=attention, temperature=temperature, epsilon=epsilon)


METHODS = {
    recipe.__name__: recipe
    for recipe in (
        kd, reverse_kl, jensen_shannon, tvd, dkd, dist, standardised, mlkd, ctkd,
        fitnet, attention, nst, sp, cc, rkd, pkt, vid, crd, review,
    )
}  # fmt: skip
"""Those of one teacher that are an objective, and so can be a stage of `smskd`."""


def _distilled(
    objective: Objective,
    label: str,
    epochs: int,
    lr: float,
    rows: int | None,
    seed: int,
    *,
    width: int = 4,
    replicas: int = 4,
    teachers: Mapping[str, Stage] | None = None,
) -> Stage:
    """The student under an objective, taught by `teacher` unless there are others."""
    budget = Budget(epochs, batch_size=128, optimiser=SGD(lr))
    teachers = {"teacher": teacher()} if teachers is None else teachers
    return Stage(
        CNN(width, shape=SHAPE), objective, _view(replicas, rows), teachers,
        budget=budget, seed=seed, label=label,
    )  # fmt: skip


def _view(replicas: int, rows: int | None = None) -> View:
    return View(replace(FASHION, limit=rows), (Crop(2), Flip()), replicas)


def _alone(label: str, epochs: int, lr: float, rows: int | None, seed: int) -> Stage:
    return _distilled(1.0 * CrossEntropy(), label, epochs, lr, rows, seed, teachers={})


def _teachers(count: int, width: int = TEACHERS[0]) -> dict[str, Stage]:
    """The teacher, of this width, then narrower ones."""
    if not 0 <= count <= len(TEACHERS):
        raise ValueError(f"teachers={count}: 0 to {len(TEACHERS)} would be right")
    names = ["teacher", *(f"teacher{i}" for i in range(1, count))][:count]
    written = (teacher(each * width // TEACHERS[0], seed=i) for i, each in enumerate(TEACHERS))
    return {name: replace(each, label=name) for name, each in zip(names, written, strict=False)}


def _peers(count: int, quality: Quality, rows: int | None) -> dict[str, Stage]:
    """Networks about as large as the student, trained on its rows for so long."""
    if not 0 <= count <= len(PEERS):
        raise ValueError(f"peers={count}: 0 to {len(PEERS)} would be right")
    epochs = {"mixed": (8, 4, 4, 2, 2, 1), "trained": (8,) * 6, "weak": (1,) * 6}[quality]
    return {f"peer{i}": replace(student(PEERS[i], rows, epochs[i], seed=i + 1), label=f"peer{i}") for i in range(count)}


def _between(count: int) -> list[CNN]:
    """Networks of widths between the teacher's and the student's, each as much narrower than the one before."""
    return [CNN(round(16 * (4 / 16) ** ((i + 1) / (count + 1))), shape=SHAPE) for i in range(count)]


def _method(name: str) -> Stage:
    if name not in METHODS:
        raise ValueError(f"no stage of smskd can be {name!r}: one of {', '.join(METHODS)} would be right")
    return METHODS[name]()


if __name__ == "__main__":
    job(__file__)
