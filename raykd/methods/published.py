"""The published objectives: each method beside the labels' term, with the weights that its paper or the CRD protocol gives it.

    Stage(student, published.dkd(), view, {"teacher": ...})

The CRD protocol: CIFAR, batches of 64, 240 epochs, features at the last stage of both networks unless the method has a place
of its own. Weights depend on the networks as well: DKD's beta is 8, 6 or 2, ReviewKD's weight .6 to 8. What pairs networks
(chains, peers, checkpoints) is a function of a stage, in a file of its own.

Source: Y. Tian, D. Krishnan, P. Isola, "Contrastive Representation Distillation", 2020, appendix.
"""

from __future__ import annotations

from raykd.methods.attention import AttentionTransfer
from raykd.methods.camkd import CAMKD, CAMKDFeatures
from raykd.methods.correlation import CC
from raykd.methods.crd import CRD
from raykd.methods.ctkd import CTKD, Per
from raykd.methods.dist import DIST
from raykd.methods.dkd import DKD
from raykd.methods.ebkd import EBKD
from raykd.methods.fitnet import FitNet
from raykd.methods.kl import KL
from raykd.methods.mlkd import MLKD
from raykd.methods.nst import NST
from raykd.methods.pkt import PKT
from raykd.methods.review import ReviewKD
from raykd.methods.rkd import RKD
from raykd.methods.similarity import SP
from raykd.methods.standardised import Standardised
from raykd.methods.vid import VID
from raykd.methods.warmup import Warmup
from raykd.objective import Divergence, Objective
from raykd.terms import Constant, CrossEntropy, Distill

STAGES = ("stage1", "stage2", "stage3")
HINTON = KL()


def kd(alpha: float = 0.9, tau: float = 4.0, divergence: Divergence = HINTON) -> Objective:
    """Hinton et al., 2015; with another divergence of logits also reverse KL, Jensen-Shannon or total variation."""
    return (1 - alpha) * CrossEntropy() + alpha * Distill(divergence, temperature=Constant(tau))


def dkd(alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0, warmup: float = 20.0) -> Objective:
    """Zhao et al., 2022."""
    return 1.0 * CrossEntropy() + Warmup(warmup) * Distill(DKD(alpha, beta), temperature=Constant(tau))


def dist(beta: float = 1.0, gamma: float = 1.0, weight: float = 2.0, tau: float = 4.0) -> Objective:
    """Huang et al., 2022."""
    return CrossEntropy() + weight * Distill(DIST(beta, gamma), temperature=Constant(tau))


def standardised(weight: float = 9.0, tau: float = 2.0, labels: float = 0.1) -> Objective:
    """Sun et al., 2024, on plain KD."""
    return labels * CrossEntropy() + weight * Distill(Standardised(KL()), temperature=Constant(tau))


def mlkd(weight: float = 1.0) -> Objective:
    """Jin et al., 2023."""
    return CrossEntropy() + weight * Distill(MLKD())


def ctkd(alpha: float = 0.9, per: Per = "all", ramp: float = 10.0) -> Objective:
    """Li et al., 2023, on plain KD."""
    return (1 - alpha) * CrossEntropy() + alpha * Distill(KL(), temperature=CTKD(per, ramp=ramp))


def fitnet(weight: float = 100.0, tap: str = "stage2") -> Objective:
    """Romero et al., 2015, in one stage as the CRD protocol has it. In two: SMSKD, then `kd`."""
    return CrossEntropy() + weight * Distill(FitNet(tap))


def attention(weight: float = 1000.0) -> Objective:
    """Zagoruyko and Komodakis, 2017."""
    first, *others = (weight * Distill(AttentionTransfer(tap)) for tap in STAGES)
    return sum(others, CrossEntropy() + first)


def nst(weight: float = 50.0) -> Objective:
    """Huang and Wang, 2017."""
    return CrossEntropy() + weight * Distill(NST())


def sp(weight: float = 3000.0) -> Objective:
    """Tung and Mori, 2019."""
    return CrossEntropy() + weight * Distill(SP())


def cc(weight: float = 0.02) -> Objective:
    """Peng et al., 2019."""
    return CrossEntropy() + weight * Distill(CC())


def rkd(distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Park et al., 2019."""
    return CrossEntropy() + Distill(RKD(distance=distance, angle=angle))


def pkt(weight: float = 30_000.0) -> Objective:
    """Passalis and Tefas, 2018."""
    return CrossEntropy() + weight * Distill(PKT())


def vid(weight: float = 1.0) -> Objective:
    """Ahn et al., 2019."""
    first, *others = (weight * Distill(VID(tap)) for tap in STAGES)
    return sum(others, CrossEntropy() + first)


def crd(weight: float = 0.8, negatives: int = 16_384, tau: float = 0.07) -> Objective:
    """Tian et al., 2020."""
    return CrossEntropy() + weight * CRD(negatives=negatives, tau=tau)


def review(weight: float = 1.0, warmup: float = 20.0) -> Objective:
    """Chen et al., 2021."""
    return 1.0 * CrossEntropy() + Warmup(warmup, weight) * ReviewKD()


def ebkd(alpha: float = 0.9, tau: float = 4.0) -> Objective:
    """Kwon et al., 2020: several teachers, each by how sure it is."""
    return (1 - alpha) * CrossEntropy() + alpha * Distill(KL(), EBKD(), Constant(tau))


def camkd(alpha: float = 1.0, features: float = 50.0, tau: float = 4.0) -> Objective:
    """Zhang et al., 2022: several teachers, each by how right it is, in logits and in features."""
    return CrossEntropy() + alpha * Distill(KL(), CAMKD(), Constant(tau)) + features * CAMKDFeatures()
