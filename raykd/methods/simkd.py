"""SimKD: the student learns to see what its teacher sees last, and is judged by the teacher's own classifier.

    L = mean over elements of (P(F_S) - F_T)^2        P: the projector of `Reusing`, which stays with the student
    answer = classifier_T(mean over places of P(F_S))

There is no labels' term and no temperature; of two maps the larger is average-pooled to the smaller. The classifier is
inherited from the teacher and frozen.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from raykd.features import Features, to_smaller
from raykd.models.reusing import Reusing
from raykd.objective import Compute, Context
from raykd.stage import Stage
from raykd.terms import Distill

CLASSIFIER = "classifier"


@dataclass(frozen=True)
class FeatureMSE(Features):
    """The mean squared error of two activations as they are, without an adapter.

    Raises `ValueError`, when it is built, for different channels or widths.

    Source: D. Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", 2022, equation 2.
    """

    tap: str = "projected"
    teacher_tap: str = "stage3"

    def build(self, context: Context) -> Compute:
        """Itself, once the widths are equal."""
        ours, theirs = self.shapes(context)
        if len(ours) != len(theirs) or ours[0] != theirs[0]:
            raise ValueError(
                f"{self} compares activations of one width, and these are {ours} and {theirs}: FitNet adapts"
            )
        return self

    def __call__(self, student: Tensor, teacher: Tensor, labels_B: Tensor, tau_B: Tensor) -> Tensor:
        """[B]"""
        student, teacher = to_smaller(student, teacher)
        return (student - teacher).square().flatten(1).mean(1)


def simkd(stage: Stage, *, tap: str = "stage3", teacher_tap: str = "stage3", reduction: int = 2) -> Stage:
    """The stage with SimKD's student, objective and classifier, all else as it was. The taps are those of the last maps.

    `alone` of what comes back is that of the stage: the student as it was, without the teacher's classifier.

    Raises `ValueError` unless it has one teacher, and for parts inherited or frozen already: they are of another student. See
    `Reusing` for what networks have to be.
    """
    if len(stage.teachers) != 1:
        raise ValueError(f"SimKD reuses the classifier of one teacher, and {stage} has {len(stage.teachers)}")
    if stage.inherit or stage.frozen:
        raise ValueError(f"{stage} inherits or freezes parts of {stage.student}, and SimKD's student has other parts")
    ((name, teacher),) = stage.teachers.items()
    student = Reusing(stage.student, teacher.architecture, tap, teacher_tap, reduction)
    path = teacher.architecture.classifier
    assert path is not None, "Reusing refuses such a teacher"
    return replace(
        stage,
        student=student,
        objective=1.0 * Distill(FeatureMSE("projected", teacher_tap)),
        inherit={CLASSIFIER: (name, path)},
        frozen=(CLASSIFIER,),
    )
