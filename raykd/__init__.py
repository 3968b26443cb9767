"""raykd: distil large models into small ones on a Ray cluster. A teacher sees an input once, ever.

L = mean_b  sum_t  w[t,b] * D(student_b, teacher_tb; tau[t,b])

recipe(**knobs) -> Stage(student, objective, view, teachers, init, budget)
dataset -> view -> labeling -> cache -> training -> network, which may teach or initialise the next stage

identity  signals  batch  objective  terms  methods     what is computed: values, no Ray
data  models  budget  stage                             of what
cache  labeling  training  plan  runtime                where it happens, and what need not happen again
recipes  cli  report  cite                              how people ask for it
"""

from raykd.budget import SGD, AdamW, Budget, Cosine, Steps
from raykd.data import Dataset, View
from raykd.identity import fingerprint
from raykd.models import Preprocess
from raykd.objective import Divergence, Objective, Temperature, Term, Weighting
from raykd.runtime import Local, Trained, run
from raykd.signals import Signal
from raykd.stage import Pretrained, Stage
from raykd.terms import Constant, CrossEntropy, Distill, DistillEnsemble, Uniform

__all__ = [
    "SGD",
    "AdamW",
    "Budget",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Dataset",
    "Distill",
    "DistillEnsemble",
    "Divergence",
    "Local",
    "Objective",
    "Preprocess",
    "Pretrained",
    "Signal",
    "Stage",
    "Steps",
    "Temperature",
    "Term",
    "Trained",
    "Uniform",
    "View",
    "Weighting",
    "fingerprint",
    "run",
]
