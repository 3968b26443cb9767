"""Distillation on CIFAR-100, with the networks and the training of the distillation literature: hours on a GPU.

    python jobs/cifar100.py dkd --data /data/cifar --pair resnet32x4-resnet8x4          raykd run jobs/cifar100.py:dkd ...

The protocol of Tian, Krishnan, Isola (2020): SGD with momentum .9 and weight decay 5e-4, batches of 64, 240 epochs, the rate
.05 times .1 at 150, 180 and 210, crops out of a border of 4 and mirror images, new ones in every epoch. Other numbers of
epochs have their steps in proportion. [interpretation] 1,000 of the 50,000 training rows are for validation, and the last
epoch is kept, so that nothing is chosen by the test rows. Predictions and pooled features are cached under all 240 crops,
128 bytes a row and crop of ResNet-56, 1.5 GB; whole maps would be 32 GB (`attention`) to 2.7 TB (`review` of ResNet-32x4), and
so are asked of the teacher at every step. What the recipes share:

    pair: teacher and student
    data: folder that holds CIFAR-100 as it was downloaded
    teacher_weights: file of the teacher's weights; trained here if there is none
    epochs: passes over the training rows
    lr: first learning rate; a fifth of it for MobileNet and ShuffleNet
    seed: of the student's initial weights and order
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from raykd import (
    SGD,
    Budget,
    Constant,
    CrossEntropy,
    Dataset,
    Distill,
    DistillEnsemble,
    Objective,
    Preprocess,
    Pretrained,
    Stage,
    Steps,
    View,
)  # fmt: skip
from raykd.budget import Falling, Plateau
from raykd.cli import job
from raykd.data import CIFAR100, Crop, Flip
from raykd.methods import published
from raykd.methods.attention import AttentionTransfer
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
from raykd.methods.nst import NST
from raykd.methods.progressive import progressive as progressively
from raykd.methods.similarity import SP
from raykd.methods.simkd import simkd as reusing
from raykd.methods.smskd import ARMS, anchored
from raykd.methods.tvd import TVD
from raykd.models import VGG, Architecture, MobileNetV2, ResNet, ShuffleNetV2, WideResNet
from raykd.search import Adaptive, Range, searched
from raykd.selection import Selection

Pair = Literal[
    "resnet56-resnet20", "resnet110-resnet20", "resnet110-resnet32", "resnet32x4-resnet8x4", "wrn40_2-wrn16_2",
    "wrn40_2-wrn40_1", "vgg13-vgg8", "vgg13-mobilenetv2", "resnet32x4-shufflenetv2", "wrn40_2-shufflenetv2",
]  # fmt: skip
Quality = Literal["mixed", "trained", "weak"]
Arm = Literal["anchored", "uniform", "trust", "sequential", "joint"]

PAIRS: Mapping[Pair, tuple[Architecture, ...]] = {
    "resnet56-resnet20": (ResNet(56), ResNet(44), ResNet(32), ResNet(20)),
    "resnet110-resnet20": (ResNet(110), ResNet(56), ResNet(32), ResNet(20)),
    "resnet110-resnet32": (ResNet(110), ResNet(56), ResNet(44), ResNet(32)),
    "resnet32x4-resnet8x4": (ResNet(32, 4), ResNet(20, 4), ResNet(14, 4), ResNet(8, 4)),
    "wrn40_2-wrn16_2": (WideResNet(40, 2), WideResNet(28, 2), WideResNet(22, 2), WideResNet(16, 2)),
    "wrn40_2-wrn40_1": (WideResNet(40, 2), WideResNet(28, 2), WideResNet(16, 2), WideResNet(40, 1)),
    "vgg13-vgg8": (VGG(13), VGG(11), VGG(8)),
    "vgg13-mobilenetv2": (VGG(13), VGG(11), VGG(8), MobileNetV2(0.5)),
    "resnet32x4-shufflenetv2": (ResNet(32, 4), ResNet(14, 4), ShuffleNetV2(1.0)),
    "wrn40_2-shufflenetv2": (WideResNet(40, 2), WideResNet(28, 2), ShuffleNetV2(1.0)),
}
"""Teacher, assistants of sizes in between, student."""
STAGES = ("stage1", "stage2", "stage3")
PLATEAU = Plateau(floor=10, patience=5)
LIGHT = (MobileNetV2, ShuffleNetV2)
LAST_MAP: Mapping[type[Architecture], str] = {VGG: "stage5", MobileNetV2: "features", ShuffleNetV2: "conv5"}
NORMALISED = Preprocess(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))


def teacher(
    pair: Pair = "resnet56-resnet20", data: str = "data", epochs: int = 240, lr: float = 0.05, seed: int = 0
) -> Stage:
    """The larger network of a pair, with the labels alone.

    seed: of its initial weights and order
    """
    network = _networks(pair)[0]
    budget = _budget(network, epochs, lr)
    return Stage(network, 1.0 * CrossEntropy(), _view(data, epochs), budget=budget, seed=seed, label="teacher")


def student(
    pair: Pair = "resnet56-resnet20", data: str = "data", epochs: int = 240, lr: float = 0.05, seed: int = 0
) -> Stage:
    """The smaller network of a pair, with the labels alone."""
    return _alone("student", pair, data, epochs, lr, seed)


@searched(tau=Range(1, 8), alpha=Range(0, 1), lr=Range(0.005, 0.2, log=True))
def kd(
    tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Knowledge distillation (Hinton et al., 2015).

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    return _distilled(published.kd(alpha, tau), "kd", pair, data, teacher_weights, epochs, lr, seed)


def reverse_kl(
    tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Reverse KL (Gu et al., 2023): the student keeps to what the teacher finds likely.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    objective = published.kd(alpha, tau, ReverseKL())
    return _distilled(objective, "reverse_kl", pair, data, teacher_weights, epochs, lr, seed)


def jensen_shannon(
    tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Jensen and Shannon's divergence (Lin, 1991), symmetric and bounded.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    objective = published.kd(alpha, tau, JensenShannon())
    return _distilled(objective, "jensen_shannon", pair, data, teacher_weights, epochs, lr, seed)


def tvd(
    tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Total variation (Wen et al., 2023), symmetric and bounded.

    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    return _distilled(published.kd(alpha, tau, TVD()), "tvd", pair, data, teacher_weights, epochs, lr, seed)


def dkd(
    beta: float = 8.0, tau: float = 4.0, warmup: float = 20.0, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Decoupled knowledge distillation (Zhao et al., 2022): what the teacher says of the other classes counts by itself.

    beta: weight of the other classes among each other; the label against them has 1
    tau: temperature that softens both distributions
    warmup: epochs in which the teacher's term grows to its weight
    """
    objective = published.dkd(beta=beta, tau=tau, warmup=warmup)
    return _distilled(objective, "dkd", pair, data, teacher_weights, epochs, lr, seed)


def dist(
    beta: float = 1.0, gamma: float = 1.0, weight: float = 2.0, tau: float = 4.0, pair: Pair = "resnet56-resnet20",
    data: str = "data", teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """DIST (Huang et al., 2022): correlation with the teacher within rows, and within classes.

    beta: weight of the rows
    gamma: weight of the classes
    weight: of both against the labels' 1
    tau: temperature that softens both distributions
    """
    return _distilled(published.dist(beta, gamma, weight, tau), "dist", pair, data, teacher_weights, epochs, lr, seed)


def standardised(
    weight: float = 9.0, tau: float = 2.0, labels: float = 0.1, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Logit standardisation (Sun et al., 2024): z-scores of the logits are distilled, blind to their scale.

    weight: of the teacher's term
    tau: temperature that softens both distributions
    labels: weight of the labels' term
    """
    objective = published.standardised(weight, tau, labels)
    return _distilled(objective, "standardised", pair, data, teacher_weights, epochs, lr, seed)


def mlkd(
    weight: float = 1.0, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Multi-level logit distillation (Jin et al., 2023): rows, batch and classes, at five temperatures.

    weight: of the teacher's term
    """
    return _distilled(published.mlkd(weight), "mlkd", pair, data, teacher_weights, epochs, lr, seed)


def ctkd(
    alpha: float = 0.9, per: Literal["all", "row"] = "all", ramp: float = 10.0, pair: Pair = "resnet56-resnet20",
    data: str = "data", teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum temperature (Li et al., 2023), learned against the student.

    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    per: one temperature for all, or one for each row
    ramp: epochs until it is learned with full force
    """
    return _distilled(published.ctkd(alpha, per, ramp), "ctkd", pair, data, teacher_weights, epochs, lr, seed)


def fitnet(
    weight: float = 100.0, tap: str = "stage2", pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """FitNets (Romero et al., 2015): activations in the middle, through an adapter.

    weight: of the teacher's term
    tap: where both networks are observed
    """
    return _distilled(
        published.fitnet(weight, tap), "fitnet", pair, data, teacher_weights, epochs, lr, seed, cache="off"
    )


def attention(
    weight: float = 1000.0, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Attention transfer (Zagoruyko and Komodakis, 2017): where the teacher looks.

    weight: of the teacher's terms, one for each stage
    """
    larger, *_, smaller = _networks(pair)
    objective = 1.0 * CrossEntropy()
    for tap in published.STAGES:
        sides = {smaller.tap_shape(tap)[1], larger.tap_shape(tap)[1]}
        size = min(sides) if len(sides) > 1 else 0
        objective += weight * Distill(AttentionTransfer(tap, size=size))
    return _distilled(objective, "attention", pair, data, teacher_weights, epochs, lr, seed, cache="off")


def nst(
    weight: float = 50.0, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Neuron selectivity transfer (Huang and Wang, 2017): the patterns of the channels, as a distribution.

    weight: of the teacher's term
    """
    objective = CrossEntropy() + weight * Distill(NST(*_last_maps(pair)))
    return _distilled(objective, "nst", pair, data, teacher_weights, epochs, lr, seed, cache="off")


def sp(
    weight: float = 3000.0, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Similarity preserving (Tung and Mori, 2019): which rows are alike.

    weight: of the teacher's term
    """
    objective = CrossEntropy() + weight * Distill(SP(*_last_maps(pair)))
    return _distilled(objective, "sp", pair, data, teacher_weights, epochs, lr, seed, cache="off")


def cc(
    weight: float = 0.02, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Correlation congruence (Peng et al., 2019): differences of neighbouring rows.

    weight: of the teacher's term
    """
    return _distilled(published.cc(weight), "cc", pair, data, teacher_weights, epochs, lr, seed)


def rkd(
    distance: float = 25.0, angle: float = 50.0, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Relational knowledge distillation (Park et al., 2019): distances and angles between rows.

    distance: weight of the distances
    angle: weight of the angles
    """
    return _distilled(published.rkd(distance, angle), "rkd", pair, data, teacher_weights, epochs, lr, seed)


def pkt(
    weight: float = 30_000.0, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Probabilistic knowledge transfer (Passalis and Tefas, 2018): how likely rows are each other's neighbours.

    weight: of the teacher's term
    """
    return _distilled(published.pkt(weight), "pkt", pair, data, teacher_weights, epochs, lr, seed)


def vid(
    weight: float = 1.0, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Variational information distillation (Ahn et al., 2019): guess the teacher's activations.

    weight: of the teacher's terms, one for each stage
    """
    return _distilled(published.vid(weight), "vid", pair, data, teacher_weights, epochs, lr, seed, cache="off")


def crd(
    weight: float = 0.8, negatives: int = 16_384, tau: float = 0.07, pair: Pair = "resnet56-resnet20",
    data: str = "data", teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Contrastive representation distillation (Tian et al., 2020): the same row told from others.

    weight: of the teacher's term
    negatives: rows that each is told from; drawn with replacement, so there may be more than there are rows
    tau: temperature of the contrast
    """
    return _distilled(published.crd(weight, negatives, tau), "crd", pair, data, teacher_weights, epochs, lr, seed)


def review(
    weight: float = 1.0, warmup: float = 20.0, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Knowledge review (Chen et al., 2021): each level of the teacher teaches all deeper ones of the student.

    weight: of the teacher's term
    warmup: epochs in which it grows to that
    """
    objective = published.review(weight, warmup)
    return _distilled(objective, "review", pair, data, teacher_weights, epochs, lr, seed, cache="off")


def simkd(
    reduction: int = 2, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """SimKD (Chen et al., 2022): the last map through a projector, judged by the teacher's own classifier.

    reduction: the teacher's channels over those inside the projector
    """
    stage = _distilled(published.kd(), "simkd", pair, data, teacher_weights, epochs, lr, seed, cache="off")
    tap, teacher_tap = _last_maps(pair)
    return reusing(stage, tap=tap, teacher_tap=teacher_tap, reduction=reduction)


def aver(
    teachers: int = 3, mixture: Literal["separate", "logits", "probabilities"] = "separate", tau: float = 4.0,
    alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Several teachers that count the same (Hinton et al., 2015).

    teachers: how many, trained with different seeds
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
    return _distilled(objective, "aver", pair, data, teacher_weights, epochs, lr, seed, teachers=teachers)


def ebkd(
    teachers: int = 3, tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Entropy-based weights (Kwon et al., 2020): of several teachers those that are sure of a row count more.

    teachers: how many, trained with different seeds
    tau: temperature that softens all distributions
    alpha: weight of the teachers' term; the labels' term has 1 - alpha
    """
    return _distilled(
        published.ebkd(alpha, tau), "ebkd", pair, data, teacher_weights, epochs, lr, seed, teachers=teachers
    )


def camkd(
    teachers: int = 3, tau: float = 4.0, alpha: float = 1.0, features: float = 50.0, pair: Pair = "resnet56-resnet20",
    data: str = "data", teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """CA-MKD (Zhang et al., 2022): of several teachers those that are right about a row count more.

    teachers: how many, trained with different seeds
    tau: temperature that softens all distributions
    alpha: weight of their predictions
    features: weight of their features
    """
    objective = published.camkd(alpha, features, tau)
    return _distilled(objective, "camkd", pair, data, teacher_weights, epochs, lr, seed, teachers=teachers)


def takd(
    assistants: int = 1, tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Teacher assistants (Mirzadeh et al., 2020): a chain of sizes between the teacher's and the student's.

    assistants: how many, up to those that the pair has
    tau: temperature that softens both distributions, in each link
    alpha: weight of the term of the one above; the labels' term has 1 - alpha
    """
    last = _distilled(published.kd(alpha, tau), "takd", pair, data, teacher_weights, epochs, lr, seed)
    return chain(last, _between(pair, assistants))


def dgkd(
    assistants: int = 1, tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Densely guided distillation (Son et al., 2021): all that are larger teach, one of them dropped at each step.

    assistants: how many, up to those that the pair has
    tau: temperature that softens all distributions
    alpha: weight of the teachers' term; the labels' term has 1 - alpha
    """
    last = _distilled(dgkd_objective(tau=tau, alpha=alpha), "dgkd", pair, data, teacher_weights, epochs, lr, seed)
    return densely(last, _between(pair, assistants))


def dml(
    peers: int = 2, pair: Pair = "resnet56-resnet20", data: str = "data", epochs: int = 240, lr: float = 0.05,
    seed: int = 0,
) -> Stage:  # fmt: skip
    """Deep mutual learning (Zhang et al., 2018): students without a teacher see each other's answers at every step.

    peers: how many students, all of one kind; the first is what comes of it
    """
    first = _alone("dml", pair, data, epochs, lr, seed)
    return peer(live_mutual(first, [first.student] * (peers - 1)), 0)


def dml_rounds(
    peers: int = 2, rounds: int = 4, pair: Pair = "resnet56-resnet20", data: str = "data", epochs: int = 240,
    lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Deep mutual learning (Zhang et al., 2018) in rounds: students learn from each other as they stood a round before.

    peers: how many students, all of one kind; the first is what comes of it
    rounds: how often they look at each other, plus 1; they share the epochs
    """
    students = {f"peer{i}": _alone(f"dml_rounds, peer {i}", pair, data, epochs, lr, seed + i) for i in range(peers)}
    return mutual(students, rounds)["peer0"]


def progressive(
    snapshots: int = 3, tau: float = 4.0, alpha: float = 0.9, pair: Pair = "resnet56-resnet20", data: str = "data",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """Progressive distillation (Panigrahi et al., 2024; Jin et al., 2019): from the teacher's training, then the teacher.

    snapshots: how many, evenly over the teacher's training; student's epochs are shared between them and the teacher
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    last = _distilled(published.kd(alpha, tau), "progressive", pair, data, "", epochs, lr, seed)
    whole = teacher(pair, data).budget.epochs
    return progressively(last, [whole * (i + 1) // (snapshots + 1) for i in range(snapshots)])


def curriculum(
    layers: int = 3, share: float = 0.5, dim: int | None = None,
    schedule: Literal["equal", "plateau"] = "equal", tau: float = 4.0, alpha: float = 0.9,
    pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "", epochs: int = 240, lr: float = 0.05,
    seed: int = 0,
) -> Stage:  # fmt: skip
    """Curriculum Extraction (Gupta and Karmalkar, 2025): the teacher's stages one after the other, then what it answers.

    layers: how many of the three stages are matched, the last ones; 0 is one-shot distillation
    share: of the epochs, that is for the layers; what is left is for the answers
    dim: numbers of a layer that are matched; all by default
    schedule: equal parts for the layers, or at most these, each over where its loss has stopped falling
    tau: temperature that softens both distributions
    alpha: weight of the teacher's term; the labels' term has 1 - alpha
    """
    last = _distilled(
        published.kd(alpha, tau), "curriculum", pair, data, teacher_weights, epochs, lr, seed, cache="off"
    )
    stages = STAGES[3 - layers :]
    plateau = PLATEAU if schedule == "plateau" else None
    return extracted(last, stages, teacher_layers=stages, dim=dim, share=share, plateau=plateau)


def born_again(
    generations: int = 1, pair: Pair = "resnet56-resnet20", data: str = "data", epochs: int = 240, lr: float = 0.05,
    seed: int = 0,
) -> Stage:  # fmt: skip
    """Born-again networks (Furlanello et al., 2018): a network that learned from labels teaches one of its kind.

    generations: how many after the first
    """
    return generations_of(_alone("born_again", pair, data, epochs, lr, seed), generations)


def classroom(
    peers: int = 5, teachers: int = 1, quality: Quality = "mixed", per: Literal["sample", "batch"] = "sample",
    stretch: float = 12.0, base: float = 1.0, filtering: bool = True, mentoring: bool = True,
    pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "", epochs: int = 240,
    lr: float = 0.05, seed: int = 0,
) -> Stage:  # fmt: skip
    """ClassroomKD (Sarode et al., 2024): a teacher and frozen peers, each of which teaches where it knows better.

    The rate falls to a fifth in the first half of the epochs, and then to a tenth after each further eighth.

    peers: students of other seeds, 0 to 6
    teachers: larger networks of different seeds, 0 to 3
    quality: the peers' training: from whole to short, whole, or short
    per: certainty of each row, or of each batch
    stretch: how much softer a mentor is the further it is ahead
    base: temperature of a mentor that is not ahead
    filtering: mentors that rank below the student are silent
    mentoring: temperatures follow the gap; otherwise all are `base`
    """
    objective = classroom_objective(per=per, stretch=stretch, base=base, filtering=filtering, mentoring=mentoring)
    others = _peers(peers, quality, pair, data)
    stage = _distilled(
        objective, "classroom", pair, data, teacher_weights, epochs, lr, seed, teachers=teachers, peers=others
    )
    return replace(stage, budget=replace(stage.budget, schedule=Falling(fall=epochs / 2, every=epochs / 8)))


def smskd(
    first: str = "fitnet", then: str = "kd", arm: Arm = "anchored", reference: float = 1.0,
    tau: float = 4.0, extra: int = 90, pair: Pair = "resnet56-resnet20", data: str = "data", teacher_weights: str = "",
    epochs: int = 240, lr: float = 0.05, seed: int = 0,
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
    methods = [_method(name)(pair=pair, data=data) for name in (first, *then.split(","))]
    one, *others = (method.objective for method in methods)
    cache = "off" if any(method.cache == "off" for method in methods) else "auto"
    if arm == "joint":
        epochs += extra * len(others)
        joint = _distilled(sum(others, one), "smskd, joint", pair, data, teacher_weights, epochs, lr, seed, cache=cache)
        return joint.credited(anchored.__module__)
    begun = _distilled(one, "smskd", pair, data, teacher_weights, epochs, lr, seed, cache=cache)
    budget = _budget(begun.student, extra, lr)
    return anchored(begun, others, **{"reference": reference, "tau": tau, "budget": budget, **ARMS[arm]})


@searched(
    tau=Range(2.0, 8.0),
    alpha=Range(0.1, 1.0),  # the draft begins at 0, where nothing is distilled
    lr=Range(0.005, 0.2, log=True),  # the draft's 1e-5 to 1e-2 are rates of Adam
    weight_decay=Range(1e-6, 1e-3, log=True),
    epsilon=Range(0.005, 0.05),
)
def hpm(
    target_params: int | None = None, compression: float | None = None, teachers: int = 3, adaptive: bool = True,
    chain: bool = True, attention: bool = True, temperature: bool = True, memory: bool = True, tau: float = 4.0,
    alpha: float = 0.9, weight_decay: float = 5e-4, epsilon: float = 0.005, pair: Pair = "resnet56-resnet20",
    data: str = "data", teacher_weights: str = "", epochs: int = 240, lr: float = 0.05, seed: int = 0,
) -> Stage | Selection | Adaptive:  # fmt: skip
    """HPM-KD (Haase and da Silva, 2025): attention over several teachers, a moving temperature, links in between.

    The manager tries short runs of other knobs than the defaults, and what it learns is there for the next time; knobs that
    are asked for stay as they are. Stages that wait for none of each other are made at once where there is room for it:
    `--parallel 1` turns that pipeline off.

    target_params: parameters of the student, at most: the largest of its teacher's family; by default the student of `kd`
    compression: how many times smaller than its teacher, instead
    teachers: how many, 1 to 3
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
    objective = published.kd(alpha, tau)
    stage = _distilled(objective, "hpm", pair, data, teacher_weights, epochs, lr, seed, teachers=teachers)
    student = stage.student
    if target_params is not None or compression is not None:
        student = compressed(_networks(pair)[0], target_params=target_params, compression=compression)
    optimiser = SGD(_budget(student, epochs, lr).optimiser.lr, weight_decay=weight_decay)
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
    pair: Pair,
    data: str,
    teacher_weights: str,
    epochs: int,
    lr: float,
    seed: int,
    *,
    teachers: int = 1,
    peers: Mapping[str, Stage | Pretrained] | None = None,
    cache: str = "auto",
) -> Stage:
    """The student under an objective, taught by so many teachers of its pair, and by peers."""
    network = _networks(pair)[-1]
    mentors = {**_teachers(teachers, pair, data, teacher_weights), **(peers or {})}
    budget = _budget(network, epochs, lr)
    return Stage(network, objective, _view(data, epochs), mentors, budget=budget, seed=seed, cache=cache, label=label)


def _alone(label: str, pair: Pair, data: str, epochs: int, lr: float, seed: int) -> Stage:
    return _distilled(1.0 * CrossEntropy(), label, pair, data, "", epochs, lr, seed, teachers=0)


def _networks(pair: Pair) -> tuple[Architecture, ...]:
    """Teacher, assistants, student, as they are for CIFAR-100."""
    return tuple(replace(network, classes=100, preprocess=NORMALISED) for network in PAIRS[pair])


def _view(data: str, epochs: int) -> View:
    """New crops in every epoch."""
    dataset = Dataset(CIFAR100("train", data), CIFAR100("test", data), validation=0.02)
    return View(dataset, (Crop(4), Flip()), replicas=epochs)


def _budget(network: Architecture, epochs: int, lr: float) -> Budget:
    steps = Steps(tuple(epochs * part for part in (0.625, 0.75, 0.875)))
    rate = lr / 5 if isinstance(network, LIGHT) else lr
    return Budget(epochs, batch_size=64, optimiser=SGD(rate, weight_decay=5e-4), schedule=steps, keep="last")


def _teachers(count: int, pair: Pair, data: str, weights: str) -> dict[str, Stage | Pretrained]:
    """The pair's teacher, from a file if there is one, then others of its kind."""
    if not 0 <= count <= 3:
        raise ValueError(f"teachers={count}: 0 to 3 would be right")
    found: dict[str, Stage | Pretrained] = {}
    for i in range(count):
        name = f"teacher{i or ''}"
        trained = replace(teacher(pair, data, seed=i), label=name)
        found[name] = Pretrained(_networks(pair)[0], weights, name) if weights and not i else trained
    return found


def _peers(count: int, quality: Quality, pair: Pair, data: str) -> dict[str, Stage | Pretrained]:
    """Networks of the student's kind, trained with the labels for so long."""
    if not 0 <= count <= 6:
        raise ValueError(f"peers={count}: 0 to 6 would be right")
    epochs = {"mixed": (240, 120, 60, 30, 15, 8), "trained": (240,) * 6, "weak": (15,) * 6}[quality]
    return {f"peer{i}": _alone(f"peer{i}", pair, data, epochs[i], 0.05, i + 1) for i in range(count)}


def _between(pair: Pair, count: int) -> tuple[Architecture, ...]:
    """Assistants, from large to small."""
    _, *between, _ = _networks(pair)
    if not 0 <= count <= len(between):
        raise ValueError(f"assistants={count} of {pair}: 0 to {len(between)} would be right")
    return tuple(between[:count])


def _last_maps(pair: Pair) -> tuple[str, str]:
    """Where the student and the teacher of a pair have their last maps."""
    larger, *_, smaller = _networks(pair)
    return LAST_MAP.get(type(smaller), "stage3"), LAST_MAP.get(type(larger), "stage3")


def _method(name: str) -> Callable[..., Stage]:
    if name not in METHODS:
        raise ValueError(f"no stage of smskd can be {name!r}: one of {', '.join(METHODS)} would be right")
    return METHODS[name]


if __name__ == "__main__":
    job(__file__)
